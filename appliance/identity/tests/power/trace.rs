//! What `strace` wrote about a child.

use std::fs;
use std::path::{Path, PathBuf};

/// The calls that change a file or a directory, or order such changes. `?`: not every kernel has it.
pub(crate) const CALLS: [&str; 18] = [
    "openat",
    "write",
    "sendto",
    "fsync",
    "fdatasync",
    "?rename",
    "renameat",
    "renameat2",
    "?unlink",
    "unlinkat",
    "?link",
    "linkat",
    "?mkdir",
    "mkdirat",
    "fchmod",
    "flock",
    "ftruncate",
    "close",
];

/// The calls of a run, in order.
pub(crate) struct Trace {
    calls: Vec<Call>,
    state: PathBuf,
}

struct Call {
    name: String,
    /// Everything behind the name.
    text: String,
    /// The how manieth call of this name.
    count: usize,
}

// === impl Call ===

impl Call {
    fn is_to_tpm(&self) -> bool {
        let is_sent = self.name == "write" || self.name == "sendto";
        is_sent && (self.text.contains("<socket:") || self.text.contains("<UNIX"))
    }
}

// === impl Trace ===

impl Trace {
    pub(crate) fn read(log: &Path, state: &Path) -> Self {
        let text = fs::read_to_string(log).expect("strace wrote a log");
        let mut calls: Vec<Call> = Vec::new();
        for line in text.lines() {
            // `1234 openat(AT_FDCWD</>, "/x", O_RDONLY) = 3</x>`
            let Some((name, text)) = line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('('))
            else {
                continue;
            };
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                continue;
            }
            let count = calls.iter().filter(|call| call.name == name).count() + 1;
            calls.push(Call { name: name.to_owned(), text: text.to_owned(), count });
        }
        Self { calls, state: state.to_owned() }
    }

    /// Where to kill: every call that touches the state directory, and every command to the TPM.
    pub(crate) fn places(&self) -> Vec<(String, usize)> {
        let state = self.state.display().to_string();
        let touches = |call: &&Call| call.text.contains(&state) || call.is_to_tpm();
        self.calls.iter().filter(touches).map(|call| (call.name.clone(), call.count)).collect()
    }

    /// A rename is durable if the file was synced after its last write, and the directory is synced afterwards.
    pub(crate) fn assert_renames_are_durable(&self) {
        let renames: Vec<_> =
            self.calls.iter().enumerate().filter(|(_, call)| call.name.starts_with("rename")).collect();
        assert!(!renames.is_empty(), "nothing was renamed");
        for (at, rename) in renames {
            let mut quoted = rename.text.split('"').skip(1).step_by(2);
            let from = quoted.next().expect("a rename has a source");
            let directory = Path::new(quoted.next().expect("and a target")).parent().expect("in a directory");
            let is_of = |call: &Call, path: &str| call.text.contains(&format!("<{path}>"));
            let synced = |calls: &[Call], path: &str| {
                calls.iter().rposition(|call| call.name == "fsync" && is_of(call, path) && call.text.ends_with("= 0"))
            };
            let file_synced = synced(&self.calls[..at], from).unwrap_or_else(|| panic!("{from} was not synced"));
            let written = self.calls[..at].iter().rposition(|call| call.name == "write" && is_of(call, from));
            assert!(written.is_none_or(|written| written < file_synced), "{from} was written after its sync");
            let directory = directory.display().to_string();
            assert!(synced(&self.calls[at..], &directory).is_some(), "{directory} was not synced after {from}");
        }
    }
}
