//! From the names of packages to a lock: what `rig image lock` does.
//!
//! Invariants: apt decides, in a folder of its own with no package installed and the archive's signatures checked with
//! Debian's keyring, none of them older than it may be; this machine's packages, sources and laxer rules of apt's play no
//! part. Recommended packages are not taken. What apt prints and is not understood is an error, never left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use thiserror::Error;

use crate::lock::{Lock, LockError, LockedPackage, Suite};
use crate::mirrors::Mirrors;

/// Debian's keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const COMPONENTS: &str = "main contrib non-free non-free-firmware";

/// What a machine's own settings of apt may have loosened: the image's packages are chosen by whoever can answer for the
/// mirror where an old or an unsigned list is taken.
const STRICT: [(&str, &str); 7] = [
    ("APT::Get::AllowUnauthenticated", "false"),
    ("Acquire::AllowInsecureRepositories", "false"),
    ("Acquire::AllowWeakRepositories", "false"),
    ("Acquire::AllowDowngradeToInsecureRepositories", "false"),
    ("Acquire::Check-Date", "true"),
    ("Acquire::Check-Valid-Until", "true"),
    // Without this a list that cannot be fetched is only a warning, and the last one serves once more.
    ("APT::Update::Error-Mode", "any"),
];

/// The only kind of machine that the image is for.
const ARCHITECTURE: &str = "amd64";

/// One set, as the definition asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wanted {
    /// Packages by name, or `name=version`; what they depend on comes too.
    pub install: Vec<String>,
    /// Packages that others depend on and that are left out all the same, each with the reason.
    #[serde(default)]
    pub without: BTreeMap<String, String>,
    /// Whether dependencies come too. For packages of files alone, such as a kernel, they do not.
    #[serde(default = "yes")]
    pub dependencies: bool,
}

fn yes() -> bool {
    true
}

/// Why there is no lock.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum ResolveError {
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("Debian's keys are not at {KEYRING}; install the Debian package debian-archive-keyring")]
    Keyring,
    #[error("start {program}; install the Debian package apt")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program}: {words}")]
    Apt { program: &'static str, words: String },
    #[error("set {set}: without names {name}, which nothing asks for")]
    Idle { set: String, name: String },
    #[error("apt would take {0} but does not describe it")]
    Undescribed(String),
    #[error("apt would take {0}, which is no package of the mirrors")]
    Elsewhere(String),
    #[error("what apt chose cannot be locked")]
    Lock(#[from] LockError),
}

/// apt with a folder of its own.
struct Apt {
    options: Vec<String>,
}

/// Asks apt for each of `sets` from the release `debian` (such as `trixie`). Works below `cache`.
pub fn resolve(
    mirrors: &Mirrors,
    debian: &str,
    cache: &Path,
    sets: &BTreeMap<String, Wanted>,
) -> Result<Lock, ResolveError> {
    let apt = Apt::new(mirrors, debian, &cache.join("apt"))?;
    apt.run("apt-get", &["update"])?;
    let mut lock = Lock::default();
    for (name, wanted) in sets {
        lock.sets.insert(name.clone(), apt.set(mirrors, name, wanted)?);
    }
    // What is written must be readable, and what is used unwritten must be as strict.
    Ok(Lock::parse(&lock.to_text(), "apt's answer")?)
}

// === impl Apt ===

impl Apt {
    fn new(mirrors: &Mirrors, debian: &str, folder: &Path) -> Result<Apt, ResolveError> {
        if !Path::new(KEYRING).exists() {
            return Err(ResolveError::Keyring);
        }
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ResolveError::File { action, path, source }
        };
        for inner in ["state/lists/partial", "cache/archives/partial"] {
            let inner = folder.join(inner);
            fs::create_dir_all(&inner).map_err(failed("make", &inner))?;
        }
        let folder = folder.canonicalize().map_err(failed("find", folder))?;
        let line = |url, suite: &str| format!("deb [signed-by={KEYRING}] {url} {suite} {COMPONENTS}\n");
        let sources = folder.join("sources.list");
        let text =
            line(mirrors.url(Suite::Main), debian) + &line(mirrors.url(Suite::Security), &format!("{debian}-security"));
        fs::write(&sources, text).map_err(failed("write", &sources))?;
        let at = |name: &str| folder.join(name).display().to_string();
        let options = [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferences", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Dir::State", at("state")),
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", ARCHITECTURE.to_owned()),
            ("APT::Architectures", ARCHITECTURE.to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            ("APT::Install-Suggests", "false".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
        ];
        let strict = STRICT.map(|(key, value)| (key, value.to_owned()));
        let options =
            options.into_iter().chain(strict).flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")]);
        Ok(Apt { options: options.collect() })
    }

    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<String, ResolveError> {
        let mut command = Command::new(program);
        command.args(&self.options).args(arguments).env("LC_ALL", "C.UTF-8");
        let Output { status, stdout, stderr } =
            command.output().map_err(|source| ResolveError::Start { program, source })?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            let words: Vec<&str> = said.lines().filter(|line| line.starts_with("E:")).collect();
            return Err(ResolveError::Apt { program, words: words.join("; ") });
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    fn set(&self, mirrors: &Mirrors, set: &str, wanted: &Wanted) -> Result<Vec<LockedPackage>, ResolveError> {
        let names: Vec<&str> = wanted.install.iter().map(String::as_str).collect();
        let asked = if wanted.dependencies {
            ["-y", "--print-uris", "install"].as_slice()
        } else {
            ["--print-uris", "download"].as_slice()
        };
        let mut places = places(&self.run("apt-get", &[asked, &names].concat())?, mirrors)?;
        for name in wanted.without.keys() {
            let before = places.len();
            places.retain(|place| place.name != *name);
            if places.len() == before {
                return Err(ResolveError::Idle { set: set.to_owned(), name: name.clone() });
            }
        }
        let exact: Vec<String> = places.iter().map(|place| format!("{}={}", place.name, place.version)).collect();
        let asked: Vec<&str> = exact.iter().map(String::as_str).collect();
        let records = self.run("apt-cache", &[["show"].as_slice(), &asked].concat())?;
        let records: BTreeMap<String, (u64, String)> = records.split("\n\n").filter_map(record).collect();
        let described = |place: Place| {
            let (bytes, sha256) =
                records.get(&place.path).cloned().ok_or_else(|| ResolveError::Undescribed(place.path.clone()))?;
            let Place { name, version, architecture, suite, path } = place;
            Ok(LockedPackage { name, version, architecture, suite, path, bytes, sha256 })
        };
        places.into_iter().map(described).collect()
    }
}

/// The packages that apt prints the addresses of, among other words.
fn places(printed: &str, mirrors: &Mirrors) -> Result<BTreeSet<Place>, ResolveError> {
    let lines = printed.lines().filter(|line| line.starts_with('\''));
    lines.map(|line| Place::read(line, mirrors).ok_or_else(|| ResolveError::Elsewhere(line.to_owned()))).collect()
}

/// A package's place in the archive, as apt prints it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    name: String,
    version: String,
    architecture: String,
    suite: Suite,
    path: String,
}

// === impl Place ===

impl Place {
    /// Reads a line of `--print-uris`: `'ADDRESS' NAME_VERSION_ARCHITECTURE.deb BYTES HASH`. Other lines are none.
    fn read(line: &str, mirrors: &Mirrors) -> Option<Place> {
        let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
        let file = rest.split(' ').next()?.strip_suffix(".deb")?;
        let (name, rest) = file.split_once('_')?;
        let (version, architecture) = rest.rsplit_once('_')?;
        let among = |suite: Suite| address.strip_prefix(mirrors.url(suite).as_str()).map(|path| (suite, path));
        let (suite, path) = among(Suite::Security).or_else(|| among(Suite::Main))?;
        Some(Place {
            name: name.to_owned(),
            version: unescape(version)?,
            architecture: architecture.to_owned(),
            suite,
            path: unescape(path)?,
        })
    }
}

/// The path, size and SHA-256 of one record of `apt-cache show`.
fn record(text: &str) -> Option<(String, (u64, String))> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some((field("Filename")?.to_owned(), (field("Size")?.parse().ok()?, field("SHA256")?.to_owned())))
}

/// `%3a` and the like as what they stand for.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        plain.push(char::from(u8::from_str_radix(after.get(..2)?, 16).ok()?));
        rest = after.get(2..)?;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_becomes_a_place() {
        let mirrors = Mirrors::at("http://d.example/debian").expect("an address");
        let line = "'http://d.example/debian-security/pool/updates/main/x/x-y/libx_1%7ea%2bb_amd64.deb' libx_2%3a1~a+b_amd64.deb 12 ";
        let place = Place::read(line, &mirrors).expect("a package");
        assert_eq!(place.version, "2:1~a+b");
        assert_eq!(
            (place.suite, place.path.as_str()),
            (Suite::Security, "pool/updates/main/x/x-y/libx_1~a+b_amd64.deb")
        );
        for other in
            ["", "Reading package lists...", "'http://e.example/pool/x_1_all.deb' x_1_all.deb 1", "'http", "'x' y"]
        {
            assert_eq!(Place::read(other, &mirrors), None, "{other}");
        }
    }

    #[test]
    fn a_package_from_elsewhere_is_an_error_and_not_left_out() {
        let mirrors = Mirrors::at("http://d.example/debian").expect("an address");
        let ours = "Reading...\n'http://d.example/debian/pool/main/x/x/x_1_all.deb' x_1_all.deb 1 SHA256:0\n";
        assert_eq!(places(ours, &mirrors).expect("one").len(), 1);
        let other = format!("{ours}'http://e.example/pool/y_1_all.deb' y_1_all.deb 1 SHA256:0\n");
        let error = places(&other, &mirrors).expect_err("one is from elsewhere").to_string();
        assert!(error.contains("e.example"), "{error}");
    }

    #[test]
    fn an_escape_cut_short_is_refused() {
        for text in ["%", "a%2", "%zz", "%\u{e4}"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
