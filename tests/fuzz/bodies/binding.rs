//! Any bytes as a binding of a key to a machine: as they are, and with a checksum that matches them. And as what a
//! machine says about itself: a line for each part.

use ::identity::binding::{Bound, open};
use ::identity::fields::{FIELDS_MAX, Field, Fields, Kind};
use sha2::{Digest, Sha256};

/// Reads `data` as both.
pub(crate) fn run(data: &[u8]) {
    bound(data);
    let checksum = Sha256::digest(data);
    bound(&[data, &checksum[..8]].concat());
    if let Ok(text) = std::str::from_utf8(data) {
        machine(text);
    }
}

fn bound(data: &[u8]) {
    match Bound::parse(data) {
        Ok(bound) => {
            assert_eq!(bound.to_bytes(), data, "a binding has one encoding");
            assert!(bound.needed() > bound.fields() / 2 && bound.needed() <= bound.fields());
            assert!(open(&bound, &Fields::default()).is_err(), "no field opens nothing");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn machine(text: &str) {
    let lines: Vec<_> = text.lines().collect();
    let readings = lines.iter().enumerate().map(|(number, line)| (Kind::ALL[number % Kind::ALL.len()], *line));
    let fields = Fields::from_readings(readings.clone());
    assert!(fields.present().len() <= FIELDS_MAX);
    let present: Vec<&Field> = fields.present().iter().collect();
    let is_single = |field: &&Field| present.iter().filter(|other| **other == *field).count() == 1;
    assert!(present.iter().all(is_single), "a field is there twice");
    let reversed: Vec<_> = readings.collect();
    let reversed = Fields::from_readings(reversed.into_iter().rev());
    assert_eq!(reversed.present(), fields.present(), "the order of parts tells");
    assert!(!fields.to_string().is_empty());
}
