//! A sealed secret or a wrapped key, as it lies on the disk.

use thiserror::Error;

use crate::template::{self, NAME, PUBLIC_MAX};
use crate::wire::{Reader, Short, Writer};

/// Longest private part that is taken in, bytes. A sealed scalar has 158, a P-256 key 126.
const PRIVATE_MAX: usize = 512;

/// What only the TPM that made it can open, and only under the same storage root key. No secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    public: Vec<u8>,
    private: Vec<u8>,
}

/// Bytes that are no [`Blob`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the bytes are no blob of a TPM: {0}")]
pub struct BlobError(&'static str);

// === impl Blob ===

impl Blob {
    /// Reads what [`Blob::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// With anything else. Damage inside is found by the TPM only.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlobError> {
        let read = || {
            let mut reader = Reader::new(bytes);
            let blob = Self::new(reader.sized()?, reader.sized()?)?;
            reader.end()?;
            Ok(blob)
        };
        read().map_err(|Short(why)| BlobError(why))
    }

    /// TPM2B_PUBLIC and TPM2B_PRIVATE behind each other.
    pub fn to_bytes(&self) -> Vec<u8> {
        Writer::new().sized(&self.public).sized(&self.private).into_bytes()
    }

    /// TPMT_PUBLIC.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Name of the object.
    pub fn name(&self) -> [u8; NAME] {
        template::name(&self.public)
    }

    /// The point of a P-256 key; `None` for a sealed secret.
    pub fn point(&self) -> Option<crate::EcPoint> {
        template::point(&self.public).ok()
    }

    pub(crate) fn new(public: &[u8], private: &[u8]) -> Result<Self, Short> {
        if public.is_empty() || private.is_empty() {
            return Err(Short("a part of it is empty"));
        }
        if public.len() > PUBLIC_MAX || private.len() > PRIVATE_MAX {
            return Err(Short("a part of it is too long"));
        }
        Ok(Self { public: public.to_vec(), private: private.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_bytes_are_refused() {
        let whole = Blob { public: vec![1; 80], private: vec![2; 160] }.to_bytes();
        assert!(Blob::from_bytes(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(Blob::from_bytes(&whole[..length]).is_err(), "{length}");
        }
        let mut long = whole;
        long.push(0);
        assert_eq!(Blob::from_bytes(&long), Err(BlobError("something follows its end")));
        assert_eq!(Blob::from_bytes(&[0, 0, 0, 1, 9]), Err(BlobError("a part of it is empty")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            public in prop::collection::vec(any::<u8>(), 1..PUBLIC_MAX),
            private in prop::collection::vec(any::<u8>(), 1..PRIVATE_MAX),
        ) {
            let blob = Blob { public, private };
            prop_assert_eq!(Blob::from_bytes(&blob.to_bytes()), Ok(blob));
        }
    }
}
