//! Ties a software key to the machine around it: a key-encryption key that comes back only among enough of the fields
//! that it was bound to.
//!
//! This is **clone detection**, not protection. A copied stick opens nothing in a machine that lacks the fields; who is
//! root on the rig reads every field, who runs a job on it some of them, and either can make another machine show them.
//!
//! # How
//!
//! A key of `n` fields needs `k = n / 2 + 1` of them. Everything is in the field of secp256k1's scalars,:
//!
//! 1. Each field is stretched: `Argon2id(salt, kind|value)` gives a place `x` and a mask `m`. One salt for all.
//! 2. A random polynomial `P` of `k` coefficients is drawn. `P(0)` is the secret; the key and the check derive from it.
//! 3. `D`, the one polynomial of `n` coefficients with `D(x) = P(x) + m` at every field, is stored, with the check.
//!
//! Opening takes the fields that are here, in any order: each gives a point `(x, D(x) - m)`, on `P` if the field was
//! bound and anywhere if not. Choices of `k` points are tried until the check holds. With `P` known the matching fields
//! are counted, and the caller binds anew where they are not all.
//!
//! So there are no slots: twelve GPUs in other places give the same twelve points. And there is nothing to compare a
//! single field with: to who does not know the fields, `D` is `n` random numbers, and names neither kinds nor places.
//!
//! Why not the usual shares over GF(256), each encrypted under one field: a share has to find its field again among
//! twelve parts of a kind. A tag on each share would tell a guesser as many bits as it has; a salt for each share, and
//! a trial of each share with each part, would be 144 runs of the slow function. A field of 256 bits has room to derive
//! the place on the polynomial from the hardware field itself. Its arithmetic is `k256`'s, which the rig signs with
//! anyway.
//!
//! # What a guesser pays
//!
//! With the stick and fewer than `k` fields, every guess of one field costs one Argon2id of 19 MiB and two passes: 22
//! ms, measured on one busy core of a server (AMD EPYC), and by count some 100 MB of memory traffic, so that a GPU of 1
//! TB/s does at most ten thousand in a second. Who has `k - 1` fields needs one more of the `n - k + 1` others, any
//! one:
//!
//! | missing field | guesses | one core | such a card, at least |
//! |---|---|---|---|
//! | MAC, maker known | 2^24 | 4.3 days | 28 minutes |
//! | serial with eight unknown digits | 10^8 | 25 days | 2.8 hours |
//! | GPU id, random UUID | 2^122 | - | - |
//!
//! So a MAC or a serial alone stops nobody who has all the rest; an id with entropy does, while it is unknown. Who
//! lacks two pays Argon2id for each list of guesses once, not for each pair, and some 10 µs of arithmetic for each
//! pair: 2^48 pairs of two MACs are ninety core-years with this code, and fewer with better. The parameters are where a
//! start with sixteen fields takes half a second on that core; ten times as much would not move any line of the table
//! to safety.

use std::fmt;

use hkdf::Hkdf;
use k256::Scalar;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::fields::Fields;

mod encoding;
mod polynomial;
mod search;
mod stretch;

pub use encoding::Malformed;

/// Fewer fields bind nothing: of two, one would do.
pub const FIELDS_MIN: usize = 3;

/// Bytes of a salt: twice what Argon2 asks for, so that no two bindings share a table of guesses.
const SALT_BYTES: usize = 32;

/// The key that encrypts what is bound.
pub struct Kek(Zeroizing<[u8; 32]>);

/// What is stored: the salt, a polynomial, and a check of the key as a whole. It names no field and no kind.
#[derive(Clone, PartialEq, Eq)]
pub struct Bound {
    salt: [u8; SALT_BYTES],
    /// From the constant up, one for each field, [`FIELDS_MIN`] to [`crate::fields::FIELDS_MAX`] of them.
    coefficients: Vec<Scalar>,
    check: [u8; 32],
}

/// A machine without enough fields is not bound to, and nobody should say that it is.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Too few fields carry a value that tells machines apart.
    #[error(
        "only {usable} hardware fields of this machine tell it from others, {needed} are needed to bind a key to it"
    )]
    TooFewFields {
        /// How many there are.
        usable: u8,
        /// How many there would have to be: [`FIELDS_MIN`].
        needed: u8,
    },
    /// The system gave no random bytes.
    #[error("draw random bytes for a binding")]
    Random(#[source] getrandom::Error),
}

/// The key, and how the machine has changed since it was bound.
#[derive(Debug)]
pub struct Opened {
    /// The key.
    pub kek: Kek,
    /// How many of the fields that it was bound to are here.
    pub matched: u8,
    /// How many it was bound to.
    pub of: u8,
    /// Whether a field went or came. Then [`bind`] again and encrypt anew, so that the next change is borne too.
    pub has_drifted: bool,
}

/// Another machine, or one that changed too much at once. How many fields matched cannot be known: what tells a right
/// field from a wrong one would tell it to a guesser too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "of the {of} hardware fields that the key is bound to, fewer than the needed {needed} are among the {present} here"
)]
pub struct Broken {
    /// How many fields this machine has.
    pub present: u8,
    /// How many the key was bound to.
    pub of: u8,
    /// How many of those must be here.
    pub needed: u8,
}

/// Binds a new random key to `fields`. Takes an Argon2id for each field.
///
/// Errors: too few fields, or no randomness; nothing is bound then.
pub fn bind(fields: &Fields) -> Result<(Bound, Kek), BindError> {
    bind_with(fields, getrandom::fill)
}

/// Opens `bound` with what this machine has. Takes an Argon2id for each field, and a search of at most
/// `search::COMBINATIONS_MAX` steps.
///
/// Errors: fewer than the needed fields are here.
pub fn open(bound: &Bound, fields: &Fields) -> Result<Opened, Broken> {
    let broken = Broken { present: fields.count(), of: bound.fields(), needed: bound.needed() };
    let needed = usize::from(bound.needed());
    if fields.present().len() < needed {
        return Err(broken);
    }
    let points = stretch::points(fields, &bound.salt, |point| {
        // What was added at this place when the field was bound.
        polynomial::evaluate(&bound.coefficients, point.x) - point.mask
    });
    let body = encoding::digest(bound);
    let is_right = |secret: &Scalar| Keys::derive(&bound.salt, secret).check(&body) == bound.check;
    let found = search::search(&points, needed, is_right).ok_or(broken)?;
    let matched = u8::try_from(found.matched).unwrap_or(u8::MAX);
    let has_drifted = matched != bound.fields() || fields.count() != bound.fields();
    let kek = Keys::derive(&bound.salt, &found.secret).kek();
    Ok(Opened { kek, matched, of: bound.fields(), has_drifted })
}

fn bind_with(
    fields: &Fields,
    mut random: impl FnMut(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<(Bound, Kek), BindError> {
    let count = fields.present().len();
    if count < FIELDS_MIN {
        let needed = u8::try_from(FIELDS_MIN).unwrap_or(u8::MAX);
        return Err(BindError::TooFewFields { usable: fields.count(), needed });
    }
    let mut salt = [0; SALT_BYTES];
    random(&mut salt).map_err(BindError::Random)?;
    let mut secret = Zeroizing::new(Vec::new());
    for _ in 0..majority(count) {
        let mut bytes = Zeroizing::new([0; 32]);
        random(bytes.as_mut_slice()).map_err(BindError::Random)?;
        secret.push(polynomial::reduce(&bytes));
    }
    let points = stretch::points(fields, &salt, |point| polynomial::evaluate(&secret, point.x) + point.mask);
    let coefficients = polynomial::interpolate(&points);
    let mut bound = Bound { salt, coefficients, check: [0; 32] };
    let keys = Keys::derive(&salt, &secret[0]);
    bound.check = keys.check(&encoding::digest(&bound));
    Ok((bound, keys.kek()))
}

/// More than half.
fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// What is derived from the secret at zero.
struct Keys(Hkdf<Sha256>);

// === impl Keys ===

impl Keys {
    fn derive(salt: &[u8; SALT_BYTES], secret: &Scalar) -> Self {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(secret.to_bytes().into());
        Self(Hkdf::new(Some(salt), secret.as_slice()))
    }

    fn kek(&self) -> Kek {
        let mut kek = Zeroizing::new([0; 32]);
        self.0.expand(b"rig binding 1 kek", kek.as_mut_slice()).expect("HKDF gives up to 8160 bytes");
        Kek(kek)
    }

    /// Ties the key to everything that is stored beside it.
    fn check(&self, body: &[u8; 32]) -> [u8; 32] {
        let mut check = [0; 32];
        let info: [&[u8]; 2] = [b"rig binding 1 check", body];
        self.0.expand_multi_info(&info, &mut check).expect("HKDF gives up to 8160 bytes");
        check
    }
}

// === impl Kek ===

impl Kek {
    /// The key, for an AEAD.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(_)")
    }
}

// === impl Bound ===

impl Bound {
    /// How many fields it was bound to.
    pub fn fields(&self) -> u8 {
        u8::try_from(self.coefficients.len()).unwrap_or(u8::MAX)
    }

    /// How many of them open it.
    pub fn needed(&self) -> u8 {
        u8::try_from(majority(self.coefficients.len())).unwrap_or(u8::MAX)
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("fields", &self.fields()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
