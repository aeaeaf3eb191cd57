//! A calculated policy is the one that the TPM comes to.

use tpm::{CounterLimit, PolicyDigest, RELEASE_COUNTER, Tpm};

use crate::bench::*;

const REF: &[u8] = b"rig tier S 1";

/// TPM2_PolicyGetDigest.
fn digest(tpm: &mut Tpm, session: u32) -> PolicyDigest {
    let answer = must(raw(tpm, 0x189, &[session], &[], &[]));
    PolicyDigest::from_bytes(answer[2..].try_into().expect("a digest"))
}

fn policy_pcr(tpm: &mut Tpm, session: u32) {
    must(raw(tpm, 0x17f, &[session], &[], &[sized(&[]), measured()].concat()));
}

#[test]
fn the_calculation_is_the_tpm_s() {
    let (_emulator, mut tpm) = emulator();
    tpm.extend(11, [1; 32]).expect("extend");
    let values = tpm.pcrs(&MEASURED).expect("values");
    let at_most = tpm.define_counter(RELEASE_COUNTER).expect("a counter");
    let limit = CounterLimit { index: RELEASE_COUNTER, at_most };
    let vendor = Vendor::new(1);

    let only = session(&mut tpm, 1);
    must(raw(&mut tpm, 0x16c, &[only], &[], &0x15e_u32.to_be_bytes()));
    assert_eq!(digest(&mut tpm, only), PolicyDigest::EMPTY.unseal_only());
    flush(&mut tpm, only);

    let approved = session(&mut tpm, 1);
    policy_pcr(&mut tpm, approved);
    assert_eq!(digest(&mut tpm, approved), PolicyDigest::EMPTY.pcr(&values));
    let operand = [&sized(&at_most.to_be_bytes())[..], &[0, 0, 0, 9]].concat();
    must(raw(&mut tpm, 0x149, &[RELEASE_COUNTER, RELEASE_COUNTER, approved], &[password(&[])], &operand));
    assert_eq!(digest(&mut tpm, approved), PolicyDigest::EMPTY.pcr(&values).counter_at_most(limit));
    flush(&mut tpm, approved);

    // A trial session takes any ticket: what it comes to is the digest to seal under.
    let sealed = session(&mut tpm, 3);
    let name = tpm::policy::vendor_name(&vendor.point());
    let ticket = [&[0x80, 0x22][..], &OWNER.to_be_bytes(), &sized(&[])].concat();
    must(raw(&mut tpm, 0x16a, &[sealed], &[], &[sized(&[0; 32]), sized(REF), sized(&name), ticket].concat()));
    assert_eq!(digest(&mut tpm, sealed), sealed_for(&vendor, REF, None));
    policy_pcr(&mut tpm, sealed);
    assert_eq!(digest(&mut tpm, sealed), sealed_for(&vendor, REF, Some(&values)));
    flush(&mut tpm, sealed);
}

#[test]
fn the_name_of_a_vendor_s_key_is_the_tpm_s() {
    let (_emulator, mut tpm) = emulator();
    let vendor = Vendor::new(1).point();
    let public = tpm::policy::vendor_public(&vendor);
    let answer = must(raw(&mut tpm, 0x167, &[], &[], &[&[0, 0][..], &sized(&public), &OWNER.to_be_bytes()].concat()));
    assert_eq!(answer[4..], sized(&tpm::policy::vendor_name(&vendor)));
}
