//! Honest rigs pass, and no more is claimed of them than holds.

use attest::{Anchors, Document, Enrolment, Examined, Fingerprint, Quote, Roots, Voucher};
use tpm::EkKind;

use crate::stage::{NONCE, PCRS, Rig, now};

#[test]
fn a_rig_enrols_answers_certifies_and_quotes_with_either_endorsement_key() {
    for kind in [EkKind::Rsa2048, EkKind::P256] {
        let rig = Rig::new(kind);
        let enrolment = rig.enrolment(&NONCE);
        let travelled = Enrolment::parse(enrolment.print().as_bytes()).unwrap();
        let examined = Examined::of(&travelled, &rig.anchors(), now(), Some(&NONCE)).unwrap();
        let Voucher::Maker(maker) = examined.voucher() else { panic!("{kind:?}: its maker vouches") };
        match kind {
            EkKind::Rsa2048 => assert!(maker.issuer.contains("swtpm-localca") && maker.model.is_some(), "{maker:?}"),
            EkKind::P256 => assert_eq!((maker.issuer.as_str(), maker.model.as_deref()), ("CN=a maker", None)),
        }
        let (challenge, credential) = examined.challenge();
        let enrolled = examined.activate(&challenge, &rig.activate(&credential).unwrap()).unwrap();
        rig.tpm().extend(11, [7; 32]).unwrap();
        let quote = Quote::parse(rig.quote(&[3; 32]).print().as_bytes()).unwrap();
        let measured = enrolled.measured(&quote, &[3; 32]).unwrap();
        let indices: Vec<u8> = measured.pcrs.iter().map(|(index, _)| index).collect();
        assert_eq!(indices, PCRS);
        assert_ne!(measured.pcrs.get(11), Some(&[0; 32][..]), "it was extended");
        let claim = enrolled.claim(Some(&measured));
        assert!(claim.holds.starts_with("a TPM of ") && claim.holds.ends_with("signed these measurements now"));
    }
}

#[test]
fn an_issuer_from_the_makers_collection_needs_no_root() {
    let rig = Rig::new(EkKind::Rsa2048);
    let mut roots = Roots::none();
    roots.add(&rig.issuer()).unwrap();
    let mut enrolment = rig.enrolment(&NONCE);
    enrolment.certificates = attest::evidence::Certificates::new(rig.tpm().ek_certificates().unwrap()).unwrap();
    let anchors = Anchors { roots, pinned: Vec::new() };
    assert!(Examined::of(&enrolment, &anchors, now(), None).is_ok());
    assert!(Examined::of(&enrolment, &rig.anchors(), now(), None).is_err(), "the issuer between them is missing");
}

#[test]
fn a_tpm_without_a_certificate_needs_its_owners_word() {
    let rig = Rig::bare();
    let enrolment = rig.enrolment(&NONCE);
    let ek = attest::EndorsementKey::parse(enrolment.ek.as_bytes()).unwrap();
    assert!(Examined::of(&enrolment, &Anchors::default(), now(), None).is_err());
    let pinned = Anchors { pinned: vec![Fingerprint::of(&ek)], ..Anchors::default() };
    let examined = Examined::of(&enrolment, &pinned, now(), None).unwrap();
    let (challenge, credential) = examined.challenge();
    let enrolled = examined.activate(&challenge, &rig.activate(&credential).unwrap()).unwrap();
    assert!(!enrolled.claim(None).is_vouched_by_maker);
}
