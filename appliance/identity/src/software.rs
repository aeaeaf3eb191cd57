//! Tier N: a key in a file, encrypted under what the hardware fields of this machine give, or plain where there are too
//! few of them.
//!
//! This is clone detection: a copied disk does not open in most other machines. Whoever is root here can read the
//! fields and take them along.
//!
//! The key of the fields is drawn anew at each wrap and encrypts one scalar once, so that the nonce may be constant.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

use crate::binding::{self, BindError, Bound, Kek, Malformed};
use crate::fields::Fields;
use crate::file::{self, Body, Damage, KeyFile};
use crate::secret::Scalar;
use crate::{IdentityError, Tier};

/// Zero: see above.
type Nonce = aes_gcm::Nonce<<Aes256Gcm as aes_gcm::AeadCore>::NonceSize>;

/// Why a bound key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too few of the fields are here.
    Broken,
    /// The file holds something else than was written.
    Damaged(Damage),
}

/// Wraps for the machine with these `fields`. Errors: `Random`.
pub(crate) fn wrap(scalar: Scalar, generation: u32, fields: &Fields) -> Result<KeyFile, IdentityError> {
    let address = scalar.address();
    let body = match binding::bind(fields) {
        Ok((bound, kek)) => {
            let sealed = seal(&kek, &file::header(Tier::N, generation, address, bound.fields()), &scalar);
            Body::Bound { fields: bound.fields(), binding: bound.to_bytes(), sealed }
        }
        Err(error @ BindError::TooFewFields { .. }) => {
            tracing::warn!(error = %error, "key bound to nothing");
            Body::Plain(scalar)
        }
        Err(BindError::Random(source)) => return Err(IdentityError::Random(source.into())),
    };
    Ok(KeyFile::new(address, generation, body))
}

/// The scalar of a bound key, and whether the fields changed since it was bound.
pub(crate) fn unwrap(
    file: &KeyFile,
    binding: &[u8],
    sealed: &[u8],
    fields: &Fields,
) -> Result<(Scalar, bool), Refusal> {
    let bound = Bound::parse(binding).map_err(|malformed| {
        Refusal::Damaged(match malformed {
            Malformed::Version(version) => Damage::Future { version },
            Malformed::Foreign
            | Malformed::Fields(_)
            | Malformed::Length { .. }
            | Malformed::Damaged
            | Malformed::Coefficient(_) => Damage::Part { part: "binding" },
        })
    })?;
    let opened = binding::open(&bound, fields).map_err(|_| Refusal::Broken)?;
    let payload = Payload { msg: sealed, aad: &file.header() };
    let plain = cipher(&opened.kek).decrypt(&Nonce::default(), payload);
    let plain = Zeroizing::new(plain.map_err(|_| Refusal::Damaged(Damage::Part { part: "key" }))?);
    let scalar = Scalar::from_slice(&plain).ok_or(Refusal::Damaged(Damage::Scalar))?;
    match scalar.address() == file.address() {
        true => Ok((scalar, opened.has_drifted)),
        false => Err(Refusal::Damaged(Damage::Address)),
    }
}

fn seal(kek: &Kek, header: &[u8], scalar: &Scalar) -> Vec<u8> {
    let payload = Payload { msg: scalar.bytes(), aad: header };
    cipher(kek).encrypt(&Nonce::default(), payload).expect("32 bytes can be encrypted")
}

fn cipher(kek: &Kek) -> Aes256Gcm {
    Aes256Gcm::new(kek.as_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Kind;

    fn machine(parts: &[&str]) -> Fields {
        Fields::from_readings(parts.iter().map(|serial| (Kind::Disk, *serial)))
    }

    fn scalar() -> Scalar {
        Scalar::from_slice(&[7; 32]).expect("a key")
    }

    fn open(file: &KeyFile, fields: &Fields) -> Result<(Scalar, bool), Refusal> {
        match file.body() {
            Body::Bound { binding, sealed, .. } => unwrap(file, binding, sealed, fields),
            Body::First(_) | Body::Plain(_) | Body::Sealed(_) => panic!("it is not bound"),
        }
    }

    #[test]
    fn a_bound_key_opens_in_its_machine_and_in_no_other() {
        let here = machine(&["S5GXNX0T1", "S5GXNX0T2", "S5GXNX0T3"]);
        let file = wrap(scalar(), 4, &here).expect("wrapped");
        assert_eq!((file.body().fields(), file.tier(), file.generation()), (3, Tier::N, 4));
        let bytes = file.to_bytes();
        assert!(!bytes.windows(32).any(|window| window == scalar().bytes()));
        let file = KeyFile::parse(&bytes).expect("whole");
        assert_eq!(open(&file, &here), Ok((scalar(), false)));
        let changed = machine(&["S5GXNX0T1", "S5GXNX0T2", "S5GXNX0T9"]);
        assert_eq!(open(&file, &changed), Ok((scalar(), true)));
        let other = machine(&["S5GXNX0T1", "S5GXNX0T8", "S5GXNX0T9"]);
        assert_eq!(open(&file, &other), Err(Refusal::Broken));
    }

    #[test]
    fn a_machine_with_too_few_fields_binds_nothing_and_says_so() {
        let file = wrap(scalar(), 0, &machine(&["S5GXNX0T1", "S5GXNX0T2"])).expect("wrapped");
        assert!(matches!(file.body(), Body::Plain(found) if *found == scalar()));
        assert_eq!(file.body().fields(), 0);
    }

    #[test]
    fn a_header_that_was_exchanged_is_noticed() {
        let here = machine(&["S5GXNX0T1", "S5GXNX0T2", "S5GXNX0T3"]);
        let file = wrap(scalar(), 4, &here).expect("wrapped");
        let Body::Bound { fields, binding, sealed } = file.body() else { panic!("it is bound") };
        for (address, generation) in [(file.address(), 5), ([1; 20], 4)] {
            let body = Body::Bound { fields: *fields, binding: binding.clone(), sealed: sealed.clone() };
            let other = KeyFile::new(address, generation, body);
            assert_eq!(open(&other, &here), Err(Refusal::Damaged(Damage::Part { part: "key" })));
        }
    }
}
