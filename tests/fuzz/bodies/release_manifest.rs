//! Any bytes as a release's manifest, as its signature and as the key that it is signed with. What is taken makes sense, is
//! written as it was read, and only under its own signature.

use std::collections::BTreeSet;

use layout::manifest::{CHUNK_BYTES, FORMAT, MANIFEST_BYTES_MAX, Manifest, ManifestError, PublicKey, verify};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};

/// A key of no release.
const KEY: [u8; 32] = [0x42; 32];

/// What names and versions keep to.
const WORD_BYTES_MAX: usize = 64;
const PARTS_MAX: usize = 64;

/// Reads `data` as each of them.
pub(crate) fn run(data: &[u8]) {
    let signing = SigningKey::from_slice(&KEY).expect("it is in range");
    let key = hex(signing.verifying_key().to_encoded_point(true).as_bytes());
    let key = PublicKey::from_hex(&key).expect("it is a point");
    let refused = verify(b"{}", data, &key).expect_err("nobody signed that");
    assert!(matches!(refused, ManifestError::Signature), "{refused}");
    match Manifest::parse(data) {
        Ok(manifest) => {
            check(&manifest, data);
            signed(&manifest, data, &signing, &key);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = PublicKey::from_hex(text)
    {
        let again = PublicKey::from_hex(&key.to_hex()).expect("a key is read as it is written");
        assert!(again == key && key.to_hex().len() == 66);
    }
}

fn check(manifest: &Manifest, data: &[u8]) {
    assert!(data.len() <= MANIFEST_BYTES_MAX && manifest.format == FORMAT);
    let again = Manifest::parse(&manifest.to_json()).expect("a manifest is read as it is written");
    assert_eq!(&again, manifest);
    assert_eq!(again.to_json(), manifest.to_json());
    let raw = &manifest.raw;
    assert!([512, 4096].contains(&manifest.sector_bytes) && raw.chunk_bytes == CHUNK_BYTES);
    assert!(raw.bytes > 0 && raw.bytes.is_multiple_of(manifest.sector_bytes.into()));
    let chunks = raw.chunks.len() as u64;
    assert!((chunks - 1) * CHUNK_BYTES < raw.bytes && raw.bytes <= chunks * CHUNK_BYTES, "{chunks} chunks");
    let names: BTreeSet<_> = manifest.parts.keys().collect();
    assert!(names.len() <= PARTS_MAX);
    for word in names.into_iter().chain([&manifest.version, &manifest.flavour, &manifest.kernel]) {
        let is_plain = word.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\\"'$`".contains(&byte));
        assert!(is_plain && (1..=WORD_BYTES_MAX).contains(&word.len()) && !word.starts_with('.'), "{word:?}");
    }
}

fn signed(manifest: &Manifest, data: &[u8], signing: &SigningKey, key: &PublicKey) {
    let sign = |bytes: &[u8]| -> Vec<u8> {
        let signature: Signature = signing.sign(bytes);
        signature.to_der().as_bytes().to_vec()
    };
    let read = verify(data, &sign(data), key).expect("it is signed");
    assert_eq!(&read, manifest);
    let longer = [data, b"\n"].concat();
    for (bytes, signature) in [(data, sign(&longer)), (&longer, sign(data))] {
        assert!(matches!(verify(bytes, &signature, key), Err(ManifestError::Signature)), "another file's signature");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
