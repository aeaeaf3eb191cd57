//! PKCS#7 as firmware reads it: one signer, RSA with SHA-256, the signer's certificate inside.
//!
//! Invariants: no time and no attribute that a second run would change; reading accepts one signer of this kind and
//! nothing else.

use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignedAttributes, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use der::asn1::{ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Decode, Encode};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::attr::Attribute;

use crate::keys::{Pair, RSA_ENCRYPTION, SHA_256, algorithm, is_signed_by};

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");

/// Why a signature proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Not the encoding.
    #[error("the signature is no PKCS#7 signed data")]
    Encoding(#[source] der::Error),
    /// Another content, another algorithm, another number of signers.
    #[error("the signature is of another form: {0}")]
    Form(&'static str),
    /// The content is not what was signed.
    #[error("the signature is for other content")]
    Content,
    /// Not by the key of the certificate.
    #[error("the signature is not by the key of the certificate {subject}")]
    Signer {
        /// Whose signature it should be.
        subject: String,
    },
}

/// A `SignedData` over `message`, without it and without attributes: what an authenticated variable carries.
pub(crate) fn detached(message: &[u8], signer: &Pair) -> Vec<u8> {
    let content = EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: None };
    let signed = signed_data(content, None, signer.sign(message), signer.certificate());
    signed.and_then(|signed| signed.to_der()).expect("all parts have an encoding")
}

/// A `ContentInfo` with `content` of type `kind` inside: what a PE image carries.
pub(crate) fn enclosed(kind: ObjectIdentifier, content: Any, signer: &Pair) -> Vec<u8> {
    let build = || {
        let attributes = attributes(kind, &content)?;
        let signature = signer.sign(&attributes.to_der()?);
        let content = EncapsulatedContentInfo { econtent_type: kind, econtent: Some(content) };
        let signed = signed_data(content, Some(attributes), signature, signer.certificate())?;
        ContentInfo { content_type: ID_SIGNED_DATA, content: Any::encode_from(&signed)? }.to_der()
    };
    build().expect("all parts have an encoding")
}

/// The content of type `kind`, if the key of `certificate` signed it. Errors: all of [`SignatureError`].
pub(crate) fn open(bytes: &[u8], kind: ObjectIdentifier, certificate: &Certificate) -> Result<Any, SignatureError> {
    let info = ContentInfo::from_der(bytes).map_err(SignatureError::Encoding)?;
    if info.content_type != ID_SIGNED_DATA {
        return Err(SignatureError::Form("no signed data"));
    }
    let signed: SignedData = info.content.decode_as().map_err(SignatureError::Encoding)?;
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(SignatureError::Form("not one signer"));
    };
    let content = signed.encap_content_info.econtent.filter(|_| signed.encap_content_info.econtent_type == kind);
    let content = content.ok_or(SignatureError::Form("not a PE image's content"))?;
    if signer.digest_alg.oid != SHA_256 || signer.signature_algorithm.oid != RSA_ENCRYPTION {
        return Err(SignatureError::Form("not RSA with SHA-256"));
    }
    let signed_attributes = signer.signed_attrs.as_ref().ok_or(SignatureError::Form("no signed attributes"))?;
    let expected = attributes(kind, &content).map_err(SignatureError::Encoding)?;
    // Other attributes, such as a time, do no harm; these two carry the meaning.
    if !expected.iter().all(|attribute| signed_attributes.iter().any(|found| found == attribute)) {
        return Err(SignatureError::Content);
    }
    let message = signed_attributes.to_der().map_err(SignatureError::Encoding)?;
    if !is_signed_by(certificate, &message, signer.signature.as_bytes()) {
        let subject = certificate.tbs_certificate.subject.to_string();
        return Err(SignatureError::Signer { subject });
    }
    Ok(content)
}

fn signed_data(
    content: EncapsulatedContentInfo,
    attributes: Option<SignedAttributes>,
    signature: Vec<u8>,
    certificate: &Certificate,
) -> Result<SignedData, der::Error> {
    let sid = SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
        issuer: certificate.tbs_certificate.issuer.clone(),
        serial_number: certificate.tbs_certificate.serial_number.clone(),
    });
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid,
        digest_alg: algorithm(SHA_256),
        signed_attrs: attributes,
        signature_algorithm: algorithm(RSA_ENCRYPTION),
        signature: OctetString::new(signature)?,
        unsigned_attrs: None,
    };
    let certificates = SetOfVec::try_from(vec![CertificateChoices::Certificate(certificate.clone())])?;
    Ok(SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![algorithm(SHA_256)])?,
        encap_content_info: content,
        certificates: Some(CertificateSet(certificates)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![signer])?),
    })
}

/// What content it is, and the digest of its value: without tag and length, as PKCS#7 had it before CMS.
fn attributes(kind: ObjectIdentifier, content: &Any) -> Result<SignedAttributes, der::Error> {
    let attribute = |oid, value: Any| Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? });
    let digest = OctetString::new(Sha256::digest(content.value()).to_vec())?;
    let list: [Result<Attribute, der::Error>; 2] =
        [attribute(CONTENT_TYPE, Any::encode_from(&kind)?), attribute(MESSAGE_DIGEST, Any::encode_from(&digest)?)];
    SetOfVec::try_from(list.into_iter().collect::<Result<Vec<_>, _>>()?)
}
