//! Looks at a finished root for what must not be in it. A fault fails the build.
//!
//! Invariants: nothing is mended here. Every fault is found, not only the first, so that one build is enough to see all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use thiserror::Error;

/// Programs that take commands from a person or a script. systemd and the rig's own programs need none of them.
const INTERPRETERS: [&str; 22] = [
    "sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "csh", "tcsh", "fish", "perl", "python", "ruby", "lua",
    "awk", "mawk", "gawk", "sed", "tclsh", "node", "php", "env",
];

/// Ways in that the image does not have.
const DOORS: [&str; 9] = ["sshd", "dropbear", "telnetd", "login", "su", "sudo", "agetty", "sulogin", "passwd"];

/// What is read of a file to see what it is; as much of a first line as the kernel reads.
const LINE_BYTES_MAX: usize = 256;

/// More links in a row than this are a loop, as for the kernel.
const LINKS_MAX: usize = 40;

/// Where libraries are.
const LIBRARIES: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib"];

/// Below these, links lead to what is there only while the rig runs.
const RUNNING: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var"];

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Below the root.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

/// What is wrong with a root.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum CheckError {
    #[error("look at {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} things must not be in the root: {}", .0.len(), listed(.0))]
    Faults(Vec<Fault>),
}

/// Everything below a root.
struct Looked<'a> {
    root: &'a Path,
    faults: Vec<Fault>,
    /// Paths of links, below the root.
    links: Vec<String>,
    /// Libraries that ELF files need, and the files that need them.
    needed: BTreeMap<String, BTreeSet<String>>,
}

/// Checks the folder `root`. Errors: `Faults` with all of them.
pub fn check(root: &Path) -> Result<(), CheckError> {
    let mut looked = Looked { root, faults: Vec::new(), links: Vec::new(), needed: BTreeMap::new() };
    looked.folder(root)?;
    looked.follow();
    looked.libraries();
    looked.credentials();
    let mut faults = looked.faults;
    faults.sort();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(CheckError::Faults(faults)),
    }
}

// === impl Looked ===

impl Looked<'_> {
    fn fault(&mut self, path: &str, what: impl Into<String>) {
        self.faults.push(Fault { path: path.to_owned(), what: what.into() });
    }

    fn inside(&self, path: &Path) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    fn folder(&mut self, folder: &Path) -> Result<(), CheckError> {
        let failed = |source| CheckError::Read { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let inside = self.inside(&path);
            let found = path.symlink_metadata().map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_program = inside.starts_with("usr/bin/") || inside.starts_with("usr/sbin/");
            if is_program && is_interpreter(&name) {
                self.fault(&inside, "is a shell or an interpreter");
            }
            if DOORS.contains(&name.as_str()) && !found.is_dir() && is_program {
                self.fault(&inside, "is a way to log in");
            }
            if found.is_symlink() {
                self.links.push(inside);
            } else if found.is_dir() {
                self.mode(&inside, found.permissions().mode());
                self.folder(&path)?;
            } else if found.is_file() {
                self.mode(&inside, found.permissions().mode());
                self.file(&path, &inside).map_err(failed)?;
            } else {
                self.fault(&inside, "is neither a file, a folder nor a link");
            }
        }
        Ok(())
    }

    fn mode(&mut self, inside: &str, mode: u32) {
        if mode & 0o6000 != 0 {
            self.fault(inside, "runs with rights of its owner or group");
        }
        if mode & 0o022 != 0 {
            self.fault(inside, "may be written by others");
        }
    }

    fn file(&mut self, path: &Path, inside: &str) -> io::Result<()> {
        let mut line = [0; LINE_BYTES_MAX];
        let mut file = fs::File::open(path)?;
        let count = io::Read::read(&mut file, &mut line)?;
        let head = line.first_chunk::<4>().copied().unwrap_or_default();
        if let Some(words) = line[..count].strip_prefix(b"#!") {
            let words = String::from_utf8_lossy(words);
            let program = words.split_whitespace().next().unwrap_or_default();
            // Rules that begin with the program that reads them, such as nft, are no way to run commands.
            let name = program.rsplit_once('/').map_or(program, |(_, name)| name);
            if is_interpreter(name) || !self.root.join(program.trim_start_matches('/')).is_file() {
                self.fault(inside, format!("is a script for {program}"));
            }
        }
        // Kernel modules are ELF too, but nothing loads libraries for them.
        if &head == b"\x7fELF" && !inside.ends_with(".ko") {
            match needed(&fs::read(path)?) {
                Some(names) => {
                    for name in names {
                        self.needed.entry(name).or_default().insert(inside.to_owned());
                    }
                }
                None => self.fault(inside, "is no ELF file that can be read"),
            }
        }
        if inside.starts_with("etc/") && head == *b"----" {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.contains("PRIVATE KEY") {
                self.fault(inside, "is a private key");
            }
        }
        Ok(())
    }

    /// Every link must lead to something in the root, or to what only a running system has.
    fn follow(&mut self) {
        for link in std::mem::take(&mut self.links) {
            if !leads_somewhere(self.root, &link) {
                let to = fs::read_link(self.root.join(&link)).unwrap_or_default();
                self.fault(&link, format!("leads to {}, where nothing is", to.display()));
            }
        }
    }

    fn libraries(&mut self) {
        for (name, by) in std::mem::take(&mut self.needed) {
            if !LIBRARIES.iter().any(|folder| self.root.join(folder).join(&name).exists()) {
                let by: Vec<&str> = by.iter().map(String::as_str).take(3).collect();
                self.fault(&name, format!("is not there, and {} needs it", by.join(" and ")));
            }
        }
    }

    /// Nobody has a password, not even an empty one.
    fn credentials(&mut self) {
        for name in ["etc/passwd", "etc/shadow"] {
            let text = fs::read_to_string(self.root.join(name)).unwrap_or_default();
            for line in text.lines() {
                let mut fields = line.split(':');
                let (user, secret) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                let is_locked = secret.starts_with(['!', '*']) || name == "etc/passwd" && secret == "x";
                if !is_locked {
                    self.fault(name, format!("user {user} has a password, or needs none"));
                }
            }
        }
        if !self.root.join("etc/passwd").exists() || !self.root.join("etc/shadow").exists() {
            self.fault("etc/passwd", "is missing, or etc/shadow");
        }
    }
}

/// `python3.13` is python.
fn is_interpreter(name: &str) -> bool {
    let plain = name.trim_end_matches(|sign: char| sign.is_ascii_digit() || sign == '.' || sign == '-');
    INTERPRETERS.contains(&plain)
}

/// The libraries that an ELF file asks the loader for; none if the file is damaged.
fn needed(bytes: &[u8]) -> Option<Vec<String>> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    let (endian, header) = (file.endian(), file.elf_header());
    let mut names = Vec::new();
    for segment in header.program_headers(endian, bytes).ok()? {
        let Some(entries) = segment.dynamic(endian, bytes).ok()? else { continue };
        let value = |tag: i64| {
            let found = entries.iter().find(|entry| entry.d_tag(endian) == tag);
            found.map(|entry| entry.d_val(endian))
        };
        let (Some(place), Some(size)) = (value(object::elf::DT_STRTAB), value(object::elf::DT_STRSZ)) else { continue };
        let loaded = header.program_headers(endian, bytes).ok()?;
        let strings = loaded.iter().find_map(|part| part.data_range(endian, bytes, place, size).ok()?)?;
        for entry in entries.iter().filter(|entry| entry.d_tag(endian) == object::elf::DT_NEEDED) {
            let text = strings.get(usize::try_from(entry.d_val(endian)).ok()?..)?;
            let end = text.iter().position(|byte| *byte == 0)?;
            names.push(String::from_utf8_lossy(&text[..end]).into_owned());
        }
    }
    Some(names)
}

/// Whether the link at `inside` leads, within the root, to something.
fn leads_somewhere(root: &Path, inside: &str) -> bool {
    let mut at: Vec<String> = Vec::new();
    let mut rest: Vec<String> = parts(Path::new(inside));
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        let shown = format!("/{}", at.join("/"));
        if RUNNING.iter().any(|place| shown.starts_with(&format!("{place}/"))) {
            return true;
        }
        let here = root.join(at.join("/"));
        let Ok(found) = here.symlink_metadata() else { return false };
        if found.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return false;
            }
            let to = fs::read_link(&here).unwrap_or_default();
            at.pop();
            // A unit is masked by a link to nothing, on purpose.
            if to == Path::new("/dev/null") {
                return true;
            }
            if to.is_absolute() {
                at.clear();
            }
            rest.extend(parts(&to));
        }
    }
    true
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<String> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect::<Vec<_>>().into_iter().rev().collect()
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.what)
    }
}
