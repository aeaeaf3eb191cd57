//! The signer with a real TPM emulator: what is bound to it, what it attests, and what its life does to a key.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use alloy::primitives::Address;
use attest::evidence::Nonce;
use attest::{Anchors, Examined, Roots};
use signer::policy::Rule;
use signer::{Client, Error, KeyState, Tier};
use swtpm::Emulator;

use crate::handshake::{a_stolen_certificate_is_useless, shake_hands};
use crate::rig::{Home, PATIENCE};

fn home(emulator: &Emulator) -> Home {
    Home::with_tpm(&emulator.place())
}

fn nonce(byte: u8) -> Nonce {
    Nonce::new([byte; 32]).expect("32 bytes")
}

/// Copies what a thief of the disk has.
fn copy_state(from: &Home, to: &Home) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from.path("state")).arg(to.path("state")).status();
    assert!(copied.expect("cp").success());
}

async fn identity(home: &Home) -> Result<signer::Identity, Error> {
    Client::connect(home.socket()).await?.identity().await
}

#[tokio::test]
async fn a_key_of_tier_b_is_born_signs_and_comes_back() {
    let mut emulator = Emulator::start();
    let home = home(&emulator);
    let running = home.start();
    assert_eq!(running.said["tier"], "B");
    let client = Client::connect(home.socket()).await.expect("connect");
    client.sign(running.honest(1)).await.expect("allowed");
    let born = running.address;
    running.kill();
    assert_eq!(home.start().address, born);
    emulator.power_cycle();
    let running = home.start();
    let identity = identity(&home).await.expect("an open key");
    assert_eq!((running.address, identity.tier, identity.state), (born, Tier::B, KeyState::Open));
}

#[test]
fn a_rig_with_a_tpm_key_shakes_hands() {
    shake_hands(&home(&Emulator::start()));
}

#[test]
fn a_stolen_certificate_is_useless_with_another_tpm() {
    let (victims, thiefs) = (Emulator::start(), Emulator::start());
    a_stolen_certificate_is_useless(&home(&victims), &home(&thiefs));
}

#[tokio::test]
async fn a_verifier_enrols_the_rig_and_reads_its_measurements() {
    let emulator = Emulator::with_certificates();
    let home = home(&emulator);
    let _running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut roots = Roots::none();
    for root in emulator.roots() {
        roots.add(root).expect("a root");
    }
    let anchors = Anchors { roots, ..Anchors::default() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let now = i64::try_from(now).expect("a date");

    let enrolment = client.enrol(nonce(1)).await.expect("an enrolment");
    let examined = Examined::of(&enrolment, &anchors, now, Some(&[1; 32])).expect("an enrolment that holds");
    Examined::of(&enrolment, &anchors, now, Some(&[2; 32])).expect_err("another nonce");
    let (challenge, credential) = examined.challenge();
    let answer = client.activate(credential).await.expect("an answer");
    let enrolled = examined.activate(&challenge, &answer).expect("the right answer");
    let quote = client.quote(nonce(3)).await.expect("a quote");
    enrolled.measured(&quote, &[3; 32]).expect("a quote that holds");
    enrolled.measured(&quote, &[4; 32]).expect_err("a stale quote");
    let spki = client.tls_identity().await.expect("a TLS identity").spki;
    assert!(spki.windows(32).any(|part| enrolment.tls.as_bytes().windows(32).any(|other| other == part)));
}

#[tokio::test]
async fn a_challenge_for_another_tpm_is_not_answered_and_the_next_call_is() {
    let (own, other) = (Emulator::start(), Emulator::start());
    let (home, elsewhere) = (home(&own), home(&other));
    let (running, _elsewhere) = (home.start(), elsewhere.start());
    let client = Client::connect(home.socket()).await.expect("connect");
    let there =
        Client::connect(elsewhere.socket()).await.expect("connect").enrol(nonce(1)).await.expect("an enrolment");
    let ek = attest::EndorsementKey::parse(there.ek.as_bytes()).expect("a key");
    let ak = attest::AttestationKey::parse(there.ak.as_bytes()).expect("a key");
    for round in 0..5 {
        let (_challenge, credential) = attest::Challenge::make(&ek, &ak);
        let error = client.activate(credential).await.expect_err("it is for another TPM");
        assert!(matches!(error, Error::Tpm { .. }) && !error.is_final(), "{error:?}");
        client.sign(running.honest(round)).await.expect("the next honest call");
        client.quote(nonce(9)).await.expect("nothing was left in the TPM");
    }
}

#[tokio::test]
async fn a_copied_disk_opens_nothing_on_another_tpm() {
    let (own, other) = (Emulator::start(), Emulator::start());
    let (home, thief) = (home(&own), home(&other));
    let address = home.address();
    copy_state(&home, &thief);
    let running = thief.start();
    let found = identity(&thief).await.expect("a successor");
    assert_eq!((found.state, found.replaces), (KeyState::DiskMoved, Some(address)));
    assert_ne!(running.address, address);
    drop(running);
    assert_eq!(home.address(), address, "the owner's rig is as it was");
}

#[tokio::test]
async fn a_tpm_that_was_off_gives_the_key_back_when_it_is_on() {
    let mut emulator = Emulator::start();
    let home = home(&emulator);
    let address = home.address();
    emulator.kill();
    let running = home.start();
    let found = identity(&home).await.expect("a successor");
    assert_eq!((found.state, found.replaces, found.tier), (KeyState::TpmOff, Some(address), Tier::N));
    running.kill();
    emulator.power_cycle();
    let running = home.start();
    let found = identity(&home).await.expect("the key");
    assert_eq!((running.address, found.state, found.replaces), (address, KeyState::Open, None));
}

#[tokio::test]
async fn proofs_go_on_after_the_tpm_was_away() {
    let mut emulator = Emulator::start();
    let home = home(&emulator);
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    client.quote(nonce(1)).await.expect("a quote");
    emulator.kill();
    let error = client.quote(nonce(2)).await.expect_err("the TPM is away");
    assert!(matches!(error, Error::Tpm { .. }) && !error.is_final(), "{error:?}");
    client.sign(running.honest(1)).await.expect("an open key needs no TPM");
    emulator.power_cycle();
    client.quote(nonce(3)).await.expect("the TPM is back");
}

/// A TPM that says "ask again" until it is told to work.
struct Busy {
    path: PathBuf,
    is_busy: Arc<AtomicBool>,
}

impl Busy {
    fn before(emulator: &Emulator, home: &Home) -> Self {
        let (path, is_busy) = (home.path("tpm"), Arc::new(AtomicBool::new(true)));
        let listener = UnixListener::bind(&path).expect("bind");
        let (busy, behind) = (Arc::clone(&is_busy), emulator.socket());
        // It ends with the test's process: it waits for whoever comes.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let _ = client.and_then(|client| relay(client, &behind, &busy));
            }
        });
        Self { path, is_busy }
    }
}

fn relay(mut client: UnixStream, behind: &Path, is_busy: &AtomicBool) -> io::Result<()> {
    let mut tpm = UnixStream::connect(behind)?;
    loop {
        let frame = frame(&mut client)?;
        if is_busy.load(Ordering::Relaxed) {
            // TPM_ST_NO_SESSIONS, ten bytes, TPM_RC_RETRY.
            client.write_all(&[0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x22])?;
        } else {
            tpm.write_all(&frame)?;
            client.write_all(&self::frame(&mut tpm)?)?;
        }
    }
}

fn frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 10];
    stream.read_exact(&mut frame)?;
    let size = u32::from_be_bytes(frame[2..6].try_into().expect("four bytes"));
    frame.resize(usize::try_from(size).expect("a frame"), 0);
    stream.read_exact(&mut frame[10..])?;
    Ok(frame)
}

#[tokio::test]
async fn a_busy_tpm_is_asked_again_until_it_answers() {
    let emulator = Emulator::start();
    let mut home = home(&emulator);
    let address = home.address();
    let busy = Busy::before(&emulator, &home);
    home.put_tpm(&format!("unix:{}", busy.path.display()));
    let running = home.start();
    assert_eq!((running.address, running.said["state"].as_str()), (Address::ZERO, Some("tpm-busy")));
    let error = identity(&home).await.expect_err("nobody signs");
    assert!(matches!(error, Error::Closed { state: KeyState::TpmBusy, .. }), "{error:?}");
    let client = Client::connect(home.socket()).await.expect("connect");
    let error = client.sign(running.honest(1)).await.expect_err("nobody signs");
    assert!(matches!(error, Error::Refused { rule: Rule::KeyClosed, .. }) && !error.is_final(), "{error:?}");
    assert!(!home.path("state/successor.key").exists(), "what passes bears no successor");
    busy.is_busy.store(false, Ordering::Relaxed);
    let began = Instant::now();
    let found = loop {
        match identity(&home).await {
            Ok(found) => break found,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!((found.address, found.state), (address, KeyState::Open));
}
