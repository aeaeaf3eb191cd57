//! What every section works with.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bundle::Parameters;

use crate::backend::{Backend, Unjailed};
use crate::cases;
use crate::kit::{Ask, Kit};

/// A round is not begun with less time than this.
const ROUND_AT_LEAST: Duration = Duration::from_secs(25);

/// The machine, and how much of it there is to use.
pub(crate) struct Bench {
    pub(crate) kit: Kit,
    /// Where jobs run.
    pub(crate) backend: Backend,
    /// Workers without a jail, for what only they tell.
    pub(crate) unjailed: Unjailed,
    /// Of the GPU.
    pub(crate) uuid: String,
    /// Few rounds at small sizes, for a GPU that is not there.
    pub(crate) is_small: bool,
    /// When all must be over.
    pub(crate) deadline: Instant,
    /// For files; goes away with the report.
    pub(crate) dir: PathBuf,
}

// === impl Bench ===

impl Bench {
    /// How much time there is still.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether another round may begin.
    pub(crate) fn has_time(&self) -> bool {
        self.left() > ROUND_AT_LEAST
    }

    /// `full` rounds, or few.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.is_small { full.min(3) } else { full }
    }

    /// The product that everything else is compared with: a small job that every GPU can do.
    pub(crate) fn small_product(&self) -> Result<Ask> {
        let side = if self.is_small { 64 } else { cases::SIDE };
        Ok(cases::product(&self.kit.bundle("gemm")?, [side, side, side])?.ask)
    }

    /// A function of the bundles that try something against the GPU.
    pub(crate) fn fault(&self, function: &str, parameters: Parameters) -> Result<Ask> {
        let faults = self.kit.bundle("faults")?;
        let has_it = faults.bundle.function(function).is_some();
        let bundle = if has_it { faults } else { self.kit.bundle("calls")? };
        bundle.ask(function, parameters, Vec::new())
    }

    /// The machine code of the bundle of faults.
    pub(crate) fn faulty_code(&self) -> Result<Vec<u8>> {
        let faults = self.kit.bundle("faults")?;
        let own = faults.bundle.modules().first().map(|module| module.bytes().to_vec());
        faults.cubins.into_iter().next().or(own).context("the bundle of faults has no module")
    }

    /// Says what is going on.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("  {what} ({} s left)", self.left().as_secs());
    }
}
