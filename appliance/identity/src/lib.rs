//! The provider key: born on the rig, bound to its hardware, replaced when the hardware goes.
//!
//! For: one call, [`open`], that comes to a key that can be used, or to the reason why there is none. The reason is a
//! [`KeyState`], never a crash: boards lose their TPM in a firmware update, and a rig goes on living.
//!
//! Owns: the state directory with `provider.key`, `successor.key`, `tls.key` and `retired/`, and their formats. What
//! holds there: a file is whole or absent; a key is never overwritten but by itself, wrapped anew; a damaged file is
//! named and kept; a successor takes the provider's place only when it is first used.
//!
//! Never: talks to a network, prints or logs a secret, takes ownership of a TPM, changes the tier of a key in silence.
//! Only the signer may depend on it.
//!
//! Read first: [`life`], which decides; then `open`, which performs; then `file`, which is what stays.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub mod approval;
pub mod binding;
mod birth;
mod change;
pub mod fields;
pub mod file;
mod firmware;
pub mod life;
mod open;
mod rig;
mod secret;
mod software;
mod store;
mod tier;
mod tls;

pub use approval::{Approval, ApprovalError, Approvals, VendorKey};
pub use change::{ChangeError, change_tier, confirm_release};
pub use life::KeyState;
pub use open::open;
pub use secret::Scalar;
pub use store::{Claim, Succession};
pub use tier::{Tier, Wish};
pub use tls::{TlsError, TlsKey};

/// An account's address on the chain.
pub type Address = [u8; 20];

/// Where the key is, what may protect it, and what the owner wishes.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state directory; made with mode 0700 if it is missing.
    pub state: PathBuf,
    /// The TPM to ask. `None`: this rig is told to have none.
    pub tpm: Option<tpm::Place>,
    /// What `sys` and `proc` are read under: `/` on a rig.
    pub hardware: PathBuf,
    /// The tier of a key that is born now. A key that exists keeps its own.
    pub wish: Wish,
    /// The vendor's key for PCR policies. Tiers S and 4 need it.
    pub vendor: Option<VendorKey>,
    /// The vendor's approvals. Read only for tiers S and 4; a missing file is an empty one.
    pub approvals: Option<PathBuf>,
    /// Counts the owner's requests for a new key. A key of a smaller generation is replaced.
    pub generation: u32,
}

/// A key that signs.
pub struct Opened {
    /// The secp256k1 scalar, big endian.
    pub scalar: Zeroizing<[u8; 32]>,
    /// The scalar's address.
    pub address: Address,
    /// What protects it at rest.
    pub tier: Tier,
    /// Hardware fields that it is bound to. Tier N only; zero: bound to nothing.
    pub fields: u8,
    /// The owner's request that it was born for.
    pub generation: u32,
    /// The TLS key that goes with it.
    pub tls: TlsKey,
}

/// What [`open`] came to.
#[derive(Debug)]
pub struct Outcome {
    /// Who signs: the provider key, or its successor. `None`: nothing signs in this `state`; see
    /// [`KeyState::passes_with_time`].
    pub active: Option<Opened>,
    /// [`KeyState::Open`], or why the provider key is not used.
    pub state: KeyState,
    /// The provider key that is not used, where its address can be read.
    pub replaces: Option<Address>,
    /// With a successor in `active`: what makes it the provider key. Call it before the first signature leaves.
    pub succession: Option<Succession>,
    /// The connection to the TPM, where one answers: a TPM behind a socket has but one.
    pub tpm: Option<tpm::Tpm>,
}

/// What stands in the way of knowing the state at all. Nothing is repaired in silence: a wrong guess would cost the
/// provider's identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A step on a file or directory went wrong.
    #[error("{step} {}", path.display())]
    File {
        /// What was tried, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may read the key, or have read it.
    #[error(
        "{} can be used by others (mode {mode:03o}, user {uid}): it must be a plain file of user {own} with mode 600; \
         if nobody else could read it, `chown {own}` and `chmod 600` it, otherwise move to a new key", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Who it should belong to.
        own: u32,
    },
    /// Others may replace the key.
    #[error("{} is writable by others (mode {mode:03o}), who could replace the key: `chmod 700` it", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another signer runs on this state directory.
    #[error("{} is in use by another signer: stop that one first", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("draw a key from the system's random numbers")]
    Random(#[source] io::Error),
    /// The owner asks for a tier that needs a vendor's key, and none is configured.
    #[error("tier {wish} needs the vendor's key for PCR policies: configure it, or choose tier B")]
    NoVendor {
        /// What was asked for.
        wish: Wish,
    },
    /// The approvals cannot be used.
    #[error("read the approvals in {}", path.display())]
    Approvals {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ApprovalError>,
    },
    /// The TPM refused something that no state stands for.
    #[error("{step}")]
    Tpm {
        /// What was tried, as a verb.
        step: &'static str,
        /// What the TPM said.
        #[source]
        source: tpm::Fault,
    },
}

// === impl Opened ===

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("address", &hex::encode(self.address))
            .field("tier", &self.tier)
            .field("fields", &self.fields)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
