//! What the user sees.
//!
//! Invariants: with `--json`, stdout carries JSON lines and nothing else, and stderr stays empty; colour and movement go
//! to a terminal only; an answer goes to stdout, everything on the way to it goes to stderr.

use std::env;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Between two frames of the spinner.
const SPINNER_TICK: Duration = Duration::from_millis(100);

/// Between two columns of a table.
const COLUMN_GAP: usize = 2;

/// How to talk to the user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) json: bool,
    has_colour: bool,
}

/// Rows under a header, as wide as they need to be.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

// === impl Screen ===

impl Screen {
    pub(crate) fn new(json: bool) -> Screen {
        let has_colour = !json && stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Screen { json, has_colour }
    }

    /// The command's answer: `value` for programs, `text` for people.
    pub(crate) fn answer(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        let line = match self.json {
            true => serde_json::to_string(value).expect("an answer is plain data"),
            false => text(),
        };
        let mut out = stdout().lock();
        // A reader that has seen enough and closed the pipe is no fault.
        let _ = writeln!(out, "{}", line.trim_end()).and_then(|()| out.flush());
    }

    /// Something worth knowing on the way.
    pub(crate) fn note(&self, words: &str) {
        if !self.json {
            eprintln!("{words}");
        }
    }

    /// Shows that we wait, and for what, until it is dropped.
    pub(crate) fn wait(&self, words: impl Into<String>) -> Waiting {
        if self.json || !stderr().is_terminal() {
            return Waiting(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is a constant");
        let bar = ProgressBar::new_spinner().with_style(style).with_message(words.into());
        bar.enable_steady_tick(SPINNER_TICK);
        Waiting(bar)
    }

    /// Shows how far something with a known end has come, until it is dropped.
    pub(crate) fn measure(&self, total_bytes: u64) -> Measure {
        if self.json || !stderr().is_terminal() {
            return Measure(ProgressBar::hidden());
        }
        let template = "{msg}\n[{bar:40}] {percent:>3} %";
        let style = ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> ");
        Measure(ProgressBar::new(total_bytes).with_style(style))
    }

    /// `words`, heavier on a terminal.
    pub(crate) fn bold(&self, words: &str) -> String {
        if self.has_colour { format!("\x1b[1m{words}\x1b[0m") } else { words.to_owned() }
    }

    /// A table whose first row is the header.
    pub(crate) fn table(&self, table: &Table) -> String {
        let columns = table.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| table.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0) + COLUMN_GAP).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<String>().trim_end().to_owned()
        };
        let mut lines: Vec<String> = table.rows.iter().map(line).collect();
        if let Some(header) = lines.first_mut() {
            *header = self.bold(header);
        }
        lines.join("\n")
    }
}

/// The spinner of [`Screen::wait`].
#[derive(Debug)]
pub(crate) struct Waiting(ProgressBar);

impl Waiting {
    /// Says what is waited for now.
    pub(crate) fn say(&self, words: impl Into<String>) {
        self.0.set_message(words.into());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The bar of [`Screen::measure`].
#[derive(Debug)]
pub(crate) struct Measure(ProgressBar);

impl Measure {
    /// Says how far it is, and what that means.
    pub(crate) fn say(&self, done_bytes: u64, words: impl Into<String>) {
        self.0.set_position(done_bytes);
        self.0.set_message(words.into());
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn with_header<const N: usize>(names: [&str; N]) -> Table {
        Table { rows: vec![names.map(harmless).into()] }
    }

    /// Adds a row. The cells may hold somebody else's words: see [`harmless`].
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| harmless(cell)).collect());
    }
}

/// `text` for a terminal: without what could move its cursor, colour it, or turn its text around. What a client writes
/// on the chain comes here, in the reason of a refusal.
pub(crate) fn harmless(text: &str) -> String {
    // Marks, embeddings and isolates of Unicode's bidirectional algorithm.
    let turns =
        |sign| matches!(sign, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|sign| if sign.is_control() || turns(sign) { ' ' } else { sign }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_steers_the_terminal() {
        let mut table = Table::with_header(["task", "why"]);
        table.push(["a".to_owned(), "ipfs://\x1b]0;x\x07\u{9b}2J\r\n\u{202e}b is no input \u{e4}".to_owned()]);
        let text = Screen { json: false, has_colour: false }.table(&table);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(text.ends_with("b is no input \u{e4}") && !text.contains(['\x1b', '\x07', '\r', '\u{9b}', '\u{202e}']));
    }
}
