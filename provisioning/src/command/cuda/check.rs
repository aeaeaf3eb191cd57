//! `rig cuda check`.

use std::path::PathBuf;

use clap::Args;

use super::shown::Shown;
use crate::cuda::archive;
use crate::exit::Failure;
use crate::screen::Screen;

/// Look into a bundle.
///
/// Reads the whole bundle as a rig would, and shows its modules, its functions with their parameters, and the buffers
/// and VRAM of each function when every parameter has its default.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig cuda check render.bundle")]
pub(crate) struct Check {
    /// The bundle.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self, screen: Screen) -> Result<(), Failure> {
        let (bundle, archive) = archive::read(&self.file)?;
        let shown = Shown::of(&bundle, archive.len());
        screen.answer(&shown, || shown.text(screen));
        Ok(())
    }
}
