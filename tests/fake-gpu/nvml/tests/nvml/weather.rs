//! What changes while somebody looks: events, processes, and a script in a file of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use fake_gpu_script::{Event, EventKind, NVML_SCRIPT, Process, Script};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

use crate::Fake;

/// Names the library that a started process opens.
const LIBRARY: &str = "FAKE_NVML_LIBRARY";
/// Longer than any test takes.
const LONG_MS: u32 = 60_000;

fn xid(gpu: usize, data: u64) -> Event {
    Event { gpu, kind: EventKind::Xid, data }
}

#[test]
fn a_reader_gets_each_event_once_and_in_order() {
    let mut script = Script { events: vec![xid(0, 13)], ..Script::default() };
    let fake = Fake::new(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    let kinds = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let set = device.register_events(kinds, nvml.create_event_set().expect("created")).expect("registered");
    let first = set.wait(LONG_MS).expect("the event that was there");
    assert!(matches!(first.event_data, Some(XidError::Value(13))), "{:?}", first.event_data);
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));

    script.events.push(Event { gpu: 0, kind: EventKind::SingleBitEcc, data: 0 });
    script.events.push(Event { gpu: 0, kind: EventKind::DoubleBitEcc, data: 0 });
    fake.install(&script);
    let second = set.wait(LONG_MS).expect("the one that was registered for");
    assert!(second.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR));

    script.gpus[0].lost = true;
    fake.install(&script);
    assert!(matches!(set.wait(LONG_MS), Err(NvmlError::GpuLost)));
}

#[test]
fn processes_are_the_scripts_and_those_that_map_the_fake_driver() {
    let mut script = Script::default();
    script.gpus[0].processes.push(Process { pid: 4_000_000, vram_bytes: 5 });
    let fake = Fake::new(&script);
    let nvml = fake.open().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    let pids = || {
        let found = device.running_compute_processes().expect("asked");
        found.into_iter().map(|process| process.pid).collect::<Vec<u32>>()
    };
    assert_eq!(pids(), [4_000_000]);

    // Any library that can be mapped does: the inode is what counts.
    std::fs::copy(fake_gpu_script::built("fake_nvml").expect("built"), fake.0.path().join("libcuda.so.1"))
        .expect("copied");
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "weather::in_a_process_of_its_own", "--nocapture"])
        .env(LIBRARY, fake.0.path().join("libcuda.so.1"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "open"));
    assert_eq!(pids(), [child.id(), 4_000_000]);
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(pids(), [4_000_000]);
}

#[test]
fn a_script_in_a_file_of_its_own_is_read_at_every_call() {
    let fake = Fake::new(&Script::default());
    let file = fake.0.path().join("script.toml");
    std::fs::write(&file, "[[gpus]]\nname = 'First'").expect("written");
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "weather::in_a_process_of_its_own", "--nocapture"])
        .env(LIBRARY, fake.path())
        .env(NVML_SCRIPT, &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut asked = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "open"));
    let mut name = |line: Option<&str>| {
        if let Some(text) = line {
            std::fs::write(&file, text).expect("written");
        }
        writeln!(asked, "name").expect("sent");
        lines.next().expect("an answer")
    };
    assert_eq!(name(None), "First");
    assert_eq!(name(Some("[[gpus]]\nname = 'Second'")), "Second");
    assert_eq!(name(Some("[[gpus]]\nlost = true")), "lost");
    drop(asked);
    child.wait().expect("it ends with its input");
}

/// Opens the library that the environment names and gives the GPU's name for every line of input.
#[test]
fn in_a_process_of_its_own() {
    let Some(library) = std::env::var_os(LIBRARY) else { return };
    let nvml = nvml_wrapper::Nvml::builder().lib_path(&library).init().expect("open");
    let device = nvml.device_by_index(0).expect("found");
    println!("\nopen");
    for _line in std::io::stdin().lines().map_while(Result::ok) {
        match device.name() {
            Ok(name) => println!("{name}"),
            Err(NvmlError::GpuLost) => println!("lost"),
            Err(error) => println!("{error}"),
        }
    }
}
