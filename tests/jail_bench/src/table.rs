//! The figures, as a table or as one line of JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::bed::Bed;

/// Everything that was measured, in the order in which it is shown.
#[derive(Debug)]
pub(crate) struct Table {
    conditions: Vec<String>,
    parts: Vec<Part>,
}

/// Figures that belong side by side.
#[derive(Debug)]
pub(crate) struct Part {
    /// What they are about.
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    /// What a reader must know to judge them.
    pub(crate) notes: Vec<String>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) measured: Measured,
    /// The median beside another row's, and that row's name.
    pub(crate) ratio: Option<(f64, &'static str)>,
    /// What keeps the figure from being better.
    pub(crate) bound: String,
}

/// What there is to say of a row.
#[derive(Debug)]
pub(crate) enum Measured {
    Samples(Vec<f64>),
    /// It did not run here; why.
    CannotRun(String),
}

// === impl Row ===

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        unit: &'static str,
        samples: Vec<f64>,
        bound: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), unit, measured: Measured::Samples(samples), ratio: None, bound: bound.into() }
    }

    /// The median; `None` of what did not run.
    pub(crate) fn median(&self) -> Option<f64> {
        match &self.measured {
            Measured::Samples(samples) => Some(quantile(samples, 0.5)),
            Measured::CannotRun(_) => None,
        }
    }

    /// Puts the median in relation to `other`'s.
    pub(crate) fn beside(&mut self, other: Option<f64>, name: &'static str) {
        self.ratio = self.median().zip(other).map(|(own, other)| (own / other, name));
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new(bed: &Bed, scheduling: Vec<String>) -> Result<Self> {
        let mut conditions = crate::bed::conditions()?;
        conditions.push(format!("runner: {}", bed.confinement()?));
        conditions.extend(scheduling);
        Ok(Self { conditions, parts: Vec::new() })
    }

    pub(crate) fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    pub(crate) fn show(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}", self.text());
        }
    }

    fn json(&self) -> Value {
        let parts = self.parts.iter().map(|part| {
            let rows: Vec<Value> = part.rows.iter().map(row_json).collect();
            json!({ "part": part.title, "figures": rows, "notes": part.notes })
        });
        json!({ "bench": "jail", "conditions": self.conditions, "parts": parts.collect::<Vec<_>>() })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for line in &self.conditions {
            let _ = writeln!(text, "{line}");
        }
        for part in &self.parts {
            let _ = writeln!(
                text,
                "\n{:<58} {:>9} {:>9} {:>9} {:>9} {:>4} {:<6} {:<14} bounded by",
                part.title, "median", "p10", "p90", "p99", "n", "unit", "ratio"
            );
            for row in &part.rows {
                let _ = writeln!(text, "{}", row_text(row));
            }
            for note in &part.notes {
                let _ = writeln!(text, "  {note}");
            }
        }
        text
    }
}

fn row_json(row: &Row) -> Value {
    let ratio = row.ratio.map(|(ratio, to)| json!({ "to": to, "is": ratio }));
    match &row.measured {
        Measured::Samples(samples) => json!({
            "what": row.what, "unit": row.unit, "n": samples.len(), "ratio": ratio, "bound": row.bound,
            "median": quantile(samples, 0.5), "p10": quantile(samples, 0.1), "p90": quantile(samples, 0.9),
            "p99": quantile(samples, 0.99),
        }),
        Measured::CannotRun(why) => json!({ "what": row.what, "unit": row.unit, "cannot_run": why }),
    }
}

fn row_text(row: &Row) -> String {
    let samples = match &row.measured {
        Measured::Samples(samples) => samples,
        Measured::CannotRun(why) => return format!("{:<58} cannot run here: {why}", row.what),
    };
    let figure = |share| {
        let value = quantile(samples, share);
        if value < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
    };
    let ratio = row.ratio.map(|(ratio, to)| format!("{ratio:.3} x {to}")).unwrap_or_default();
    format!(
        "{:<58} {:>9} {:>9} {:>9} {:>9} {:>4} {:<6} {ratio:<14} {}",
        row.what,
        figure(0.5),
        figure(0.1),
        figure(0.9),
        figure(0.99),
        samples.len(),
        row.unit,
        row.bound
    )
}

/// The sample below which `share` of them lie; `samples` is not empty.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
