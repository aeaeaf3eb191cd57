//! The vendor's approvals: which measured software may open a key of tier S or 4.
//!
//! ```json
//! {"version": 1, "approvals": [{
//!     "policy_ref": "rig tier S 1",
//!     "release": "2026.11.1",
//!     "pcrs": {"11": "64 hex digits", "12": "64 hex digits"},
//!     "counter_max": 7,
//!     "signature": "128 hex digits: ECDSA P-256, r then s"
//! }]}
//! ```
//!
//! The signature is over SHA-256(approved policy, policy reference), which is what a TPM checks in
//! `TPM2_PolicyAuthorize`; the approved policy is "these PCRs have these values" and then "the counter is at most
//! `counter_max`". So the document needs no trust and no protection: the TPM believes the signature alone, and a
//! document that lies opens nothing. It is checked here too, so that a bad release is noticed before a restart into it.
//!
//! Each tier has its own reference, so that an approval for one opens no key of the other. The vendor's key is
//! off-line, and is not the key that signs releases.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use tpm::{CounterLimit, EcPoint, EcSignature, PcrValues, Pcrs, PolicyDigest, RELEASE_COUNTER, Steps, policy};

use crate::Tier;

/// A release has one approval for tier S, and one per board and firmware for tier 4; 64 approvals have some 25 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
const APPROVALS_MAX: usize = 128;
const RELEASE_CHARS_MAX: usize = 64;
const VERSION: u32 = 1;

/// The public half of the vendor's key for PCR policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VendorKey(VerifyingKey);

/// Approvals whose form is right. Whether the vendor signed them says [`Approvals::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvals {
    list: Vec<Approval>,
}

/// One measured software that may open keys of one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    measured: Measured,
    signature: Signature,
}

/// What approvals of a tier are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) tier: Tier,
    /// Keeps the tiers' approvals apart.
    pub(crate) policy_ref: &'static str,
    /// What the vendor approves values of.
    pub(crate) pcrs: Pcrs,
    /// What must stay as it was when the key was sealed.
    pub(crate) literal: Pcrs,
}

/// Secure Boot keeps foreign software out, PCR 7 says that it was on and whose keys it had; PCR 11 is our software, and
/// PCR 12 what the command line was overridden with.
const RULE_S: Rule =
    Rule { tier: Tier::S, policy_ref: "rig tier S 1", pcrs: Pcrs::of([11, 12]), literal: Pcrs::of([7]) };

/// Without Secure Boot, PCR 4 is what tells our loader from one that replays our measurements.
const RULE_FOUR: Rule =
    Rule { tier: Tier::Four, policy_ref: "rig tier 4 1", pcrs: Pcrs::of([4, 11, 12]), literal: Pcrs::of([]) };

/// What is approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// S or 4, and with it the selection of PCRs and the policy reference.
    pub tier: Tier,
    /// The release, for people. Not signed.
    pub release: String,
    /// The values of the tier's PCRs, SHA-256 bank.
    pub values: PcrValues,
    /// The greatest value of the TPM's counter at which this software opens keys.
    pub counter_max: u64,
}

/// Why a document or a key of the vendor is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// Not the public half of a P-256 key.
    #[error("the vendor's key is no P-256 point: write 66 or 130 hex digits, SEC 1")]
    VendorKey,
    /// Longer than the bound.
    #[error("the document has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON of this form.
    #[error("the document has another form")]
    Form(#[source] serde_json::Error),
    /// Another version.
    #[error("the document has version {found}, and this software reads {VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// More than the bound.
    #[error("the document has {count} approvals, and {APPROVALS_MAX} are the most")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// One entry is wrong.
    #[error("approval {at}: {what}")]
    Entry {
        /// Counted from 1.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// One entry is not the vendor's.
    #[error("approval {at} ({release:?}): the vendor's key did not sign it")]
    Signature {
        /// Counted from 1.
        at: usize,
        /// What the entry calls itself.
        release: String,
    },
    /// The values are of other PCRs than the tier's.
    #[error("an approval for tier {tier} is about PCRs 11 and 12, for tier 4 about PCR 4 too, and no others")]
    Values {
        /// Which.
        tier: Tier,
    },
    /// The tier has no approvals.
    #[error("a key of tier {tier} asks for no approval")]
    Tier {
        /// Which.
        tier: Tier,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    approvals: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    policy_ref: String,
    release: String,
    pcrs: BTreeMap<u8, String>,
    counter_max: u64,
    signature: String,
}

// === impl Rule ===

impl Rule {
    /// `None`: keys of this tier ask for no approval.
    pub(crate) fn of(tier: Tier) -> Option<Self> {
        match tier {
            Tier::S => Some(RULE_S),
            Tier::Four => Some(RULE_FOUR),
            Tier::B | Tier::N => None,
        }
    }

    /// What a session runs before the vendor's approval of it.
    pub(crate) fn steps(&self, counter_max: u64) -> Steps {
        Steps { pcrs: self.pcrs, counter: Some(CounterLimit { index: RELEASE_COUNTER, at_most: counter_max }) }
    }

    /// What a key of this tier is sealed under. `literal` are the values of [`Rule::literal`] now.
    pub(crate) fn policy(&self, vendor: &VendorKey, literal: &PcrValues) -> PolicyDigest {
        let authorized = PolicyDigest::EMPTY.authorize(&vendor.point(), self.policy_ref.as_bytes());
        if self.literal.is_empty() { authorized } else { authorized.pcr(literal) }
    }
}

// === impl VendorKey ===

impl VendorKey {
    pub(crate) fn point(&self) -> EcPoint {
        EcPoint::from(&self.0)
    }
}

impl From<VerifyingKey> for VendorKey {
    fn from(key: VerifyingKey) -> Self {
        Self(key)
    }
}

impl FromStr for VendorKey {
    type Err = ApprovalError;

    fn from_str(digits: &str) -> Result<Self, ApprovalError> {
        let bytes = hex::decode(digits).map_err(|_| ApprovalError::VendorKey)?;
        VerifyingKey::from_sec1_bytes(&bytes).map(Self).map_err(|_| ApprovalError::VendorKey)
    }
}

impl fmt::Display for VendorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.to_encoded_point(true).as_bytes()))
    }
}

// === impl Measured ===

impl Measured {
    /// What the vendor signs. Errors: `Tier`.
    fn digest(&self) -> Result<[u8; 32], ApprovalError> {
        let rule = Rule::of(self.tier).ok_or(ApprovalError::Tier { tier: self.tier })?;
        if self.values.selection() != rule.pcrs {
            return Err(ApprovalError::Values { tier: self.tier });
        }
        let approved = rule.steps(self.counter_max).digest(&self.values);
        Ok(policy::approval(&approved, rule.policy_ref.as_bytes()))
    }
}

// === impl Approval ===

impl Approval {
    /// Signs with the vendor's off-line key: for the release builder, never on a rig. Errors: `Tier`, `Values`.
    pub fn sign(key: &SigningKey, measured: Measured) -> Result<Self, ApprovalError> {
        let signature: Signature = key.sign_prehash(&measured.digest()?).expect("a digest of 32 bytes can be signed");
        Ok(Self { measured, signature: signature.normalize_s().unwrap_or(signature) })
    }

    /// What is approved.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// r and s, 32 bytes each.
    pub(crate) fn signature(&self) -> EcSignature {
        EcSignature::from_bytes(&self.signature.to_bytes().into())
    }

    fn is_signed_by(&self, vendor: &VendorKey) -> bool {
        self.measured.digest().is_ok_and(|digest| vendor.0.verify_prehash(&digest, &self.signature).is_ok())
    }

    fn read(entry: Entry) -> Result<Self, &'static str> {
        let rule = [RULE_S, RULE_FOUR].into_iter().find(|rule| rule.policy_ref == entry.policy_ref);
        let rule = rule.ok_or("policy_ref is of no tier: write \"rig tier S 1\" or \"rig tier 4 1\"")?;
        if !entry.pcrs.keys().copied().eq(rule.pcrs.iter()) {
            return Err("pcrs are not those of the tier: 11 and 12 for S; 4, 11 and 12 for 4");
        }
        if entry.release.chars().count() > RELEASE_CHARS_MAX || entry.release.chars().any(char::is_control) {
            return Err("release is not a name of at most 64 characters");
        }
        let value = |(index, text): (&u8, &String)| digits(text).map(|value| (*index, value));
        let values: Option<PcrValues> = entry.pcrs.iter().map(value).collect();
        let values = values.ok_or("a value of pcrs is not 64 hex digits")?;
        let signature: [u8; 64] = digits(&entry.signature).ok_or("signature is not 128 hex digits")?;
        let signature = Signature::from_slice(&signature).map_err(|_| "signature is no ECDSA signature")?;
        let measured = Measured { tier: rule.tier, release: entry.release, values, counter_max: entry.counter_max };
        Ok(Self { measured, signature })
    }
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

// === impl Approvals ===

impl Approvals {
    /// A document of these. Errors: `TooMany`.
    pub fn new(list: Vec<Approval>) -> Result<Self, ApprovalError> {
        match list.len() {
            0..=APPROVALS_MAX => Ok(Self { list }),
            count => Err(ApprovalError::TooMany { count }),
        }
    }

    /// Checks the form only. Errors: all but `VendorKey`, `Signature`, `Tier` and `Values`.
    pub fn parse(document: &[u8]) -> Result<Self, ApprovalError> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(ApprovalError::TooLong);
        }
        let document: Document = serde_json::from_slice(document).map_err(ApprovalError::Form)?;
        if document.version != VERSION {
            return Err(ApprovalError::Version { found: document.version });
        }
        let read = |(entry, at)| Approval::read(entry).map_err(|what| ApprovalError::Entry { at, what });
        let list: Result<Vec<_>, _> = document.approvals.into_iter().zip(1..).map(read).collect();
        Self::new(list?)
    }

    /// Whether the vendor signed every one: what an update checks before it restarts the rig. Errors: `Signature`.
    pub fn verify(&self, vendor: &VendorKey) -> Result<(), ApprovalError> {
        match self.list.iter().zip(1..).find(|(approval, _)| !approval.is_signed_by(vendor)) {
            None => Ok(()),
            Some((bad, at)) => Err(ApprovalError::Signature { at, release: bad.measured.release.clone() }),
        }
    }

    /// The approvals, as the document lists them.
    pub fn list(&self) -> &[Approval] {
        &self.list
    }

    /// The vendor's approval of what is measured now. Of several, the one that lasts longest.
    pub fn find(&self, vendor: &VendorKey, tier: Tier, values: &PcrValues) -> Option<&Approval> {
        let fits = |approval: &&Approval| {
            approval.measured.tier == tier && approval.measured.values == *values && approval.is_signed_by(vendor)
        };
        self.list.iter().filter(fits).max_by_key(|approval| approval.measured.counter_max)
    }

    /// The document.
    pub fn to_json(&self) -> String {
        let entry = |approval: &Approval| {
            let rule = Rule::of(approval.measured.tier).expect("only such tiers can be signed or read");
            Entry {
                policy_ref: rule.policy_ref.to_owned(),
                release: approval.measured.release.clone(),
                pcrs: approval.measured.values.iter().map(|(index, value)| (index, hex::encode(value))).collect(),
                counter_max: approval.measured.counter_max,
                signature: hex::encode(approval.signature.to_bytes()),
            }
        };
        let document = Document { version: VERSION, approvals: self.list.iter().map(entry).collect() };
        serde_json::to_string_pretty(&document).expect("strings and numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vendor() -> SigningKey {
        SigningKey::from_slice(&[0x11; 32]).expect("a key")
    }

    fn public(key: &SigningKey) -> VendorKey {
        VendorKey(*key.verifying_key())
    }

    fn values(tier: Tier, byte: u8) -> PcrValues {
        let pcrs = Rule::of(tier).map_or(Pcrs::of([11, 12]), |rule| rule.pcrs);
        pcrs.iter().map(|index| (index, [byte; 32])).collect()
    }

    fn measured(tier: Tier, counter_max: u64) -> Measured {
        Measured { tier, release: "2026.11.1".into(), values: values(tier, 0xAB), counter_max }
    }

    fn document() -> Approvals {
        let sign = |tier, max| Approval::sign(&vendor(), measured(tier, max)).expect("signed");
        Approvals::new(vec![sign(Tier::S, 3), sign(Tier::Four, 3), sign(Tier::S, 7)]).expect("a document")
    }

    #[test]
    fn what_the_vendor_signs_is_read_and_verified() {
        let json = document().to_json();
        let read = Approvals::parse(json.as_bytes()).expect("its own document");
        assert_eq!(read, document());
        read.verify(&public(&vendor())).expect("the vendor signed it");
        let found = read.find(&public(&vendor()), Tier::S, &values(Tier::S, 0xAB)).expect("approved");
        assert_eq!(found.measured().counter_max, 7);
        let find = |tier, values| read.find(&public(&vendor()), tier, &values).is_some();
        assert!(!find(Tier::S, values(Tier::S, 0xAC)) && !find(Tier::Four, values(Tier::S, 0xAB)));
    }

    #[test]
    fn an_entry_that_the_vendor_did_not_sign_hides_none_that_it_did() {
        let mut list = document().list;
        list.push(Approval { measured: measured(Tier::S, u64::MAX), ..list[0].clone() });
        let document = Approvals::new(list).expect("a document");
        let found = document.find(&public(&vendor()), Tier::S, &values(Tier::S, 0xAB)).expect("approved");
        assert_eq!(found.measured().counter_max, 7);
    }

    #[test]
    fn a_changed_approval_and_another_key_are_named() {
        let check = |from: &str, to: &str, expected: &str| {
            let json = document().to_json().replacen(from, to, 1);
            let read = Approvals::parse(json.as_bytes()).expect("the form is right");
            let error = read.verify(&public(&vendor())).expect_err("it was changed");
            assert_eq!(error.to_string(), expected);
        };
        let first = "approval 1 (\"2026.11.1\"): the vendor's key did not sign it";
        check("\"counter_max\": 3", "\"counter_max\": 4", first);
        check("abab", "abac", first);
        check("\"counter_max\": 7", "\"counter_max\": 8", &first.replace('1', "3").replace("2026.33.3", "2026.11.1"));
        let other = SigningKey::from_slice(&[0x22; 32]).expect("a key");
        assert!(document().verify(&public(&other)).is_err());
    }

    #[test]
    fn an_approval_of_one_tier_is_none_of_another() {
        let signed = Approval::sign(&vendor(), measured(Tier::S, 3)).expect("signed");
        let mut moved = signed.clone();
        moved.measured = measured(Tier::Four, 3);
        assert!(!moved.is_signed_by(&public(&vendor())));
        let few = Measured { values: values(Tier::S, 0xAB), ..measured(Tier::Four, 3) };
        assert!(matches!(Approval::sign(&vendor(), few), Err(ApprovalError::Values { tier: Tier::Four })));
        for tier in [Tier::B, Tier::N] {
            assert!(matches!(Approval::sign(&vendor(), measured(tier, 3)), Err(ApprovalError::Tier { .. })));
        }
    }

    #[test]
    fn what_is_wrong_with_a_document_is_said() {
        let check = |from: &str, to: &str, expected: &str| {
            let json = document().to_json().replacen(from, to, 1);
            let error = Approvals::parse(json.as_bytes()).expect_err("it is wrong");
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check("\"version\": 1", "\"version\": 2", "the document has version 2");
        check("\"version\": 1", "\"version\": 1, \"more\": 1", "the document has another form");
        check("\"version\": 1,", "", "the document has another form");
        check("rig tier S 1", "rig tier S 2", "approval 1: policy_ref");
        check("rig tier 4 1", "rig tier S 1", "approval 2: pcrs");
        check("\"12\"", "\"13\"", "approval 1: pcrs");
        check("abab", "aba", "approval 1: a value");
        check("abab", "xbab", "approval 1: a value");
        check("2026.11.1", "a\\u0007", "approval 1: release");
        let short = &hex::encode(document().list()[1].signature.to_bytes())[..128];
        check(short, "00", "approval 2: signature is not 128");
        check(short, &"00".repeat(64), "approval 2: signature is no ECDSA");
        assert!(matches!(Approvals::parse(b""), Err(ApprovalError::Form(_))));
        assert!(matches!(Approvals::parse(&[b' '; DOCUMENT_BYTES_MAX + 1]), Err(ApprovalError::TooLong)));
        let many = vec![document().list()[0].clone(); APPROVALS_MAX + 1];
        assert!(matches!(Approvals::new(many), Err(ApprovalError::TooMany { count }) if count == APPROVALS_MAX + 1));
    }

    #[test]
    fn a_vendors_key_is_a_point() {
        let key = public(&vendor());
        assert_eq!(key.to_string().parse::<VendorKey>().expect("its own words"), key);
        assert_eq!(hex::encode(key.point().to_sec1()).parse::<VendorKey>().expect("uncompressed"), key);
        for digits in ["", "02", "zz", &"00".repeat(33), &"ff".repeat(65)] {
            assert!(digits.parse::<VendorKey>().is_err(), "{digits}");
        }
    }
}
