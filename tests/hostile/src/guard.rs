//! A runner, and what nobody may touch while a stranger's image is tried on it.
//!
//! [`Guard`] remembers a directory beside the state directory, this host's `/etc` and the names in its `/`. [`View`]
//! is the tree that a jail stands on, looked at from outside: no link in it is ever followed to the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runner::protocol::{Digest, Refusal, ServiceSpec, SourceName};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use sha2::{Digest as _, Sha256};

use crate::observed::{descendants, status};
use crate::oci::{self, Layer, Pack};
use crate::rig::{Rig, Setup, name, refusal, spec};

/// What is looked at of a file, in words.
type Seen = BTreeMap<PathBuf, String>;

/// A runner with a witness beside it.
#[derive(Debug)]
pub struct Guard {
    /// The runner.
    pub rig: Rig,
    before: Seen,
}

/// What a refusal leaves: nothing, but what there was.
#[derive(Debug)]
pub struct Refused {
    /// What the runner said.
    pub detail: String,
    /// How long it took to say it.
    pub took: Duration,
}

/// The tree of a running jail.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    /// The jail's first process, as the host numbers it.
    pub pid: u32,
}

/// The most memory that was in use, in bytes of each process's own peak.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peaks {
    /// The runner.
    pub runner: u64,
    /// The largest of the processes that the spawner made.
    pub child: u64,
}

/// The source whose images are tried.
#[must_use]
pub fn stranger() -> SourceName {
    name("stranger")
}

/// A static program that waits to be killed.
///
/// # Panics
/// Never.
#[must_use]
pub fn program_that_waits() -> Vec<u8> {
    let mut program = oci::program_that_exits(0);
    let code = program.len() - 12;
    // again: mov eax, SYS_pause; syscall; jmp again
    program[code..].copy_from_slice(&[0xB8, 34, 0, 0, 0, 0x0F, 0x05, 0xEB, 0xF7, 0x90, 0x90, 0x90]);
    program
}

/// A layer with `/wait`, which waits, and `/exit`, which returns 7.
#[must_use]
pub fn bottom() -> Vec<u8> {
    bottom_layer().finish()
}

/// The same, to be added to.
#[must_use]
pub fn bottom_layer() -> Layer {
    Layer::new().file("wait", 0o755, &program_that_waits()).file("exit", 0o755, &oci::program_that_exits(7))
}

// === impl Guard ===

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Guard {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl Guard {
    /// A runner as [`Rig::new`] starts it.
    #[must_use]
    pub fn new() -> Self {
        Self::over(Setup::default())
    }

    /// A runner of this setup.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn over(setup: Setup) -> Self {
        let rig = setup.start();
        let canary = canary(&rig);
        fs::create_dir_all(canary.join("dir")).expect("mkdir");
        for (name, text) in [("file", "untouched\n"), ("dir/file", "untouched as well\n"), ("victim", "")] {
            fs::write(canary.join(name), text).expect("write");
        }
        fs::set_permissions(&canary, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        let before = outside(&rig);
        Self { rig, before }
    }

    /// A directory of the host, beside the state directory, that anybody could write.
    #[must_use]
    pub fn canary(&self) -> PathBuf {
        canary(&self.rig)
    }

    /// Its path, to be put into an image.
    ///
    /// # Panics
    /// If it is no text.
    #[must_use]
    pub fn canary_path(&self) -> String {
        self.canary().to_str().expect("text").to_owned()
    }

    /// Panics unless everything outside is as it was, nothing half made is left, and another source still runs.
    ///
    /// # Panics
    /// See above.
    pub fn unharmed(&self) {
        self.clean();
        self.rig.still_works();
    }

    /// The same, without another source.
    ///
    /// # Panics
    /// See above.
    pub fn clean(&self) {
        let now = outside(&self.rig);
        let paths = self.before.keys().chain(now.keys());
        let changed: Vec<_> = paths.filter(|path| self.before.get(*path) != now.get(*path)).collect();
        assert!(changed.is_empty(), "changed outside: {changed:?}");
        assert_eq!(names(&self.rig.state("unpack")), [""; 0], "half unpacked");
        let layers = names(&self.rig.state("layers"));
        assert!(!layers.iter().any(|name| name.starts_with('.')), "half sealed: {layers:?}");
    }

    /// An image of these layers, with this configuration object.
    #[must_use]
    pub fn image(&self, layers: &[Vec<u8>], config: &str) -> Digest {
        let layers: Vec<_> = layers.iter().map(|tar| (tar.as_slice(), Pack::Gzip)).collect();
        oci::image(&self.rig.content(), &layers, config)
    }

    /// Panics unless the image is refused as bad, and leaves nothing, not even those of its layers that are good.
    ///
    /// # Panics
    /// See above.
    pub fn refuses(&self, manifest: &Digest) -> Refused {
        let before = names(&self.rig.state("layers"));
        let began = Instant::now();
        let answer = self.rig.client.prepare(&stranger(), manifest);
        let took = began.elapsed();
        let detail = match refusal(answer) {
            Refusal::BadImage { detail } => detail,
            Refusal::DigestMismatch { object, .. } => format!("another digest of {object}"),
            other => panic!("refused, but as: {other}"),
        };
        assert_eq!(names(&self.rig.state("layers")), before, "left after {detail}");
        self.clean();
        Refused { detail, took }
    }

    /// The same of an image of one layer.
    pub fn refuses_layer(&self, tar: Vec<u8>) -> Refused {
        let manifest = self.image(&[tar], "{}");
        self.refuses(&manifest)
    }

    /// Tries layers that lie on [`bottom`]: either the image is refused, or here is what a jail sees of it.
    ///
    /// # Panics
    /// If something outside changes.
    pub fn tried(&self, layers: &[Vec<u8>]) -> Option<View> {
        let layers = [&[bottom()], layers].concat();
        let manifest = self.image(&layers, "{}");
        let seen = match self.rig.client.prepare(&stranger(), &manifest) {
            Ok(_) => Some(self.started(&manifest, spec(&["/wait"]))),
            refused => {
                let refused = refusal(refused);
                assert!(matches!(refused, Refusal::BadImage { .. }), "refused, but as: {refused}");
                println!("{refused}");
                None
            }
        };
        self.clean();
        seen
    }

    /// The same of layers that must not be refused.
    ///
    /// # Panics
    /// If they are.
    #[must_use]
    pub fn seen(&self, layers: &[Vec<u8>]) -> View {
        self.tried(layers).expect("not refused")
    }

    /// Starts an image that is prepared, and looks at it. What ran before is stopped.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn started(&self, manifest: &Digest, spec: ServiceSpec) -> View {
        self.stop();
        self.rig.open(&stranger());
        self.rig.start(&stranger(), manifest, spec);
        View::of(self.rig.jail_pid(&stranger()))
    }

    /// Stops the stranger, if it is open.
    pub fn stop(&self) {
        // Refused if it is not, which is as good.
        let _ = self.rig.client.stop(&stranger(), Duration::ZERO);
    }

    /// Does something, and watches the memory of the runner and of the spawner's children meanwhile.
    pub fn peaks<T>(&self, act: impl FnOnce() -> T) -> (T, Peaks) {
        let spawner = self.rig.spawner_pid();
        let over = std::sync::atomic::AtomicBool::new(false);
        let mut peaks = Peaks::default();
        let done = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut child = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    child = descendants(spawner).into_iter().map(peak_bytes).max().unwrap_or(0).max(child);
                    std::thread::sleep(Duration::from_millis(1));
                }
                child
            });
            let done = act();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            peaks.child = watch.join().expect("the watch");
            done
        });
        peaks.runner = peak_bytes(self.rig.runner_pid());
        println!("peaks: {peaks:?}");
        (done, peaks)
    }
}

fn peak_bytes(pid: u32) -> u64 {
    let kib = status(pid, "VmHWM").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn canary(rig: &Rig) -> PathBuf {
    let state = rig.state("");
    state.parent().expect("the state directory has a parent").join("canary")
}

fn outside(rig: &Rig) -> Seen {
    let mut seen = Seen::new();
    look(&canary(rig), &mut seen);
    look(Path::new("/etc"), &mut seen);
    seen.extend(names(Path::new("/")).into_iter().map(|name| (Path::new("/").join(name), "is there".to_owned())));
    seen
}

/// Everything below `path`, with what an attacker could change of it.
fn look(path: &Path, seen: &mut Seen) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let content = if found.is_file() {
        hex::encode(Sha256::digest(fs::read(path).unwrap_or_default()))
    } else {
        fs::read_link(path).map(|target| target.display().to_string()).unwrap_or_default()
    };
    let what = format!("{:o} {}:{} {} {content}", found.mode(), found.uid(), found.gid(), found.nlink());
    seen.insert(path.to_owned(), what);
    if found.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| look(&entry.path(), seen));
    }
}

/// The names in a directory, in order; none if it is not there.
#[must_use]
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

// === impl View ===

impl View {
    /// Of the jail that this process is in.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).expect("the root of a jail");
        Self { root, pid }
    }

    fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// What is at `path`, a link not followed; `None` if nothing is.
    #[must_use]
    pub fn stat(&self, path: impl AsRef<Path>) -> Option<Stat> {
        let file = self.open(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        Some(fstat(file).expect("what is open has a state"))
    }

    /// What kind of file is at `path`.
    #[must_use]
    pub fn kind(&self, path: impl AsRef<Path>) -> Option<FileType> {
        self.stat(path).map(|found| FileType::from_raw_mode(found.st_mode))
    }

    /// What a file says; links are followed inside the jail.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        File::from(file).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The names in a directory, in order.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => names(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))),
            Err(_) => Vec::new(),
        }
    }

    /// The type of the file system at `path`, as `statfs` numbers it.
    ///
    /// # Panics
    /// If nothing is there.
    #[must_use]
    pub fn file_system(&self, path: impl AsRef<Path>) -> u64 {
        let file = self.open(path, OFlags::PATH).expect("something is there");
        u64::try_from(rustix::fs::fstatfs(&file).expect("statfs").f_type).expect("a positive number")
    }

    /// Panics if the image itself, without what the runner lays over it, holds anything but files, directories and links, a setuid or setgid bit, an
    /// extended attribute, or an owner that is not one of the jail's; answers how many it holds.
    ///
    /// # Panics
    /// See above.
    #[must_use]
    pub fn harmless(&self) -> usize {
        let root = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()));
        let runners =
            ["proc", "dev", "tmp", "etc/hosts", "etc/hostname", "etc/resolv.conf"].map(|name| root.join(name));
        let mut open = vec![root];
        let mut count = 0;
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).expect("list").flatten() {
                let path = entry.path();
                if runners.contains(&path) {
                    continue;
                }
                let found = fs::symlink_metadata(&path).expect("stat");
                let kind = found.file_type();
                let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
                assert!(!special, "{path:?} is {kind:?}");
                assert!(kind.is_symlink() || found.mode() & 0o6000 == 0, "{path:?} has mode {:o}", found.mode());
                assert_eq!(attributes(&path), "", "{path:?} has attributes");
                assert!(found.uid() >= crate::observed::FIRST_UID, "{path:?} is owned by {}", found.uid());
                count += 1;
                if kind.is_dir() {
                    open.push(path);
                }
            }
        }
        count
    }
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| std::ffi::OsStr::from_bytes(name).to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
