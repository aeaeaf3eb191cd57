//! What a TPM's answer is taken for: the bounds of a frame first, then its fields.
//!
//! Invariants: no byte is read beyond the frame; a frame whose sizes disagree, or that holds more than its fields, is
//! [`Fault::Nonsense`]; the code is read before anything else, as it came.

use std::io::Read;

use tpm2_protocol::data::TpmCc;
use tpm2_protocol::frame::TpmResponse;
use zeroize::Zeroizing;

use crate::transport::{self, Broken, HEADER};
use crate::wire::{Reader, Short};
use crate::{Code, Fault};
use crate::{attestation, keys, nv, pcr, point::EcSignature, probe, seal};

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;

/// The commands that are asked of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// TPM2_ActivateCredential.
    ActivateCredential,
    /// TPM2_Certify.
    Certify,
    /// TPM2_Create.
    Create,
    /// TPM2_CreatePrimary.
    CreatePrimary,
    /// TPM2_FlushContext.
    FlushContext,
    /// TPM2_GetCapability of handles.
    Handles,
    /// TPM2_GetCapability of properties.
    Properties,
    /// TPM2_GetCapability of banks of PCRs.
    Banks,
    /// TPM2_GetCapability of elliptic curves.
    Curves,
    /// TPM2_GetRandom.
    GetRandom,
    /// TPM2_Load.
    Load,
    /// TPM2_LoadExternal.
    LoadExternal,
    /// TPM2_NV_DefineSpace.
    NvDefineSpace,
    /// TPM2_NV_Increment.
    NvIncrement,
    /// TPM2_NV_Read.
    NvRead,
    /// TPM2_NV_ReadPublic.
    NvReadPublic,
    /// TPM2_PCR_Extend.
    PcrExtend,
    /// TPM2_PCR_Read.
    PcrRead,
    /// TPM2_PolicyAuthorize.
    PolicyAuthorize,
    /// TPM2_PolicyCommandCode.
    PolicyCommandCode,
    /// TPM2_PolicyNV.
    PolicyNv,
    /// TPM2_PolicyPCR.
    PolicyPcr,
    /// TPM2_PolicySecret.
    PolicySecret,
    /// TPM2_Quote.
    Quote,
    /// TPM2_ReadPublic.
    ReadPublic,
    /// TPM2_Sign.
    Sign,
    /// TPM2_StartAuthSession.
    StartAuthSession,
    /// TPM2_Unseal.
    Unseal,
    /// TPM2_VerifySignature.
    VerifySignature,
}

/// An answer that says that the command was done.
#[derive(Debug)]
pub(crate) struct Answer {
    asked: Asked,
    handle: Option<u32>,
    parameters: Zeroizing<Vec<u8>>,
    authorisations: Vec<u8>,
}

/// Whether `frame` is an answer to `asked` that would be taken, as far as one can tell without the session's secret.
///
/// # Errors
///
/// What the command would fail with.
pub fn understand(asked: Asked, frame: impl Read) -> Result<(), Fault> {
    let mut frame = frame;
    let frame = transport::receive(&mut frame).map_err(|broken| asked.broken(broken))?;
    let answer = Answer::of(asked, asked.is_authorised(), &frame)?;
    match asked {
        Asked::ActivateCredential | Asked::GetRandom | Asked::NvRead | Asked::Unseal => {
            answer.parse(|reader| reader.sized().map(drop))
        }
        Asked::Certify | Asked::Quote => answer.parse(attestation::read_attested).map(drop),
        Asked::Create => answer.parse(seal::read_created).map(drop),
        Asked::CreatePrimary => answer.parse(keys::read_primary).map(drop),
        Asked::Handles => answer.parse(probe::read_handles).map(drop),
        Asked::Properties => answer.parse(probe::read_properties).map(drop),
        Asked::Banks => answer.parse(probe::read_banks).map(drop),
        Asked::Curves => answer.parse(probe::read_curves).map(drop),
        Asked::Load | Asked::LoadExternal => answer.parse(|reader| reader.sized().map(drop)),
        Asked::NvReadPublic => answer.parse(nv::read_public).map(drop),
        Asked::PcrRead => answer.parse(pcr::read_values).map(drop),
        Asked::ReadPublic => answer.parse(keys::read_public).map(drop),
        Asked::Sign => answer.parse(EcSignature::read).map(drop),
        Asked::StartAuthSession => answer.parse(|reader| reader.sized().map(drop)),
        Asked::VerifySignature => answer.parse(seal::read_ticket).map(drop),
        Asked::PolicySecret => answer.parse(attestation::read_secret_ticket),
        Asked::FlushContext
        | Asked::NvDefineSpace
        | Asked::NvIncrement
        | Asked::PcrExtend
        | Asked::PolicyAuthorize
        | Asked::PolicyCommandCode
        | Asked::PolicyNv
        | Asked::PolicyPcr => answer.parse(|_| Ok(())),
    }
}

// === impl Asked ===

impl Asked {
    /// Every one of them.
    pub const ALL: [Self; 29] = [
        Self::ActivateCredential,
        Self::Certify,
        Self::Create,
        Self::CreatePrimary,
        Self::FlushContext,
        Self::Handles,
        Self::Properties,
        Self::Banks,
        Self::Curves,
        Self::GetRandom,
        Self::Load,
        Self::LoadExternal,
        Self::NvDefineSpace,
        Self::NvIncrement,
        Self::NvRead,
        Self::NvReadPublic,
        Self::PcrExtend,
        Self::PcrRead,
        Self::PolicyAuthorize,
        Self::PolicyCommandCode,
        Self::PolicyNv,
        Self::PolicyPcr,
        Self::PolicySecret,
        Self::Quote,
        Self::ReadPublic,
        Self::Sign,
        Self::StartAuthSession,
        Self::Unseal,
        Self::VerifySignature,
    ];

    /// The command's name in the TPM library, without its prefix.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    pub(crate) fn code(self) -> TpmCc {
        self.entry().0
    }

    /// Whether the answer opens an object or a session.
    pub(crate) fn opens_handle(self) -> bool {
        matches!(self, Self::CreatePrimary | Self::Load | Self::LoadExternal | Self::StartAuthSession)
    }

    pub(crate) fn nonsense(self, why: &'static str) -> Fault {
        Fault::Nonsense { command: self.name(), why }
    }

    pub(crate) fn broken(self, broken: Broken) -> Fault {
        match broken {
            Broken::Io(step, source) => Fault::Io { step, source },
            Broken::Nonsense(why) => self.nonsense(why),
        }
    }

    /// Whether the command is sent with an authorisation or in a session.
    fn is_authorised(self) -> bool {
        match self {
            Self::ActivateCredential
            | Self::Certify
            | Self::Create
            | Self::CreatePrimary
            | Self::Load
            | Self::NvDefineSpace
            | Self::NvIncrement
            | Self::NvRead
            | Self::PcrExtend
            | Self::PolicyNv
            | Self::PolicySecret
            | Self::Quote
            | Self::Sign
            | Self::Unseal => true,
            Self::FlushContext
            | Self::Handles
            | Self::Properties
            | Self::Banks
            | Self::Curves
            | Self::GetRandom
            | Self::LoadExternal
            | Self::NvReadPublic
            | Self::PcrRead
            | Self::PolicyAuthorize
            | Self::PolicyCommandCode
            | Self::PolicyPcr
            | Self::ReadPublic
            | Self::StartAuthSession
            | Self::VerifySignature => false,
        }
    }

    fn entry(self) -> (TpmCc, &'static str) {
        match self {
            Self::ActivateCredential => (TpmCc::ActivateCredential, "ActivateCredential"),
            Self::Certify => (TpmCc::Certify, "Certify"),
            Self::Create => (TpmCc::Create, "Create"),
            Self::CreatePrimary => (TpmCc::CreatePrimary, "CreatePrimary"),
            Self::FlushContext => (TpmCc::FlushContext, "FlushContext"),
            Self::Handles | Self::Properties | Self::Banks | Self::Curves => (TpmCc::GetCapability, "GetCapability"),
            Self::GetRandom => (TpmCc::GetRandom, "GetRandom"),
            Self::Load => (TpmCc::Load, "Load"),
            Self::LoadExternal => (TpmCc::LoadExternal, "LoadExternal"),
            Self::NvDefineSpace => (TpmCc::NvDefineSpace, "NV_DefineSpace"),
            Self::NvIncrement => (TpmCc::NvIncrement, "NV_Increment"),
            Self::NvRead => (TpmCc::NvRead, "NV_Read"),
            Self::NvReadPublic => (TpmCc::NvReadPublic, "NV_ReadPublic"),
            Self::PcrExtend => (TpmCc::PcrExtend, "PCR_Extend"),
            Self::PcrRead => (TpmCc::PcrRead, "PCR_Read"),
            Self::PolicyAuthorize => (TpmCc::PolicyAuthorize, "PolicyAuthorize"),
            Self::PolicyCommandCode => (TpmCc::PolicyCommandCode, "PolicyCommandCode"),
            Self::PolicyNv => (TpmCc::PolicyNv, "PolicyNV"),
            Self::PolicyPcr => (TpmCc::PolicyPcr, "PolicyPCR"),
            Self::PolicySecret => (TpmCc::PolicySecret, "PolicySecret"),
            Self::Quote => (TpmCc::Quote, "Quote"),
            Self::ReadPublic => (TpmCc::ReadPublic, "ReadPublic"),
            Self::Sign => (TpmCc::Sign, "Sign"),
            Self::StartAuthSession => (TpmCc::StartAuthSession, "StartAuthSession"),
            Self::Unseal => (TpmCc::Unseal, "Unseal"),
            Self::VerifySignature => (TpmCc::VerifySignature, "VerifySignature"),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Takes a frame apart. `has_sessions`: the command carried authorisations.
    pub(crate) fn of(asked: Asked, has_sessions: bool, frame: &[u8]) -> Result<Self, Fault> {
        let code = code(frame).map_err(|Short(why)| asked.nonsense(why))?;
        if code.raw() != 0 {
            return Err(Fault::Refused { command: asked.name(), code });
        }
        TpmResponse::cast(frame)
            .and_then(|response| response.validate(asked.code()))
            .map_err(|_| asked.nonsense("the frame's parts do not fit into it"))?;
        Self::split(asked, has_sessions, frame).map_err(|Short(why)| asked.nonsense(why))
    }

    /// The object or session that the command opened.
    pub(crate) fn handle(&self) -> Result<u32, Fault> {
        self.handle.ok_or_else(|| self.asked.nonsense("it has no handle"))
    }

    /// Reads all parameters.
    pub(crate) fn parse<'a, T>(&'a self, read: impl FnOnce(&mut Reader<'a>) -> Result<T, Short>) -> Result<T, Fault> {
        let mut reader = Reader::new(&self.parameters);
        let whole = read(&mut reader).and_then(|value| reader.end().map(|()| value));
        whole.map_err(|Short(why)| self.asked.nonsense(why))
    }

    pub(crate) fn parameters(&self) -> &[u8] {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [u8] {
        &mut self.parameters
    }

    pub(crate) fn authorisations(&self) -> &[u8] {
        &self.authorisations
    }

    fn split(asked: Asked, has_sessions: bool, frame: &[u8]) -> Result<Self, Short> {
        let mut reader = Reader::new(frame);
        let tag = if has_sessions { SESSIONS } else { NO_SESSIONS };
        if reader.u16()? != tag {
            return Err(Short("its tag is another than the command's"));
        }
        reader.bytes(HEADER - 2)?;
        let handle = if asked.opens_handle() { Some(reader.u32()?) } else { None };
        let (parameters, authorisations) = if has_sessions {
            let count = usize::try_from(reader.u32()?).map_err(|_| Short("it ends too early"))?;
            (reader.bytes(count)?, reader.rest())
        } else {
            (reader.rest(), [].as_slice())
        };
        Ok(Self {
            asked,
            handle,
            parameters: Zeroizing::new(parameters.to_vec()),
            authorisations: authorisations.to_vec(),
        })
    }
}

fn code(frame: &[u8]) -> Result<Code, Short> {
    let mut reader = Reader::new(frame);
    reader.bytes(HEADER - 4)?;
    reader.u32().map(Code::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_lies_about_its_sizes_is_nonsense() {
        let check = |asked, frame: &[u8]| {
            let outcome = understand(asked, frame);
            assert!(matches!(outcome, Err(Fault::Nonsense { .. })), "{frame:02x?}: {outcome:?}");
        };
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 9, 0, 0, 0]);
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        check(Asked::GetRandom, &[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0]);
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0, 9]);
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0, 1]);
        check(Asked::GetRandom, &[0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 1, 7, 7]);
        check(Asked::GetRandom, &[0x80, 2, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0]);
        check(Asked::GetRandom, &[0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0]);
        check(Asked::Unseal, &[0x80, 2, 0, 0, 0, 14, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        check(Asked::CreatePrimary, &[0x80, 2, 0, 0, 0, 12, 0, 0, 0, 0, 0x80, 0]);
        check(Asked::PcrRead, &[0x80, 1, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn silence_is_a_failed_read() {
        assert!(matches!(understand(Asked::Unseal, &[][..]), Err(Fault::Io { step: "read from", .. })));
    }

    #[test]
    fn a_refusal_is_read_whatever_its_tag() {
        for tag in [[0x80, 1], [0x80, 2], [0, 0xc4], [0, 0]] {
            let frame = [&tag[..], &[0, 0, 0, 10, 0, 0, 1, 0xdf]].concat();
            let fault = understand(Asked::Load, &frame[..]).expect_err("a refusal");
            assert_eq!(fault.code(), Some(0x1df));
        }
    }
}
