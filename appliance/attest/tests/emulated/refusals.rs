//! What a rig might try, with a genuine TPM at hand.

use attest::{
    Anchors, AttestFault, AttestationKey, Attested, ChainFault, Challenge, EndorsementKey, EnrolmentFault, Examined,
    Hex, KeyFault, Quote,
};
use p256::ecdsa::Signature;
use sha2::{Digest, Sha256};
use tpm::EkKind;

use crate::stage::{NONCE, Rig, now, quote_by};

/// TPM_RC_INTEGRITY of the first parameter.
const INTEGRITY: u32 = 0x1df;
/// TPM_RC_TICKET of the third parameter.
const TICKET: u32 = 0x3e0;

fn keys(rig: &Rig) -> (EndorsementKey, AttestationKey) {
    let enrolment = rig.enrolment(&NONCE);
    let ek = EndorsementKey::parse(enrolment.ek.as_bytes()).unwrap();
    (ek, AttestationKey::parse(enrolment.ak.as_bytes()).unwrap())
}

#[test]
fn a_credential_for_another_attestation_key_or_another_tpm_is_not_read() {
    for (kind, code_of_another_tpm) in [(EkKind::Rsa2048, 0x101), (EkKind::P256, INTEGRITY)] {
        let (one, other) = (Rig::new(kind), Rig::new(kind));
        let ((ek, ak), (_, other_ak)) = (keys(&one), keys(&other));
        let (_, for_other_ak) = Challenge::make(&ek, &other_ak);
        let refused = one.activate(&for_other_ak).unwrap_err();
        assert_eq!(refused.code(), Some(INTEGRITY), "{kind:?}: {refused}");
        let (challenge, honest) = Challenge::make(&ek, &ak);
        let refused = other.activate(&honest).unwrap_err();
        assert_eq!(refused.code(), Some(code_of_another_tpm), "{kind:?}: {refused}");
        assert_eq!(challenge.settle(&ek, &ak, &one.activate(&honest).unwrap()), Ok(()), "the right one still reads it");
    }
}

#[test]
fn a_stale_nonce_and_a_changed_value_are_refused() {
    let rig = Rig::new(EkKind::P256);
    let (_, ak) = keys(&rig);
    let mut quote = rig.quote(&NONCE);
    assert!(ak.quotes(&quote, &NONCE).is_ok());
    assert_eq!(ak.quotes(&quote, &[1; 32]), Err(AttestFault::Nonce));
    let values = quote.pcrs.iter().map(|(index, value)| (index, value.try_into().unwrap()));
    let values: Vec<(u8, [u8; 32])> =
        values.map(|(index, value)| if index == 7 { (7, [9; 32]) } else { (index, value) }).collect();
    quote.pcrs = attest::PcrValues::new(values).unwrap();
    assert_eq!(ak.quotes(&quote, &NONCE), Err(AttestFault::Values));
}

#[test]
fn every_flipped_byte_of_quote_and_certification_is_refused() {
    let rig = Rig::new(EkKind::P256);
    let enrolment = rig.enrolment(&NONCE);
    let ak = AttestationKey::parse(enrolment.ak.as_bytes()).unwrap();
    let tls = attest::TlsKey::parse(enrolment.tls.as_bytes()).unwrap();
    let quote = rig.quote(&NONCE);
    let each_flip = |honest: &Attested, is_refused: &dyn Fn(Attested) -> bool| {
        let (attest, signature) = (honest.attest.as_bytes(), honest.signature.as_bytes());
        let flip = |bytes: &[u8], at: usize| {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            flipped
        };
        for at in 0..attest.len() {
            assert!(is_refused(Attested::new(flip(attest, at), signature).unwrap()), "attest byte {at}");
        }
        for at in 0..signature.len() {
            assert!(is_refused(Attested::new(attest, flip(signature, at)).unwrap()), "signature byte {at}");
        }
    };
    each_flip(&enrolment.certified, &|flipped| ak.certifies(&tls, &flipped, &NONCE).is_err());
    each_flip(&quote.quoted, &|quoted| ak.quotes(&Quote { quoted, ..quote.clone() }, &NONCE).is_err());
    let signature =
        Signature::from_slice(&tpm::EcSignature::from_wire(quote.quoted.signature.as_bytes()).unwrap().to_bytes());
    assert!(signature.is_ok(), "two readers of one structure agree");
}

/// An unrestricted key quotes as well as a restricted one, and also signs a quote that no TPM ever made.
#[test]
fn an_unrestricted_key_never_passes_for_an_attestation_key() {
    let rig = Rig::new(EkKind::P256);
    let mut enrolment = rig.enrolment(&NONCE);
    let mut tpm = rig.tpm();
    let (ak, tls) = rig.ak_and_tls(&mut tpm);
    let by_tls = quote_by(&mut tpm, &tls, &NONCE);
    let digest = Sha256::digest(b"a quote written by hand").into();
    assert!(tpm.sign(&tls, digest).is_ok(), "an unrestricted key signs anything");
    let refused = tpm.sign(&ak, digest).unwrap_err();
    assert_eq!(refused.code(), Some(TICKET), "a restricted key signs nothing that is not the TPM's: {refused}");
    enrolment.ak = Hex::new(tls.public()).unwrap();
    tpm.flush(ak).unwrap();
    tpm.flush(tls).unwrap();
    drop(tpm);
    let said = Examined::of(&enrolment, &rig.anchors(), now(), None).unwrap_err();
    let lacks = KeyFault::Lacks { key: "attestation key", attribute: "restricted" };
    assert_eq!(said, EnrolmentFault::Key(lacks));
    assert_eq!(keys(&rig).1.quotes(&by_tls, &NONCE), Err(AttestFault::Signature));
}

#[test]
fn a_stolen_certificate_chain_and_an_unknown_maker_are_refused() {
    let (rig, other) = (Rig::new(EkKind::Rsa2048), Rig::new(EkKind::Rsa2048));
    let honest = rig.enrolment(&NONCE);
    let mut stolen = honest.clone();
    stolen.certificates = other.enrolment(&NONCE).certificates;
    let mut both = other.anchors();
    both.roots.add(&rig.emulator.roots()[0]).unwrap();
    let said = Examined::of(&stolen, &both, now(), None).unwrap_err();
    assert_eq!(said, EnrolmentFault::Chain(ChainFault::Foreign));
    let said = Examined::of(&honest, &other.anchors(), now(), None).unwrap_err();
    assert!(
        matches!(said, EnrolmentFault::Chain(ChainFault::Signature { .. } | ChainFault::UnknownIssuer { .. })),
        "{said:?}"
    );
    let said = Examined::of(&honest, &Anchors::default(), now(), None).unwrap_err();
    assert!(matches!(said, EnrolmentFault::Chain(ChainFault::UnknownIssuer { .. })), "{said:?}");
    let said = Examined::of(&honest, &rig.anchors(), 0, None).unwrap_err();
    assert!(matches!(said, EnrolmentFault::Chain(ChainFault::NotValidNow { .. })), "{said:?}");
}

/// The whole enrolment of another rig, sent by one that has no such TPM: consistent to the last byte, and no answer.
#[test]
fn a_copied_enrolment_is_worth_nothing_without_its_tpm() {
    let (rig, thief) = (Rig::new(EkKind::Rsa2048), Rig::new(EkKind::Rsa2048));
    let examined = Examined::of(&rig.enrolment(&NONCE), &rig.anchors(), now(), None).unwrap();
    let (challenge, credential) = examined.challenge();
    assert!(thief.activate(&credential).is_err());
    let (_, other) = examined.challenge();
    let answer_to_another = rig.activate(&other).unwrap();
    assert!(examined.activate(&challenge, &answer_to_another).is_err(), "an answer to another challenge");
}
