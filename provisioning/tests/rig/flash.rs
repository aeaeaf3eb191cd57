//! `rig flash`: to files that stand for disks, and, where the test is root, to disks that the kernel makes from files.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::sample::{BYTES, MIB, RIG, ROOT_A, Sample, TEMPLATE, noise, tool};
use crate::stage::{Ended, Stage, utf8};
use crate::terminal::Terminal;

pub(crate) const OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// Large enough for the sample and the state of a rig.
const SIZE: &str = "600MiB";

/// How often something is tried that may be too late.
const ATTEMPTS: usize = 20;

const PATIENCE: Duration = Duration::from_secs(60);

/// A release, and a file that stands for a stick.
pub(crate) struct Desk {
    pub(crate) stage: Stage,
    pub(crate) sample: Sample,
    pub(crate) stick: PathBuf,
}

/// A disk that the kernel makes from a file. It ends with the test.
struct Loop {
    device: String,
}

// === impl Desk ===

impl Desk {
    pub(crate) fn new(sector_bytes: u32) -> Desk {
        let stage = Stage::new();
        let sample = Sample::new(&stage.path(""), sector_bytes);
        let stick = stage.path("stick.img");
        Desk { stage, sample, stick }
    }

    /// Writes the sample to the file, with these settings.
    pub(crate) fn flash(&self, settings: &[&str]) -> Ended {
        let image = utf8(&self.sample.packed);
        let fixed = ["flash", image, "--key", &self.sample.key, "--to-file", utf8(&self.stick), "--size", SIZE];
        self.stage.rig(&[&fixed, settings].concat())
    }

    /// rig.toml as another program finds it on the stick.
    pub(crate) fn settings(&self) -> String {
        let at = format!("{}@@{}", utf8(&self.stick), RIG.start);
        tool("mcopy", &["-n", "-i", &at, "::rig.toml", "-"])
    }

    /// All but the settings is the image.
    #[track_caller]
    fn assert_whole(&self, stick: &Path) {
        let mut bytes = vec![0; BYTES];
        fs::File::open(stick).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..RIG.start] == self.sample.bytes[..RIG.start], "before RIG");
        assert!(bytes[RIG.end..] == self.sample.bytes[RIG.end..], "behind RIG");
    }
}

// === impl Loop ===

impl Loop {
    fn new(file: &Path, sector_bytes: u32) -> Loop {
        let arguments = ["--find", "--show", "--sector-size", &sector_bytes.to_string(), utf8(file)];
        Loop { device: tool("losetup", &arguments).trim().to_owned() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What else could be done, the test has said.
        let _ = Command::new("/usr/sbin/losetup").args(["--detach", &self.device]).status();
    }
}

/// Whether disks can be made here.
fn is_root() -> bool {
    geteuid().is_root()
}

/// A file of 600 MiB that was used before where it matters.
fn used(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(600 * MIB as u64).unwrap();
    file.write_all_at(&noise(13, 60 * MIB), 0).unwrap();
    file.write_all_at(&noise(17, MIB), 599 * MIB as u64).unwrap();
}

#[test]
fn a_file_stands_for_a_stick_and_has_the_owners_settings() {
    let desk = Desk::new(512);
    used(&desk.stick);
    let answer = desk.flash(&["--owner", OWNER, "--name", "attic", "--set", "work.max_runs=2", "--json"]).json();
    assert_eq!((answer["verified"].as_bool(), answer["version"].as_str()), (Some(true), Some("1.2.3")), "{answer}");
    assert_eq!(answer["owner"], OWNER);
    assert_eq!(answer["compared_bytes"], BYTES as u64);
    desk.assert_whole(&desk.stick);
    let text = desk.settings();
    let expected = TEMPLATE
        .replace("address = \"\"", &format!("address = \"{OWNER}\""))
        .replace("# name = \"attic\"\r\n", "name = \"attic\"\r\n# name = \"attic\"\r\n")
        .replace("max_runs = 4", "max_runs = 2");
    let mut lines: Vec<_> = text.split("\r\n").collect();
    let mut wanted: Vec<_> = expected.split("\r\n").collect();
    lines.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(lines, wanted, "{text}");
    tool("fsck.vfat", &["-n", utf8(&volume(&desk))]);
    // As it came, without a word about settings.
    let ended = desk.flash(&[]);
    assert_eq!((ended.code, desk.settings().as_str()), (Some(0), TEMPLATE), "{ended:?}");
    assert!(ended.stderr.contains("No owner yet"), "{ended:?}");
    let is_sparse = fs::metadata(&desk.stick).is_ok_and(|file| file.blocks() * 512 < 60 << 20);
    assert!(is_sparse, "zeros take room");
}

/// The partition RIG of the stick as a file.
fn volume(desk: &Desk) -> PathBuf {
    let mut bytes = vec![0; RIG.len()];
    fs::File::open(&desk.stick).unwrap().read_exact_at(&mut bytes, RIG.start as u64).unwrap();
    let path = desk.stage.path("volume-now");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_cannot_be_right_is_refused_before_anything_is_written() {
    let desk = Desk::new(512);
    let (image, key, stick) = (utf8(&desk.sample.image), desk.sample.key.as_str(), utf8(&desk.stick));
    let other = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    let small = desk.stage.file("small.txt", "short");
    let toml = desk.stage.file("bad.toml", "[owner]\nadress = \"\"\n");
    let check = |arguments: &[&str], expected: &str| {
        let ended = desk.stage.rig(&[&["flash"], arguments].concat());
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{arguments:?}: {ended:?}");
        assert!(!desk.stick.exists(), "{arguments:?} made the file");
    };
    let to_file = [image, "--key", key, "--to-file", stick, "--size", SIZE];
    let with = |more: &[&'static str]| [&to_file, more].concat();
    check(&[], "IMAGE");
    check(&[image, "--to-file", stick], "--unverified");
    check(&[image, "--key", "zz", "--to-file", stick], "neither a key");
    check(&[image, "--key", key, "--unverified", "--to-file", stick], "cannot be used with");
    check(&[image, "--key", other, "--to-file", stick], "no manifest of a release that can be trusted");
    check(&["nowhere.raw", "--key", key, "--to-file", stick], "read nowhere.manifest.json");
    let itself = desk.stage.file("link.raw", "");
    fs::remove_file(&itself).unwrap();
    std::os::unix::fs::symlink(&desk.sample.image, &itself).unwrap();
    check(&[image, "--key", key, "--to-file", &itself, "--size", SIZE], "the release's own");
    assert_eq!(fs::read(&desk.sample.image).unwrap(), desk.sample.bytes);
    check(&[image, "--key", key, "--to-file", stick, "--size", "512MiB"], "the rig needs");
    check(&[image, "--key", key, "--to-file", stick, "--size", "4"], "looks like 4GB");
    check(&with(&["--owner", "0x70997970C51812dc3A010C7d01b50e0d17dc79c8"]), "wrong checksum");
    check(&with(&["--name", "my rig"]), "letters, digits and hyphens");
    check(&with(&["--wifi", "a", "--wifi-open"]), "missing field `country`");
    check(&with(&["--wifi", "a", "--country", "DE"]), "password of \"a\" is missing");
    check(&with(&["--set", "wifi.password=12345678"]), "use a file");
    check(&with(&["--set", "wrok.max_runs=1"]), "did you mean `work`?");
    check(&with(&["--network", "nowhere"]), "read nowhere");
    check(&[&to_file[..], &["--settings", &toml]].concat(), "did you mean `address`?");
    check(
        &[&to_file[..], &["--wifi", "a", "--country", "DE", "--wifi-password-file", &small]].concat(),
        "8 to 63 signs",
    );
    // Disks.
    let disk = |more: &[&'static str]| [&[image, "--key", key], more].concat();
    check(&disk(&["--yes"]), "");
    check(&disk(&["/dev/nothing", "--yes"]), "is not there");
    check(&disk(&["/dev/null", "--yes"]), "is no disk");
    check(&[image, "--key", key, image, "--yes"], "a file takes --to-file");
    if let Some(root) = root_disk() {
        check(&[image, "--key", key, &root, "--yes"], "own disk: /");
        check(&[image, "--key", key, &root, "--yes", "--fixed", &root, "--unmount"], "own disk: /");
    }
}

/// The disk that / is mounted from, if it is a plain one.
fn root_disk() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
    let source = line.split(" - ").nth(1)?.split(' ').nth(1)?.to_owned();
    let name = source.strip_prefix("/dev/")?;
    Path::new("/sys/block").join(name).exists().then_some(source)
}

#[test]
fn the_list_is_of_removable_disks_only() {
    let stage = Stage::new();
    let answer = stage.rig(&["flash", "--list", "--json"]).json();
    let disks = answer["disks"].as_array().unwrap();
    assert!(disks.iter().all(|disk| disk["is_removable"] == true && disk["name"].is_string()), "{answer}");
    assert_eq!(stage.rig(&["flash", "--list"]).code, Some(0));
}

#[test]
fn a_flash_that_is_killed_leaves_nothing_that_boots_and_the_next_one_works() {
    let desk = Desk::new(512);
    used(&desk.stick);
    let (image, stick) = (utf8(&desk.sample.packed), utf8(&desk.stick));
    let arguments =
        ["flash", image, "--key", &desk.sample.key, "--to-file", stick, "--size", SIZE, "--owner", OWNER, "--no-reach"];
    let (mut cut, mut whole) = (0, 0);
    for round in 0..24_u64 {
        let mut child = desk.stage.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_millis(11 * round);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut first = vec![0; 4 * MIB];
        fs::File::open(&desk.stick).unwrap().read_exact_at(&mut first, 0).unwrap();
        if first == desk.sample.bytes[..4 * MIB] {
            whole += 1;
            desk.assert_whole(&desk.stick);
            assert!(desk.settings().contains(OWNER));
            used(&desk.stick);
        } else if first == vec![0; 4 * MIB] {
            cut += 1;
        } else {
            // Not even begun; or within the very last write, which a firmware sees as a damaged table.
            let is_old = first == noise(13, 60 * MIB)[..4 * MIB];
            let is_last = first.starts_with(&desk.sample.bytes[..MIB]);
            assert!(is_old || is_last, "after {} ms it is something else", 11 * round);
        }
    }
    assert!(cut > 0, "{cut} cut, {whole} whole");
    let ended = desk.flash(&["--owner", OWNER]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    desk.assert_whole(&desk.stick);
}

#[test]
fn ctrl_c_says_what_the_stick_is_now() {
    let desk = Desk::new(512);
    let (image, stick) = (utf8(&desk.sample.packed), utf8(&desk.stick));
    let arguments = ["flash", image, "--key", &desk.sample.key, "--to-file", stick, "--size", SIZE];
    // It may be done before it is interrupted; not every time.
    for _ in 0..ATTEMPTS {
        used(&desk.stick);
        let child = desk.stage.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let has_begun = || {
            let mut first = [1; 4096];
            fs::File::open(&desk.stick).unwrap().read_exact_at(&mut first, 0).unwrap();
            first == [0; 4096]
        };
        let deadline = Instant::now() + PATIENCE;
        while !has_begun() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        kill(pid, Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.code() == Some(0) {
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{said}");
        for words in ["does not boot now", "because: stopped", "run the same command again"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(has_begun(), "it has a table");
        return;
    }
    panic!("it was never interrupted");
}

#[test]
fn a_terminal_asks_for_what_is_missing_and_again_for_what_is_wrong() {
    let desk = Desk::new(512);
    let (image, stick) = (utf8(&desk.sample.image), utf8(&desk.stick));
    let arguments = ["flash", image, "--key", &desk.sample.key, "--to-file", stick, "--size", SIZE];
    let mut terminal = Terminal::run(desk.stage.command(&arguments));
    terminal.reads("Owner's address");
    terminal.types("0x70997970C51812dc3A010C7d01b50e0d17dc79c8\n");
    terminal.reads("wrong checksum");
    terminal.reads("Owner's address");
    terminal.types(&format!("{OWNER}\n"));
    terminal.reads("Name of the rig");
    terminal.types("my rig\n");
    terminal.reads("letters, digits and hyphens");
    terminal.types("attic\n");
    terminal.reads("Wi-Fi network");
    terminal.types("Upstairs\n");
    terminal.reads("two letters");
    terminal.types("de\n");
    terminal.reads("Password of \"Upstairs\"");
    assert!(!terminal.echoes());
    terminal.types("short\n");
    terminal.reads("8 to 63 signs");
    terminal.types("correct horse\n");
    terminal.reads("Put it into the rig");
    let text = desk.settings();
    for part in
        [OWNER, "name = \"attic\"", "network = \"Upstairs\"", "country = \"DE\"", "password = \"correct horse\""]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_real_disk_is_written_past_the_cache_and_only_if_it_is_free() {
    if !is_root() {
        return;
    }
    for sector_bytes in [512, 4096] {
        let desk = Desk::new(sector_bytes);
        used(&desk.stick);
        let disk = Loop::new(&desk.stick, sector_bytes);
        let (image, device) = (utf8(&desk.sample.packed), disk.device.as_str());
        let arguments = ["flash", image, device, "--key", &desk.sample.key, "--owner", OWNER, "--no-reach"];
        let rig = |more: &[&str]| desk.stage.rig(&[&arguments, more].concat());
        let refused = |ended: Ended, words: &str| {
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
            let mut first = vec![0; MIB];
            fs::File::open(device).unwrap().read_exact_at(&mut first, 0).unwrap();
            assert!(first == noise(13, 60 * MIB)[..MIB], "it was written");
        };
        refused(rig(&["--yes"]), "built in");
        refused(rig(&["--yes", "--fixed", "/dev/null"]), "is no disk");
        refused(rig(&["--fixed", device]), "say --yes");
        let held = fs::File::options().read(true).custom_flags(nix::fcntl::OFlag::O_EXCL.bits()).open(device).unwrap();
        refused(rig(&["--yes", "--fixed", device]), "is in use by this computer");
        drop(held);
        let other = Desk::new(4608 - sector_bytes);
        let image = utf8(&other.sample.image);
        refused(
            desk.stage.rig(&["flash", image, device, "--key", &other.sample.key, "--fixed", device, "--yes"]),
            "sectors",
        );
        let ended = rig(&["--yes", "--fixed", device]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        desk.assert_whole(Path::new(device));
        let seen = desk.stage.rig(&["seed", device, "--json"]).json();
        assert!(seen["settings"].to_string().contains(OWNER), "{seen}");
    }
}

#[test]
fn a_medium_that_fails_or_is_full_is_named_with_the_place() {
    if !is_root() {
        return;
    }
    let desk = Desk::new(512);
    let (image, key) = (utf8(&desk.sample.packed), desk.sample.key.as_str());
    let room = desk.stage.path("room");
    fs::create_dir(&room).unwrap();
    // A file system with less room than the image, seen by nobody else; and a disk on top of it.
    let script = |then: &str| {
        let setup = "mount -t tmpfs -o size=12m tmpfs \"$ROOM\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &format!("{setup}\n{then}")]);
        command.env("ROOM", &room).env("RIG", env!("CARGO_BIN_EXE_rig")).env("IMAGE", image).env("KEY", key);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = script("exec \"$RIG\" flash \"$IMAGE\" --key \"$KEY\" --to-file \"$ROOM/stick\" --size 600MiB");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not boot now") && said.contains("no more room at byte"), "{said}");
    let on_disk = "truncate -s 600M \"$ROOM/disk\"
        disk=$(losetup --find --show \"$ROOM/disk\")
        code=0
        \"$RIG\" flash \"$IMAGE\" \"$disk\" --fixed \"$disk\" --yes --key \"$KEY\" || code=$?
        losetup --detach \"$disk\"
        exit $code";
    let (code, said) = script(on_disk);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not boot now") && said.contains("at byte"), "{said}");
    assert!(said.contains("stick is broken") || said.contains("no more room"), "{said}");
}

#[test]
fn a_flipped_bit_on_the_way_writes_nothing_of_its_chunk() {
    let desk = Desk::new(512);
    let mut bytes = desk.sample.bytes.clone();
    bytes[ROOT_A.start + 77] ^= 1;
    fs::write(&desk.sample.image, bytes).unwrap();
    let (image, stick) = (utf8(&desk.sample.image), utf8(&desk.stick));
    let arguments = ["flash", image, "--key", &desk.sample.key, "--to-file", stick, "--size", SIZE];
    let ended = desk.stage.rig(&arguments);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for words in
        ["does not boot now", "the chunk at 32 MiB is not what the manifest says", "download the release again"]
    {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    let unverified = ["flash", image, "--unverified", "--to-file", stick, "--size", SIZE];
    assert_eq!(desk.stage.rig(&unverified).code, Some(1), "a manifest that lies beside it is believed");
    fs::remove_file(&desk.sample.manifest).unwrap();
    let ended = desk.stage.rig(&unverified);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("nobody vouches"), "{ended:?}");
}
