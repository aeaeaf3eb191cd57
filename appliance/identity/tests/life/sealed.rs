//! A key that a TPM holds, whatever boots (tier B).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use identity::{ChangeError, KeyState, Tier, Wish, change_tier};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use swtpm::Emulator;

use crate::rig::{Rig, Seen, firmware};
use crate::{adopt, born, open, succeeded};

#[test]
fn a_key_is_born_in_the_tpm_and_opens_at_every_start() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    for _ in 0..2 {
        emulator.power_cycle();
        assert_eq!(rig.seen(), open(address, Tier::B));
    }
    let outcome = rig.open();
    let scalar = outcome.active.expect("a key").scalar;
    for name in ["provider.key", "tls.key"] {
        let file = fs::read(rig.file(name)).expect("a file");
        assert!(!file.windows(32).any(|window| window == &scalar[..]), "{name} holds the scalar");
    }
}

#[test]
fn nothing_is_left_in_the_tpm() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    born(&rig);
    let mut tpm = rig.open().tpm.expect("a connection");
    assert!(tpm.open_handles().expect("an answer").is_empty());
}

#[test]
fn the_tls_key_is_in_the_tpm_and_signs() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let public = rig.open().active.expect("a key").tls.public();
    emulator.power_cycle();
    let outcome = rig.open();
    let (key, mut tpm) = (outcome.active.expect("a key").tls, outcome.tpm.expect("a connection"));
    assert_eq!(key.public(), public);
    assert!(key.blob().is_some());
    let der = key.sign(Some(&mut tpm), [7; 32]).expect("signed");
    let signature = Signature::from_der(&der).expect("DER");
    assert_eq!(signature.normalize_s(), None);
    VerifyingKey::from_sec1_bytes(&public).expect("a point").verify_prehash(&[7; 32], &signature).expect("right");
    assert!(key.sign(None, [7; 32]).is_err());
}

#[test]
fn a_tpm_that_is_switched_off_and_on_gives_the_old_key_back() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    emulator.kill();
    let successor = succeeded(&rig, address, KeyState::TpmOff, Tier::N);
    emulator.power_cycle();
    assert_eq!(rig.seen(), open(address, Tier::B));
    emulator.kill();
    assert_eq!(succeeded(&rig, address, KeyState::TpmOff, Tier::N), successor);
}

#[test]
fn a_successor_that_was_adopted_stays_when_the_tpm_comes_back() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    emulator.kill();
    let successor = succeeded(&rig, address, KeyState::TpmOff, Tier::N);
    adopt(&rig);
    emulator.power_cycle();
    assert_eq!(rig.seen(), open(successor, Tier::N));
    assert!(rig.file("retired").join(format!("{}.key", hex::encode(address))).exists());
}

#[test]
fn a_tpm_that_was_cleared_is_told_by_its_endorsement_key() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    let tls = rig.open().active.expect("a key").tls.public();
    firmware::clear(&emulator);
    succeeded(&rig, address, KeyState::TpmCleared, Tier::B);
    assert_ne!(rig.open().active.expect("a key").tls.public(), tls);
    let retired = std::fs::read_dir(rig.file("retired")).expect("a directory");
    let names: Vec<_> =
        retired.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    assert!(matches!(names.as_slice(), [name] if name.starts_with("tls-") && name.ends_with(".key")), "{names:?}");
}

#[test]
fn a_successor_that_is_lost_too_is_kept_and_followed() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    firmware::clear(&emulator);
    let first = succeeded(&rig, address, KeyState::TpmCleared, Tier::B);
    firmware::clear(&emulator);
    let second = succeeded(&rig, address, KeyState::TpmCleared, Tier::B);
    assert_ne!(second, first);
    assert!(rig.file("retired").join(format!("{}.key", hex::encode(first))).exists());
    adopt(&rig);
    assert_eq!(rig.seen(), open(second, Tier::B));
}

#[test]
fn another_tpm_in_the_same_machine_is_a_swap() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let mut rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    rig.insert(&other);
    succeeded(&rig, address, KeyState::TpmSwapped, Tier::B);
    rig.insert(&emulator);
    assert_eq!(rig.seen(), open(address, Tier::B));
}

#[test]
fn another_tpm_in_another_machine_is_a_move() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let mut rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    rig.insert(&other);
    rig.moved_to(2);
    succeeded(&rig, address, KeyState::DiskMoved, Tier::B);
}

#[test]
fn a_cloned_disk_opens_nothing_and_the_original_goes_on() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    let mut clone = rig.cloned(2);
    clone.insert(&other);
    succeeded(&clone, address, KeyState::DiskMoved, Tier::B);
    assert_eq!(rig.seen(), open(address, Tier::B));
}

#[test]
fn a_copied_virtual_tpm_opens_the_copied_disk() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    emulator.kill();
    let (mut clone, copy) = (rig.cloned(2), emulator.copy_state());
    clone.insert(&copy);
    // Not wanted, and so: only the maker's certificate tells a virtual TPM from a chip.
    assert_eq!(clone.seen(), open(address, Tier::B));
}

#[test]
fn a_lockout_by_somebody_else_does_not_close_the_key() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    firmware::lock_out(&emulator);
    let mut tpm = rig.open().tpm.expect("a connection");
    assert!(tpm.probe().expect("an answer").is_locked_out);
    drop(tpm);
    assert_eq!(rig.seen(), open(address, Tier::B));
}

#[test]
fn a_key_of_a_tpm_that_was_owned_meanwhile_is_followed_by_software() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    firmware::own(&emulator);
    succeeded(&rig, address, KeyState::TpmOwned, Tier::N);
}

#[test]
fn an_owned_tpm_bears_no_key_of_tier_b() {
    let emulator = Emulator::start();
    firmware::own(&emulator);
    let mut rig = Rig::with_tpm(1, &emulator);
    rig.options.wish = Wish::Exactly(Tier::B);
    let expected = Seen { address: None, tier: None, state: KeyState::TpmOwned, replaces: None };
    assert_eq!(rig.seen(), expected);
    assert!(!rig.file("provider.key").exists());
    rig.options.wish = Wish::Auto;
    let address = born(&rig);
    assert_eq!(rig.seen(), open(address, Tier::N));
}

#[test]
fn a_wish_for_tier_b_without_a_tpm_bears_nothing() {
    let mut rig = Rig::new(1);
    rig.options.wish = Wish::Exactly(Tier::B);
    assert_eq!((rig.seen().state, rig.seen().address), (KeyState::TpmOff, None));
    assert!(!rig.file("provider.key").exists());
}

#[test]
fn a_tier_is_lowered_on_request_and_never_raised() {
    let mut emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    change_tier(&rig.options, Tier::N).expect("a lower tier");
    assert_eq!(rig.seen(), open(address, Tier::N));
    let refused = change_tier(&rig.options, Tier::B);
    assert!(matches!(refused, Err(ChangeError::NotHonest { from: Tier::N, to: Tier::B })));
    emulator.kill();
    assert_eq!(rig.seen(), open(address, Tier::N));
}

#[test]
fn a_new_key_on_request_is_sealed_where_the_old_one_was_software() {
    let emulator = Emulator::start();
    let mut rig = Rig::new(1);
    let address = born(&rig);
    rig.insert(&emulator);
    assert_eq!(rig.seen(), open(address, Tier::N));
    rig.options.generation = 1;
    let successor = succeeded(&rig, address, KeyState::RotationAsked, Tier::B);
    adopt(&rig);
    assert_eq!(rig.seen(), open(successor, Tier::B));
}

#[test]
fn a_tpm_that_talks_nonsense_gives_no_key_and_no_lesser_one() {
    let mut rig = Rig::new(1);
    let socket = rig.path().join("nonsense");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let talker = std::thread::spawn(move || {
        // Each caller is answered with something that no TPM says, until the test hangs up.
        for caller in listener.incoming() {
            let Ok(mut caller) = caller else { return };
            let mut frame = [0; 4096];
            match caller.read(&mut frame) {
                Ok(4) => return,
                Ok(_) | Err(_) => drop(caller.write_all(b"\x80\x01\0\0\0\x0b\0\0\0\0?")),
            }
        }
    });
    rig.options.tpm = Some(tpm::Place::Socket(socket.clone()));
    assert_eq!((rig.seen().state, rig.seen().address), (KeyState::TpmFailing, None));
    assert!(!rig.file("provider.key").exists());
    UnixStream::connect(&socket).expect("it listens").write_all(b"stop").expect("written");
    talker.join().expect("no panic");
}
