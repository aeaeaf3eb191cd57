//! A key in a file (tier N), bound to the machine or to nothing.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use identity::{Claim, IdentityError, KeyState, Tier, Wish};
use swtpm::Emulator;

use crate::rig::{Rig, Seen};
use crate::{adopt, born, open, succeeded};

/// The key file of the scalar 1 in version 1, and its well-known address.
const FIRST: [u8; 40] = *b"RIGKEY\x01\x00\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
const FIRST_ADDRESS: &str = "7e5f4552091a69125d5dfcb7b8c2659029395bdf";

fn rig_with(bytes: &[u8]) -> Rig {
    let rig = Rig::new(1);
    fs::DirBuilder::new().mode(0o700).create(&rig.options.state).expect("mkdir");
    put(&rig, bytes);
    rig
}

fn put(rig: &Rig, bytes: &[u8]) {
    fs::write(rig.file("provider.key"), bytes).expect("write");
    fs::set_permissions(rig.file("provider.key"), fs::Permissions::from_mode(0o600)).expect("chmod");
}

#[test]
fn a_version_1_file_still_opens_and_stays_as_it_is() {
    let emulator = Emulator::start();
    let mut rig = rig_with(&FIRST);
    let address = hex::decode(FIRST_ADDRESS).expect("hex").try_into().expect("20 bytes");
    assert_eq!(rig.seen(), open(address, Tier::N));
    // A TPM that comes later seals nothing: copies of the file would open as before.
    rig.insert(&emulator);
    assert_eq!(rig.seen(), open(address, Tier::N));
    assert_eq!(fs::read(rig.file("provider.key")).expect("there"), FIRST);
    assert_eq!(rig.open().active.expect("a key").fields, 0);
}

#[test]
fn a_bound_key_does_not_open_in_another_machine() {
    let mut rig = Rig::new(1);
    let address = born(&rig);
    assert_eq!(rig.open().active.expect("a key").fields, 4);
    rig.moved_to(2);
    succeeded(&rig, address, KeyState::BindingBroken, Tier::N);
    rig.moved_to(1);
    assert_eq!(rig.seen(), open(address, Tier::N));
}

#[test]
fn a_change_of_a_part_is_borne_and_the_next_one_too() {
    let rig = Rig::new(1);
    let address = born(&rig);
    let before = fs::read(rig.file("provider.key")).expect("a key");
    rig.with_another_gpu(7);
    assert_eq!(rig.seen(), open(address, Tier::N));
    let after = fs::read(rig.file("provider.key")).expect("a key");
    assert_ne!(after, before);
    fs::write(rig.options.hardware.join("sys/class/dmi/id/board_serial"), "/9ZZ9Q99/CNWS299999/").expect("write");
    assert_eq!(rig.seen(), open(address, Tier::N));
}

#[test]
fn a_machine_without_fields_binds_nothing_and_says_so() {
    let rig = Rig::new(1);
    fs::remove_dir_all(&rig.options.hardware).expect("no fields");
    let active = rig.open().active.expect("a key");
    assert_eq!((active.tier, active.fields), (Tier::N, 0));
}

#[test]
fn a_damaged_file_is_kept_and_followed() {
    for damage in [&b""[..], b"RIGKEY", &FIRST[..39], &[0; 99]] {
        let rig = rig_with(damage);
        let seen = rig.seen();
        assert_eq!((seen.state, seen.replaces), (KeyState::KeyDamaged, None));
        assert_eq!(fs::read(rig.file("provider.key")).expect("there"), damage);
        adopt(&rig);
        assert_eq!(rig.seen(), open(seen.address.expect("a successor"), Tier::N));
        assert_eq!(fs::read(rig.file("retired/damaged.key")).expect("kept"), damage);
    }
    let rig = Rig::new(1);
    let address = born(&rig);
    let whole = fs::read(rig.file("provider.key")).expect("a key");
    let mut flipped = whole.clone();
    flipped[60] ^= 4;
    put(&rig, &flipped);
    assert_eq!(rig.seen().state, KeyState::KeyDamaged);
    put(&rig, &whole);
    assert_eq!(rig.seen(), open(address, Tier::N));
}

#[test]
fn a_file_of_a_later_version_waits_for_the_newer_software() {
    let rig = rig_with(b"RIGKEY\x03 whatever");
    let expected = Seen { address: None, tier: None, state: KeyState::SoftwareRolledBack, replaces: None };
    assert_eq!(rig.seen(), expected);
    assert!(!rig.file("successor.key").exists());
}

#[test]
fn a_new_key_on_request_takes_the_place_at_its_first_use() {
    let mut rig = Rig::new(1);
    let address = born(&rig);
    rig.options.generation = 3;
    let successor = succeeded(&rig, address, KeyState::RotationAsked, Tier::N);
    adopt(&rig);
    assert_eq!(rig.seen(), open(successor, Tier::N));
    assert_eq!(rig.open().active.expect("a key").generation, 3);
    // Asked again before it was used: another one, and the first is kept.
    rig.options.generation = 4;
    let second = succeeded(&rig, successor, KeyState::RotationAsked, Tier::N);
    rig.options.generation = 5;
    assert_ne!(succeeded(&rig, successor, KeyState::RotationAsked, Tier::N), second);
    assert!(rig.file("retired").join(format!("{}.key", hex::encode(second))).exists());
}

#[test]
fn an_adoption_is_not_repeated_and_not_of_another_key() {
    let mut rig = Rig::new(1);
    born(&rig);
    rig.options.generation = 1;
    let (mut first, mut late) =
        (rig.open().succession.expect("a successor"), rig.open().succession.expect("a successor"));
    first.adopt().expect("adopted");
    first.adopt().expect("nothing to do");
    let refused = late.adopt().expect_err("it is not there any more");
    assert!(matches!(refused, IdentityError::File { step: "find the successor in", .. }), "{refused}");
}

#[test]
fn a_successor_whose_predecessor_was_taken_away_is_the_provider() {
    let mut rig = Rig::new(1);
    let address = born(&rig);
    rig.options.generation = 1;
    let successor = succeeded(&rig, address, KeyState::RotationAsked, Tier::N);
    fs::remove_file(rig.file("provider.key")).expect("taken away");
    assert_eq!(rig.seen(), open(successor, Tier::N));
}

#[test]
fn a_key_that_others_could_read_is_no_state_but_an_error() {
    let rig = Rig::new(1);
    born(&rig);
    fs::set_permissions(rig.file("provider.key"), fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(identity::open(&rig.options), Err(IdentityError::Exposed { mode: 0o644, .. })));
}

#[test]
fn who_opens_at_once_comes_to_one_key() {
    let rig = Rig::new(1);
    let opened: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| rig.seen().address)).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    assert!(opened[0].is_some() && opened.iter().all(|address| *address == opened[0]));
}

#[test]
fn one_signer_runs_and_others_may_look() {
    let rig = Rig::new(1);
    let claim = Claim::take(&rig.options.state).expect("the first");
    assert!(matches!(Claim::take(&rig.options.state), Err(IdentityError::InUse { .. })));
    born(&rig);
    drop(claim);
    Claim::take(&rig.options.state).expect("given back");
}

#[test]
fn a_tier_that_needs_a_vendor_is_refused_without_one() {
    let mut rig = Rig::new(1);
    rig.options.wish = Wish::Exactly(Tier::S);
    assert!(matches!(identity::open(&rig.options), Err(IdentityError::NoVendor { .. })));
}
