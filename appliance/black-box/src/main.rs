//! `rig-black-box`: keeps what matters of the journal on the state partition, for after a reset.
//!
//! The journal is in memory, because a stick has few writes. This program follows it through `journalctl` and keeps
//! warnings and worse of everybody, all that the rig's own programs say, and the starts and ends of their services: in
//! two text files ([`ring`]), in few large writes ([`batch`]), each line for a person to read ([`line`]). It decides
//! nothing, deletes nothing but its own oldest half, and nobody waits for it.
//!
//! Exit codes: 0 told to stop, 1 something named on stderr, 2 wrong usage.

#![forbid(unsafe_code)]

mod batch;

mod line;

mod ring;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use notify::Notifier;

use batch::Batch;
use line::Line;
use ring::Ring;

/// By its full path, because the environment is not part of what is trusted.
const JOURNALCTL: &str = "/usr/bin/journalctl";

/// What makes a line worth keeping: a warning or worse, or a program of the rig, or a word of systemd about one.
const WARNING: u8 = 4;
const SERVICES: [&str; 7] = [
    "rig-boot.service",
    "rig-firewall.service",
    "rig-signer.service",
    "rig-runner.service",
    "rig-provider.service",
    "rig-black-box.service",
    "systemd-timesyncd.service",
];

/// Lines that wait for the writer. The journal waits for its reader, so none are lost.
const WAITING_MAX: usize = 256;

/// The longest entry that is read, in bytes; the rest of a longer one is skipped. The journal's own lines end at 48 KiB.
const ENTRY_BYTES_MAX: u64 = 128 * 1024;

/// How long the last words of others are waited for after SIGTERM.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Keeps what matters of the journal.
#[derive(Debug, Parser)]
#[command(name = "rig-black-box", version)]
struct Arguments {
    /// Where the two files are; it must exist.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// What follows the journal as JSON.
    #[arg(long, value_name = "PATH", default_value = JOURNALCTL)]
    journalctl: PathBuf,
}

/// What the main thread is told.
#[derive(Debug)]
enum Word {
    /// A line to keep.
    Kept(Line),
    /// SIGTERM or SIGINT.
    Stop,
    /// The journal has no reader any more.
    End,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig-black-box: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Before any thread, so that only the one that waits for them sees these signals. The child gets them back below.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("block signals")?;
    let notifier = Notifier::from_environment();
    let mut ring = Ring::open(&arguments.directory)?;
    let mut journal = follow(&arguments.journalctl)?;
    let (tell, told) = sync_channel(WAITING_MAX);
    let lines = journal.stdout.take().context("read from journalctl")?;
    let of_signals = tell.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.wait().is_ok() {
            let _ = of_signals.send(Word::Stop);
        }
    })?;
    std::thread::Builder::new().name("journal".to_owned()).spawn(move || read(lines, &tell))?;
    notifier.ready("follows the journal");
    let ended = keep(&told, &mut ring);
    let _ = journal.kill();
    let _ = journal.wait();
    ended
}

fn follow(journalctl: &PathBuf) -> anyhow::Result<Child> {
    let mut command = Command::new(journalctl);
    command.args(["--follow", "--boot", "--lines=all", "--output=json", "--no-pager", "--quiet"]);
    command.arg(format!("--output-fields={}", line::FIELDS.join(",")));
    for priority in 0..=WARNING {
        command.arg(format!("PRIORITY={priority}"));
    }
    for service in SERVICES {
        command.args(["+", &format!("_SYSTEMD_UNIT={service}"), "+", &format!("UNIT={service}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().with_context(|| format!("start {}", journalctl.display()))
}

/// Hands on every entry that can be read, until the journal ends.
fn read(lines: ChildStdout, tell: &SyncSender<Word>) {
    let mut lines = BufReader::new(lines);
    let mut entry = Vec::new();
    loop {
        entry.clear();
        match (&mut lines).take(ENTRY_BYTES_MAX).read_until(b'\n', &mut entry) {
            Ok(length) if length > 0 => {}
            Ok(_) | Err(_) => break,
        }
        // What is left of an entry that is too long is no JSON, and so are the pieces that follow.
        if let Some(line) = Line::of(&entry)
            && tell.send(Word::Kept(line)).is_err()
        {
            return;
        }
    }
    let _ = tell.send(Word::End);
}

/// Keeps until it is told to stop. Errors: the files cannot be written, the journal ended.
fn keep(told: &Receiver<Word>, ring: &mut Ring) -> anyhow::Result<()> {
    let mut batch = Batch::new(Instant::now());
    let mut stop_at: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if stop_at.is_some_and(|at| now >= at) {
            return ring.append(batch.take(now).as_bytes()).context("keep the last lines");
        }
        let due = [batch.due(now), stop_at].into_iter().flatten().min();
        let word = match due {
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => told.recv_timeout(at.saturating_duration_since(now)),
        };
        match word {
            Ok(Word::Kept(line)) => batch.add(&line, Instant::now()),
            Ok(Word::Stop) => stop_at = Some(Instant::now() + LAST_WORDS),
            Err(RecvTimeoutError::Timeout) if stop_at.is_none() => {
                let text = batch.take(Instant::now());
                ring.append(text.as_bytes()).context("keep lines")?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Word::End) | Err(RecvTimeoutError::Disconnected) => {
                ring.append(batch.take(Instant::now()).as_bytes()).context("keep the last lines")?;
                anyhow::ensure!(stop_at.is_some(), "journalctl ended by itself");
                return Ok(());
            }
        }
    }
}
