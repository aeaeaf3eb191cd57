//! The TLS key, and what the TPM signs about itself.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use swtpm::Emulator;
use tpm::{Attested, Credential, EcPoint, EcSignature, EkKind, Loaded, Meaning, Pcrs, Tpm};

use crate::bench::*;

const NONCE: [u8; 32] = [0x42; 32];

fn is_signed(key: Option<EcPoint>, signature: EcSignature, digest: [u8; 32]) -> bool {
    let key = VerifyingKey::from(key.and_then(|point| point.public_key()).expect("a point on the curve"));
    let signature = Signature::from_slice(&signature.to_bytes()).expect("a signature");
    key.verify_prehash(&digest, &signature).is_ok()
}

fn is_attested(ak: &Loaded, attested: &Attested) -> bool {
    let signature = EcSignature::from_wire(&attested.signature).expect("ECDSA with SHA-256");
    is_signed(ak.point(), signature, Sha256::digest(&attested.attest).into())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// TPM2_MakeCredential: any TPM makes one from public keys.
fn credential(tpm: &mut Tpm, ek: &Loaded, name: &[u8]) -> Credential {
    let answer = must(raw(tpm, 0x168, &[ek.handle()], &[], &[sized(&SECRET), sized(name)].concat()));
    let size = |at: usize| usize::from(u16::from_be_bytes([answer[at], answer[at + 1]]));
    let blob = answer[2..2 + size(0)].to_vec();
    Credential { secret: answer[4 + blob.len()..].to_vec(), blob }
}

#[test]
fn the_tls_key_signs_and_stays_in_its_tpm() {
    let (mut emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.tls_key(&srk).expect("a key");
    let key = tpm.load(&srk, &blob).expect("load");
    assert_eq!(key.point(), blob.point());
    for digest in [[0; 32], [1; 32], [0xff; 32]] {
        let signature = tpm.sign(&key, digest).expect("a signature");
        assert!(is_signed(key.point(), signature, digest));
    }
    assert_ne!(tpm.tls_key(&srk).expect("another").point(), blob.point());
    drop(tpm);
    emulator.power_cycle();
    let mut tpm = open(&emulator);
    let srk = tpm.srk().expect("a storage root key");
    let key = tpm.load(&srk, &blob).expect("it survives");
    assert!(is_signed(blob.point(), tpm.sign(&key, [1; 32]).expect("a signature"), [1; 32]));

    let (_there, mut other) = crate::bench::emulator();
    let other_srk = other.srk().expect("a storage root key");
    assert_eq!(refusal(other.load(&other_srk, &blob)), ("Load", 0x1df, Meaning::Integrity));
}

#[test]
fn the_tpm_states_which_key_is_in_it_and_what_it_measured() {
    let (_emulator, mut tpm) = emulator();
    let srk = tpm.srk().expect("a storage root key");
    let blob = tpm.tls_key(&srk).expect("a key");
    let key = tpm.load(&srk, &blob).expect("load");
    tpm.flush_srk(srk).expect("flush");
    let ak = tpm.ak().expect("an attestation key");

    let certified = tpm.certify(&ak, &key, &NONCE).expect("a certification");
    assert!(is_attested(&ak, &certified));
    assert!(contains(&certified.attest, &NONCE) && contains(&certified.attest, &key.name()));

    let all = Pcrs::new(0..24).expect("24 PCRs");
    let values = tpm.pcrs(&all).expect("values");
    assert_eq!(values.iter().count(), 24);
    let quoted = tpm.quote(&ak, &all, &NONCE).expect("a quote");
    assert!(is_attested(&ak, &quoted));
    assert!(contains(&quoted.attest, &NONCE) && contains(&quoted.attest, &values.digest()));
    tpm.extend(23, [1; 32]).expect("extend");
    let later = tpm.quote(&ak, &all, &NONCE).expect("a quote");
    assert!(!contains(&later.attest, &values.digest()));
    assert!(tpm.quote(&ak, &all, &[0; 33]).is_err());
}

#[test]
fn an_attestation_key_signs_nothing_that_its_tpm_did_not_make() {
    let (_emulator, mut tpm) = emulator();
    let ak = tpm.ak().expect("an attestation key");
    assert_eq!(refusal(tpm.sign(&ak, [1; 32])), ("Sign", 0x3e0, Meaning::Failing));
}

#[test]
fn attestation_and_endorsement_keys_survive_a_clear() {
    let (_emulator, mut tpm) = emulator();
    let names = |tpm: &mut Tpm| {
        let keys = [tpm.ak(), tpm.ek(EkKind::P256), tpm.ek(EkKind::Rsa2048)].map(|key| key.expect("a key"));
        let names = keys.each_ref().map(Loaded::name);
        keys.into_iter().for_each(|key| tpm.flush(key).expect("flush"));
        names
    };
    let before = names(&mut tpm);
    assert_eq!(names(&mut tpm), before);
    clear(&mut tpm);
    assert_eq!(names(&mut tpm), before);
}

#[test]
fn a_credential_is_read_by_the_keys_that_it_was_made_for() {
    for kind in [EkKind::P256, EkKind::Rsa2048] {
        let (_emulator, mut tpm) = emulator();
        let (ek, ak) = (tpm.ek(kind).expect("an endorsement key"), tpm.ak().expect("an attestation key"));
        let before = handles(&mut tpm);
        let ours = credential(&mut tpm, &ek, &ak.name());
        assert_eq!(tpm.activate(&ak, &ek, &ours).expect("the secret")[..], SECRET);

        let other_key = credential(&mut tpm, &ek, &[&[0, 0x0b][..], &[9; 32]].concat());
        let outcome = tpm.activate(&ak, &ek, &other_key);
        assert_eq!(refusal(outcome), ("ActivateCredential", 0x1df, Meaning::Integrity), "{kind:?}");
        assert_eq!(handles(&mut tpm), before, "nothing stays open");
    }
}

#[test]
fn a_credential_for_another_tpm_is_refused() {
    let (_here, mut tpm) = emulator();
    let (_there, mut other) = emulator();
    let ek = tpm.ek(EkKind::Rsa2048).expect("an endorsement key");
    let (other_ek, other_ak) = (other.ek(EkKind::Rsa2048).expect("a key"), other.ak().expect("a key"));
    let theirs = credential(&mut tpm, &ek, &other_ak.name());
    let outcome = other.activate(&other_ak, &other_ek, &theirs);
    assert_eq!(refusal(outcome), ("ActivateCredential", 0x101, Meaning::WrongTpm));

    // On P-256 any point decrypts to some seed, so that the difference shows in the integrity only.
    tpm.flush(ek).and_then(|()| other.flush(other_ek)).expect("flush");
    let (ek, other_ek) = (tpm.ek(EkKind::P256).expect("a key"), other.ek(EkKind::P256).expect("a key"));
    let theirs = credential(&mut tpm, &ek, &other_ak.name());
    let outcome = other.activate(&other_ak, &other_ek, &theirs);
    assert_eq!(refusal(outcome), ("ActivateCredential", 0x1df, Meaning::Integrity));
}

#[test]
fn the_maker_s_certificates_are_read_whole() {
    let emulator = Emulator::with_certificates();
    let mut tpm = open(&emulator);
    let certificates = tpm.ek_certificates().expect("certificates");
    assert_eq!(certificates.len(), 1, "the emulator's maker certifies the RSA key, and one on P-384");
    let ek = tpm.ek(EkKind::Rsa2048).expect("an endorsement key");
    let modulus = &ek.public()[ek.public().len() - 256..];
    assert!(contains(&certificates[0], modulus), "the certificate is this key's");
    let size = usize::from(u16::from_be_bytes([certificates[0][2], certificates[0][3]]));
    assert_eq!(certificates[0].len(), 4 + size);

    let (_bare, mut tpm) = crate::bench::emulator();
    assert!(tpm.ek_certificates().expect("none").is_empty());
}
