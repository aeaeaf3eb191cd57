//! What is made of the owner's `rig.toml`: nothing there, waiting for an owner, wrong, or right.
//!
//! The provider's own check has the last word on what is right, since it is the one that has to live with the file. What
//! is read here is only what the machine itself needs.

use toml::{Table, Value};

use crate::sections::Sections;

/// What a file is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It names no owner yet: the template, as it was shipped. No fault.
    Waiting,
    /// It cannot be used; why, with the line where there is one.
    Wrong(String),
    /// It holds.
    Right,
}

/// Judges `text`. `check` asks the provider, and answers with its words if it refuses.
pub fn judge(text: &str, check: impl FnOnce() -> Result<(), String>) -> Judged {
    match text.parse::<Table>() {
        Ok(table) if !names_owner(&table) => match sections(text) {
            Ok(_) => Judged::Waiting,
            Err(why) => Judged::Wrong(why),
        },
        Ok(_) => match check().and_then(|()| sections(text).map(drop)) {
            Ok(()) => Judged::Right,
            Err(why) => Judged::Wrong(why),
        },
        Err(error) => Judged::Wrong(explained(text, &error)),
    }
}

/// The tables that the machine itself needs.
/// Errors: what is wrong with them, with the line.
pub fn sections(text: &str) -> Result<Sections, String> {
    let sections: Sections = toml::from_str(text).map_err(|error| explained(text, &error))?;
    if let Some(why) = sections.ethernet.as_ref().and_then(crate::sections::Ethernet::trouble) {
        return Err(why);
    }
    match &sections.wifi {
        Some(wifi) if wifi.open && wifi.password.is_some() => {
            Err("[wifi] is open and has a password: leave one of them out".to_owned())
        }
        Some(_) | None => Ok(sections),
    }
}

/// Whether somebody has written an owner; whether it is a good one is for others.
fn names_owner(table: &Table) -> bool {
    match table.get("owner").and_then(Value::as_table).map(|owner| owner.get("address")) {
        Some(Some(Value::String(address))) => !address.trim().is_empty(),
        // Something else stands there: let the check say what is wrong with it.
        Some(Some(_)) => true,
        Some(None) | None => false,
    }
}

fn explained(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
    let is_curly = |sign: char| matches!(sign, '\u{2018}'..='\u{201f}');
    let curly = text.lines().nth(line - 1).is_some_and(|line| line.contains(is_curly));
    let hint = if curly { " (this line has curly quotes: write straight ones)" } else { "" };
    format!("rig.toml line {line}: {}{hint}", error.message().replace('\n', " "))
}
