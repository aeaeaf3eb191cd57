//! Runs a program of the image: by its absolute path, without a shell, with a bound on its time and on what it says.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::text::shown;

/// What is kept of each of a program's two voices, in bytes; the rest is read and dropped.
const VOICE_BYTES_MAX: usize = 16 * 1024;

/// What is shown of a failed program's words, in signs.
const WORDS_MAX: usize = 400;

/// Pause between two looks at a program that runs.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Time that a voice is waited for after its program ended: a child of the program may hold it open.
const VOICE_WAIT: Duration = Duration::from_secs(2);

/// A program that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; a signal's number and 128 if one killed it.
    pub code: i32,
    /// What it said on standard error, or on standard output if that was nothing.
    pub words: String,
}

/// A program that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It is not there, or the system is short of something.
    #[error("start {}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It was killed because it took too long.
    #[error("{} did not end within {} s", program.display(), limit.as_secs())]
    Late {
        /// Which.
        program: PathBuf,
        /// The time it had.
        limit: Duration,
    },
    /// It said no.
    #[error("{} ended with {code}: {words}", program.display())]
    Failed {
        /// Which.
        program: PathBuf,
        /// Its exit code.
        code: i32,
        /// The end of what it said, in one line.
        words: String,
    },
}

/// A program and what it is told.
#[derive(Debug)]
pub struct Call<'a> {
    program: &'a Path,
    arguments: Vec<OsString>,
    folder: &'a Path,
    environment: Vec<(&'a str, &'a str)>,
    limit: Duration,
}

// === impl Call ===

impl<'a> Call<'a> {
    /// `program`, an absolute path, with `arguments`. It has `limit` to end.
    pub fn new<S: Into<OsString>>(
        program: &'a Path,
        arguments: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Call<'a> {
        let arguments = arguments.into_iter().map(Into::into).collect();
        let environment = vec![("PATH", "/usr/sbin:/usr/bin"), ("LC_ALL", "C.UTF-8")];
        Call { program, arguments, folder: Path::new("/"), environment, limit }
    }

    /// In `folder`.
    #[must_use]
    pub fn within(mut self, folder: &'a Path) -> Call<'a> {
        self.folder = folder;
        self
    }

    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: &'a str) -> Call<'a> {
        self.environment.push((name, value));
        self
    }

    /// Runs it to its end. Errors: [`ExecError::Start`] and [`ExecError::Late`]; an exit code is none.
    pub fn run(&self) -> Result<Ended, ExecError> {
        let start = |source| ExecError::Start { program: self.program.to_owned(), source };
        let mut command = Command::new(self.program);
        command.args(&self.arguments).current_dir(self.folder);
        command.env_clear().envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what it started can be ended with it.
        command.process_group(0);
        let mut child = command.spawn().map_err(start)?;
        let (out, err) = (voice(child.stdout.take()), voice(child.stderr.take()));
        let Some(status) = wait(&mut child, self.limit).map_err(start)? else {
            end(&mut child);
            return Err(ExecError::Late { program: self.program.to_owned(), limit: self.limit });
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let heard = |voice: mpsc::Receiver<Vec<u8>>| voice.recv_timeout(VOICE_WAIT).unwrap_or_default();
        let (out, err) = (heard(out), heard(err));
        let words = if err.iter().all(u8::is_ascii_whitespace) { out } else { err };
        Ok(Ended { code, words: String::from_utf8_lossy(&words).into_owned() })
    }

    /// The same where any exit code but zero is an error. Errors: every variant of [`ExecError`].
    pub fn must(&self) -> Result<(), ExecError> {
        let ended = self.run()?;
        match ended.code {
            0 => Ok(()),
            code => Err(ExecError::Failed { program: self.program.to_owned(), code, words: ended.said() }),
        }
    }
}

// === impl Ended ===

impl Ended {
    /// The last lines of what it said, in one that fits a console.
    #[must_use]
    pub fn said(&self) -> String {
        let mut room = WORDS_MAX;
        let fits = |line: &&str| {
            let length = line.chars().count() + 1;
            let is_fit = length <= room;
            room = room.saturating_sub(length);
            is_fit
        };
        let mut lines: Vec<&str> = self.words.lines().rev().take_while(fits).collect();
        if lines.is_empty() {
            lines.extend(self.words.lines().next_back());
        }
        lines.reverse();
        shown(&lines.join(" "), WORDS_MAX)
    }
}

/// An error with everything behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Reads one of a program's voices to its end.
fn voice(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, heard) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let (mut kept, mut part) = (Vec::new(), [0; 4096]);
        let Some(mut from) = from else { return };
        while let Ok(count @ 1..) = from.read(&mut part) {
            let room = VOICE_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&part[..count.min(room)]);
        }
        let _ = send.send(kept);
    });
    heard
}

/// Ends a program and whatever it started: what goes on writing to a disk must not do so beside its successor.
fn end(child: &mut Child) {
    // Nobody waited for it yet, so its number is still its own. It is gone in either case.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<Ended, ExecError> {
        Call::new(Path::new("/bin/sh"), ["-c", script], limit).run()
    }

    #[test]
    fn a_program_says_how_it_ended_and_why() {
        let check = |script: &str, code: i32, said: &str| {
            let ended = sh(script, Duration::from_secs(30)).expect("runs");
            assert_eq!((ended.code, ended.said().as_str()), (code, said), "{script}");
        };
        check("exit 0", 0, "");
        check("echo out; exit 3", 3, "out");
        check("echo out; echo 'bad thing' >&2; exit 1", 1, "bad thing");
        check("kill -9 $$", 137, "");
        check("printf '%0500d\\n' 1; echo first; echo last", 0, "first last");
    }

    #[test]
    fn what_a_late_program_started_ends_with_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.path().display());
        let error = sh(&script, Duration::from_secs(2)).expect_err("late");
        assert!(matches!(error, ExecError::Late { .. }), "{error}");
        let number = std::fs::read_to_string(file.path()).expect("it was started");
        let stat = Path::new("/proc").join(number.trim()).join("stat");
        let until = Instant::now() + Duration::from_secs(10);
        // Gone, or dead and not fetched by whoever it was left to.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < until, "{} still runs", number.trim());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_ended_or_cut() {
        let error = sh("exec sleep 1000", Duration::from_millis(100)).expect_err("late");
        assert!(matches!(error, ExecError::Late { .. }), "{error}");
        let ended = sh("head -c 3000000 /dev/zero | tr '\\0' x", Duration::from_secs(60)).expect("runs");
        assert_eq!((ended.code, ended.words.len()), (0, VOICE_BYTES_MAX));
        assert!(ended.said().chars().count() <= WORDS_MAX + 3);
        let error = Call::new(Path::new("/nowhere/program"), ["x"], Duration::from_secs(1)).run();
        assert!(matches!(error.expect_err("absent"), ExecError::Start { .. }));
    }
}
