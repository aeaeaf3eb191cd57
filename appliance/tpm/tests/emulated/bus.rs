//! Somebody sits on the wires between processor and TPM: who listens learns no secret, who lies is noticed.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use swtpm::Emulator;
use tempfile::TempDir;
use tpm::{Fault, Meaning, Place, PolicyDigest, Route, Tpm};

use crate::bench::*;

const GET_RANDOM: u32 = 0x17b;
const UNSEAL: u32 = 0x15e;
const CREATE_PRIMARY: u32 = 0x131;
const START_SESSION: u32 = 0x176;
const LOAD: u32 = 0x157;

/// Passes frames on, writes them down, and may answer in the TPM's place: `None` passes the answer as it is.
struct Wires {
    home: TempDir,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Wires {
    fn new(emulator: &Emulator, lie: impl Fn(u32, &[u8]) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(home.path().join("socket")).expect("a socket");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (tpm, written) = (emulator.socket(), Arc::clone(&frames));
        let thread = std::thread::spawn(move || {
            let (ours, _) = listener.accept().expect("a connection");
            pass(ours, tpm, &written, lie);
        });
        Self { home, frames, thread: Some(thread) }
    }

    fn open(&self) -> Tpm {
        Tpm::open(&Place::Socket(self.home.path().join("socket"))).expect("the wires are there")
    }

    /// Everything that went over the wires, once the connection is closed.
    fn heard(mut self) -> Vec<Vec<u8>> {
        self.thread.take().expect("once").join().expect("the wires");
        std::mem::take(&mut self.frames.lock().expect("frames"))
    }
}

fn pass(
    mut ours: UnixStream,
    tpm: PathBuf,
    written: &Mutex<Vec<Vec<u8>>>,
    lie: impl Fn(u32, &[u8]) -> Option<Vec<u8>>,
) {
    let mut tpm = UnixStream::connect(tpm).expect("the emulator");
    while let Some(command) = frame(&mut ours) {
        tpm.write_all(&command).expect("the emulator takes it");
        let truth = frame(&mut tpm).expect("the emulator answers");
        let code = u32::from_be_bytes(command[6..10].try_into().expect("a code"));
        let answer = lie(code, &truth).unwrap_or(truth);
        written.lock().expect("frames").extend([command, answer.clone()]);
        if ours.write_all(&answer).is_err() {
            return;
        }
    }
}

fn frame(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 10];
    from.read_exact(&mut frame).ok()?;
    let size = u32::from_be_bytes(frame[2..6].try_into().ok()?);
    let rest = u64::from(size).checked_sub(10)?;
    from.take(rest).read_to_end(&mut frame).ok()?;
    Some(frame)
}

fn refused(code: u32) -> Vec<u8> {
    [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

/// Seals and opens over wires that lie about one command; then opens without them and sees what was left behind.
fn lied(command: u32, change: impl Fn(&mut Vec<u8>) + Send + 'static) -> (Fault, Vec<u32>) {
    let emulator = Emulator::start();
    let blob = {
        let mut tpm = open(&emulator);
        let srk = tpm.srk().expect("a storage root key");
        tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal")
    };
    let wires = Wires::new(&emulator, move |code, truth| {
        let mut answer = truth.to_vec();
        (code == command).then(|| change(&mut answer))?;
        Some(answer)
    });
    let mut tpm = wires.open();
    let outcome = tpm.srk().and_then(|srk| tpm.unseal(&srk, &blob, &Route::CommandCode));
    drop(tpm);
    wires.heard();
    (outcome.expect_err("it was a lie"), handles(&mut open(&emulator)))
}

#[test]
fn the_secret_is_on_the_wires_in_no_form() {
    let emulator = Emulator::start();
    let wires = Wires::new(&emulator, |_, _| None);
    let mut tpm = wires.open();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    for _ in 0..3 {
        assert_eq!(tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
    }
    drop((srk, tpm));
    let heard = wires.heard().concat();
    let hears = |part: &[u8]| heard.windows(part.len()).any(|window| window == part);
    assert!(hears(blob.public()), "the wires were listened to");
    for part in SECRET.chunks(8) {
        assert!(!hears(part));
    }
}

#[test]
fn a_session_s_secret_is_new_each_time() {
    let emulator = Emulator::start();
    let wires = Wires::new(&emulator, |_, _| None);
    let mut tpm = wires.open();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    for _ in 0..2 {
        tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal");
    }
    drop((srk, tpm));
    let heard = wires.heard();
    let of = |code: u32| heard.chunks(2).filter(move |pair| pair[0][6..10] == code.to_be_bytes()).collect::<Vec<_>>();
    assert_eq!(of(UNSEAL).len(), 2);
    assert_ne!(of(UNSEAL)[0][1], of(UNSEAL)[1][1]);
    assert_ne!(of(START_SESSION)[1][0], of(START_SESSION)[2][0]);
}

#[test]
fn a_changed_secret_is_noticed() {
    for at in [16, 20, 40, 52, 90] {
        let (fault, left) = lied(UNSEAL, move |answer| answer[at] ^= 1);
        assert!(matches!(fault, Fault::Nonsense { command: "Unseal", .. }), "byte {at}: {fault:?}");
        assert_eq!(fault.meaning(), Meaning::Failing);
        assert!(left.is_empty(), "{left:x?}");
    }
}

#[test]
fn lies_about_sizes_are_nonsense() {
    let check = |command, at: usize, byte: u8| {
        let (fault, _) = lied(command, move |answer| answer[at] = byte);
        assert!(matches!(fault, Fault::Nonsense { .. }), "{command:#x}, byte {at}: {fault:?}");
    };
    // Longer than a frame, shorter than a header, longer than its parameters, and parts longer than the whole.
    for command in [CREATE_PRIMARY, START_SESSION, LOAD, UNSEAL] {
        check(command, 2, 0xff);
        check(command, 5, 9);
    }
    check(UNSEAL, 10, 0xff);
    check(UNSEAL, 13, 0);
    check(UNSEAL, 14, 0xff);
    check(LOAD, 17, 1);
    check(CREATE_PRIMARY, 18, 0xff);
    check(START_SESSION, 14, 0xff);
}

#[test]
fn another_object_than_was_loaded_is_noticed_and_flushed() {
    let (fault, left) = lied(LOAD, |answer| answer[30] ^= 1);
    assert!(matches!(fault, Fault::Nonsense { command: "Load", .. }), "{fault:?}");
    assert!(left.is_empty(), "{left:x?}");
}

#[test]
fn a_storage_root_key_that_is_not_the_template_s_is_noticed_and_flushed() {
    // Its attributes: not restricted.
    let (fault, left) = lied(CREATE_PRIMARY, |answer| answer[25] ^= 1);
    assert!(matches!(fault, Fault::Nonsense { command: "CreatePrimary", .. }), "{fault:?}");
    assert!(left.is_empty(), "{left:x?}");
}

#[test]
fn a_tpm_that_is_not_ready_is_asked_again_within_bounds() {
    let emulator = Emulator::start();
    for (code, times, expected) in
        [(0x922, 2, 3), (0x908, 1, 2), (0x90a, 2, 3), (0x922, usize::MAX, 8), (0x921, usize::MAX, 1)]
    {
        let count = Mutex::new(0);
        let wires = Wires::new(&emulator, move |asked, _| {
            let mut count = count.lock().expect("a count");
            *count += 1;
            (asked == GET_RANDOM && *count <= times).then(|| refused(code))
        });
        let mut tpm = wires.open();
        let outcome = tpm.random(8);
        drop(tpm);
        assert_eq!(wires.heard().len(), 2 * expected, "{code:#x}");
        match times {
            usize::MAX => assert_eq!(refusal(outcome).1, code),
            _ => assert_eq!(outcome.expect("random bytes").len(), 8),
        }
    }
}

#[test]
fn a_connection_that_broke_within_a_frame_refuses_everything() {
    let emulator = Emulator::start();
    let wires = Wires::new(&emulator, |_, truth| Some([truth, &[0]].concat()));
    let mut tpm = wires.open();
    assert!(matches!(tpm.random(8), Err(Fault::Nonsense { command: "GetRandom", .. })));
    assert!(matches!(tpm.random(8), Err(Fault::Io { step: "write to", .. })));
}

#[test]
fn a_resource_manager_s_refusals_are_understood() {
    let emulator = Emulator::start();
    let wires = Wires::new(&emulator, |_, _| Some(refused(0x000b_0902)));
    let mut tpm = wires.open();
    assert_eq!(refusal(tpm.ak()), ("CreatePrimary", 0x000b_0902, Meaning::Retry));
}
