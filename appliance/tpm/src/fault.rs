//! Why a TPM did not do what it was asked, and what that means for a key.

use std::io;

use thiserror::Error;
use tpm2_protocol::data::TpmRcBase as Rc;

use crate::{Code, Place};

/// Why something asked of a TPM did not come about.
#[derive(Debug, Error)]
pub enum Fault {
    /// Nothing is where the TPM should be.
    #[error("no TPM at {place}: switch it on in the firmware's settings")]
    Absent {
        /// Where it was looked for.
        place: Place,
    },
    /// The connection failed.
    #[error("cannot {step} the TPM")]
    Io {
        /// `open`, `write to` or `read from`.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM said no.
    #[error("the TPM refused {command}: {code}")]
    Refused {
        /// TPM2 command without its prefix, such as `Unseal`.
        command: &'static str,
        /// What it answered.
        code: Code,
    },
    /// The TPM answered what is no answer to the command.
    #[error("the TPM's answer to {command} makes no sense: {why}")]
    Nonsense {
        /// TPM2 command without its prefix.
        command: &'static str,
        /// Where the answer breaks.
        why: &'static str,
    },
    /// The TPM keeps no SHA-256 measurements, so that a policy over them would bind nothing.
    #[error("the TPM keeps no SHA-256 measurements: switch the SHA-256 bank on in the firmware's settings")]
    NoSha256Bank,
    /// The counter that a policy asks for is not in the TPM, or was never counted.
    #[error("the TPM has no counter at {index:#010x}")]
    NoCounter {
        /// NV index.
        index: u32,
    },
    /// Something else is where the counter should be.
    #[error("the TPM keeps something at {index:#010x} that is not our counter: another program uses this index")]
    ForeignCounter {
        /// NV index.
        index: u32,
    },
    /// What was given is longer than the TPM takes.
    #[error("{what} has {bytes} bytes, a TPM takes {max}")]
    TooLong {
        /// What was given.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// A public key that is no point of P-256.
    #[error("{what} is no point of P-256")]
    NotOnCurve {
        /// Whose key it is.
        what: &'static str,
    },
}

/// What a fault means for a key that is sealed to the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// There is no TPM.
    Absent,
    /// The blob was not made under this TPM's storage key: another TPM, a cleared one, or a damaged blob.
    Integrity,
    /// An object that was there is gone: the TPM was cleared or restarted meanwhile.
    HandleGone,
    /// The software or firmware that booted is not what the policy says.
    PolicyFailed,
    /// A measurement was added while the policy was being satisfied.
    PcrChanged,
    /// The vendor's signature is not for what booted, or not the vendor's.
    NotApproved,
    /// The counter is beyond what this release may have: it is older than one that was confirmed.
    RolledBack,
    /// This kind of authorisation is not for this object.
    AuthUnavailable,
    /// The TPM is busy or full: ask again.
    Retry,
    /// The TPM counts somebody's failed passwords and refuses everybody who has one.
    Lockout,
    /// Somebody set a password on the TPM's owner hierarchy.
    OwnerAuth,
    /// A credential for another TPM.
    WrongTpm,
    /// The TPM is broken, or speaks nonsense.
    Failing,
}

// === impl Fault ===

impl Fault {
    /// What this means for a key that is sealed to the TPM.
    pub fn meaning(&self) -> Meaning {
        match self {
            Self::Absent { .. } => Meaning::Absent,
            Self::Refused { command, code } => Meaning::of(command, *code),
            Self::NoCounter { .. } => Meaning::PolicyFailed,
            Self::Io { .. }
            | Self::Nonsense { .. }
            | Self::NoSha256Bank
            | Self::ForeignCounter { .. }
            | Self::TooLong { .. }
            | Self::NotOnCurve { .. } => Meaning::Failing,
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(code.raw()),
            Self::Absent { .. }
            | Self::Io { .. }
            | Self::Nonsense { .. }
            | Self::NoSha256Bank
            | Self::NoCounter { .. }
            | Self::ForeignCounter { .. }
            | Self::TooLong { .. }
            | Self::NotOnCurve { .. } => None,
        }
    }
}

// === impl Meaning ===

impl Meaning {
    fn of(command: &str, code: Code) -> Self {
        match (code.base(), command) {
            (Some(Rc::Integrity), _) => Self::Integrity,
            (
                Some(
                    Rc::ReferenceH0
                    | Rc::ReferenceH1
                    | Rc::ReferenceH2
                    | Rc::ReferenceH3
                    | Rc::ReferenceH4
                    | Rc::ReferenceH5
                    | Rc::ReferenceH6
                    | Rc::Handle,
                ),
                _,
            ) => Self::HandleGone,
            (Some(Rc::Policy), "PolicyNV") => Self::RolledBack,
            (Some(Rc::PolicyFail | Rc::Policy | Rc::PolicyCc), _) => Self::PolicyFailed,
            (Some(Rc::PcrChanged), _) => Self::PcrChanged,
            (Some(Rc::Value), "PolicyAuthorize") | (Some(Rc::Signature), _) => Self::NotApproved,
            (Some(Rc::AuthUnavailable), _) => Self::AuthUnavailable,
            (
                Some(
                    Rc::Retry
                    | Rc::Yielded
                    | Rc::Testing
                    | Rc::Canceled
                    | Rc::ObjectMemory
                    | Rc::SessionMemory
                    | Rc::Memory
                    | Rc::SessionHandles
                    | Rc::ObjectHandles
                    | Rc::NvRate
                    | Rc::NvUnavailable,
                ),
                _,
            ) => Self::Retry,
            (Some(Rc::Lockout), _) => Self::Lockout,
            (Some(Rc::BadAuth | Rc::AuthFail), _) => Self::OwnerAuth,
            (Some(Rc::Failure), "ActivateCredential") => Self::WrongTpm,
            // Codes are many and come from makers too: what has no meaning for a key is a TPM that fails.
            (_, _) => Self::Failing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_meaning() {
        let check = |command, code, expected| {
            let fault = Fault::Refused { command, code: Code::new(code) };
            assert_eq!(fault.meaning(), expected, "{fault}");
        };
        check("Load", 0x1df, Meaning::Integrity);
        check("Load", 0x910, Meaning::HandleGone);
        check("Load", 0x18b, Meaning::HandleGone);
        check("Unseal", 0x99d, Meaning::PolicyFailed);
        check("Unseal", 0x128, Meaning::PcrChanged);
        check("PolicyAuthorize", 0x1c4, Meaning::NotApproved);
        check("PolicyAuthorize", 0x4c4, Meaning::NotApproved);
        check("VerifySignature", 0x2db, Meaning::NotApproved);
        check("PolicyNV", 0x126, Meaning::RolledBack);
        check("Unseal", 0x126, Meaning::PolicyFailed);
        check("Unseal", 0x12f, Meaning::AuthUnavailable);
        for code in [0x922, 0x902, 0x903, 0x904, 0x908, 0x909, 0x90a, 0x920, 0x000b_0902] {
            check("Load", code, Meaning::Retry);
        }
        check("Sign", 0x921, Meaning::Lockout);
        check("CreatePrimary", 0x9a2, Meaning::OwnerAuth);
        check("CreatePrimary", 0x98e, Meaning::OwnerAuth);
        check("ActivateCredential", 0x101, Meaning::WrongTpm);
        check("Unseal", 0x101, Meaning::Failing);
        check("Unseal", 0x500, Meaning::Failing);
        check("Create", 0x1c4, Meaning::Failing);
        check("Load", 0x00aa_01df, Meaning::Failing);
    }
}
