//! A secret comes back under its policy, and under nothing else: every refusal with its code and what it means.

use swtpm::Emulator;
use tpm::{Blob, Fault, Meaning, PcrValues, Pcrs, PolicyDigest, Route, Srk, Steps, Tpm};

use crate::bench::*;

const REF: &[u8] = b"rig tier S 1";

/// A vendor's approval for what is measured now, and a secret that is sealed for that vendor.
struct Sealed {
    _emulator: Emulator,
    tpm: Tpm,
    srk: Srk,
    vendor: Vendor,
    blob: Blob,
    steps: Steps,
    values: PcrValues,
}

impl Sealed {
    fn new(steps: impl FnOnce(&mut Tpm) -> Steps) -> Self {
        let (emulator, mut tpm) = emulator();
        tpm.extend(11, [1; 32]).expect("extend");
        let vendor = Vendor::new(1);
        let srk = tpm.srk().expect("a storage root key");
        let blob = tpm.seal(&srk, &SECRET, &sealed_for(&vendor, REF, None)).expect("seal");
        let steps = steps(&mut tpm);
        let values = tpm.pcrs(&steps.pcrs).expect("values");
        Self { _emulator: emulator, tpm, srk, vendor, blob, steps, values }
    }

    fn measured() -> Self {
        Self::new(|_| Steps { pcrs: MEASURED, counter: None })
    }

    fn open(&mut self, way: tpm::Authorized<'_>) -> Result<[u8; 32], Fault> {
        let secret = self.tpm.unseal(&self.srk, &self.blob, &Route::Authorized(way))?;
        Ok(secret[..].try_into().expect("32 bytes"))
    }
}

fn unseal_only() -> PolicyDigest {
    PolicyDigest::EMPTY.unseal_only()
}

#[test]
fn a_secret_comes_back_on_its_own_tpm() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    for length in [0, 1, 31, 32, 33, 127, 128] {
        let secret = vec![9; length];
        let sealed = tpm.seal(&srk, &secret, &unseal_only());
        if length == 0 {
            // A TPM makes no empty object without a random one in its place.
            assert!(sealed.is_err());
            continue;
        }
        let blob = Blob::from_bytes(&sealed.expect("seal").to_bytes()).expect("a blob");
        assert_eq!(*tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal"), secret);
    }
    let too_long = tpm.seal(&srk, &[9; 129], &unseal_only());
    assert!(matches!(too_long, Err(Fault::TooLong { bytes: 129, max: 128, .. })));
}

#[test]
fn a_power_cycle_takes_nothing_away() {
    let (mut emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let (name, blob) = (srk.name(), tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal"));
    emulator.power_cycle();
    assert!(matches!(tpm.probe(), Err(Fault::Io { .. })));
    let mut tpm = open(&emulator);
    let srk = tpm.srk().expect("a storage root key");
    assert_eq!(srk.name(), name);
    assert_eq!(tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
}

#[test]
fn a_policy_over_measurements_opens_with_them_only() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let values = tpm.pcrs(&MEASURED).expect("values");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.pcr(&values)).expect("seal");
    let route = Route::Pcrs(MEASURED);
    assert_eq!(tpm.unseal(&srk, &blob, &route).expect("unseal")[..], SECRET);
    tpm.extend(11, [1; 32]).expect("extend");
    assert_eq!(refusal(tpm.unseal(&srk, &blob, &route)), ("Unseal", 0x99d, Meaning::PolicyFailed));
}

#[test]
fn an_approved_release_opens_and_its_successor_too() {
    let mut sealed = Sealed::measured();
    let first = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    assert_eq!(sealed.open(first).expect("unseal"), SECRET);
    sealed.tpm.extend(11, [2; 32]).expect("extend");
    let values = sealed.tpm.pcrs(&MEASURED).expect("values");
    let second = sealed.vendor.approve(sealed.steps, &values, REF);
    assert_eq!(sealed.open(second).expect("unseal"), SECRET);
    assert_eq!(refusal(sealed.open(first)), ("PolicyAuthorize", 0x1c4, Meaning::NotApproved));
}

#[test]
fn tier_s_asks_for_the_firmware_s_keys_as_well() {
    const SECURE_BOOT: Pcrs = Pcrs::of([7]);
    let mut sealed = Sealed::measured();
    let firmware = sealed.tpm.pcrs(&SECURE_BOOT).expect("values");
    let policy = sealed_for(&sealed.vendor, REF, Some(&firmware));
    sealed.blob = sealed.tpm.seal(&sealed.srk, &SECRET, &policy).expect("seal");
    let mut way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    assert_eq!(refusal(sealed.open(way)), ("Unseal", 0x99d, Meaning::PolicyFailed));
    way.then = Some(SECURE_BOOT);
    assert_eq!(sealed.open(way).expect("unseal"), SECRET);
    sealed.tpm.extend(7, [3; 32]).expect("extend");
    assert_eq!(refusal(sealed.open(way)), ("Unseal", 0x99d, Meaning::PolicyFailed));
}

#[test]
fn a_rogue_vendor_s_own_approval_opens_nothing() {
    let mut sealed = Sealed::measured();
    let rogue = Vendor::new(2).approve(sealed.steps, &sealed.values, REF);
    assert_eq!(refusal(sealed.open(rogue)), ("Unseal", 0x99d, Meaning::PolicyFailed));
}

#[test]
fn an_approval_for_another_tier_opens_nothing() {
    let mut sealed = Sealed::measured();
    let other = sealed.vendor.approve(sealed.steps, &sealed.values, b"rig tier 4 1");
    assert_eq!(refusal(sealed.open(other)), ("Unseal", 0x99d, Meaning::PolicyFailed));
}

#[test]
fn a_wrong_signature_is_refused() {
    let mut sealed = Sealed::measured();
    let mut way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    way.signature.s[31] ^= 1;
    assert_eq!(refusal(sealed.open(way)), ("VerifySignature", 0x2db, Meaning::NotApproved));
}

#[test]
fn a_vendor_s_key_beside_the_curve_is_refused_before_the_tpm_sees_it() {
    let mut sealed = Sealed::measured();
    let mut way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    way.vendor.x[0] ^= 1;
    assert!(matches!(sealed.open(way), Err(Fault::NotOnCurve { .. })));
}

#[test]
fn a_forged_ticket_is_refused() {
    let mut sealed = Sealed::measured();
    let way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    let tpm = &mut sealed.tpm;
    let session = session(tpm, 1);
    must(raw(tpm, 0x17f, &[session], &[], &[sized(&[]), measured()].concat()));
    let ticket = [&[0x80, 0x22][..], &OWNER.to_be_bytes(), &sized(&[5; 32])].concat();
    let name = tpm::policy::vendor_name(&way.vendor);
    let parameters = [sized(way.approved.as_bytes()), sized(REF), sized(&name), ticket].concat();
    let code = raw(tpm, 0x16a, &[session], &[], &parameters).0;
    flush(tpm, session);
    assert_eq!(code, 0x4c4);
}

#[test]
fn an_empty_session_and_a_password_open_nothing() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal");
    let object = tpm.load(&srk, &blob).expect("load");
    let empty = session(&mut tpm, 1);
    assert_eq!(unseal_with(&mut tpm, object.handle(), authorisation(empty, &[])), 0x99d);
    flush(&mut tpm, empty);
    assert_eq!(unseal_with(&mut tpm, object.handle(), password(&[])), 0x12f);
    assert_eq!(unseal_with(&mut tpm, object.handle(), password(b"guess")), 0x12f);
}

#[test]
fn a_measurement_between_the_policy_and_the_unsealing_is_noticed() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let values = tpm.pcrs(&MEASURED).expect("values");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.pcr(&values)).expect("seal");
    let object = tpm.load(&srk, &blob).expect("load");
    let session = session(&mut tpm, 1);
    must(raw(&mut tpm, 0x17f, &[session], &[], &[sized(&[]), measured()].concat()));
    tpm.extend(11, [1; 32]).expect("extend");
    assert_eq!(unseal_with(&mut tpm, object.handle(), authorisation(session, &[])), 0x128);
    flush(&mut tpm, session);
}

#[test]
fn a_copied_disk_opens_nothing_on_another_tpm() {
    let (_here, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal");
    let (_there, mut other) = emulator();
    let other_srk = other.srk().expect("a storage root key");
    let outcome = other.unseal(&other_srk, &blob, &Route::CommandCode);
    assert_eq!(refusal(outcome), ("Load", 0x1df, Meaning::Integrity));
    assert_ne!(tpm.ek_name().expect("a name"), other.ek_name().expect("a name"));
}

#[test]
fn a_copied_virtual_tpm_opens_the_copy() {
    let (here, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal");
    let there = here.copy_state();
    let mut other = open(&there);
    let other_srk = other.srk().expect("a storage root key");
    assert_eq!(other.unseal(&other_srk, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
}

#[test]
fn a_cleared_tpm_opens_nothing_and_is_the_same_tpm() {
    let (_emulator, mut tpm) = emulator();
    let ek = tpm.ek_name().expect("a name");
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal");
    clear(&mut tpm);
    let outcome = tpm.unseal(&srk, &blob, &Route::CommandCode);
    assert_eq!(refusal(outcome), ("Load", 0x910, Meaning::HandleGone));
    let again = tpm.srk().expect("a storage root key");
    assert_ne!(again.name(), srk.name());
    let outcome = tpm.unseal(&again, &blob, &Route::CommandCode);
    assert_eq!(refusal(outcome), ("Load", 0x1df, Meaning::Integrity));
    assert_eq!(tpm.ek_name().expect("a name"), ek);
}

#[test]
fn a_damaged_blob_opens_nothing() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let whole = tpm.seal(&srk, &SECRET, &unseal_only()).expect("seal").to_bytes();
    let last = whole.len() - 1;
    let mut damaged = whole.clone();
    damaged[last] ^= 1;
    let blob = Blob::from_bytes(&damaged).expect("its sizes are right");
    assert_eq!(refusal(tpm.unseal(&srk, &blob, &Route::CommandCode)), ("Load", 0x1df, Meaning::Integrity));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        if let Ok(blob) = Blob::from_bytes(&damaged) {
            assert!(tpm.unseal(&srk, &blob, &Route::CommandCode).is_err(), "byte {at}");
        }
    }
    assert_eq!(handles(&mut tpm).len(), 1);
}

#[test]
fn no_tpm_is_said_so() {
    let (mut emulator, tpm) = emulator();
    drop(tpm);
    let there = place(&emulator);
    emulator.kill();
    let nowhere = "device:/dev/no-such-tpm".parse().expect("a place");
    for place in [there, nowhere] {
        let fault = Tpm::open(&place).expect_err("nothing is there");
        assert!(matches!(fault, Fault::Absent { .. }), "{fault:?}");
        assert_eq!(fault.meaning(), Meaning::Absent);
    }
}

#[test]
fn an_old_release_does_not_open_once_the_new_one_is_confirmed() {
    let mut sealed = Sealed::new(|tpm| {
        let count = tpm.define_counter(tpm::RELEASE_COUNTER).expect("a counter");
        Steps { pcrs: MEASURED, counter: at_most(count) }
    });
    let old = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    assert_eq!(sealed.open(old).expect("unseal"), SECRET);
    let count = sealed.tpm.increment(tpm::RELEASE_COUNTER).expect("count");
    assert_eq!(refusal(sealed.open(old)), ("PolicyNV", 0x126, Meaning::RolledBack));
    let steps = Steps { counter: at_most(count), ..sealed.steps };
    let new = sealed.vendor.approve(steps, &sealed.values, REF);
    assert_eq!(sealed.open(new).expect("unseal"), SECRET);
}

#[test]
fn a_policy_without_its_counter_fails() {
    let mut sealed = Sealed::new(|_| Steps { pcrs: MEASURED, counter: at_most(5) });
    let way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    let fault = sealed.open(way).expect_err("there is no counter");
    assert!(matches!(fault, Fault::NoCounter { index: tpm::RELEASE_COUNTER }), "{fault:?}");
    assert_eq!(fault.meaning(), Meaning::PolicyFailed);
}

#[test]
fn refusals_leave_nothing_open() {
    let mut sealed = Sealed::measured();
    let way = sealed.vendor.approve(sealed.steps, &sealed.values, REF);
    let rogue = Vendor::new(2).approve(sealed.steps, &sealed.values, REF);
    sealed.tpm.extend(12, [1; 32]).expect("extend");
    let before = handles(&mut sealed.tpm);
    assert_eq!(before.len(), 1, "the storage root key: {before:x?}");
    for _ in 0..50 {
        refusal(sealed.open(way));
        refusal(sealed.open(rogue));
        refusal(sealed.tpm.unseal(&sealed.srk, &sealed.blob, &Route::CommandCode));
    }
    assert_eq!(handles(&mut sealed.tpm), before);
}

#[test]
fn a_closed_connection_leaves_nothing_open() {
    let (emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let key = tpm.tls_key(&srk).and_then(|blob| tpm.load(&srk, &blob)).expect("a key");
    assert_eq!(handles(&mut tpm).len(), 2);
    drop((srk, key, tpm));
    assert_eq!(handles(&mut open(&emulator)), [0_u32; 0]);
}

#[test]
fn a_full_tpm_is_asked_again_later() {
    let (_emulator, mut tpm) = emulator();
    let keys = [(); 3].map(|()| tpm.ak().expect("room for three"));
    assert_eq!(refusal(tpm.srk()), ("ReadPublic", 0x902, Meaning::Retry));
    for key in keys {
        tpm.flush(key).expect("flush");
    }
    let srk = tpm.srk().expect("room again");
    tpm.flush_srk(srk).expect("flush");
    assert_eq!(handles(&mut tpm), [0_u32; 0]);
}
