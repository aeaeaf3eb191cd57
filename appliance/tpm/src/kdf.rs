//! Key derivation of the TPM library, part 1, annexes B and C, with SHA-256.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub(crate) type Key = Zeroizing<[u8; 32]>;

/// KDFa, for up to 256 bits: SP 800-108 in counter mode with HMAC.
pub(crate) fn kdfa(key: &[u8], label: &str, context_u: &[u8], context_v: &[u8], bits: u16) -> Key {
    debug_assert!(bits <= 256);
    let counter = 1_u32.to_be_bytes();
    let bits = u32::from(bits).to_be_bytes();
    hmac(key, &[&counter, label.as_bytes(), &[0], context_u, context_v, &bits])
}

/// KDFe, for 256 bits: SP 800-56A with a hash. `z` is the x of the shared point.
pub(crate) fn kdfe(z: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Key {
    let hash = Sha256::new().chain_update(1_u32.to_be_bytes()).chain_update(z);
    let hash = hash.chain_update(label).chain_update([0]).chain_update(party_u).chain_update(party_v);
    Zeroizing::new(hash.finalize().into())
}

/// HMAC-SHA-256 over parts.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    Zeroizing::new(mac(key, parts).finalize().into_bytes().into())
}

/// Whether `tag` is that HMAC, in constant time.
pub(crate) fn is_hmac(key: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    mac(key, parts).verify_slice(tag).is_ok()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}
