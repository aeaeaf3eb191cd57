use super::*;
use crate::certificates::{Fingerprint, Roots};
use crate::document::Hex;
use crate::tests::soft::{Authority, NONCE, NOW, Soft, pcrs};

fn anchors(root: &Authority) -> Anchors {
    let mut roots = Roots::none();
    roots.add(&root.certificate).expect("a root");
    Anchors { roots, pinned: Vec::new() }
}

#[test]
fn an_honest_rig_enrols_answers_and_is_measured() {
    let (soft, root) = (Soft::new(1), Authority::root("maker"));
    let enrolment = soft.enrolment(vec![root.issue(&soft.leaf(), &soft)]);
    let examined = Examined::of(&enrolment, &anchors(&root), NOW, Some(&NONCE)).expect("examined");
    let (challenge, credential) = examined.challenge();
    let answer = soft.activate(&credential, soft.ak().name()).expect("its own");
    let enrolled = examined.activate(&challenge, &answer).expect("enrolled");
    let measured = enrolled.measured(&soft.quote(&pcrs()), &NONCE).expect("measured");
    let claim = enrolled.claim(Some(&measured));
    assert_eq!(claim.holds, "a TPM of CN=maker holds this rig's keys, and signed these measurements now");
    assert!(claim.is_vouched_by_maker);
    assert!(claim.to_string().contains("anything about GPUs"), "{claim}");
    assert_eq!(enrolled.claim(None).holds, "a TPM of CN=maker holds this rig's keys");
    assert_eq!((enrolled.tls(), enrolled.ek()), (&soft.tls(), &soft.ek()));
    assert_eq!(enrolled.certified().clock, soft.clock);
}

#[test]
fn a_pinned_rig_is_claimed_in_weaker_words() {
    let soft = Soft::new(1);
    let pinned = Anchors { pinned: vec![Fingerprint::of(&soft.ek())], ..Anchors::default() };
    let examined = Examined::of(&soft.enrolment(Vec::new()), &pinned, NOW, None).expect("examined");
    let (challenge, credential) = examined.challenge();
    let answer = soft.activate(&credential, soft.ak().name()).expect("its own");
    let claim = examined.activate(&challenge, &answer).expect("enrolled").claim(None);
    assert!(!claim.is_vouched_by_maker);
    assert!(claim.holds.contains("which the owner confirmed on first use"), "{claim}");
    assert!(!claim.holds.contains("a TPM of"), "{claim}");
    assert!(claim.does_not_claim[0].starts_with("that the key is in a TPM at all"), "{claim}");
}

#[test]
fn an_enrolment_with_a_part_of_another_rig_is_refused() {
    let (soft, other, root) = (Soft::new(1), Soft::new(2), Authority::root("maker"));
    let certificates = |soft: &Soft| vec![root.issue(&soft.leaf(), soft)];
    let theirs = other.enrolment(certificates(&other));
    let check = |swap: fn(&mut Enrolment, &Enrolment), expected: EnrolmentFault| {
        let mut mixed = soft.enrolment(certificates(&soft));
        swap(&mut mixed, &theirs);
        let said = Examined::of(&mixed, &anchors(&root), NOW, Some(&NONCE)).expect_err("mixed");
        assert_eq!(said, expected);
    };
    let other_key = || AttestFault::OtherKey { certified: hex::encode(soft.tls().name().as_bytes()) };
    check(|it, theirs| it.ek = theirs.ek.clone(), EnrolmentFault::Chain(ChainFault::Foreign));
    check(|it, their| it.certificates = their.certificates.clone(), EnrolmentFault::Chain(ChainFault::Foreign));
    check(|it, theirs| it.ak = theirs.ak.clone(), EnrolmentFault::Certified(AttestFault::Signature));
    check(|it, theirs| it.tls = theirs.tls.clone(), EnrolmentFault::Certified(other_key()));
    check(|it, theirs| it.certified = theirs.certified.clone(), EnrolmentFault::Certified(AttestFault::Signature));
    check(|it, theirs| it.request = theirs.request.clone(), EnrolmentFault::Request(RequestFault::OtherKey));
    let stale = Examined::of(&soft.enrolment(certificates(&soft)), &anchors(&root), NOW, Some(&[0; 32]));
    assert_eq!(stale.expect_err("stale"), EnrolmentFault::Certified(AttestFault::Nonce));
}

#[test]
fn every_byte_of_a_request_counts() {
    let soft = Soft::new(1);
    let request = soft.request();
    assert_eq!(soft.tls().requested(&request), Ok(()));
    let taken: Vec<usize> = (0..request.len())
        .filter(|at| {
            let mut flipped = request.clone();
            flipped[*at] ^= 1;
            soft.tls().requested(&flipped).is_ok()
        })
        .collect();
    // The tag of the algorithm's OID is not signed, and the parser takes a second one.
    assert!(taken.len() <= 1, "{taken:?}");
    assert_eq!(soft.tls().requested(&[&request[..], &[0]].concat()), Err(RequestFault::Unreadable));
}

/// A software key cannot stand in for the TPM's: it signs a quote as well as any, but no challenge is answered for it.
#[test]
fn a_rig_that_swaps_in_its_own_attestation_key_answers_no_challenge() {
    let (soft, forger, root) = (Soft::new(1), Soft::new(2), Authority::root("maker"));
    let mut forged = forger.enrolment(vec![root.issue(&soft.leaf(), &soft)]);
    forged.ek = Hex::new(soft.ek_area().write()).expect("short");
    let examined = Examined::of(&forged, &anchors(&root), NOW, Some(&NONCE)).expect("consistent, and worth nothing");
    let (challenge, credential) = examined.challenge();
    assert!(soft.activate(&credential, soft.ak().name()).is_none(), "the genuine TPM has no key of that name");
    assert!(forger.activate(&credential, forger.ak().name()).is_none(), "the forger cannot read the seed");
    let guess = Answer::new(&[0; 32]).expect("32 bytes");
    assert_eq!(examined.activate(&challenge, &guess).expect_err("a guess"), ActivationFault::WrongAnswer);
}
