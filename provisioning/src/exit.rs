//! How `rig` ends.
//!
//! Invariants: the numbers are an interface, so a number never changes its meaning; every failure says what to do next
//! wherever we know it; a chain of causes is printed once, in `Failure::report`.

use std::error::Error;
use std::process::ExitCode;

use crate::screen::harmless;

/// The exit codes. Scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something went wrong that none of the others names.
    Failed = 1,
    /// The command line, a file named on it, or a key was not understood.
    Usage = 2,
    /// The network, a gateway or the rig did not answer.
    Unreachable = 3,
    /// A contract refused, or would refuse, the transaction; or there are not enough coins for it.
    Refused = 4,
    /// What was waited for did not happen in time. It may still happen.
    TimedOut = 5,
    /// The endpoint serves another chain than the one that was named.
    WrongNetwork = 6,
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    next: Option<String>,
}

// === impl Exit ===

impl Exit {
    const ALL: [Exit; 7] =
        [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Refused, Exit::TimedOut, Exit::WrongNetwork];

    fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "the command line, a file named on it, or a key was not understood",
            Exit::Unreachable => "the network, a gateway or the rig did not answer",
            Exit::Refused => "a contract refused, or there are not enough coins",
            Exit::TimedOut => "what was waited for did not happen in time; it may still happen",
            Exit::WrongNetwork => "the endpoint serves another chain than the one that was named",
        }
    }
}

/// The codes as `rig --help` lists them.
pub(crate) fn exit_codes() -> String {
    let lines = Exit::ALL.map(|exit| format!("\n  {}  {}", exit as u8, exit.meaning()));
    format!("Exit codes:{}", lines.concat())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { exit, error: error.into(), next: None }
    }

    /// With a sentence that says what to do about it.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Failure {
        self.next = Some(step.into());
        self
    }

    /// Prints it: for people on stderr, and for programs as the one line on stdout.
    pub(crate) fn report(&self, json: bool) {
        let causes = causes(self.error.as_ref());
        if json {
            let line = serde_json::json!({
                "error": self.error.to_string(),
                "causes": causes,
                "next": self.next,
                "exit": self.exit as u8,
            });
            println!("{line}");
            return;
        }
        // Our own words may take several lines; a cause may be an endpoint's or a contract's.
        eprintln!("rig: {}", self.error.to_string().lines().map(harmless).collect::<Vec<_>>().join("\n"));
        for cause in causes {
            eprintln!("  because: {}", harmless(&cause));
        }
        if let Some(next) = &self.next {
            eprintln!("  next: {next}");
        }
    }
}

/// What lies behind `error`, outermost first. A cause that its parent already repeated is left out.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
        source = cause.source();
    }
    said.split_off(1)
}
