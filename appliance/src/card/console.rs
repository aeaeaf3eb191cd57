//! The terminal that shows the card. It may block, vanish or never have been there: the rig does not wait for it.
//!
//! Each line is put in its place, and none is ended: a card that is longer than the screen loses its end there, where a
//! line end would scroll its beginning away, and the QR code with it.
//!
//! Invariants: one thread of its own writes, and never blocks in a write; only the newest text waits; a text is given up
//! after [`WRITE_MAX`] and tried again after [`RETRY_EVERY`].

use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use tracing::warn;

/// Clears the screen and goes to its first place. With those of [`placed`] the only control codes that are sent.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Longest wait for a terminal that takes no more, such as one that somebody has stopped.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// Pause between two tries of one write.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

/// Time after which a text that could not be shown is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(30);

/// A terminal. Dropping it ends its thread, which leaves the last text where it is.
#[derive(Debug)]
pub struct Console {
    desk: Arc<Desk>,
}

/// Where the newest text waits.
#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Option<String>,
    is_over: bool,
}

// === impl Console ===

impl Console {
    /// The terminal at `path`, opened anew for each text. Errors: the system gives no thread.
    pub fn start(path: PathBuf) -> io::Result<Console> {
        Console::start_with(path, RETRY_EVERY)
    }

    fn start_with(path: PathBuf, retry: Duration) -> io::Result<Console> {
        let desk = Arc::new(Desk::default());
        let thread = std::thread::Builder::new().name("console".to_owned());
        thread.spawn({
            let desk = desk.clone();
            move || desk.serve(&path, retry)
        })?;
        Ok(Console { desk })
    }

    /// Shows `text` in place of what was shown or is still waiting. Returns at once.
    pub fn show(&self, text: String) {
        self.desk.lock().text = Some(text);
        self.desk.changed.notify_one();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.desk.lock().is_over = true;
        self.desk.changed.notify_one();
    }
}

// === impl Desk ===

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }

    fn serve(&self, path: &Path, retry: Duration) {
        let mut unshown: Option<String> = None;
        let mut is_well = true;
        while let Some(text) = self.next(unshown.take(), retry) {
            match write(path, &text) {
                Ok(()) => is_well = true,
                Err(error) => {
                    if is_well {
                        warn!(%error, console = %path.display(), "the card is not shown");
                    }
                    is_well = false;
                    unshown = Some(text);
                }
            }
        }
    }

    /// The newest text; after a failure the `unshown` one again if none came. `None`: it is over.
    fn next(&self, unshown: Option<String>, retry: Duration) -> Option<String> {
        let mut waiting = self.lock();
        let until = Instant::now() + retry;
        loop {
            if waiting.is_over {
                return None;
            }
            if let Some(text) = waiting.text.take() {
                return Some(text);
            }
            let left = until.saturating_duration_since(Instant::now());
            if unshown.is_none() {
                waiting = self.changed.wait(waiting).expect("no holder of this lock panics");
            } else if left.is_zero() {
                return unshown;
            } else {
                waiting = self.changed.wait_timeout(waiting, left).expect("no holder of this lock panics").0;
            }
        }
    }
}

/// The lines of `text`, each sent to its own place. A place below the screen is that of the last line.
fn placed(text: &str) -> String {
    let mut lines = text.lines().zip(1_usize..);
    let first = lines.next().map_or("", |(line, _)| line).to_owned();
    lines.fold(first, |placed, (line, row)| format!("{placed}\x1b[{row};1H\x1b[K{line}"))
}

/// Writes to a terminal that may be stopped: never blocks, and gives up after [`WRITE_MAX`].
fn write(path: &Path, text: &str) -> io::Result<()> {
    // It must not become this process's controlling terminal, and must not make it wait.
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mut terminal = std::fs::OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)?;
    let bytes = [CLEAR.as_bytes(), placed(text).as_bytes()].concat();
    let mut left = &bytes[..];
    let until = Instant::now() + WRITE_MAX;
    while !left.is_empty() {
        match terminal.write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(WRITE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    /// Reads from a pipe until `expected` has come.
    fn read_until(pipe: &mut std::fs::File, expected: &str) {
        let (mut got, mut part) = (Vec::new(), [0; 4096]);
        let until = Instant::now() + WITHIN;
        while !String::from_utf8_lossy(&got).contains(expected) {
            assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&got));
            match pipe.read(&mut part) {
                Ok(count) => got.extend_from_slice(&part[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            std::thread::yield_now();
        }
    }

    fn pipe() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("console");
        mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        (dir, path)
    }

    fn reader(path: &Path) -> std::fs::File {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).expect("opens")
    }

    #[test]
    fn the_screen_is_cleared_and_shows_the_newest_text() {
        let (_dir, path) = pipe();
        let mut reader = reader(&path);
        let console = Console::start(path).expect("a thread");
        console.show("first".to_owned());
        read_until(&mut reader, "\x1b[2J\x1b[Hfirst");
        console.show("second".to_owned());
        read_until(&mut reader, "\x1b[2J\x1b[Hsecond");
    }

    #[test]
    fn a_card_that_is_longer_than_the_screen_does_not_scroll_its_code_away() {
        assert_eq!(placed(""), "");
        assert_eq!(placed("a\nb\n\nc\n"), "a\x1b[2;1H\x1b[Kb\x1b[3;1H\x1b[K\x1b[4;1H\x1b[Kc");
        let (_dir, path) = pipe();
        let mut reader = reader(&path);
        write(&path, &"line\n".repeat(40)).expect("writes");
        let mut shown = [0; 1024];
        let count = reader.read(&mut shown).expect("reads");
        assert!(!shown[..count].contains(&b'\n'), "a line end scrolls");
    }

    #[test]
    fn a_console_that_is_not_there_is_shown_the_text_when_it_comes() {
        let (_dir, path) = pipe();
        let console = Console::start_with(path.clone(), Duration::from_millis(5)).expect("a thread");
        let begun = Instant::now();
        console.show("late".to_owned());
        assert!(begun.elapsed() < WITHIN);
        // Nobody reads: the pipe has no other end, as a console that vanished.
        let mut reader = reader(&path);
        read_until(&mut reader, "late");
    }

    #[test]
    fn a_console_that_takes_nothing_more_keeps_nobody_waiting() {
        let (_dir, path) = pipe();
        let mut reader = reader(&path);
        let console = Console::start_with(path, Duration::from_millis(5)).expect("a thread");
        let begun = Instant::now();
        // More than any pipe holds, a thousand times.
        for _ in 0..1000 {
            console.show("x".repeat(1 << 20));
        }
        assert!(begun.elapsed() < WITHIN);
        console.show("the last".to_owned());
        read_until(&mut reader, "the last");
    }
}
