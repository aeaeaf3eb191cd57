//! What a machine's serial port said, and when.
//!
//! Firmware writes without ends of lines and with cursor movements, so the text is searched as it is, never by line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is kept of a console. A machine that says more is in a loop, and its beginning says why.
const BYTES_MAX: usize = 16 << 20;

/// How much of a console an error repeats.
const TAIL_BYTES: usize = 3000;

/// A console that is being read. Clones are the same console.
#[derive(Clone, Debug)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    text: Vec<u8>,
    /// The length of `text` after each piece that came, and when it came.
    pieces: Vec<(usize, Duration)>,
    is_closed: bool,
}

/// What a look at the console came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It was shown this long after the start.
    Shown(Duration),
    /// The console closed without it.
    Closed,
    /// Time is up.
    Late,
}

// === impl Console ===

impl Console {
    pub(super) fn new(began: Instant) -> Console {
        Console { shared: Arc::new(Shared { began, said: Mutex::default(), more: Condvar::new() }) }
    }

    /// Reads until the other end closes; also writes everything into `log`.
    pub(super) fn read_from(&self, mut port: impl Read, mut log: Option<File>) {
        let mut piece = [0; 4096];
        loop {
            let count = match port.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if log.as_mut().is_some_and(|log| log.write_all(&piece[..count]).is_err()) {
                // A full disk must not stop the machine.
                log = None;
            }
            let mut said = self.said();
            if said.text.len() < BYTES_MAX {
                said.text.extend_from_slice(&piece[..count]);
                let length = said.text.len();
                said.pieces.push((length, self.shared.began.elapsed()));
            }
            drop(said);
            self.shared.more.notify_all();
        }
        self.said().is_closed = true;
        self.shared.more.notify_all();
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.said().text).into_owned()
    }

    /// The end of it, for an error.
    pub fn tail(&self) -> String {
        let said = self.said();
        let from = said.text.len().saturating_sub(TAIL_BYTES);
        String::from_utf8_lossy(&said.text[from..]).into_owned()
    }

    /// How long after the start `marker` was first shown.
    pub fn shown(&self, marker: &str) -> Option<Duration> {
        self.said().shown(marker.as_bytes())
    }

    pub(super) fn look(&self, marker: &str, within: Duration) -> Look {
        let until = Instant::now() + within;
        let mut said = self.said();
        loop {
            if let Some(at) = said.shown(marker.as_bytes()) {
                return Look::Shown(at);
            }
            if said.is_closed {
                return Look::Closed;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Look::Late;
            }
            (said, _) = self.shared.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the machine let go of its serial port. Returns whether it did.
    pub(super) fn wait_closed(&self, within: Duration) -> bool {
        let wait = self.shared.more.wait_timeout_while(self.said(), within, |said| !said.is_closed);
        let (said, _) = wait.unwrap_or_else(PoisonError::into_inner);
        said.is_closed
    }

    /// Writes what was said and what will be said to `out`, until the machine ends. Errors: `out` takes no more.
    pub fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut copied = 0;
        loop {
            let wait = |said: &mut Said| said.text.len() == copied && !said.is_closed;
            let said = self.shared.more.wait_while(self.said(), wait).unwrap_or_else(PoisonError::into_inner);
            let piece = said.text[copied..].to_vec();
            let is_closed = said.is_closed;
            drop(said);
            copied += piece.len();
            out.write_all(&piece)?;
            out.flush()?;
            if is_closed {
                return Ok(());
            }
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Said ===

impl Said {
    fn shown(&self, marker: &[u8]) -> Option<Duration> {
        if marker.is_empty() {
            return Some(Duration::ZERO);
        }
        let end = self.text.windows(marker.len()).position(|window| window == marker)? + marker.len();
        self.pieces.iter().find(|(length, _)| *length >= end).map(|(_, at)| *at)
    }
}
