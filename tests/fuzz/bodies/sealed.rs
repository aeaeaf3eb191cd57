//! Any bytes as a key file and as a document of approvals: as they are, and as a key file with a checksum that matches
//! them, which no fuzzer comes to by itself.

use ::identity::file::{Body, FILE_BYTES_MAX, KeyFile};
use ::identity::{Approvals, Tier, VendorKey};
use sha2::{Digest, Sha256};

/// The public half of some key: it signed nothing here.
const VENDOR: &str = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";

/// Reads `data` as each of them.
pub(crate) fn run(data: &[u8]) {
    key(data);
    key(&[data, &Sha256::digest(data)].concat());
    approvals(data);
}

fn key(data: &[u8]) {
    match KeyFile::parse(data) {
        Ok(file) => {
            assert!(data.len() <= FILE_BYTES_MAX);
            assert_eq!(file.to_bytes()[..], *data, "a key file has one encoding");
            match file.body() {
                Body::First(scalar) | Body::Plain(scalar) => {
                    assert_eq!((scalar.address(), file.tier()), (file.address(), Tier::N));
                }
                Body::Bound { fields, .. } => assert!(*fields > 0 && file.tier() == Tier::N),
                Body::Sealed(sealed) => {
                    assert!(sealed.tier.needs_tpm());
                    let _ = tpm::Blob::from_bytes(&sealed.blob);
                }
            }
        }
        Err(damage) => assert!(!damage.to_string().is_empty()),
    }
}

fn approvals(data: &[u8]) {
    match Approvals::parse(data) {
        Ok(approvals) => {
            let again = Approvals::parse(approvals.to_json().as_bytes()).expect("its own document");
            assert_eq!(again, approvals);
            let vendor: VendorKey = VENDOR.parse().expect("a point");
            assert!(approvals.verify(&vendor).is_err() || approvals.list().is_empty());
            assert!(approvals.list().iter().all(|approval| approval.measured().tier.needs_approval()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
