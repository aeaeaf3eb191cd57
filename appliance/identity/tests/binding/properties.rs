//! Of any bytes, any change of any byte, and any set of fields.

use identity::binding::{Bound, Malformed, bind, open};
use identity::fields::{FIELDS_MAX, Fields, Kind};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn gpus(numbers: impl IntoIterator<Item = usize>) -> Fields {
    let id = |number: usize| format!("GPU-5a1e0d3c-77b2-4f19-8c4d-0b179e{number:02x}41f7");
    let ids: Vec<_> = numbers.into_iter().map(id).collect();
    Fields::from_readings(ids.iter().map(|id| (Kind::Gpu, id.as_str())))
}

fn written() -> Vec<u8> {
    bind(&gpus(0..3)).expect("three fields").0.to_bytes()
}

/// `bytes` with a checksum that matches them.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 8);
    let checksum = Sha256::digest(&bytes);
    bytes.extend(&checksum[..8]);
    bytes
}

#[test]
fn every_byte_that_is_changed_lost_or_added_is_noticed() {
    let bytes = written();
    assert_eq!(Bound::parse(&bytes).expect("it was written").to_bytes(), bytes);
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            assert!(Bound::parse(&changed).is_err(), "bit {bit} of byte {place}");
        }
        assert!(Bound::parse(&bytes[..place]).is_err(), "cut at {place}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(Bound::parse(&longer), Err(Malformed::Length { expected: 177, actual: 178 }));
}

#[test]
fn what_is_wrong_with_a_binding_is_said() {
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: Malformed| {
        let mut bytes = written();
        change(&mut bytes);
        let error = Bound::parse(&resealed(bytes)).expect_err("it is no binding");
        assert_eq!(error, expected);
        assert!(!error.to_string().is_empty());
    };
    check(&|bytes| bytes[0] = b'r', Malformed::Foreign);
    check(&|bytes| bytes[7] = 0, Malformed::Version(0));
    check(&|bytes| bytes[7] = 2, Malformed::Version(2));
    for fields in [0, 2, 17, 255] {
        check(&|bytes| bytes[8] = fields, Malformed::Fields(fields));
    }
    check(&|bytes| bytes[8] = 4, Malformed::Length { expected: 209, actual: 177 });
    check(&|bytes| bytes[41..73].fill(0xff), Malformed::Coefficient(0));
    check(&|bytes| bytes[105..137].fill(0xff), Malformed::Coefficient(2));
    assert_eq!(Bound::parse(b""), Err(Malformed::Foreign));
    assert_eq!(Bound::parse(b"RIGBIND\x01"), Err(Malformed::Foreign));
    let mut damaged = written();
    damaged[20] ^= 1;
    assert_eq!(Bound::parse(&damaged), Err(Malformed::Damaged));
}

#[test]
fn a_binding_whose_stored_part_was_changed_opens_to_no_key() {
    let fields = gpus(0..3);
    let bytes = bind(&fields).expect("three fields").0.to_bytes();
    // The salt, a coefficient, the check.
    for place in [9, 72, 136, 137] {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let bound = Bound::parse(&resealed(changed)).expect("it is formed");
        assert!(open(&bound, &fields).is_err(), "byte {place}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_binding_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700), fields in 0_u8..20) {
        let mut formed = [b"RIGBIND\x01".as_slice(), &[fields], &bytes].concat();
        formed.resize(usize::from(fields) * 32 + 81, 0);
        for bytes in [bytes, resealed(formed)] {
            if let Ok(bound) = Bound::parse(&bytes) {
                prop_assert_eq!(bound.to_bytes(), bytes);
                prop_assert!(open(&bound, &Fields::default()).is_err());
            }
        }
    }

    #[test]
    fn any_text_is_a_field_of_canonical_form_or_none(raw in "\\PC{0,40}", kind in 0..Kind::ALL.len()) {
        let fields = Fields::from_readings([(Kind::ALL[kind], raw.as_str())]);
        prop_assert_eq!(usize::from(fields.count()) + fields.absent().len(), 1);
    }
}

proptest! {
    // Each case runs Argon2id for every field.
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_majority_opens_and_nothing_less(count in 3..=FIELDS_MAX, kept in 0..=FIELDS_MAX, strange in 0..FIELDS_MAX) {
        let kept = kept.min(count);
        let present = gpus((0..kept).chain(100..100 + strange.min(FIELDS_MAX - kept)));
        let (bound, kek) = bind(&gpus(0..count)).expect("enough fields");
        match open(&bound, &present) {
            Ok(opened) => {
                prop_assert!(kept > count / 2);
                prop_assert_eq!(opened.kek.as_bytes(), kek.as_bytes());
                prop_assert_eq!((usize::from(opened.matched), usize::from(opened.of)), (kept, count));
            }
            Err(broken) => {
                prop_assert!(kept <= count / 2);
                prop_assert_eq!(usize::from(broken.needed), count / 2 + 1);
            }
        }
    }
}
