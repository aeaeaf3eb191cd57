//! From an endorsement key's certificate to a trusted root.
//!
//! Invariants: at most [`MAX_CERTIFICATES`] steps, each takes a certificate that was not taken yet, so it ends; a
//! certificate counts as an issuer only after its signature was checked.

use x509_parser::der_parser::oid;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::{ChainFault, words};
use crate::evidence::MAX_CERTIFICATES;

/// The name of the root that `leaf` leads to at `now`, Unix seconds, through some of `given`.
pub(super) fn follow<'a>(
    leaf: &X509Certificate<'a>,
    mut given: Vec<X509Certificate<'a>>,
    roots: &[X509Certificate<'_>],
    now: i64,
) -> Result<String, ChainFault> {
    let mut below = leaf.clone();
    for depth in 0..MAX_CERTIFICATES {
        valid(&below, now)?;
        let issuer = words::of(below.issuer());
        let mut unsigned = None;
        for root in roots.iter().filter(|root| root.subject().as_raw() == below.issuer().as_raw()) {
            match signed(&below, root) {
                Ok(()) => return may_issue(root, depth).map(|()| words::of(root.subject())),
                Err(fault) => unsigned = Some(fault),
            }
        }
        let named = |it: &X509Certificate<'_>| it.subject().as_raw() == below.issuer().as_raw();
        let next = given.iter().position(|it| named(it) && signed(&below, it).is_ok());
        let Some(next) = next else {
            let is_there = given.iter().find(|it| named(it));
            let fault = is_there.and_then(|it| signed(&below, it).err()).or(unsigned);
            return Err(fault.unwrap_or(ChainFault::UnknownIssuer { issuer }));
        };
        let next = given.swap_remove(next);
        may_issue(&next, depth)?;
        below = next;
    }
    Err(ChainFault::TooLong)
}

fn signed(below: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<(), ChainFault> {
    let is_trusted = below.signature_algorithm == below.tbs_certificate.signature
        && is_strong(&below.signature_algorithm.algorithm)
        && below.signature_value.unused_bits == 0
        && below.verify_signature(Some(issuer.public_key())).is_ok();
    match is_trusted {
        true => Ok(()),
        false => {
            Err(ChainFault::Signature { issuer: words::of(issuer.subject()), subject: words::of(below.subject()) })
        }
    }
}

/// The library would also take SHA-1, under which two certificates can be made that share a signature.
fn is_strong(algorithm: &Oid<'_>) -> bool {
    let strong = [
        oid!(1.2.840.113549.1.1.11), // RSA with SHA-256
        oid!(1.2.840.113549.1.1.12), // RSA with SHA-384
        oid!(1.2.840.113549.1.1.13), // RSA with SHA-512
        oid!(1.2.840.113549.1.1.10), // RSA-PSS; the library takes no SHA-1 there
        oid!(1.2.840.10045.4.3.2),   // ECDSA with SHA-256
        oid!(1.2.840.10045.4.3.3),   // ECDSA with SHA-384
    ];
    strong.contains(algorithm)
}

fn valid(certificate: &X509Certificate<'_>, now: i64) -> Result<(), ChainFault> {
    let subject = || words::of(certificate.subject());
    let validity = certificate.validity();
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now) {
        let words = |time: ASN1Time| time.to_string();
        let (from, until) = (words(validity.not_before), words(validity.not_after));
        return Err(ChainFault::NotValidNow { subject: subject(), from, until });
    }
    let mut seen: Vec<&Oid<'_>> = Vec::new();
    for extension in certificate.extensions() {
        let is_twice = seen.contains(&&extension.oid);
        if (extension.critical && !is_known(&extension.oid)) || is_twice {
            return Err(ChainFault::Critical { subject: subject(), oid: extension.oid.to_id_string() });
        }
        seen.push(&extension.oid);
    }
    Ok(())
}

/// Extensions that are looked at here or in the profile, or that bind nobody who checks no policies.
fn is_known(extension: &Oid<'_>) -> bool {
    let known = [
        oid!(2.5.29.14), // subject key identifier
        oid!(2.5.29.15), // key usage
        oid!(2.5.29.17), // subject alternative name
        oid!(2.5.29.19), // basic constraints
        oid!(2.5.29.32), // certificate policies
        oid!(2.5.29.35), // authority key identifier
        oid!(2.5.29.37), // extended key usage
    ];
    known.contains(extension)
}

/// Whether `issuer` may have issued a certificate with `below` other issuers between it and the endorsement key.
fn may_issue(issuer: &X509Certificate<'_>, below: usize) -> Result<(), ChainFault> {
    let wrong = |why| Err(ChainFault::NotAnIssuer { subject: words::of(issuer.subject()), why });
    let Ok(Some(constraints)) = issuer.basic_constraints() else {
        return wrong("it does not say that it is a certificate authority's");
    };
    if !constraints.value.ca {
        return wrong("it is no certificate authority's");
    }
    let longest = constraints.value.path_len_constraint.and_then(|longest| usize::try_from(longest).ok());
    if longest.is_some_and(|longest| below > longest) {
        return wrong("its chain may not be that long");
    }
    match issuer.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => wrong("its key is not for certificates"),
        Ok(_) => Ok(()),
        Err(_) => wrong("the use of its key cannot be read"),
    }
}
