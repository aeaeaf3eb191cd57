use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::credential::ActivationFault;
use crate::document::{DocumentFault, MAX_DOCUMENT};
use crate::tests::soft::{Authority, Soft, pcrs};

fn evidence() -> Evidence {
    let soft = Soft::new(1);
    let certificates = vec![Authority::root("root").issue(&soft.leaf(), &soft)];
    let quote = Some(soft.quote(&pcrs()));
    Evidence { format: EvidenceFormat::V1, enrolment: soft.enrolment(certificates), quote }
}

fn reads_back<D: Document + PartialEq + std::fmt::Debug>(document: &D) {
    let text = document.print();
    assert_eq!(&D::parse(text.as_bytes()).expect(&text), document);
}

#[test]
fn every_document_reads_back_as_it_was_written() {
    let soft = Soft::new(1);
    let (challenge, credential) = Challenge::make(&soft.ek(), &soft.ak());
    let answer = soft.activate(&credential, soft.ak().name()).expect("its own");
    reads_back(&challenge);
    reads_back(&credential);
    reads_back(&answer);
    reads_back(&evidence());
    reads_back(&evidence().enrolment);
    reads_back(&soft.quote(&pcrs()));
    assert_eq!(challenge.settle(&soft.ek(), &soft.ak(), &answer), Ok::<(), ActivationFault>(()));
}

#[test]
fn the_secrets_of_a_challenge_are_not_shown_by_debug() {
    let soft = Soft::new(1);
    let (challenge, credential) = Challenge::make(&soft.ek(), &soft.ak());
    let answer = soft.activate(&credential, soft.ak().name()).expect("its own");
    let text = challenge.print();
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let secret = json["secret"].as_str().expect("a secret");
    for shown in [format!("{challenge:?}"), format!("{answer:?}")] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// What of an evidence is replaced by what, and what the refusal says.
#[test]
fn a_document_with_one_bad_field_is_refused_and_says_why() {
    let check = |at: &str, bad: Value, expected: &str| {
        let mut json = serde_json::to_value(evidence()).expect("plain data");
        let (parent, field) = at.rsplit_once('/').expect("a path");
        let parent = json.pointer_mut(parent).and_then(Value::as_object_mut).expect(at);
        parent.insert(field.to_owned(), bad);
        let fault = Evidence::parse(json.to_string().as_bytes()).expect_err(at);
        let source = std::error::Error::source(&fault).expect("why").to_string();
        assert!(source.contains(expected), "{at}: {source}");
    };
    let long = |bytes: usize| json!("00".repeat(bytes));
    check("/format", json!("rig-evidence-2"), "unknown variant `rig-evidence-2`, expected `rig-evidence-1`");
    check("/enrolment/format", json!("rig-evidence-1"), "expected `rig-enrolment-1`");
    check("/quote/format", json!(1), "expected");
    check("/extra", json!(true), "unknown field `extra`");
    check("/enrolment/extra", json!(true), "unknown field `extra`");
    check("/enrolment/certified/extra", json!(true), "unknown field `extra`");
    check("/quote/extra", json!(true), "unknown field `extra`");
    check("/enrolment/ek", json!(""), "0 bytes, where 1 to 512 belong");
    check("/enrolment/ek", long(513), "513 bytes, where 1 to 512 belong");
    check("/enrolment/ak", json!("0g"), "not pairs of hexadecimal digits");
    check("/enrolment/tls", json!("000"), "not pairs of hexadecimal digits");
    check("/enrolment/tls", json!(["00"]), "invalid type: sequence");
    check("/enrolment/nonce", long(15), "15 bytes, where 16 to 32 belong");
    check("/enrolment/nonce", long(33), "33 bytes, where 16 to 32 belong");
    check("/enrolment/request", long(2049), "2049 bytes, where 1 to 2048 belong");
    check("/enrolment/certificates", json!(["00", "00", "00", "00", "00"]), "more than 4 certificates");
    check("/enrolment/certificates", json!([""]), "0 bytes, where 1 to 4096 belong");
    check("/enrolment/certificates", json!("00"), "expected at most 4 certificates");
    check("/enrolment/certified/attest", long(513), "513 bytes");
    check("/enrolment/certified/signature", long(129), "129 bytes");
    check("/quote/pcrs/24", long(32), "there is no PCR 24");
    check("/quote/pcrs/-1", long(32), "invalid");
    check("/quote/pcrs/256", long(32), "invalid");
    check("/quote/pcrs/seven", long(32), "invalid");
    check("/quote/pcrs/7", long(31), "31 bytes, where 32 to 32 belong");
    check("/quote/pcrs", json!([]), "expected values of PCRs");
    check("/quote/quoted", json!(null), "invalid type: null");
}

#[test]
fn a_pcr_that_comes_twice_is_refused() {
    let value = "00".repeat(32);
    let twice = format!("{{\"7\":\"{value}\",\"7\":\"{value}\"}}");
    let fault = serde_json::from_str::<PcrValues>(&twice).expect_err("twice");
    assert!(fault.to_string().contains("PCR 7 comes twice"), "{fault}");
    assert_eq!(PcrValues::new([(7, [0; 32]), (7, [1; 32])]), None);
    assert_eq!(PcrValues::new([(24, [0; 32])]), None);
}

#[test]
fn a_field_that_comes_twice_is_refused() {
    let answer = format!("{{\"format\":\"rig-answer-1\",\"secret\":\"{0}\",\"secret\":\"{0}\"}}", "00".repeat(32));
    let fault = Answer::parse(answer.as_bytes()).expect_err("twice");
    assert!(matches!(fault, DocumentFault::Malformed { what: "answer", .. }), "{fault}");
}

#[test]
fn a_document_beyond_every_bound_is_refused_unread_and_the_longest_honest_one_is_not() {
    let too_long = vec![b' '; MAX_DOCUMENT + 1];
    assert!(matches!(Evidence::parse(&too_long), Err(DocumentFault::TooLong { what: "evidence", bytes: 65537 })));
    let mut longest = evidence();
    longest.enrolment.certificates = Certificates::new(vec![vec![0; MAX_CERTIFICATE]; MAX_CERTIFICATES]).expect("fits");
    longest.enrolment.ek = Hex::new(vec![0; MAX_PUBLIC]).expect("fits");
    longest.enrolment.ak = Hex::new(vec![0; MAX_PUBLIC]).expect("fits");
    longest.enrolment.tls = Hex::new(vec![0; MAX_PUBLIC]).expect("fits");
    longest.enrolment.request = Hex::new(vec![0; MAX_REQUEST]).expect("fits");
    let attested = Attested::new(vec![0; MAX_ATTEST], vec![0; MAX_SIGNATURE]).expect("fits");
    longest.enrolment.certified = attested.clone();
    let quote = longest.quote.as_mut().expect("a quote");
    quote.quoted = attested;
    quote.pcrs = PcrValues::new((0..PCRS).map(|index| (index, [0xff; 32]))).expect("fits");
    reads_back(&longest);
    assert!(Certificates::new(vec![vec![0]; MAX_CERTIFICATES + 1]).is_err());
    assert!(Certificates::new([vec![0; MAX_CERTIFICATE + 1]]).is_err());
    assert!(Attested::new(Vec::new(), [0]).is_err());
    assert!(Answer::new(&[0; 31]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_document_parser_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Evidence::parse(&bytes).is_err());
        prop_assert!(Challenge::parse(&bytes).is_err());
    }

    #[test]
    fn an_evidence_with_a_byte_of_its_text_changed_never_falls_over(at in any::<usize>(), to in any::<u8>()) {
        let mut text = Soft::new(1).enrolment(Vec::new()).print().as_bytes().to_vec();
        let at = at % text.len();
        text[at] = to;
        let _ = Enrolment::parse(&text);
    }
}
