//! The counters of a TPM over a power cycle, a clear, and a copy that was set back.

use attest::{AttestationKey, Clock, Motion, Storage};
use tpm::EkKind;

use crate::stage::{NONCE, Rig, clear};

fn clock(rig: &Rig, ak: &AttestationKey) -> Clock {
    ak.quotes(&rig.quote(&NONCE), &NONCE).unwrap().stamp.clock
}

fn ak(rig: &Rig) -> AttestationKey {
    AttestationKey::parse(rig.enrolment(&NONCE).ak.as_bytes()).unwrap()
}

#[test]
fn a_power_cycle_counts_and_a_copy_from_before_it_is_seen() {
    let mut rig = Rig::new(EkKind::P256);
    let ak = ak(&rig);
    let snapshot = rig.copy();
    let before = clock(&rig, &ak);
    for _ in 0..3 {
        rig.emulator.power_cycle();
        // An emulator that is switched off before it answers once may not have counted.
        rig.tpm().random(8).unwrap();
    }
    let after = clock(&rig, &ak);
    assert!(after.resets >= before.resets + 3, "{before:?} {after:?}");
    assert_eq!(before.until(&after, Storage::Same), Motion::Onward);
    // The copy has the same keys: its quote is as good as any, but its counters are behind.
    let of_copy = clock(&snapshot, &ak);
    assert_eq!(after.until(&of_copy, Storage::Same), Motion::SetBack, "{after:?} {of_copy:?}");
    assert_eq!(after.until(&of_copy, Storage::Unknown), Motion::ClearedOrSetBack);
}

#[test]
fn a_cleared_tpm_keeps_its_attestation_key_and_is_told_apart_from_a_copy() {
    let mut rig = Rig::new(EkKind::P256);
    rig.emulator.power_cycle();
    rig.tpm().random(8).unwrap();
    let (ak_before, before) = (ak(&rig), clock(&rig, &ak(&rig)));
    assert!(before.resets > 0);
    clear(&mut rig.tpm());
    let after = clock(&rig, &ak_before);
    assert_eq!((after.resets, after.restarts), (0, 0), "{after:?}");
    let mut tpm = rig.tpm();
    let srk = tpm.srk().unwrap();
    let lost = tpm.load(&srk, &rig.tls);
    assert_eq!(lost.unwrap_err().code(), Some(0x1df), "the TLS key is gone with the storage keys");
    rig.tls = tpm.tls_key(&srk).unwrap();
    tpm.flush_srk(srk).unwrap();
    drop(tpm);
    assert_eq!(ak(&rig).name(), ak_before.name(), "the attestation key outlives a clear");
    assert_eq!(before.until(&after, Storage::Other), Motion::Cleared);
    assert_eq!(before.until(&after, Storage::Unknown), Motion::ClearedOrSetBack);
}
