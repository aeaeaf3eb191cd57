//! The request for a TLS certificate: signed by the TLS key, and for it.

use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::oid;
use x509_parser::prelude::FromDer;

use crate::keys::TlsKey;

/// A request that is not the TLS key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestFault {
    /// Not PKCS#10, or something follows it.
    #[error("the certificate request cannot be read")]
    Unreadable,
    /// For another key than the one that was certified.
    #[error("the certificate request is for another key than the certified one")]
    OtherKey,
    /// Not signed by its own key, or not with ECDSA and SHA-256.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

// === impl TlsKey ===

impl TlsKey {
    /// Whether `der` is a request for this key, signed by it. What else it asks for is for the issuer to set; an issuer
    /// takes the key and nothing else from it. Errors: [`RequestFault`].
    pub fn requested(&self, der: &[u8]) -> Result<(), RequestFault> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestFault::Unreadable)?;
        if !rest.is_empty() {
            return Err(RequestFault::Unreadable);
        }
        let key = &request.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let is_p256 = key.algorithm.algorithm == oid!(1.2.840.10045.2.1) && curve == Some(oid!(1.2.840.10045.3.1.7));
        if !is_p256 || *key.subject_public_key.data != self.sec1() {
            return Err(RequestFault::OtherKey);
        }
        let is_ecdsa = request.signature_algorithm.algorithm == oid!(1.2.840.10045.4.3.2)
            && request.signature_value.unused_bits == 0;
        match is_ecdsa && request.verify_signature().is_ok() {
            true => Ok(()),
            false => Err(RequestFault::Signature),
        }
    }
}
