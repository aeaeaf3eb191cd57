use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

use super::line::{Sockets, arguments};
use super::*;

/// For what a real computer does in a second; this one may be busy, and its processor is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// What OVMF writes when it has found nothing to boot, or begins its own shell.
const NOTHING_TO_BOOT: &str = "BdsDxe: ";

fn machine(dir: &Path) -> Machine {
    let disk = dir.join("disk.raw");
    File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    Machine::new(&disk, Firmware::ovmf(&dir.join("vars.fd")).expect("tests/setup.sh installs ovmf"))
}

fn words(machine: &Machine) -> String {
    let sockets = Sockets { control: Path::new("/run/c"), tpm: machine.tpm.as_ref().map(|_| Path::new("/run/t")) };
    let words = arguments(machine, &sockets);
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_line_says_what_the_machine_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let plain = machine(dir.path());
    let check = |machine: Machine, wanted: &str| {
        let line = words(&machine);
        assert!(line.contains(wanted), "{wanted} in {line}");
    };
    check(plain.clone(), "-smp 1");
    check(plain.clone(), "-no-reboot");
    check(Machine { tpm: Some(dir.path().join("t")), ..plain.clone() }, "-device tpm-crb");
    check(Machine { forwards: vec![Forward { here: 7, there: 80 }], ..plain.clone() }, "hostfwd=tcp:127.0.0.1:7-:80");
    check(Machine { oem_strings: vec!["a=b,c".to_owned()], ..plain.clone() }, "type=11,value=a=b,,c");
    for (bus, wanted) in [
        (Bus::Virtio, "virtio-blk-pci,drive=disk"),
        (Bus::Usb, "usb-storage"),
        (Bus::Nvme, "nvme,drive=disk"),
        (Bus::Ahci, "ide-hd"),
        (Bus::Sdhci, "sd-card"),
    ] {
        check(Machine { disk: Disk { bus, ..plain.disk.clone() }, ..plain.clone() }, wanted);
    }
    assert!(!words(&plain).contains("tpm"), "no TPM was asked for");
    assert!(!words(&Machine { reboots: true, ..plain }).contains("-no-reboot"));
}

#[test]
fn a_disk_that_its_bus_cannot_have_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut machine = machine(dir.path());
    machine.disk.sectors = SectorBytes::B4096;
    for bus in [Bus::Ahci, Bus::Sdhci] {
        machine.disk.bus = bus;
        assert!(matches!(machine.start(), Err(VmError::Sectors { .. })), "{bus:?}");
    }
    machine.disk.path = dir.path().join("none");
    assert!(matches!(machine.start(), Err(VmError::File { .. })));
}

#[test]
fn what_qemu_refuses_is_said_in_its_words() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut machine = machine(dir.path());
    machine.firmware.code = dir.path().join("none.fd");
    match machine.start() {
        Err(VmError::NotStarted { said }) => assert!(said.contains("none.fd"), "{said}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_speaks_shows_its_screen_and_ends_with_its_handle() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut machine = machine(dir.path());
    machine.tpm = Some(dir.path().join("tpm"));
    machine.log = Some(dir.path().join("console.log"));
    machine.forwards = vec![Forward { here: 0, there: 80 }];
    let running = machine.start().expect("it starts");
    let at = running.wait_for(NOTHING_TO_BOOT, PATIENCE).expect("the firmware speaks");
    assert!(at > Duration::ZERO && running.is_on());
    assert_eq!(running.console().shown(NOTHING_TO_BOOT), Some(at));
    assert!(running.port(80).is_some_and(|port| port != 0) && running.port(81).is_none());
    let picture = dir.path().join("screen.png");
    running.screenshot(&picture).expect("it has a screen");
    assert_eq!(fs::read(&picture).expect("a picture")[..4], *b"\x89PNG");
    assert_eq!(running.traffic().expect("it has a disk").written_bytes, 0);
    assert!(!running.watchdog_bit());
    let error = running.wait_for("never said", Duration::from_millis(10)).expect_err("nobody says it");
    assert!(matches!(error, VmError::NotShown { .. }), "{error}");
    let socket = running.keeper_socket();
    assert!(socket.exists());
    running.cut();
    assert!(!socket.exists(), "the folder of its sockets goes with it");
    assert!(fs::read_dir(dir.path().join("tpm")).expect("a folder").next().is_some(), "the TPM keeps its state");
    assert!(fs::read_to_string(dir.path().join("console.log")).expect("a log").contains(NOTHING_TO_BOOT));
}

#[test]
fn a_reset_ends_a_machine_that_does_not_reboot() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = machine(dir.path()).start().expect("it starts");
    running.reset().expect("it has a reset button");
    assert_eq!(running.wait_end(PATIENCE).expect("it ends"), End::Reset);
    let error = running.wait_for("never said", PATIENCE).expect_err("nobody says it");
    assert!(matches!(error, VmError::Ended { end: End::Reset, .. }), "{error}");
}

#[test]
fn a_console_finds_a_marker_that_came_in_pieces() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let console = Console::new(Instant::now());
    let other = console.clone();
    let thread = std::thread::spawn(move || other.read_from(reader, None));
    for piece in ["rig-in", "it: root is", " ready\n"] {
        writer.write_all(piece.as_bytes()).expect("the pipe takes it");
    }
    assert!(matches!(console.look("rig-init: root is ready", PATIENCE), console::Look::Shown(_)));
    assert_eq!(console.look("nothing", Duration::ZERO), console::Look::Late);
    drop(writer);
    thread.join().expect("the reader ends");
    assert_eq!(console.look("nothing", PATIENCE), console::Look::Closed);
    let mut copied = Vec::new();
    console.copy_to(&mut copied).expect("memory takes it");
    assert_eq!(copied, b"rig-init: root is ready\n");
}
