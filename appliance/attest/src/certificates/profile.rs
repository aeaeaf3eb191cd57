//! Whether a certificate is one of an endorsement key, and of which.

use p256::PublicKey;
use rsa::RsaPublicKey;
use rsa::pkcs1::DecodeRsaPublicKey;
use x509_parser::der_parser::oid;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{ChainFault, words};
use crate::keys::{EndorsementKey, EndorsementNumbers};

/// Whether `found` is the key `ek`. Some makers write an RSA key down as one for OAEP.
pub(super) fn is_of(found: &SubjectPublicKeyInfo<'_>, ek: &EndorsementKey) -> bool {
    let kind = &found.algorithm.algorithm;
    let bits = &found.subject_public_key.data;
    match &ek.key {
        EndorsementNumbers::Rsa2048(key) => {
            let is_rsa = *kind == oid!(1.2.840.113549.1.1.1) || *kind == oid!(1.2.840.113549.1.1.7);
            is_rsa && RsaPublicKey::from_pkcs1_der(bits).is_ok_and(|found| found == *key)
        }
        EndorsementNumbers::P256(key) => {
            let curve = found.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let is_p256 = *kind == oid!(1.2.840.10045.2.1) && curve == Some(oid!(1.2.840.10045.3.1.7));
            is_p256 && PublicKey::from_sec1_bytes(bits).is_ok_and(|found| found == *key)
        }
    }
}

/// Whether `leaf` says that it is an endorsement key's: by its purpose, or, where it names none, by the TPM's model.
/// Without this, a certificate of any other key that a root issued would do. Source: TCG EK Credential Profile.
pub(super) fn endorsement(leaf: &X509Certificate<'_>) -> Result<(), ChainFault> {
    let wrong = |why| Err(ChainFault::NotEndorsement { why });
    if leaf.is_ca() {
        return wrong("it is a certificate authority's");
    }
    let Ok(purposes) = leaf.extended_key_usage() else {
        return wrong("its purposes cannot be read");
    };
    match purposes {
        Some(purposes) if purposes.value.other.contains(&oid!(2.23.133.8.1)) => {}
        Some(_) => return wrong("its purposes are others"),
        None if words::model(leaf).is_some() => {}
        None => return wrong("it names neither that purpose nor a TPM's model"),
    }
    match leaf.key_usage() {
        Ok(Some(usage)) if !usage.value.key_encipherment() && !usage.value.key_agreement() => {
            wrong("its key is not for encryption")
        }
        Ok(_) => Ok(()),
        Err(_) => wrong("the use of its key cannot be read"),
    }
}
