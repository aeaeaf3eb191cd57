use proptest::prelude::*;

use super::*;
use crate::evidence::Attested;
use crate::tests::soft::{self, NONCE, Soft, Statement, pcrs};

#[test]
fn an_honest_certification_and_an_honest_quote_hold() {
    let soft = Soft::new(1);
    let stamp = soft.ak().certifies(&soft.tls(), &soft.signed(&soft.certification()), &NONCE).expect("certified");
    assert_eq!((stamp.clock, stamp.firmware), (soft.clock, 0x2026));
    let measured = soft.ak().quotes(&soft.quote(&pcrs()), &NONCE).expect("measured");
    assert_eq!(measured.pcrs, pcrs());
    assert_eq!(measured.expects(7, &[7; 32]), Ok(()));
    assert_eq!(measured.expects(4, &[7; 32]), Err(AttestFault::NotCovered(4)));
    assert!(matches!(measured.expects(7, &[8; 32]), Err(AttestFault::OtherValue { index: 7, .. })));
}

#[test]
fn a_statement_with_one_wrong_part_is_refused_by_that_parts_name() {
    let soft = Soft::new(1);
    let check = |spoil: fn(&mut Statement), expected: AttestFault| {
        let mut statement = soft.certification();
        spoil(&mut statement);
        assert_eq!(soft.ak().certifies(&soft.tls(), &soft.signed(&statement), &NONCE), Err(expected));
    };
    check(|it| it.magic = 0xff54_4348, AttestFault::Magic(0xff54_4348));
    check(|it| it.kind = soft::QUOTE, AttestFault::Type { found: soft::QUOTE, expected: soft::CERTIFY });
    check(|it| it.nonce = vec![0; 32], AttestFault::Nonce);
    check(|it| it.nonce.truncate(31), AttestFault::Nonce);
    check(|it| it.nonce.clear(), AttestFault::Nonce);
    // The name of a primary key in the owner's hierarchy, and a bare name.
    check(|it| it.signer = Soft::new(1).ak().name().as_bytes().to_vec(), AttestFault::Hierarchy);
    check(|it| it.signer[5] ^= 1, AttestFault::Hierarchy);
    let other = Soft::new(2).tls();
    let certified = hex::encode(other.name().as_bytes());
    let other_key = AttestFault::OtherKey { certified };
    check(|it| it.body = [sized(Soft::new(2).tls().name().as_bytes()), sized(b"")].concat(), other_key);
    let trailing = AttestFault::Structure { what: "statement", source: StructureFault::Trailing(1) };
    check(|it| it.body.push(0), trailing);
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    crate::structure::sized(bytes)
}

#[test]
fn a_quote_covers_exactly_the_values_that_come_with_it() {
    let soft = Soft::new(1);
    let honest = soft.quote(&pcrs());
    let check = |values: &[(u8, [u8; 32])], expected: AttestFault| {
        let mut quote = honest.clone();
        quote.pcrs = PcrValues::new(values.iter().copied()).expect("PCRs");
        assert_eq!(soft.ak().quotes(&quote, &NONCE), Err(expected));
    };
    check(&[(7, [7; 32]), (0, [2; 32]), (11, [11; 32]), (23, [0; 32])], AttestFault::Values);
    check(&[(7, [1; 32]), (0, [7; 32]), (11, [11; 32]), (23, [0; 32])], AttestFault::Values);
    check(&[(7, [7; 32]), (0, [1; 32]), (11, [11; 32])], AttestFault::Selection);
    check(&[(7, [7; 32]), (0, [1; 32]), (11, [11; 32]), (22, [0; 32])], AttestFault::Selection);
    check(&[], AttestFault::Selection);
    let nothing = soft.quote(&PcrValues::default());
    assert_eq!(soft.ak().quotes(&nothing, &NONCE), Err(AttestFault::Nothing));
}

#[test]
fn a_quote_of_another_bank_of_several_or_of_pcrs_that_do_not_exist_is_refused() {
    let soft = Soft::new(1);
    let check = |selection: &[u8], expected: AttestFault| {
        let mut quote = soft.quote(&pcrs());
        let mut statement = soft.quotation(&pcrs());
        statement.body.splice(..10, selection.iter().copied());
        quote.quoted = soft.signed(&statement);
        assert_eq!(soft.ak().quotes(&quote, &NONCE), Err(expected));
    };
    check(&[0, 0, 0, 1, 0, 4, 3, 0x81, 8, 0x80], AttestFault::Selection);
    check(&[0, 0, 0, 0], AttestFault::Selection);
    check(&[0, 0, 0, 2, 0, 0x0b, 3, 0x81, 8, 0x80, 0, 4, 3, 1, 0, 0], AttestFault::Selection);
    check(&[0, 0, 0, 1, 0, 0x0b, 4, 0x81, 8, 0x80, 0], AttestFault::Selection);
    check(&[0xff; 4], AttestFault::Selection);
}

#[test]
fn a_stale_nonce_is_refused_even_when_the_document_repeats_it() {
    let soft = Soft::new(1);
    assert_eq!(soft.ak().quotes(&soft.quote(&pcrs()), &[1; 32]), Err(AttestFault::Nonce));
}

#[test]
fn a_statement_of_another_tpm_is_refused() {
    let (one, other) = (Soft::new(1), Soft::new(2));
    assert_eq!(other.ak().quotes(&one.quote(&pcrs()), &NONCE), Err(AttestFault::Signature));
}

#[test]
fn a_signature_of_another_scheme_is_refused() {
    let soft = Soft::new(1);
    let honest = soft.signed(&soft.certification());
    for (at, scheme) in [(1, 0x14), (3, 0x0c)] {
        let mut bytes = honest.signature.as_bytes().to_vec();
        bytes[at] = scheme;
        let spoilt = Attested::new(honest.attest.as_bytes(), bytes).expect("short");
        let refused = soft.ak().certifies(&soft.tls(), &spoilt, &NONCE);
        assert!(matches!(refused, Err(AttestFault::SignatureScheme { .. })), "{refused:?}");
    }
}

#[test]
fn every_byte_of_statement_and_signature_counts() {
    let soft = Soft::new(1);
    let quote = soft.quote(&pcrs());
    let (attest, signature) = (quote.quoted.attest.as_bytes(), quote.quoted.signature.as_bytes());
    let flip = |bytes: &[u8], at: usize| {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        flipped
    };
    for at in 0..attest.len() {
        let quoted = Attested::new(flip(attest, at), signature).expect("short");
        let spoilt = Quote { quoted, ..quote.clone() };
        assert_eq!(soft.ak().quotes(&spoilt, &NONCE), Err(AttestFault::Signature), "attest byte {at}");
    }
    for at in 0..signature.len() {
        let quoted = Attested::new(attest, flip(signature, at)).expect("short");
        assert!(soft.ak().quotes(&Quote { quoted, ..quote.clone() }, &NONCE).is_err(), "signature byte {at}");
    }
}

proptest! {
    #[test]
    fn no_signed_bytes_make_the_parser_fall_over_or_pass(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let soft = Soft::new(1);
        let mut quote = soft.quote(&pcrs());
        quote.quoted = soft.signed_bytes(&bytes);
        prop_assert!(soft.ak().quotes(&quote, &NONCE).is_err());
        prop_assert!(soft.ak().certifies(&soft.tls(), &quote.quoted, &NONCE).is_err());
    }

    #[test]
    fn a_signed_statement_with_any_change_is_refused_or_says_the_same(at in 0_usize..145, change in 1_u8..) {
        // The forger signs the changed bytes: only the structure stands between them and the verifier.
        let soft = Soft::new(1);
        let honest = soft.quote(&pcrs());
        let mut bytes = honest.quoted.attest.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= change;
        let quoted = soft.signed_bytes(&bytes);
        if let Ok(measured) = soft.ak().quotes(&Quote { quoted, ..honest }, &NONCE) {
            let is_stamp = (76..101).contains(&at);
            prop_assert!(is_stamp, "byte {} is no part of clock or firmware", at);
            prop_assert_eq!(measured.pcrs, pcrs());
        }
    }
}
