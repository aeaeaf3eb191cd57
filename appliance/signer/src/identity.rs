//! Who signs here, how well the key is kept, and what stands in its way.
//!
//! The words of this file are what people see: on the console, in `rig status`, on the status page and in the base
//! data. Every trouble has a code, says what happened, and says what to do next; a code is never reused.

use std::fmt;

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

/// What protects the key at rest, best first. Said as it is, wherever the rig shows itself.
///
/// No tier protects against whoever is root on the running rig: root can use the key as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Secure Boot with the vendor's own keys, and a policy over PCR 7, 11 and 12: only signed software of ours opens it.
    S,
    /// Measured boot without Secure Boot, a policy over PCR 4, 11 and 12.
    #[serde(rename = "4")]
    Four,
    /// Bound to this TPM: a copied disk opens nothing, but whatever boots on this machine can.
    B,
    /// No TPM: the key is software. With a binding, a copied disk is noticed in most other machines: clone detection.
    N,
}

/// Whether the key is open, or which event of a rig's life closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// The key signs.
    Open,
    /// The key is sealed to a TPM and this machine shows none.
    TpmOff,
    /// The same TPM, but it was cleared: what was sealed to it is gone.
    TpmCleared,
    /// Another TPM in the same machine: a new board or processor, or a firmware update that made a new one.
    TpmSwapped,
    /// Another machine: another TPM, and other hardware around it.
    DiskMoved,
    /// The software or firmware that booted is not one that the vendor approved for this key.
    SoftwareNotApproved,
    /// The software that booted is older than one that this rig has already confirmed.
    SoftwareRolledBack,
    /// The TPM counts failed passwords of somebody and lets nobody in.
    TpmLockout,
    /// The TPM asks to be asked again: it is starting, busy, or the measurements moved meanwhile.
    TpmBusy,
    /// The TPM reports a failure of its own, or answers nonsense.
    TpmFailing,
    /// Somebody took ownership of the TPM with a password, and left no storage key to use.
    TpmOwned,
    /// The TPM keeps no SHA-256 measurements, so that a policy over them would bind nothing.
    NoSha256Bank,
    /// Too few of the hardware fields that the key is bound to are here.
    BindingBroken,
    /// The key's file is not one that was written here.
    KeyDamaged,
    /// The owner asked for a new key; the old one is kept beside it.
    RotationAsked,
}

/// Who signs, how well the key is kept, and whether it can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The provider's address on the chain. With a closed key, the address of the successor that waits for its owner.
    pub address: Address,
    /// What protects the key of `address`.
    pub tier: Tier,
    /// Hardware fields that the key is bound to. Tier N only; zero: the key is bound to nothing.
    pub fields: u8,
    /// [`KeyState::Open`], or why the key of `replaces` is not used.
    pub state: KeyState,
    /// The address whose place `address` takes, once the owner rotates.
    pub replaces: Option<Address>,
}

// === impl Tier ===

impl Tier {
    /// One sentence for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::S => "Secure Boot and TPM: only signed software on this machine opens the key",
            Self::Four => "measured boot and TPM: only known software on this machine opens the key",
            Self::B => "TPM: only this machine opens the key, whatever it boots",
            Self::N => "software: no TPM, the key is in a file",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S => "S",
            Self::Four => "4",
            Self::B => "B",
            Self::N => "N",
        })
    }
}

// === impl KeyState ===

impl KeyState {
    /// Every state, in the order of the codes.
    pub const ALL: [Self; 15] = [
        Self::Open,
        Self::TpmOff,
        Self::TpmCleared,
        Self::TpmSwapped,
        Self::DiskMoved,
        Self::SoftwareNotApproved,
        Self::SoftwareRolledBack,
        Self::TpmLockout,
        Self::TpmBusy,
        Self::TpmFailing,
        Self::TpmOwned,
        Self::NoSha256Bank,
        Self::BindingBroken,
        Self::KeyDamaged,
        Self::RotationAsked,
    ];

    /// The code for the console and for whoever is told it over the telephone.
    pub fn code(self) -> &'static str {
        match self {
            Self::Open => "ID-00",
            Self::TpmOff => "ID-01",
            Self::TpmCleared => "ID-02",
            Self::TpmSwapped => "ID-03",
            Self::DiskMoved => "ID-04",
            Self::SoftwareNotApproved => "ID-05",
            Self::SoftwareRolledBack => "ID-06",
            Self::TpmLockout => "ID-07",
            Self::TpmBusy => "ID-08",
            Self::TpmFailing => "ID-09",
            Self::TpmOwned => "ID-10",
            Self::NoSha256Bank => "ID-11",
            Self::BindingBroken => "ID-12",
            Self::KeyDamaged => "ID-13",
            Self::RotationAsked => "ID-14",
        }
    }

    /// What happened, for people.
    pub fn what(self) -> &'static str {
        match self {
            Self::Open => "the key is open",
            Self::TpmOff => "the key is sealed to a TPM, and this machine shows none",
            Self::TpmCleared => "the TPM was cleared, so the key that was sealed to it cannot be opened again",
            Self::TpmSwapped => "this machine has another TPM than the one that the key is sealed to",
            Self::DiskMoved => "this disk comes from another machine, whose TPM alone opens its key",
            Self::SoftwareNotApproved => {
                "the key opens for approved software only, and this start was measured otherwise"
            }
            Self::SoftwareRolledBack => "this software is older than one that already ran here, and the key refuses it",
            Self::TpmLockout => "the TPM is locked after too many wrong passwords of some other software",
            Self::TpmBusy => "the TPM asked to be asked again",
            Self::TpmFailing => "the TPM reports a failure",
            Self::TpmOwned => "the TPM's ownership is taken, and it keeps no storage key that could be used instead",
            Self::NoSha256Bank => "the TPM keeps no SHA-256 measurements",
            Self::BindingBroken => "too few of the parts that the key is bound to are in this machine",
            Self::KeyDamaged => "the key's file is damaged",
            Self::RotationAsked => "the owner asked for a new key",
        }
    }

    /// What to do next, for people. Empty for an open key.
    pub fn next(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::TpmOff => "switch the TPM (fTPM, PTT) on in the firmware setup, or run `rig rotate` for a new key",
            Self::TpmCleared | Self::TpmSwapped => "run `rig rotate` on your own machine to move to the new key",
            Self::DiskMoved => "put the disk back, or run `rig rotate` if this machine takes the other's place",
            Self::SoftwareNotApproved => {
                "start the previous release, undo changes of the firmware's boot settings, or run `rig rotate`"
            }
            Self::SoftwareRolledBack => "start the newest release of this rig",
            Self::TpmLockout => "leave the machine on: the lock ends by itself; the rig tries again",
            Self::TpmBusy => "nothing: the rig tries again",
            Self::TpmFailing => "cut the power for a minute; if it stays, run `rig rotate` with the TPM switched off",
            Self::TpmOwned => "clear the TPM in the firmware setup (this ends what other systems sealed to it)",
            Self::NoSha256Bank => "switch the SHA-256 bank on in the firmware setup, or choose tier B",
            Self::BindingBroken => "put the parts back, or run `rig rotate` if this machine is to have a new key",
            Self::KeyDamaged => "run `rig rotate`; the damaged file is kept",
            Self::RotationAsked => "run `rig rotate` on your own machine to move to the new key",
        }
    }

    /// Whether the same start can come to an open key by asking again.
    pub fn passes_with_time(self) -> bool {
        match self {
            Self::TpmLockout | Self::TpmBusy => true,
            Self::Open
            | Self::TpmOff
            | Self::TpmCleared
            | Self::TpmSwapped
            | Self::DiskMoved
            | Self::SoftwareNotApproved
            | Self::SoftwareRolledBack
            | Self::TpmFailing
            | Self::TpmOwned
            | Self::NoSha256Bank
            | Self::BindingBroken
            | Self::KeyDamaged
            | Self::RotationAsked => false,
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.what())
    }
}

// === impl Identity ===

impl Identity {
    /// The tier and the binding in a few words, such as `N (software, bound to 5 parts: clone detection)`.
    pub fn kept(&self) -> String {
        match (self.tier, self.fields) {
            (Tier::N, 0) => "N (software, bound to nothing)".to_owned(),
            (Tier::N, fields) => format!("N (software, bound to {fields} parts: clone detection)"),
            (tier @ (Tier::S | Tier::Four | Tier::B), _) => format!("{tier} ({})", tier.words()),
        }
    }

    /// Twelve characters that stand for the address where a person compares: `K7F2-QD9M-3XTA`. They are 60 bits of the
    /// address's Keccak-256, so making another address with the same code takes some 2^60 keys.
    pub fn pairing_code(&self) -> String {
        pairing_code(self.address)
    }
}

/// See [`Identity::pairing_code`].
pub fn pairing_code(address: Address) -> String {
    // Crockford's alphabet: no I, L, O, U.
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digest = alloy::primitives::keccak256([b"rig pairing code\0".as_slice(), address.as_slice()].concat());
    let bits = digest[..8].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let sign = |at: u32| char::from(ALPHABET[usize::try_from(bits >> (59 - 5 * at) & 31).expect("five bits")]);
    let signs: Vec<char> = (0..12).map(sign).collect();
    signs.chunks(4).map(|four| four.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;

    use super::*;

    #[test]
    fn every_state_has_a_code_of_its_own_and_every_trouble_a_way_on() {
        let codes: std::collections::BTreeSet<_> = KeyState::ALL.iter().map(|state| state.code()).collect();
        assert_eq!(codes.len(), KeyState::ALL.len());
        for state in KeyState::ALL {
            assert_eq!(state.next().is_empty(), state == KeyState::Open, "{state}");
            assert!(!state.what().is_empty());
        }
    }

    #[test]
    fn a_pairing_code_is_of_the_address_alone() {
        let code = pairing_code(address!("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"));
        assert_eq!(code.len(), 14);
        assert_ne!(code, pairing_code(Address::ZERO));
        assert_eq!(code, pairing_code(address!("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf")));
    }

    #[test]
    fn a_software_key_is_never_called_protected() {
        let identity =
            |fields| Identity { address: Address::ZERO, tier: Tier::N, fields, state: KeyState::Open, replaces: None };
        assert_eq!(identity(0).kept(), "N (software, bound to nothing)");
        assert_eq!(identity(5).kept(), "N (software, bound to 5 parts: clone detection)");
    }
}
