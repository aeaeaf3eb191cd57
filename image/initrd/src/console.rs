//! What a person or the journal gets to read.
//!
//! The kernel's log keeps everything, with the time; a quiet console shows none of it. So the first and the last word go
//! to every console, and so does what stops a start, after all that was not as it should be: the screen is often the only
//! thing of a rig that anybody sees.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

/// So many consoles at most; a rig has a screen and a serial port.
const CONSOLES_MAX: usize = 4;

/// So many lines are repeated; a screen has 25.
const WARNINGS_MAX: usize = 16;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps `line` in the kernel's log: a step that went well.
pub(crate) fn note(line: &str) {
    log(5, line);
}

/// Keeps `line` in the kernel's log, and writes it to every console: how far a start has come.
pub(crate) fn tell(line: &str) {
    log(5, line);
    on_every_console(&on_console(line));
}

/// Keeps `line` in the kernel's log: something that is not as it should be, and the start goes on.
pub(crate) fn warn(line: &str) {
    log(4, line);
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if warnings.len() < WARNINGS_MAX {
        warnings.push(line.to_owned());
    }
}

/// Keeps `line` in the kernel's log, and writes it to every console after all that was not as it should be: the start ends
/// here.
pub(crate) fn show(line: &str) {
    log(3, line);
    let warnings = std::mem::take(&mut *WARNINGS.lock().unwrap_or_else(PoisonError::into_inner));
    let text: String = warnings.iter().map(String::as_str).chain([line]).map(on_console).collect();
    on_every_console(&text);
}

fn on_every_console(text: &str) {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for name in active.split_ascii_whitespace().filter(|name| !name.contains('/')).take(CONSOLES_MAX) {
        write_to(&format!("/dev/{name}"), text);
    }
    if active.trim().is_empty() {
        write_to("/dev/console", text);
    }
}

/// A console that nobody has set up yet needs both ends of a line.
fn on_console(line: &str) -> String {
    format!("rig-init: {line}\r\n")
}

fn log(level: u8, line: &str) {
    write_to("/dev/kmsg", &format!("<{level}>rig-init: {line}\n"));
}

/// A port that nobody listens on must not hold up the start, and what cannot be said is not said.
fn write_to(path: &str, text: &str) {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path);
    if let Ok(mut file) = opened {
        let _ = file.write_all(text.as_bytes());
    }
}
