//! A command of the image, ready for `execve` before the jail is closed.

use std::ffi::CString;

use nix::errno::Errno;

use super::init::Signals;
use crate::orders::{Step, StepFailed, cut};

/// What is to be executed, in the form that `execve` takes.
#[derive(Debug)]
pub(super) struct Program {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    environment: Vec<CString>,
}

// === impl Program ===

impl Program {
    /// Where the search path of an image that names none leads.
    const DEFAULT_PATH: &'static str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    /// `argv` is never empty; `environment` holds `NAME=value`.
    pub(super) fn new(argv: &[String], environment: &[String]) -> Result<Self, StepFailed> {
        let c_strings = |texts: &[String]| {
            let texts = texts.iter().map(|text| CString::new(text.as_str()));
            texts.collect::<Result<Vec<_>, _>>().step("read the command and environment")
        };
        let name = argv.first().ok_or(Errno::EINVAL).step("read the command")?;
        let candidates = if name.contains('/') {
            vec![name.clone()]
        } else {
            let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH="));
            let dirs = path.unwrap_or(Self::DEFAULT_PATH).split(':').filter(|dir| !dir.is_empty());
            dirs.map(|dir| format!("{dir}/{name}")).collect()
        };
        Ok(Self { candidates: c_strings(&candidates)?, argv: c_strings(argv)?, environment: c_strings(environment)? })
    }

    /// Executes the service; returns only if that failed.
    pub(super) fn execute(&self, signals: &Signals) -> StepFailed {
        let name = self.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        let failed = |errno: Errno| StepFailed { step: cut(&format!("execute {name:?}")), errno: errno as i32 };
        if let Err(errno) = nix::unistd::setsid().and_then(|_| signals.restore()) {
            return failed(errno);
        }
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            match nix::unistd::execve(candidate, &self.argv, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => worst = errno,
            }
        }
        failed(worst)
    }
}
