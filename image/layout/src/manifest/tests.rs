use p256::ecdsa::signature::Signer;
use proptest::prelude::*;

use super::*;

/// A key for tests. Nothing is signed with it elsewhere.
fn signing_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).expect("it is in range")
}

fn key() -> PublicKey {
    PublicKey(*signing_key().verifying_key())
}

fn sign(json: &[u8]) -> Vec<u8> {
    let signature: Signature = signing_key().sign(json);
    signature.to_der().as_bytes().to_vec()
}

fn manifest() -> Manifest {
    let digest = Sha256Hex([0xcd; 32]);
    let chunks = vec![Chunk::Sha256(digest), Chunk::Zero, Chunk::Sha256(Sha256Hex([1; 32]))];
    Manifest {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        flavour: "generic".to_owned(),
        sector_bytes: 512,
        root_hash: RootHash::from_bytes([0xab; 32]),
        kernel: "6.12.117+deb13-amd64".to_owned(),
        epoch: 1_767_225_600,
        raw: Raw { bytes: 2 * CHUNK_BYTES + 512, sha256: digest, chunk_bytes: CHUNK_BYTES, chunks },
        parts: BTreeMap::from([("root.erofs".to_owned(), Part { bytes: 4096, sha256: digest })]),
    }
}

/// The file with `from` replaced by `to`, signed again.
fn altered(from: &str, to: &str) -> Result<Manifest, ManifestError> {
    let json = String::from_utf8(manifest().to_json()).expect("it is text");
    assert!(json.contains(from), "{from}");
    let json = json.replacen(from, to, 1).into_bytes();
    verify(&json, &sign(&json), &key())
}

#[test]
fn the_file_has_this_form() {
    assert_eq!(String::from_utf8_lossy(&manifest().to_json()), include_str!("golden.json"));
}

#[test]
fn a_manifest_that_is_signed_is_read_again() {
    let json = manifest().to_json();
    assert_eq!(verify(&json, &sign(&json), &key()).expect("it is signed"), manifest());
}

#[test]
fn any_byte_changed_in_file_or_signature_is_refused_before_it_is_read() {
    let (json, signature) = (manifest().to_json(), sign(&manifest().to_json()));
    for at in 0..json.len() {
        let mut json = json.clone();
        json[at] ^= 1;
        assert!(matches!(verify(&json, &signature, &key()), Err(ManifestError::Signature)), "byte {at}");
    }
    for at in 0..signature.len() {
        let mut signature = signature.clone();
        signature[at] ^= 1;
        assert!(matches!(verify(&json, &signature, &key()), Err(ManifestError::Signature)), "byte {at}");
    }
}

#[test]
fn another_key_or_no_signature_is_refused() {
    let json = manifest().to_json();
    let other = p256::ecdsa::SigningKey::from_slice(&[0x43; 32]).expect("it is in range");
    assert!(matches!(verify(&json, &sign(&json), &PublicKey(*other.verifying_key())), Err(ManifestError::Signature)));
    for signature in [&b""[..], b"0", &[0; 64], &[0x30, 6, 2, 1, 0, 2, 1, 0]] {
        assert!(matches!(verify(&json, signature, &key()), Err(ManifestError::Signature)));
    }
}

#[test]
fn a_signed_file_that_makes_no_sense_is_refused() {
    let contradictions = [
        ("\"sector_bytes\": 512", "\"sector_bytes\": 1024"),
        ("\"chunk_bytes\": 4194304", "\"chunk_bytes\": 0"),
        ("\"chunk_bytes\": 4194304", "\"chunk_bytes\": 512"),
        ("      \"0\",\n", ""),
        ("\"bytes\": 8389120", "\"bytes\": 8389121"),
        ("\"bytes\": 8389120", "\"bytes\": 18446744073709551615"),
        ("root.erofs", "../root.erofs"),
        ("root.erofs", ""),
        ("generic", "gen eric"),
        ("0.1.0", ""),
    ];
    for (from, to) in contradictions {
        assert!(matches!(altered(from, to), Err(ManifestError::Contradiction(_))), "{to}");
    }
    let not_ours = [
        ("\"flavour\"", "\"flavor\""),
        ("\"epoch\"", "\"x\": 1, \"epoch\""),
        ("abab", "abax"),
        ("\"0\"", "\"00\""),
        ("8389120", "-1"),
        ("{", "["),
    ];
    for (from, to) in not_ours {
        assert!(matches!(altered(from, to), Err(ManifestError::Json(_))), "{to}");
    }
    assert!(matches!(altered("\"format\": 1", "\"format\": 2"), Err(ManifestError::Format(2))));
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(verify(&long, &sign(&long), &key()), Err(ManifestError::TooLong(_))));
}

#[test]
fn a_key_is_a_point_in_either_form() {
    let point = signing_key().verifying_key().to_encoded_point(false);
    assert_eq!(PublicKey::from_hex(&hex::encode(point.as_bytes())).expect("it is a point"), key());
    assert_eq!(PublicKey::from_hex(&key().to_hex()).expect("it is a point"), key());
    let off_curve = format!("04{}", "11".repeat(64));
    for text in ["", "00", "02", &"02".repeat(33)[..64], &off_curve, "zz"] {
        assert!(PublicKey::from_hex(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_file_panics(json in ".{0,200}") {
        let _ = Manifest::parse(json.as_bytes());
    }

    #[test]
    fn every_manifest_comes_back(pieces in proptest::collection::vec(proptest::option::of(any::<[u8; 32]>()), 1..9)) {
        let chunks: Vec<Chunk> =
            pieces.into_iter().map(|piece| piece.map_or(Chunk::Zero, |sum| Chunk::Sha256(Sha256Hex(sum)))).collect();
        let mut manifest = manifest();
        manifest.raw.bytes = u64::try_from(chunks.len()).unwrap() * CHUNK_BYTES;
        manifest.raw.chunks = chunks;
        prop_assert_eq!(Manifest::parse(&manifest.to_json()).expect("it is whole"), manifest);
    }
}
