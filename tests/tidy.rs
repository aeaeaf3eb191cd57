//! The architecture's invariants, read off the source itself.
//!
//! Each test walks every Rust file and manifest of the workspace and names the places that break a rule. An exception is
//! a line in a table here, where a reviewer sees it. What stands in a comment, in a `tests` folder or below the first
//! `#[cfg(test)]` of a file is not production code; a rule says when it means those too.

use std::fs;
use std::path::{Path, PathBuf};

/// The chapters in the order of the story, and the chapters that each may use.
const CHAPTERS: [(&str, &[&str]); 28] = [
    ("appliance/work", &[]),
    ("appliance/chain", &["work"]),
    ("appliance/bundle", &[]),
    ("appliance/cuda", &["bundle"]),
    ("appliance/gpu", &[]),
    ("appliance/notify", &[]),
    ("appliance/black-box", &["notify"]),
    ("appliance/runner", &["work", "bundle", "cuda", "gpu", "notify"]),
    ("appliance/tpm", &[]),
    ("appliance/attest", &[]),
    ("appliance/identity", &["tpm"]),
    ("appliance/signer", &["tpm", "attest", "identity", "notify"]),
    ("image/layout", &[]),
    ("image/initrd", &["layout"]),
    ("appliance/boot", &["layout"]),
    ("appliance", &["boot", "work", "chain", "bundle", "cuda", "gpu", "notify", "signer", "runner"]),
    ("image", &["layout"]),
    ("provisioning", &["boot", "layout", "image", "chain", "bundle", "gpu", "runner", "attest", "signer"]),
    ("tests/kernels", &[]),
    ("tests/fake-gpu/edge", &[]),
    ("tests/fake-gpu/script", &[]),
    ("tests/fake-gpu/cuda", &["kernels"]),
    ("tests/fake-gpu/nvml", &[]),
    ("tests/swtpm", &[]),
    ("tests/hostile", &["bundle", "gpu", "runner"]),
    (
        "tests",
        &[
            "work",
            "chain",
            "bundle",
            "gpu",
            "runner",
            "identity",
            "signer",
            "swtpm",
            "appliance",
            "provisioning",
            "kernels",
            "layout",
            "image",
        ],
    ),
    ("tests/jail_bench", &["runner", "hostile", "appliance", "testbed"]),
    ("tests/gpu_report", &["bundle", "cuda", "gpu", "runner", "kernels"]),
];

/// All that the pure core is built from.
const WORK_DEPENDS_ON: [&str; 3] = ["alloy-primitives", "serde", "thiserror"];

/// What would give the pure core a clock, a disk, a network or a thread.
const IMPURE: [&str; 9] = [
    "std::time",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "SystemTime",
    "Instant::now",
];

/// Ways to hand a transaction to a node.
const SENDING: [&str; 4] =
    ["send_raw_transaction", "eth_sendRawTransaction", "send_transaction", "eth_sendTransaction"];

/// Where transactions leave: the outbox, and the local network, which puts its contracts on a chain of its own.
const MAY_SEND: [&str; 3] =
    ["appliance/chain/src/outbox.rs", "appliance/chain/src/outbox/", "provisioning/src/devnet/deploy.rs"];

/// Types that hold a private key.
const KEYS: [&str; 3] = ["PrivateKeySigner", "SigningKey", "LocalSigner"];

/// Who holds keys: the signer and its identity the rig's, the build a release's, the owner's wallet on the owner's machine, the local network its public ones.
const MAY_HOLD_KEYS: [&str; 7] = [
    "appliance/identity/src/",
    "appliance/signer/src/",
    "image/src/keys.rs",
    "image/src/keys/",
    "provisioning/src/wallet.rs",
    "provisioning/src/wallet/",
    "provisioning/src/devnet/",
];

/// Where a process sets its umask: the runner before its first thread, and a jail's process, which is alone.
const MAY_SET_UMASK: [&str; 2] = ["appliance/runner/src/main.rs", "appliance/runner/src/jail/privileges.rs"];

/// Files and folders with unsafe code: system calls that have no safe wrapper, C libraries that are opened while we run,
/// libraries that stand in for them, and tests that make the calls a jail must refuse.
const UNSAFE: [&str; 9] = [
    "appliance/cuda/src/driver.rs",
    "appliance/cuda/src/linker.rs",
    "appliance/runner/src/kernel.rs",
    "image/initrd/src/ioctl.rs",
    "provisioning/src/cuda/nvrtc.rs",
    "tests/fake-gpu/",
    "tests/gpu_report/src/bare.rs",
    "tests/hostile/src/attack/raw.rs",
    "tests/hostile/tests/jail/raw.rs",
];

/// Nothing is so long that it has one idea.
const LINES_MAX: usize = 600;

/// Spelt in two parts so that this file does not break its own rule.
const UNFINISHED: [&str; 4] =
    [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("dbg", "!"), concat!("#[ig", "nore")];

const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// One Rust file: its path from the root of the workspace, and its text.
struct File {
    path: String,
    text: String,
}

// === impl File ===

impl File {
    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || place.ends_with('/') && self.path.starts_with(place))
    }

    /// Whether the file goes into a binary that ships.
    fn is_production(&self) -> bool {
        !self.path.starts_with("tests/") && !self.path.contains("/tests/") && !self.path.ends_with("/tests.rs")
    }

    /// The lines that are code, numbered from one.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(number, line)| (number + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The lines that are code and ship.
    fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }

    fn places<'a>(&'a self, lines: impl Iterator<Item = (usize, &'a str)>, words: &[&str]) -> Vec<String> {
        let found = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        found.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files() -> Vec<File> {
    let mut files = Vec::new();
    for chapter in ["appliance", "image", "provisioning", "tests"] {
        gather(&root(), &root().join(chapter), &mut files);
    }
    assert!(files.len() > CHAPTERS.len(), "the workspace was not found");
    files
}

fn gather(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace can be read") {
        let path = entry.expect("a folder of the workspace can be listed").path();
        if path.is_dir() {
            gather(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let path = path.strip_prefix(root).expect("it is below the root").display().to_string();
            files.push(File { path, text });
        }
    }
}

/// The names in `[dependencies]` of a chapter's manifest.
fn dependencies(chapter: &str) -> Vec<String> {
    let manifest = root().join(chapter).join("Cargo.toml");
    let text = fs::read_to_string(manifest).expect("each chapter has a manifest");
    let section = text.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| line.contains('='))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn the_core_is_built_from_nothing_that_waits_or_talks() {
    let beyond: Vec<_> =
        dependencies("appliance/work").into_iter().filter(|name| !WORK_DEPENDS_ON.contains(&name.as_str())).collect();
    assert_none(beyond, "appliance/work depends on");
}

#[test]
fn the_core_has_no_clock_disk_network_or_thread() {
    let work = files().into_iter().filter(|file| file.path.starts_with("appliance/work/src/"));
    let broken = work.flat_map(|file| file.places(file.shipped_code(), &IMPURE)).collect();
    assert_none(broken, "the core reaches out");
}

#[test]
fn transactions_leave_from_the_outbox_only() {
    let others = files().into_iter().filter(|file| file.is_production() && !file.is_under(&MAY_SEND));
    let broken = others.flat_map(|file| file.places(file.shipped_code(), &SENDING)).collect();
    assert_none(broken, "a transaction leaves elsewhere");
}

#[test]
fn private_keys_are_named_by_their_holders_only() {
    let others = files().into_iter().filter(|file| file.is_production() && !file.is_under(&MAY_HOLD_KEYS));
    let broken = others.flat_map(|file| file.places(file.shipped_code(), &KEYS)).collect();
    assert_none(broken, "a private key is named elsewhere");
}

#[test]
fn no_thread_changes_the_umask_of_all_threads() {
    let others = files().into_iter().filter(|file| file.is_production() && !file.is_under(&MAY_SET_UMASK));
    let broken = others.flat_map(|file| file.places(file.shipped_code(), &["umask("])).collect();
    assert_none(broken, "a umask is set elsewhere");
}

#[test]
fn unsafe_code_stands_in_the_listed_files_only() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe("];
    let files: Vec<_> = files().into_iter().filter(|file| file.path != "tests/tidy.rs").collect();
    let others = files.iter().filter(|file| !file.is_under(&UNSAFE));
    assert_none(others.flat_map(|file| file.places(file.code(), &words)).collect(), "unsafe code stands elsewhere");
    // In a folder the file that the others are parts of says it.
    let is_said = |place: &&str| {
        let mut listed = files.iter().filter(|file| file.is_under(&[*place]));
        listed.any(|file| file.text.contains("#![expect(unsafe_code, reason"))
    };
    let unsaid = UNSAFE.into_iter().filter(|place| !is_said(place)).map(str::to_owned);
    assert_none(unsaid.collect(), "a listed place is gone, or does not say why");
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let long =
        files().into_iter().map(|file| (file.text.lines().count(), file.path)).filter(|(lines, _)| *lines > LINES_MAX);
    assert_none(long.map(|(lines, path)| format!("{path}: {lines}")).collect(), "a file is too long");
}

#[test]
fn nothing_is_left_unfinished_or_skipped() {
    let broken = files().iter().flat_map(|file| file.places(file.code(), &UNFINISHED)).collect();
    assert_none(broken, "something is left unfinished");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    // A file of unit tests belongs to the file beside it, which says it.
    let silent = files().into_iter().filter(|file| !file.path.ends_with("/tests.rs") && !file.text.starts_with("//!"));
    assert_none(silent.map(|file| file.path).collect(), "a file does not say what it is for");
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty = files()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.trim_end_matches(".rs").split('/').any(|part| EMPTY_NAMES.contains(&part)));
    assert_none(empty.collect(), "a name says nothing");
}

#[test]
fn no_chapter_depends_on_a_later_one() {
    let names: Vec<_> = CHAPTERS.iter().map(|(path, _)| name_of(path)).collect();
    let broken = CHAPTERS.iter().flat_map(|(path, allowed)| {
        let used = dependencies(path).into_iter().filter(|name| names.contains(&name.as_str()));
        used.filter(|name| !allowed.contains(&name.as_str())).map(move |name| format!("{path} depends on {name}"))
    });
    assert_none(broken.collect(), "a chapter reaches forward");
}

#[test]
fn every_chapter_takes_its_lints_and_versions_from_the_workspace() {
    let broken = CHAPTERS.iter().filter(|(path, _)| {
        let text = fs::read_to_string(root().join(path).join("Cargo.toml")).expect("each chapter has a manifest");
        !text.contains("[lints]\nworkspace = true") || text.lines().any(|line| line.contains("version = \""))
    });
    assert_none(broken.map(|(path, _)| (*path).to_owned()).collect(), "a manifest goes its own way");
}

/// The crate of a chapter's folder.
fn name_of(path: &'static str) -> &'static str {
    match path.rsplit('/').next() {
        Some("tests") | None => "testbed",
        Some(name) => name,
    }
}
