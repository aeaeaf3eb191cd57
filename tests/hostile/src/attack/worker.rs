//! A worker that a bundle has taken over: what it can still reach, and what it can tell the runner.
//!
//! The runner starts this program in the place of its own, as `probe` and `gpu`; it finds what to do in its own last
//! line.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;

use nix::libc;
use rustix::fd::BorrowedFd;

use crate::raw::{Arg, attempt, inherited};
use crate::{Attack, Words};

pub(crate) const ATTACKS: &[Attack] = &[("probe", probe), ("gpu", gpu)];

/// Names the runner's own program, which does the probe.
const TRUE_WORKER: &str = "RIG_TRUE_WORKER";

/// Where the jail has this program.
const HERE: &str = "/bin/rig-cuda";

/// The descriptor of the socket to the runner.
const SOCKET: i64 = 3;

/// The greeting of a worker that is warm.
const WARM: &str = r#"{"greeting":"warm","device":"A liar","compute_capability":[8,9],"driver":"12.8","vram_total_bytes":1,"vram_free_bytes":1,"timings":{"load_us":0,"init_us":0,"context_us":0}}"#;

/// The answer of a worker whose job ran and found clean memory.
const RAN: &str = r#"{"done":"ran","marks_ms":[],"timings":{"parse_us":0,"scan_us":0,"load_us":0,"allocate_us":0,"upload_us":0,"first_launch_us":0,"run_us":0,"download_us":0},"scanned_bytes":1,"dirty_bytes":0}"#;

/// Commands of a GPU's driver that computing does not take: register and I2C access, the registry, calls in disguise,
/// exports; of its unified memory tests, tools and counters; and those of other devices.
const FORBIDDEN: [i64; 20] = [
    0xC020_46D3,
    0xC010_46D3,
    0xC008_4622,
    0xC008_4623,
    0xC028_4638,
    0xC038_4639,
    0xC00C_46CA,
    0xC010_4642,
    0xC010_4648,
    0xC018_4656,
    1,
    16,
    21,
    40,
    64,
    80,
    0x5412,
    0xAE01,
    0x4C82,
    0x6400,
];

/// What must not be there, or not open.
const FORBIDDEN_PATHS: [&str; 12] = [
    "/sys/class/drm",
    "/sys/bus/pci",
    "/proc/driver/nvidia/params",
    "/proc/sys/kernel/core_pattern",
    "/proc/kallsyms",
    "/proc/1/environ",
    "/proc/1/mem",
    "/dev/mem",
    "/dev/nvidia-modeset",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia1",
    "/lib/libnvidia-ml.so.1",
];

/// Without a word of what to probe, this is the runner's question.
fn probe(words: Words<'_>) {
    if !words.is_empty() {
        return crate::probes::probe(words);
    }
    let worker = std::env::var_os(TRUE_WORKER).expect("the name of the runner's own program");
    let status = Command::new(worker).arg("probe").status().expect("start it");
    std::process::exit(status.code().unwrap_or(1));
}

fn gpu(_: Words<'_>) {
    match what().as_str() {
        "reach" => reach(),
        "babble" => {
            say("}{ not JSON \u{0}");
        }
        "flood" => (0..10_000).take_while(|_| say(WARM)).for_each(drop),
        "lie" => {
            say(WARM);
            hear();
            say(RAN);
        }
        "smuggle" => smuggle(),
        other => println!("what is {other:?}?"),
    }
    std::process::exit(0);
}

/// The last line of this program's own file.
fn what() -> String {
    let mut tail = String::new();
    let read = File::open(HERE).and_then(|mut file| {
        file.seek(SeekFrom::End(-16))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        tail = String::from_utf8_lossy(&bytes).into_owned();
        Ok(())
    });
    read.map_or_else(|error| error.to_string(), |()| tail.rsplit('\n').next().unwrap_or_default().to_owned())
}

fn say(text: &str) -> bool {
    let mut bytes = text.as_bytes().to_vec();
    let length = i64::try_from(bytes.len()).unwrap_or(0);
    let arguments =
        &mut [Arg::Int(SOCKET), Arg::Bytes(&mut bytes), Arg::Int(length), Arg::Int(libc::MSG_DONTWAIT.into())];
    attempt(libc::SYS_sendto, arguments).is_ok()
}

fn hear() {
    let mut bytes = vec![0; 1 << 16];
    let _ = attempt(libc::SYS_read, &mut [Arg::Int(SOCKET), Arg::Bytes(&mut bytes), Arg::Int(1 << 16)]);
}

/// Says what is not refused as it should be.
fn reach() {
    for command in FORBIDDEN {
        for fd in [0, SOCKET] {
            let mut room = [0; 256];
            let answer = attempt(libc::SYS_ioctl, &mut [Arg::Int(fd), Arg::Int(command), Arg::Bytes(&mut room)]);
            if answer != Err(nix::errno::Errno::ENOSYS) {
                println!("{command:#x} on {fd}: {answer:?}");
            }
        }
    }
    for path in FORBIDDEN_PATHS {
        if File::open(path).is_ok() {
            println!("{path} opens");
        }
    }
    for path in [HERE, "/lib/libcuda.so.1", "/etc/hosts", "/dev/x", "/x"] {
        if File::options().write(true).create(true).truncate(false).open(path).is_ok() {
            println!("{path} can be written");
        }
    }
    if std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
    {
        println!("a network answers");
    }
    println!("reached out {} times", 2 * FORBIDDEN.len() + FORBIDDEN_PATHS.len() + 6);
}

/// Sends descriptors that nobody asked for.
fn smuggle() {
    let null = File::open("/dev/null").expect("open");
    let many: Vec<BorrowedFd<'_>> = (0..runner::wire::FDS_MAX).map(|_| std::os::fd::AsFd::as_fd(&null)).collect();
    let warm: serde_json::Value = serde_json::from_str(WARM).expect("JSON");
    let ran: serde_json::Value = serde_json::from_str(RAN).expect("JSON");
    let _ = runner::wire::send(inherited(3), &warm, &many);
    hear();
    let _ = runner::wire::send(inherited(3), &ran, &many);
}
