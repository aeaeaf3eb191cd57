//! TPMs that others used before us: passwords, lockouts, keys of other templates, banks that are switched off.

use swtpm::Emulator;
use tpm::{Fault, Meaning, PcrValues, PolicyDigest, Route, Tpm};

use crate::bench::*;

/// TPM2_Create and TPM2_Load of a secret with a PIN that the lockout guards. Gives its handle.
fn guarded_by_pin(tpm: &mut Tpm, parent: u32, pin: &[u8]) -> u32 {
    let sensitive = [sized(pin), sized(b"secret")].concat();
    // KEYEDHASH, SHA-256, fixedTPM | fixedParent | userWithAuth, no policy, no scheme, no unique.
    let public = [0, 8, 0, 0x0b, 0, 0, 0, 0x52, 0, 0, 0, 0x10, 0, 0];
    let parameters = [sized(&sensitive), sized(&public), sized(&[]), vec![0; 4]].concat();
    let created = must(raw(tpm, 0x153, &[parent], &[password(&[])], &parameters));
    let part = |at: usize| 2 + usize::from(u16::from_be_bytes([created[at], created[at + 1]]));
    let private = part(4);
    let both = &created[4..4 + private + part(4 + private)];
    let loaded = must(raw(tpm, 0x157, &[parent], &[password(&[])], both));
    u32::from_be_bytes(loaded[..4].try_into().expect("a handle"))
}

/// Our storage root key's public area, and the RSA one that Windows makes persistent.
const ON_P256: [u8; 26] =
    [0, 0x23, 0, 0x0b, 0, 3, 0x04, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, 0, 0, 0, 0];
const RSA: [u8; 26] = [0, 1, 0, 0x0b, 0, 3, 0x04, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0];

/// TPM2_CreatePrimary in the owner hierarchy. Gives its handle.
fn primary(tpm: &mut Tpm, public: &[u8]) -> u32 {
    let parameters = [vec![0, 4, 0, 0, 0, 0], sized(public), sized(&[]), vec![0; 4]].concat();
    let answer = must(raw(tpm, 0x131, &[OWNER], &[password(&[])], &parameters));
    u32::from_be_bytes(answer[..4].try_into().expect("a handle"))
}

/// TPM2_EvictControl: makes an object persistent at 0x81000001.
fn persist(tpm: &mut Tpm, object: u32) {
    must(raw(tpm, 0x120, &[OWNER, object], &[password(&[])], &0x8100_0001_u32.to_be_bytes()));
}

#[test]
fn somebody_s_failed_passwords_do_not_lock_us_out() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    let parent = primary(&mut tpm, &ON_P256);
    let guarded = guarded_by_pin(&mut tpm, parent, b"1234");
    flush(&mut tpm, parent);
    assert!(!tpm.probe().expect("a probe").is_locked_out);

    let mut attempt = |pin: &[u8]| unseal_with(&mut tpm, guarded, password(pin));
    // The first one since the start is to be repeated, right or wrong: the TPM has to write down that it counts.
    assert_eq!(attempt(b"guess"), 0x922);
    let mut codes: Vec<u32> = (0..4).map(|_| attempt(b"guess")).collect();
    codes.dedup();
    assert_eq!(codes, [0x98e, 0x921]);
    assert_eq!(attempt(b"1234"), 0x921, "the right one is refused too");
    flush(&mut tpm, guarded);

    assert!(tpm.probe().expect("a probe").is_locked_out);
    assert_eq!(tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
    let key = tpm.tls_key(&srk).and_then(|blob| tpm.load(&srk, &blob)).expect("a key");
    tpm.sign(&key, [1; 32]).expect("a signature");
    tpm.define_counter(tpm::RELEASE_COUNTER).expect("a counter");
}

#[test]
fn one_wrong_try_locks_the_lockout_hierarchy() {
    let (_emulator, mut tpm) = emulator();
    set_password(&mut tpm, LOCKOUT, b"right");
    let mut reset = |words: &[u8]| raw(&mut tpm, 0x139, &[LOCKOUT], &[password(words)], &[]).0;
    assert_eq!(reset(b"wrong"), 0x98e);
    assert_eq!(reset(b"right"), 0x921);
}

#[test]
fn an_owner_s_password_keeps_us_out_without_a_persistent_key() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    tpm.flush_srk(srk).expect("flush");
    set_password(&mut tpm, OWNER, b"somebody");
    assert_eq!(refusal(tpm.srk()), ("CreatePrimary", 0x9a2, Meaning::OwnerAuth));
    let counter = tpm.define_counter(tpm::RELEASE_COUNTER);
    assert_eq!(refusal(counter), ("NV_DefineSpace", 0x9a2, Meaning::OwnerAuth));
    assert!(tpm.ek_name().is_ok(), "the endorsement hierarchy is another");

    must(raw(&mut tpm, 0x129, &[OWNER], &[password(b"somebody")], &sized(&[])));
    let srk = tpm.srk().expect("the password is gone");
    assert_eq!(tpm.unseal(&srk, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
}

#[test]
fn a_persistent_key_needs_no_owner_s_password() {
    let (mut emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    assert!(!srk.is_persistent());
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    let primary = primary(&mut tpm, &ON_P256);
    persist(&mut tpm, primary);
    set_password(&mut tpm, OWNER, b"somebody");
    drop(tpm);
    emulator.power_cycle();

    let mut tpm = open(&emulator);
    assert!(tpm.probe().expect("a probe").persistent_srk);
    let again = tpm.srk().expect("the persistent one");
    assert!(again.is_persistent());
    assert_eq!(again.name(), srk.name());
    assert_eq!(tpm.unseal(&again, &blob, &Route::CommandCode).expect("unseal")[..], SECRET);
    tpm.flush_srk(again).expect("nothing to flush");
    assert!(tpm.srk().expect("it stays").is_persistent());
    assert_eq!(handles(&mut tpm), [0_u32; 0]);
}

#[test]
fn a_persistent_key_of_another_template_is_not_used() {
    for other in [None, Some(RSA)] {
        let (_emulator, mut tpm) = emulator();
        let srk = tpm.srk().expect("a storage root key");
        let other = match other {
            Some(public) => primary(&mut tpm, &public),
            None => tpm.tls_key(&srk).and_then(|blob| tpm.load(&srk, &blob)).expect("a key").handle(),
        };
        persist(&mut tpm, other);
        assert!(!tpm.probe().expect("a probe").persistent_srk);
        flush(&mut tpm, other);
        let again = tpm.srk().expect("made again");
        assert!(!again.is_persistent());
        assert_eq!(again.name(), srk.name());
        set_password(&mut tpm, OWNER, b"somebody");
        assert_eq!(refusal(tpm.srk()), ("CreatePrimary", 0x9a2, Meaning::OwnerAuth));
    }
}

#[test]
fn without_sha_256_measurements_nothing_is_claimed() {
    let emulator = Emulator::with_banks("sha384");
    let mut tpm = open(&emulator);
    assert!(!tpm.probe().expect("a probe").sha256_bank);
    let fault = tpm.pcrs(&MEASURED).expect_err("no values");
    assert!(matches!(fault, Fault::NoSha256Bank), "{fault:?}");

    // A calculated policy fails closed, also with the values that a fresh TPM would have.
    let zeros: PcrValues = MEASURED.iter().map(|index| (index, [0; 32])).collect();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.pcr(&zeros)).expect("seal");
    let outcome = tpm.unseal(&srk, &blob, &Route::Pcrs(MEASURED));
    assert_eq!(refusal(outcome), ("Unseal", 0x99d, Meaning::PolicyFailed));
    let unbound = tpm.seal(&srk, &SECRET, &PolicyDigest::EMPTY.unseal_only()).expect("seal");
    assert_eq!(tpm.unseal(&srk, &unbound, &Route::CommandCode).expect("tier B needs no bank")[..], SECRET);
}

#[test]
fn a_probe_tells_what_is_there() {
    let (_emulator, mut tpm) = emulator();
    let probe = tpm.probe().expect("a probe");
    assert_eq!(probe.manufacturer, "IBM");
    assert!(probe.firmware > 0 && probe.sha256_bank && probe.p256 && !probe.persistent_srk && !probe.is_locked_out);
}
