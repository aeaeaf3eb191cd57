//! A key that opens for approved software only (tiers S and 4). A release is what it measures: one extension of PCR 11.

use std::fs;

use identity::approval::Measured;
use identity::{Address, Approval, Approvals, ChangeError, KeyState, Tier, VendorKey, Wish, confirm_release};
use p256::ecdsa::SigningKey;
use swtpm::Emulator;
use tpm::{PcrValues, Pcrs, RELEASE_COUNTER, Tpm};

use crate::rig::{Rig, Seen, firmware};
use crate::{born, open, succeeded};

struct Vendor(SigningKey);

impl Vendor {
    fn new(byte: u8) -> Self {
        Self(SigningKey::from_slice(&[byte; 32]).expect("a key"))
    }

    fn public(&self) -> VendorKey {
        VendorKey::from(*self.0.verifying_key())
    }

    fn approve(&self, tier: Tier, values: &PcrValues, counter_max: u64) -> Approval {
        let measured = Measured { tier, release: "a release".into(), values: values.clone(), counter_max };
        Approval::sign(&self.0, measured).expect("signed")
    }
}

fn connect(emulator: &Emulator) -> Tpm {
    Tpm::open(&emulator.place().parse().expect("a place")).expect("it answers")
}

/// Restarts into a release; what it measures.
fn boot(emulator: &mut Emulator, tier: Tier, release: u8) -> PcrValues {
    emulator.power_cycle();
    let mut tpm = connect(emulator);
    tpm.extend(11, [release; 32]).expect("extended");
    let pcrs = if tier == Tier::S { Pcrs::of([11, 12]) } else { Pcrs::of([4, 11, 12]) };
    tpm.pcrs(&pcrs).expect("values")
}

fn publish(rig: &mut Rig, list: Vec<Approval>) {
    let path = rig.path().join("approvals.json");
    fs::write(&path, Approvals::new(list).expect("a few").to_json()).expect("write");
    rig.options.approvals = Some(path);
}

/// A rig whose key was born at `tier` under release 1, which may have the counter up to 1.
fn rig(emulator: &mut Emulator, vendor: &Vendor, tier: Tier) -> (Rig, Address) {
    let values = boot(emulator, tier, 1);
    let mut rig = Rig::with_tpm(1, emulator);
    rig.options.wish = Wish::Exactly(tier);
    rig.options.vendor = Some(vendor.public());
    secure_boot(&rig, 1);
    publish(&mut rig, vec![vendor.approve(tier, &values, 1)]);
    let address = born(&rig);
    assert_eq!(rig.seen(), open(address, tier));
    (rig, address)
}

/// The firmware's variable: four bytes of attributes, and whether Secure Boot is on.
fn secure_boot(rig: &Rig, is_on: u8) {
    let name = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    rig.write(name, "");
    fs::write(rig.machine(name), [6, 0, 0, 0, is_on]).expect("write");
}

const TIERS: [Tier; 2] = [Tier::S, Tier::Four];

#[test]
fn software_that_is_not_approved_does_not_open_the_key() {
    for tier in TIERS {
        let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
        let (rig, address) = rig(&mut emulator, &vendor, tier);
        connect(&emulator).extend(12, [9; 32]).expect("extended");
        succeeded(&rig, address, KeyState::SoftwareNotApproved, Tier::B);
        boot(&mut emulator, tier, 1);
        assert_eq!(rig.seen(), open(address, tier));
    }
}

#[test]
fn an_update_does_not_lock_out() {
    for tier in TIERS {
        let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
        let (mut rig, address) = rig(&mut emulator, &vendor, tier);
        let first = boot(&mut emulator, tier, 1);
        let second = boot(&mut emulator, tier, 2);
        assert_ne!(first, second);
        publish(&mut rig, vec![vendor.approve(tier, &first, 1), vendor.approve(tier, &second, 2)]);
        assert_eq!(rig.seen(), open(address, tier));
        boot(&mut emulator, tier, 1);
        assert_eq!(rig.seen(), open(address, tier));
    }
}

#[test]
fn a_release_from_before_a_confirmed_update_is_refused() {
    for tier in TIERS {
        let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
        let (mut rig, address) = rig(&mut emulator, &vendor, tier);
        let first = boot(&mut emulator, tier, 1);
        let second = boot(&mut emulator, tier, 2);
        publish(&mut rig, vec![vendor.approve(tier, &first, 1), vendor.approve(tier, &second, 2)]);
        let mut tpm = rig.open().tpm.expect("a connection");
        assert_eq!(confirm_release(&rig.options, tier, &mut tpm).expect("confirmed"), Some(2));
        assert_eq!(confirm_release(&rig.options, tier, &mut tpm).expect("again: nothing"), Some(2));
        drop(tpm);
        assert_eq!(rig.seen(), open(address, tier));
        boot(&mut emulator, tier, 1);
        let closed = Seen { address: None, tier: None, state: KeyState::SoftwareRolledBack, replaces: Some(address) };
        assert_eq!(rig.seen(), closed);
        assert!(!rig.file("successor.key").exists());
        boot(&mut emulator, tier, 2);
        assert_eq!(rig.seen(), open(address, tier));
    }
}

#[test]
fn another_vendors_approval_opens_nothing() {
    let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
    let (mut rig, address) = rig(&mut emulator, &vendor, Tier::S);
    let second = boot(&mut emulator, Tier::S, 2);
    publish(&mut rig, vec![Vendor::new(0x22).approve(Tier::S, &second, 9)]);
    succeeded(&rig, address, KeyState::SoftwareNotApproved, Tier::B);
}

#[test]
fn another_vendors_key_in_the_settings_opens_nothing() {
    let (mut emulator, vendor, rogue) = (Emulator::start(), Vendor::new(0x11), Vendor::new(0x22));
    let (mut rig, address) = rig(&mut emulator, &vendor, Tier::S);
    let values = boot(&mut emulator, Tier::S, 1);
    rig.options.vendor = Some(rogue.public());
    publish(&mut rig, vec![rogue.approve(Tier::S, &values, 9)]);
    // Without the successor at the tier that the rogue approves, it would be at tier S of the rogue.
    rig.options.wish = Wish::Auto;
    succeeded(&rig, address, KeyState::SoftwareNotApproved, Tier::B);
}

#[test]
fn tier_s_closes_when_the_keys_of_secure_boot_change() {
    let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
    let (rig, address) = rig(&mut emulator, &vendor, Tier::S);
    connect(&emulator).extend(7, [1; 32]).expect("extended");
    let seen = rig.seen();
    assert_eq!((seen.state, seen.replaces), (KeyState::SoftwareNotApproved, Some(address)));
    // What runs is approved, so that the successor has the tier; it is bound to the new keys of Secure Boot.
    assert_eq!(seen.tier, Some(Tier::S));
}

#[test]
fn a_document_that_cannot_be_read_closes_the_key_and_crashes_nothing() {
    let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
    let (mut rig, address) = rig(&mut emulator, &vendor, Tier::S);
    fs::write(rig.path().join("approvals.json"), "{").expect("write");
    succeeded(&rig, address, KeyState::SoftwareNotApproved, Tier::B);
    let mut tpm = connect(&emulator);
    let refused = confirm_release(&rig.options, Tier::S, &mut tpm).expect_err("it cannot be read");
    assert!(matches!(refused, ChangeError::Identity(_)));
    rig.options.approvals = None;
    let refused = confirm_release(&rig.options, Tier::S, &mut tpm).expect_err("nothing is approved");
    assert!(matches!(refused, ChangeError::Closed { state: KeyState::SoftwareNotApproved }));
}

#[test]
fn a_tpm_without_a_sha_256_bank_bears_no_key_that_measurements_protect() {
    let emulator = Emulator::with_banks("sha384");
    let mut rig = Rig::with_tpm(1, &emulator);
    rig.options.vendor = Some(Vendor::new(0x11).public());
    for tier in TIERS {
        rig.options.wish = Wish::Exactly(tier);
        assert_eq!((rig.seen().state, rig.seen().address), (KeyState::NoSha256Bank, None));
    }
    rig.options.wish = Wish::Auto;
    let address = born(&rig);
    assert_eq!(rig.seen(), open(address, Tier::B));
}

#[test]
fn a_bank_that_is_switched_off_closes_the_key() {
    for tier in TIERS {
        let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
        let (rig, address) = rig(&mut emulator, &vendor, tier);
        firmware::drop_sha256_bank(&emulator);
        emulator.power_cycle();
        succeeded(&rig, address, KeyState::NoSha256Bank, Tier::B);
    }
}

#[test]
fn a_counter_that_is_made_anew_does_not_go_back() {
    let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
    let (rig, _) = rig(&mut emulator, &vendor, Tier::S);
    let mut tpm = connect(&emulator);
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("an answer"), Some(1));
    drop((tpm, rig));
    // A key that is born when the counter is beyond its release is refused, instead of being lost at once.
    let values = boot(&mut emulator, Tier::S, 1);
    let mut late = Rig::with_tpm(1, &emulator);
    late.options.wish = Wish::Exactly(Tier::S);
    late.options.vendor = Some(vendor.public());
    secure_boot(&late, 1);
    publish(&mut late, vec![vendor.approve(Tier::S, &values, 0)]);
    assert_eq!((late.seen().state, late.seen().address), (KeyState::SoftwareRolledBack, None));
}

#[test]
fn no_key_is_called_tier_s_while_secure_boot_is_off() {
    let (mut emulator, vendor) = (Emulator::start(), Vendor::new(0x11));
    let values = boot(&mut emulator, Tier::S, 1);
    let mut rig = Rig::with_tpm(1, &emulator);
    rig.options.wish = Wish::Exactly(Tier::S);
    rig.options.vendor = Some(vendor.public());
    publish(&mut rig, vec![vendor.approve(Tier::S, &values, 1)]);
    let refused = Seen { address: None, tier: None, state: KeyState::SoftwareNotApproved, replaces: None };
    assert_eq!(rig.seen(), refused, "no firmware says that it is on");
    secure_boot(&rig, 0);
    assert_eq!(rig.seen(), refused);
    secure_boot(&rig, 1);
    assert_eq!(rig.seen().tier, Some(Tier::S));
}
