//! What one start found, in words: lines for the console, notices for the card and the page, and the file on the stick.

use std::fmt::Write;

use crate::notices::Notice;
use crate::text::shown;

/// Names of the notices of this chapter.
pub const OURS: [&str; 7] = ["erase", "ethernet", "rig-toml", "seal", "state", "stick", "wifi"];

/// The longest words of somebody else in a notice, in signs.
const SAID_MAX: usize = 600;

/// All that is to be said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The image's version.
    pub version: String,
    /// How the state is, in a sentence.
    pub state: String,
    /// How the settings are, in a sentence.
    pub settings: String,
    /// What is wrong.
    pub notices: Vec<Notice>,
}

// === impl Report ===

impl Report {
    /// One thing that is wrong.
    pub fn notice(&mut self, name: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.notices.push(Notice::new(name, what, next));
    }

    /// One thing that is wrong, with the words of whoever noticed.
    pub fn said(&mut self, name: &'static str, what: &str, said: &str, next: &str) {
        let said = shown(said, SAID_MAX);
        let next = if said.is_empty() { next.to_owned() } else { format!("{said}\n{next}") };
        self.notice(name, what, next);
    }

    /// Lines for the console.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("state: {}", self.state), format!("settings: {}", self.settings)];
        for notice in &self.notices {
            lines.push(notice.what.clone());
            lines.extend(notice.next.lines().map(|line| format!("  {line}")));
        }
        lines
    }

    /// The file on the stick.
    #[must_use]
    pub fn status(&self) -> String {
        let mut text = format!(
            "What this rig found when it was last started. It writes this file itself.\n\nRig software {}\nState: {}\n\
             Settings: {}\n",
            self.version, self.state, self.settings
        );
        // Writing to a string never fails.
        for notice in &self.notices {
            let _ = write!(text, "\n* {}\n", notice.what);
            for line in notice.next.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        // Every editor of every system ends its lines here.
        text.replace('\n', "\r\n")
    }
}
