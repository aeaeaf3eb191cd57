//! A firmware in set-up mode takes our keys from the image, then starts what we signed and nothing else.
//!
//! Three boots of the image in `RIG_IMAGE_DIR`, with variables that persist as a board's do; some minutes without KVM, so
//! nothing is done where it is not set.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use image::vm::{End, Firmware, Machine};
use layout::Window;
use layout::fat::{Fat, Reading};
use layout::gpt::Table;
use layout::parts::ESP_LABEL;

const ENV_IMAGE: &str = "RIG_IMAGE_DIR";
/// An emulated processor on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// systemd-boot, after it wrote db, KEK and PK.
const ENROLLED: &str = "Custom Secure Boot keys successfully enrolled";
/// `rig-init`, when the root is mounted: the signed kernel runs.
const STARTED: &str = "rig-init: root is ready";
/// systemd-boot, when the firmware refuses a kernel image.
const REFUSED: &str = "Access denied";

fn built(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("RIG_IMAGE_DIR is a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let raw = paths.filter(|path| path.extension().is_some_and(|ending| ending == "raw")).max();
    raw.expect("RIG_IMAGE_DIR has a .raw")
}

/// Flips a bit in the middle of the kernel image.
fn tamper(disk: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(disk).expect("a disk");
    let table = Table::read(&mut file).expect("it has a table");
    let esp = table.by_name(ESP_LABEL).expect("it has an ESP");
    let start = esp.offset(&table);
    let mut window = Window::new(&file, start, esp.bytes(&table));
    let mut fat = Fat::open(&mut window, Reading::Strict).expect("the ESP can be read");
    let entries = fat.entries().expect("the ESP can be read");
    let uki = entries.iter().find(|entry| entry.path.to_lowercase().starts_with("/efi/linux/"));
    let places = fat.places(uki.expect("it has a kernel image")).expect("it can be followed");
    let at = start + places[places.len() / 2].0;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it can be read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it can be written");
}

#[test]
fn our_keys_are_enrolled_and_only_what_they_signed_starts() {
    let Some(folder) = std::env::var_os(ENV_IMAGE).map(PathBuf::from) else { return };
    let scratch = tempfile::tempdir().expect("a place for files");
    let disk = scratch.path().join("disk.raw");
    let copied = Command::new("cp").arg("--sparse=always").arg(built(&folder)).arg(&disk).status();
    assert!(copied.expect("cp is there").success());
    let firmware = Firmware::ovmf_with_secure_boot(&scratch.path().join("vars.fd")).expect("ovmf is installed");
    let machine = Machine::new(&disk, firmware);

    let first = machine.start().expect("it starts");
    let took = first.wait_for(ENROLLED, BOOT).expect("set-up mode, so the keys are taken");
    println!("keys enrolled after {took:?}");
    assert_eq!(first.wait_end(BOOT).expect("it restarts"), End::Reset);
    drop(first);

    let second = machine.start().expect("it starts");
    let took = second.wait_for(STARTED, BOOT).expect("what we signed starts");
    println!("the signed kernel mounted its root after {took:?}");
    second.cut();

    tamper(&disk);
    let third = machine.start().expect("it starts");
    let took = third.wait_for(REFUSED, BOOT).expect("the firmware refuses the changed kernel image");
    println!("the changed kernel was refused after {took:?}");
    assert_eq!(third.console().shown(STARTED), None);
    third.cut();
}
