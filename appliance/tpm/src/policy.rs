//! Policy digests by calculation: part 1 of the TPM library, "Enhanced Authorization".
//!
//! Invariant: a digest comes from what the policy says, never from a trial session: a TPM without a SHA-256 bank would
//! give a trial session a digest that binds nothing, while a calculated one then fails to match.
//!
//! The policies of the tiers, with [`PolicyDigest`]'s methods in the order in which a session runs them:
//!
//! ```text
//! B  PolicyDigest::EMPTY.unseal_only()
//! S  approved = EMPTY.pcr(11, 12).counter_at_most(N); sealed under EMPTY.authorize(vendor, "..").pcr(7)
//! 4  approved = EMPTY.pcr(4, 11, 12).counter_at_most(N); sealed under EMPTY.authorize(vendor, "..")
//! ```
//!
//! The vendor signs [`approval`] of the approved digest, with plain ECDSA on P-256.

use std::fmt;

use sha2::{Digest, Sha256};
use tpm2_protocol::data::TpmCc;

use crate::wire::Writer;
use crate::{EcPoint, PcrValues, Pcrs, nv, template};

/// TPM_EO_UNSIGNED_LE: what the index holds is at most the operand.
pub(crate) const UNSIGNED_LE: u16 = 9;
/// Longest policy reference, bytes: TPM2B_NONCE of a TPM whose largest digest is SHA-256.
pub const POLICY_REF_MAX: usize = 32;

/// A SHA-256 policy digest: the state of a session after its policy commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyDigest([u8; 32]);

/// A counter and what it may show at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterLimit {
    /// NV index, made by [`crate::Tpm::define_counter`].
    pub index: u32,
    /// The last count with which the release still opens.
    pub at_most: u64,
}

/// What an approved policy asks of the machine: measurements, then the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Steps {
    /// PCRs that must have the approved values.
    pub pcrs: Pcrs,
    /// What the counter may show. `None`: the policy has no such step.
    pub counter: Option<CounterLimit>,
}

/// Name of a vendor's key, as a policy has it.
pub fn vendor_name(vendor: &EcPoint) -> [u8; 34] {
    template::name(&vendor.as_verification_key())
}

/// TPMT_PUBLIC of a vendor's key: P-256, ECDSA with SHA-256, `sign | userWithAuth`.
pub fn vendor_public(vendor: &EcPoint) -> Vec<u8> {
    vendor.as_verification_key()
}

/// The SHA-256 digest that the vendor signs to approve a policy: over the policy's digest and the reference.
pub fn approval(approved: &PolicyDigest, policy_ref: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(approved.0).chain_update(policy_ref).finalize().into()
}

// === impl Steps ===

impl Steps {
    /// The digest that the vendor approves: these steps with the values that the release measures.
    pub fn digest(&self, values: &PcrValues) -> PolicyDigest {
        let measured = PolicyDigest::EMPTY.pcr(values);
        match self.counter {
            Some(limit) => measured.counter_at_most(limit),
            None => measured,
        }
    }
}

// === impl PolicyDigest ===

impl PolicyDigest {
    /// The digest of a session that ran nothing.
    pub const EMPTY: Self = Self([0; 32]);

    /// A digest from elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// PolicyCommandCode(Unseal): whoever reaches this TPM may unseal, and do nothing else.
    #[must_use]
    pub fn unseal_only(self) -> Self {
        self.then(TpmCc::PolicyCommandCode, Writer::new().u32(TpmCc::Unseal as u32).as_bytes())
    }

    /// PolicyPCR: the PCRs that `values` holds have these values.
    #[must_use]
    pub fn pcr(self, values: &PcrValues) -> Self {
        let selected = values.selection().wire().bytes(&values.digest());
        self.then(TpmCc::PolicyPcr, selected.as_bytes())
    }

    /// PolicyNV: the counter shows at most what `limit` says.
    #[must_use]
    pub fn counter_at_most(self, limit: CounterLimit) -> Self {
        let compared = Writer::new().u64(limit.at_most).u16(0).u16(UNSIGNED_LE);
        let compared = Sha256::digest(compared.as_bytes());
        let named = Writer::new().bytes(&compared).bytes(&nv::counter_name(limit.index));
        self.then(TpmCc::PolicyNv, named.as_bytes())
    }

    /// PolicyAuthorize: any policy that `vendor` approved for `policy_ref`. Forgets what was before it.
    #[must_use]
    pub fn authorize(self, vendor: &EcPoint, policy_ref: &[u8]) -> Self {
        let named = Self::EMPTY.then(TpmCc::PolicyAuthorize, &vendor_name(vendor));
        Self(Sha256::new().chain_update(named.0).chain_update(policy_ref).finalize().into())
    }

    fn then(self, step: TpmCc, arguments: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(self.0).chain_update((step as u32).to_be_bytes());
        Self(hash.chain_update(arguments).finalize().into())
    }
}

impl fmt::Debug for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyDigest(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
