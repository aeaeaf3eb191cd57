//! Any bytes as a TPM's answer to one of our commands, which the first byte chooses; and as what came from a TPM once and
//! lies on the disk or goes to a verifier.

use ::tpm::answer::{Asked, understand};
use ::tpm::{Blob, EcPoint, EcSignature, Fault};

/// What the kernel's driver gives at most.
const FRAME_BYTES_MAX: usize = 4096;

/// Reads `data` as both.
pub(crate) fn run(data: &[u8]) {
    if let Some((first, frame)) = data.split_first() {
        let asked = Asked::ALL[usize::from(*first) % Asked::ALL.len()];
        match understand(asked, frame) {
            Ok(()) => {
                assert!(frame.len() <= FRAME_BYTES_MAX);
                assert_eq!(frame[2..6], u32::try_from(frame.len()).expect("short").to_be_bytes());
                assert_eq!(frame[6..10], [0; 4], "a refusal is none");
            }
            Err(fault) => {
                let _ = fault.meaning();
                assert!(!fault.to_string().is_empty());
                let is_known = matches!(fault, Fault::Refused { .. } | Fault::Nonsense { .. } | Fault::Io { .. });
                assert!(is_known, "an answer comes to something else: {fault:?}");
            }
        }
    }
    if let Ok(blob) = Blob::from_bytes(data) {
        assert_eq!(blob.to_bytes(), data, "a blob has one encoding");
        if let Some(point) = blob.point() {
            let is_on_curve = point.public_key().is_some();
            assert_eq!(EcPoint::from_sec1(&point.to_sec1()), is_on_curve.then_some(point));
        }
    }
    if let Some(signature) = EcSignature::from_wire(data) {
        assert_eq!(EcSignature::from_bytes(&signature.to_bytes()), signature);
    }
}
