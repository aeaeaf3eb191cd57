//! The counter of confirmed releases only goes up.

use tpm::{Fault, RELEASE_COUNTER};

use crate::bench::*;

/// TPM2_NV_UndefineSpace.
fn delete(tpm: &mut tpm::Tpm) {
    must(raw(tpm, 0x122, &[OWNER, RELEASE_COUNTER], &[password(&[])], &[]));
}

/// TPM2_NV_DefineSpace with these attributes.
fn define(tpm: &mut tpm::Tpm, attributes: u32) {
    let public = [&RELEASE_COUNTER.to_be_bytes()[..], &[0, 0x0b], &attributes.to_be_bytes(), &[0, 0], &[0, 8]].concat();
    must(raw(tpm, 0x12a, &[OWNER], &[password(&[])], &[sized(&[]), sized(&public)].concat()));
}

#[test]
fn it_counts_by_one_and_over_a_power_cycle() {
    let (mut emulator, mut tpm) = emulator();
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("no counter"), None);
    assert!(matches!(tpm.increment(RELEASE_COUNTER), Err(Fault::Refused { command: "NV_Increment", .. })));
    let first = tpm.define_counter(RELEASE_COUNTER).expect("a counter");
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("a count"), Some(first));
    assert_eq!(tpm.define_counter(RELEASE_COUNTER).expect("it is there"), first, "nothing is made twice");
    assert_eq!(tpm.increment(RELEASE_COUNTER).expect("a count"), first + 1);
    drop(tpm);
    emulator.power_cycle();
    assert_eq!(open(&emulator).counter(RELEASE_COUNTER).expect("a count"), Some(first + 1));
}

#[test]
fn a_counter_that_is_made_again_does_not_go_back() {
    let (_emulator, mut tpm) = emulator();
    tpm.define_counter(RELEASE_COUNTER).expect("a counter");
    let last = tpm.increment(RELEASE_COUNTER).expect("a count");
    delete(&mut tpm);
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("no counter"), None);
    assert_eq!(tpm.define_counter(RELEASE_COUNTER).expect("a counter"), last + 1);
}

#[test]
fn a_clear_deletes_it_and_does_not_take_it_back() {
    let (_emulator, mut tpm) = emulator();
    tpm.define_counter(RELEASE_COUNTER).expect("a counter");
    let last = (0..5).map(|_| tpm.increment(RELEASE_COUNTER).expect("a count")).last().expect("five");
    clear(&mut tpm);
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("no counter"), None);
    assert!(tpm.define_counter(RELEASE_COUNTER).expect("a counter") > last);
}

#[test]
fn one_whose_making_was_interrupted_is_finished() {
    let (_emulator, mut tpm) = emulator();
    define(&mut tpm, 0x0204_0014);
    assert_eq!(tpm.counter(RELEASE_COUNTER).expect("it never counted"), None);
    assert!(tpm.define_counter(RELEASE_COUNTER).expect("a count") > 0);
}

#[test]
fn somebody_else_s_index_is_no_counter() {
    let (_emulator, mut tpm) = emulator();
    // A counter that only the owner's password counts up, then no counter at all.
    for attributes in [0x0204_0012, 0x0204_0004] {
        define(&mut tpm, attributes);
        for outcome in [tpm.counter(RELEASE_COUNTER).map(drop), tpm.define_counter(RELEASE_COUNTER).map(drop)] {
            assert!(matches!(outcome, Err(Fault::ForeignCounter { index: RELEASE_COUNTER })), "{outcome:?}");
        }
        delete(&mut tpm);
    }
}
