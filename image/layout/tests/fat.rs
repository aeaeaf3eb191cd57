//! Volumes as the distribution's own tools make them are read, one file on them is replaced, and those tools find nothing
//! wrong with what was written.

use std::fs::{self, File};
use std::io::{self, Cursor, Error, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use layout::fat::{Fat, FatError, Reading};
use layout::parts::{ESP_BYTES, SETTINGS_BYTES};
use proptest::prelude::*;

const MAX: u32 = 1 << 20;

fn tool(name: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(name);
    let output = command.args(arguments).env("PATH", path).env("MTOOLS_SKIP_CHECK", "1").output().expect(name);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
    said
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// A volume as the distribution's own tools make it, with three files.
fn volume(options: &[&str], mib: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("volume");
    File::create(&path).and_then(|file| file.set_len((mib << 20) as u64)).expect("it can be made");
    let at = path.to_str().expect("a path");
    tool("mkfs.vfat", &[options, &["-n", "RIG", at]].concat());
    for (name, bytes) in
        [("rig.toml", vec![b'a'; 3000]), ("README.txt", vec![b'r'; 70_000]), ("Long Name of a File.txt", vec![])]
    {
        let from = folder.path().join("from");
        fs::write(&from, bytes).expect("it can be written");
        tool("mcopy", &["-i", at, from.to_str().expect("a path"), &format!("::{name}")]);
    }
    (folder, path)
}

fn open(path: &Path) -> Fat<File> {
    let file = File::options().read(true).write(true).open(path).expect("it opens");
    Fat::open(file, Reading::Lenient).expect("a volume")
}

/// Others read what we wrote, and find nothing wrong with the volume.
fn assert_good(path: &Path, name: &str, bytes: &[u8]) {
    let at = path.to_str().expect("a path");
    let said = tool("fsck.vfat", &["-n", at]);
    let is_fine = |line: &str| !line.contains("ifferen") && !line.contains("rong") && !line.contains("eclaim");
    assert!(said.lines().all(is_fine), "{said}");
    let copy = path.with_file_name("copy");
    tool("mcopy", &["-n", "-o", "-i", at, &format!("::{name}"), copy.to_str().expect("a path")]);
    assert!(fs::read(&copy).expect("it was copied") == bytes, "{name}");
    let readme = path.with_file_name("readme");
    tool("mcopy", &["-n", "-o", "-i", at, "::README.txt", readme.to_str().expect("a path")]);
    assert!(fs::read(&readme).expect("it was copied") == vec![b'r'; 70_000], "another file was touched");
}

#[test]
fn a_file_is_replaced_on_every_kind_of_volume_and_others_find_it() {
    let kinds: [(&[&str], usize); 6] = [
        (&["-F", "32", "-s", "1"], 64),
        (&["-F", "32", "-s", "8"], 300),
        (&["-F", "32", "-s", "1", "-S", "4096"], 300),
        (&["-F", "32", "-s", "1", "-f", "1"], 40),
        (&["-F", "16", "-s", "4"], 32),
        (&["-F", "16", "-s", "1", "-S", "4096"], 64),
    ];
    for (options, mib) in kinds {
        let (_folder, path) = volume(options, mib);
        for length in [0, 1, 511, 512, 513, 4096, 5000, 70_001, 3] {
            let bytes = vec![b'n'; length];
            open(&path).replace("rig.toml", &bytes, now()).expect("it is replaced");
            assert_eq!(open(&path).read_named("RIG.TOML", MAX).expect("it is read").as_deref(), Some(bytes.as_slice()));
            assert_good(&path, "rig.toml", &bytes);
        }
        open(&path).replace("rig-status.txt", b"new", now()).expect("it is made");
        assert_good(&path, "rig-status.txt", b"new");
        assert_good(&path, "rig.toml", b"nnn");
        assert_eq!(open(&path).read_named("Long Name of a File.txt", MAX).expect("it is read"), Some(Vec::new()));
        assert_eq!(open(&path).read_named("nothing", MAX).expect("it is read"), None);
    }
}

/// With sectors of 4096 bytes neither of the image's two volumes has the 65,525 clusters of FAT32.
#[test]
fn the_images_volumes_are_read_with_either_size_of_sector() {
    let check = |kind: &str, sector: &str, bytes: u64| {
        let (_folder, path) =
            volume(&["-F", kind, "-S", sector, "-s", "1"], usize::try_from(bytes >> 20).expect("small"));
        tool("mmd", &["-i", path.to_str().expect("a path"), "::/EFI"]);
        tool("fsck.vfat", &["-n", path.to_str().expect("a path")]);
        let mut fat = Fat::open(File::open(&path).expect("it opens"), Reading::Strict).expect("a volume");
        let entries = fat.entries().expect("nothing is wrong");
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["/EFI", "/Long Name of a File.txt", "/README.txt", "/rig.toml"], "{kind} {sector}");
        assert_eq!(fat.read(&entries[2]).expect("it is read"), vec![b'r'; 70_000]);
        assert!(fat.structure().expect("it is followed").len() > entries.len());
    };
    for bytes in [ESP_BYTES, SETTINGS_BYTES] {
        check("32", "512", bytes);
        check("16", "4096", bytes);
    }
}

#[test]
fn a_file_that_was_deleted_is_made_again_in_its_place() {
    let (_folder, path) = volume(&["-F", "32", "-s", "1"], 64);
    let at = path.to_str().expect("a path");
    for round in 0..20 {
        tool("mdel", &["-i", at, "::rig.toml"]);
        let bytes = vec![b'0' + round; 600];
        open(&path).replace("rig.toml", &bytes, now()).expect("it is made");
        assert_good(&path, "rig.toml", &bytes);
    }
}

#[test]
fn a_full_volume_or_directory_is_said_and_nothing_is_lost() {
    let (_folder, path) = volume(&["-F", "16", "-s", "1"], 4);
    let old = open(&path).read_named("rig.toml", MAX).expect("it is read").expect("it is there");
    assert!(matches!(open(&path).replace("rig.toml", &vec![0; 5 << 20], now()), Err(FatError::Full)));
    assert_good(&path, "rig.toml", &old);
    let mut made = 0;
    let error = loop {
        match open(&path).replace(&format!("file-{made}.txt"), b"", now()) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FatError::Full) && made > 100, "{error} after {made}");
    assert_good(&path, "rig.toml", &old);
    assert!(matches!(open(&path).read_named("README.txt", 69_999), Err(FatError::Long { bytes: 70_000, .. })));
}

/// A disk that fails after some writes, as one that is pulled out.
struct Pulled {
    disk: Cursor<Vec<u8>>,
    left: usize,
}

impl Read for Pulled {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.disk.read(into)
    }
}

impl Seek for Pulled {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

impl Write for Pulled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Error::other("pulled out"))?;
        self.disk.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stick_that_is_pulled_out_at_any_write_has_the_old_file_or_the_new_one() {
    let (_folder, path) = volume(&["-F", "32", "-s", "1"], 40);
    let before = fs::read(&path).expect("it can be read");
    let (old, new) = (vec![b'a'; 3000], vec![b'b'; 2000]);
    let mut seen = [0, 0];
    for left in 0.. {
        let mut fat =
            Fat::open(Pulled { disk: Cursor::new(before.clone()), left }, Reading::Lenient).expect("a volume");
        let is_done = fat.replace("rig.toml", &new, now()).is_ok();
        let after = Pulled { disk: Cursor::new(fat.into_disk().disk.into_inner()), left: 0 };
        let found = Fat::open(after, Reading::Lenient)
            .and_then(|mut fat| fat.read_named("rig.toml", MAX))
            .expect("it is read")
            .expect("there");
        assert!(found == old || found == new, "after {left} writes it is neither");
        seen[usize::from(found == new)] += 1;
        if is_done {
            break;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 5, "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a damaged volume says, it is an answer or an error, within bounds.
    #[test]
    fn a_damaged_volume_is_no_trouble(
        flips in proptest::collection::vec((0..40_000_usize, any::<u8>()), 1..20),
        boot in proptest::collection::vec((11..64_usize, any::<u8>()), 0..4),
    ) {
        static VOLUME: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let clean = VOLUME.get_or_init(|| {
            let (_folder, path) = volume(&["-F", "32", "-s", "1"], 36);
            fs::read(path).expect("it can be read")
        });
        let mut bytes = clean.clone();
        for (at, byte) in flips.into_iter().chain(boot) {
            bytes[at] = byte;
        }
        let length = bytes.len();
        if let Ok(mut fat) = Fat::open(Cursor::new(bytes), Reading::Lenient) {
            let _ = fat.read_named("rig.toml", MAX);
            let _ = fat.replace("rig.toml", b"new", now());
            prop_assert_eq!(fat.into_disk().into_inner().len(), length);
        }
    }
}
