use sha2::Digest;

use super::*;
use crate::fields::Kind;

/// A binding of three fields as version 1 wrote it. It must open for ever.
const GOLDEN: &str = "\
    52494742494e44010396a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc78a8d6d732a27284aa03cdd027b4862\
    cf0d6cdfa5e2b8de35386bccbc6fcb90d70ec3fc53b3ee0923e747c83e73aa3aa91eabff834ff08eb2a3e00a60deb0478db7e172f5b68f48\
    6473cdb4029c72249eab009e1f254fdf075518c05afb5d2aa6b10dc4b394721f09b7e2557b283b79b2fab11bf185920bc6635458cf2863bf\
    a8e867ca4bf058e2cf";
const GOLDEN_KEK: &str = "5234859cd8a9e61fb4d91b04d67694d05bdb0479daf40c5cc52ef607f4f5c69f";

const READINGS: [(Kind, &str); 3] = [
    (Kind::Disk, "S5GXNX0T000814K"),
    (Kind::Nic, "3c:7c:3f:1a:9e:01"),
    (Kind::Gpu, "GPU-5a1e0d3c-77b2-4f19-8c4d-0b179e0041f7"),
];

/// Bytes that are the same in every run.
fn drawn(bytes: &mut [u8], number: u8) {
    for (place, chunk) in (0_u8..).zip(bytes.chunks_mut(32)) {
        chunk.copy_from_slice(&Sha256::digest([number, place])[..chunk.len()]);
    }
}

#[test]
fn a_binding_of_version_1_is_written_and_opened_as_it_always_was() {
    let fields = Fields::from_readings(READINGS);
    let mut number = 0;
    let random = |bytes: &mut [u8]| {
        drawn(bytes, number);
        number += 1;
        Ok(())
    };
    let (bound, kek) = bind_with(&fields, random).expect("three fields");
    assert_eq!((hex::encode(bound.to_bytes()).as_str(), hex::encode(kek.as_bytes()).as_str()), (GOLDEN, GOLDEN_KEK));
    let read = Bound::parse(&hex::decode(GOLDEN).expect("hex")).expect("a binding");
    let two = Fields::from_readings(READINGS.into_iter().skip(1));
    let opened = open(&read, &two).expect("two of three");
    assert_eq!(hex::encode(opened.kek.as_bytes()), GOLDEN_KEK);
}

#[test]
fn nothing_is_bound_without_random_bytes() {
    let fields = Fields::from_readings(READINGS);
    for dry_at in 0..3 {
        let mut drawn = 0;
        let random = |_: &mut [u8]| {
            drawn += 1;
            if drawn > dry_at { Err(getrandom::Error::UNSUPPORTED) } else { Ok(()) }
        };
        assert!(matches!(bind_with(&fields, random), Err(BindError::Random(_))), "after {dry_at} draws");
    }
}

#[test]
fn a_polynomial_goes_through_its_points() {
    for count in 1..=crate::fields::FIELDS_MAX {
        let mut bytes = vec![0; 64 * count];
        drawn(&mut bytes, 200);
        let scalars: Vec<Scalar> = bytes.as_chunks::<32>().0.iter().map(polynomial::reduce).collect();
        let point = |pair: &[Scalar]| polynomial::Point { x: pair[0], y: pair[1] };
        let points: Vec<_> = scalars.chunks(2).map(point).collect();
        let found = polynomial::interpolate(&points);
        assert_eq!(found.len(), count);
        assert!(points.iter().all(|point| polynomial::evaluate(&found, point.x) == point.y), "{count} points");
    }
}

#[test]
fn neither_the_key_nor_what_it_is_bound_with_is_shown() {
    let (bound, kek) = bind(&Fields::from_readings(READINGS)).expect("three fields");
    assert_eq!(format!("{bound:?} {kek:?}"), "Bound { fields: 3, .. } Kek(_)");
}
