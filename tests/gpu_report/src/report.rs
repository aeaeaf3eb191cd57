//! The report: what was asked of the machine, and what it answered.
//!
//! Invariants: a row that measured or checked nothing says why; where something ran is in the row, so that no figure from
//! outside the jail can be taken for one from inside. `schema` changes whenever a key does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figures::Summary;

/// The form of `gpu-report.json`.
pub(crate) const SCHEMA: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// What the machine is.
    pub(crate) environment: Environment,
    /// In the order in which they were worked through.
    pub(crate) sections: Vec<Section>,
    /// What went by, in seconds.
    pub(crate) seconds: f64,
}

/// The machine, as far as it told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Environment {
    /// Day and time, UTC.
    pub(crate) date: String,
    /// The revision that was built, with a plus if the tree was changed.
    pub(crate) revision: String,
    /// The driver's name of the GPU.
    pub(crate) gpu: String,
    /// `GPU-` and its UUID.
    pub(crate) uuid: String,
    /// Such as `9.0`.
    pub(crate) compute_capability: String,
    /// Memory of the GPU in bytes.
    pub(crate) vram_bytes: u64,
    /// The driver's own version.
    pub(crate) driver: String,
    /// The newest CUDA that the driver supports.
    pub(crate) cuda: String,
    /// The PTX linker's version.
    pub(crate) linker: String,
    /// The host's kernel.
    pub(crate) kernel: String,
    /// The host's processor.
    pub(crate) cpu: String,
    /// How many of them.
    pub(crate) cpus: u64,
    /// Whether jails could be made, and if not, why.
    pub(crate) jail: String,
}

/// Rows about one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    /// A short word.
    pub(crate) name: String,
    /// What it is about.
    pub(crate) title: String,
    /// What was found.
    pub(crate) rows: Vec<Row>,
    /// What it took, in seconds.
    pub(crate) seconds: f64,
}

/// One figure or one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// What was measured or tried.
    pub(crate) what: String,
    /// Where it ran.
    pub(crate) place: Place,
    /// What came of it.
    pub(crate) verdict: Verdict,
    /// Figures, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) figures: Option<Summary>,
    /// The figures' unit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) unit: String,
    /// The median beside that of another row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Ratio>,
    /// What a reader must know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

/// One median by another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ratio {
    /// What it is compared with.
    pub(crate) to: String,
    /// How many times as much.
    pub(crate) is: f64,
    /// It should be no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<f64>,
}

/// Where something ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// A worker that the runner started in its jail.
    Jail,
    /// The same worker, started by the report without a jail.
    OutsideTheJail,
    /// The bare program, or another program beside ours.
    Beside,
    /// On the host's processor; no GPU took part.
    Host,
}

/// What came of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It is as it must be.
    Passed,
    /// It is not; the report's exit code says so, too.
    Failed,
    /// There is nothing that it must be.
    Measured,
    /// It did not run; the note says why.
    NotRun,
}

// === impl Report ===

impl Report {
    pub(crate) fn has_failed(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.rows).any(|row| row.verdict == Verdict::Failed)
    }
}

// === impl Row ===

impl Row {
    fn new(what: impl Into<String>, place: Place, verdict: Verdict, note: impl Into<String>) -> Self {
        let (what, note) = (what.into(), note.into());
        Self { what, place, verdict, figures: None, unit: String::new(), ratio: None, note }
    }

    /// Figures without a judgement; a row that did not run if there are none.
    pub(crate) fn measured(what: impl Into<String>, place: Place, unit: &str, samples: &[f64]) -> Self {
        let figures = Summary::of(samples);
        let (verdict, note) = if figures.is_some() { (Verdict::Measured, "") } else { (Verdict::NotRun, "no sample") };
        Self { figures, unit: unit.to_owned(), ..Self::new(what, place, verdict, note) }
    }

    /// A check.
    pub(crate) fn checked(what: impl Into<String>, place: Place, holds: bool, note: impl Into<String>) -> Self {
        Self::new(what, place, if holds { Verdict::Passed } else { Verdict::Failed }, note)
    }

    /// Something that did not come about here.
    pub(crate) fn not_run(what: impl Into<String>, place: Place, why: impl Into<String>) -> Self {
        Self::new(what, place, Verdict::NotRun, why)
    }

    pub(crate) fn with_note(mut self, note: impl Into<String>) -> Self {
        let note = note.into();
        if self.note.is_empty() {
            self.note = note;
        } else if !note.is_empty() {
            self.note = format!("{}; {note}", self.note);
        }
        self
    }

    /// The median by `other`'s, which should not be above `goal`.
    pub(crate) fn beside(mut self, other: &Row, goal: Option<f64>) -> Self {
        let medians = self.median().zip(other.median()).filter(|(_, other)| *other > 0.0);
        self.ratio = medians.map(|(own, median)| Ratio { to: other.what.clone(), is: own / median, goal });
        self
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.figures.map(|figures| figures.median)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jail => "jail",
            Self::OutsideTheJail => "outside the jail",
            Self::Beside => "beside",
            Self::Host => "host",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Measured => "measured",
            Self::NotRun => "not run",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One row of each kind.
    pub(crate) fn example() -> Report {
        let bare = Row::measured("gemm_f32 4096, bare program", Place::Beside, "ms", &[2.0, 2.0, 2.0]);
        let rows = vec![
            Row::measured("gemm_f32 4096, bundle", Place::OutsideTheJail, "ms", &[2.0, 2.01, 2.5])
                .beside(&bare, Some(1.01)),
            bare,
            Row::checked("illegal address", Place::Jail, true, "IllegalAddress"),
            Row::checked("two views | overlap", Place::Host, false, "taken"),
            Row::not_run("torch.matmul", Place::Beside, "no module named torch"),
        ];
        let environment = Environment {
            date: "2026-11-21 10:00:00 UTC".to_owned(),
            revision: "0123456789ab".to_owned(),
            gpu: "Fake GPU".to_owned(),
            vram_bytes: 96 << 20,
            cpus: 2,
            jail: "no: not root".to_owned(),
            ..Environment::default()
        };
        let section = Section { name: "example".to_owned(), title: "An example".to_owned(), rows, seconds: 1.5 };
        Report { schema: SCHEMA, environment, sections: vec![section], seconds: 2.25 }
    }

    #[test]
    fn the_json_is_what_it_was() {
        let text = serde_json::to_string_pretty(&example()).expect("JSON");
        assert_eq!(text, include_str!("golden.json").trim_end(), "if this is meant, raise SCHEMA");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("a report"), example());
    }

    #[test]
    fn one_failed_row_fails_the_report() {
        let mut report = example();
        assert!(report.has_failed());
        report.sections[0].rows.retain(|row| row.verdict != Verdict::Failed);
        assert!(!report.has_failed());
    }

    #[test]
    fn a_ratio_is_of_medians_and_of_nothing_else() {
        let row = |samples: &[f64]| Row::measured("a", Place::Host, "ms", samples);
        let is = |own: &[f64], other: &[f64]| row(own).beside(&row(other), None).ratio.map(|ratio| ratio.is);
        assert_eq!(is(&[3.0], &[2.0]), Some(1.5));
        assert_eq!((is(&[], &[2.0]), is(&[3.0], &[]), is(&[3.0], &[0.0])), (None, None, None));
        assert_eq!(row(&[]).verdict, Verdict::NotRun);
    }
}
