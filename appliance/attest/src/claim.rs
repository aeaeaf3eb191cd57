//! What checked evidence means, in words that claim no more than was checked.

use std::fmt;

use serde::Serialize;

use crate::attested::Measured;
use crate::certificates::Voucher;

/// What no evidence of a TPM says, whoever made it.
const NOT_CLAIMED: [&str; 6] = [
    "which software runs now: a TPM records what was loaded at boot, and the reader has to know what the values mean",
    "that the rig which answers is the machine with the TPM: a rig can pass questions on to another with a genuine one",
    "that nobody has opened the machine: measurements can be replayed on the wires to a separate TPM chip",
    "anything about GPUs: not their number, their model, their speed or whose they are",
    "that root on the rig is honest: it can use the keys as long as it runs",
    "that the certificate was not revoked: revocation lists are not looked at",
];

/// An additional limit where only the owner speaks for a key.
const NOT_CLAIMED_OF_A_PIN: &str =
    "that the key is in a TPM at all: nobody but the owner vouches for it, and software can answer in the same way";

/// An honest sentence about a rig, and what it leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What holds.
    pub holds: String,
    /// Whether a TPM maker vouches for it; otherwise the owner alone does, which is weaker.
    pub is_vouched_by_maker: bool,
    /// What does not follow from it.
    pub does_not_claim: Vec<String>,
}

// === impl Claim ===

impl Claim {
    pub(crate) fn new(voucher: &Voucher, measured: Option<&Measured>) -> Claim {
        let who = match voucher {
            Voucher::Maker(maker) => format!("a TPM of {}", maker.issuer),
            Voucher::Owner(fingerprint) => format!("the key {fingerprint}, which the owner confirmed on first use,"),
        };
        let holds = match measured {
            Some(_) => format!("{who} holds this rig's keys, and signed these measurements now"),
            None => format!("{who} holds this rig's keys"),
        };
        let is_vouched_by_maker = matches!(voucher, Voucher::Maker(_));
        let of_a_pin = (!is_vouched_by_maker).then_some(NOT_CLAIMED_OF_A_PIN);
        let does_not_claim = of_a_pin.into_iter().chain(NOT_CLAIMED).map(str::to_owned).collect();
        Claim { holds, is_vouched_by_maker, does_not_claim }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.", self.holds)?;
        f.write_str("It does not say:")?;
        self.does_not_claim.iter().try_for_each(|limit| write!(f, "\n  - {limit}"))
    }
}
