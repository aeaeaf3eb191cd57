//! Sealing a secret to this TPM and a policy, and opening it again.
//!
//! The way of a secret: it leaves the process encrypted for the storage root key's TPM, lies on the disk as a [`Blob`],
//! and comes back encrypted in a session whose key nobody on the bus knows. The order when opening is such that the
//! first refusal tells most: the vendor's signature, then whether the blob is this TPM's, then the policy.

use zeroize::Zeroizing;

use crate::answer::Asked;
use crate::command::{Command, Tpm};
use crate::keys::{OWNER, Srk};
use crate::policy::{self, POLICY_REF_MAX, UNSIGNED_LE};
use crate::session::{Hidden, Purpose, Session};
use crate::wire::{Reader, Short, Writer};
use crate::{Blob, EcPoint, EcSignature, Fault, Pcrs, PolicyDigest, Steps, nv, template};
use tpm2_protocol::data::TpmCc;

/// Longest secret, bytes: MAX_SYM_DATA of the PC client profile.
const SECRET_MAX: usize = 128;
/// TPM_ST_VERIFIED.
const VERIFIED: u16 = 0x8022;

/// How a policy is satisfied.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "one is made for each opening, and passed by reference")]
pub enum Route<'a> {
    /// [`PolicyDigest::unseal_only`].
    CommandCode,
    /// [`PolicyDigest::pcr`] over this selection, with the values that the machine has now.
    Pcrs(Pcrs),
    /// [`PolicyDigest::authorize`], then perhaps [`PolicyDigest::pcr`].
    Authorized(Authorized<'a>),
}

/// A policy that the vendor approved, and how to satisfy it.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<'a> {
    /// The vendor's key.
    pub vendor: EcPoint,
    /// What the approval is for, such as a tier: the one that the secret was sealed with. At most 32 bytes.
    pub policy_ref: &'a [u8],
    /// The policy that the vendor approved.
    pub approved: PolicyDigest,
    /// What that policy asks of the machine.
    pub steps: Steps,
    /// The vendor's signature over [`policy::approval`].
    pub signature: EcSignature,
    /// PCRs that were sealed with the values that they had on this machine, after the vendor's policy.
    pub then: Option<Pcrs>,
}

/// TPMT_TK_VERIFIED: the TPM's own word that a signature is right.
pub(crate) struct Ticket {
    hierarchy: u32,
    digest: Vec<u8>,
}

// === impl Tpm ===

impl Tpm {
    /// Seals at most 128 bytes so that this TPM gives them out under `policy` only.
    pub fn seal(&mut self, srk: &Srk, secret: &[u8], policy: &PolicyDigest) -> Result<Blob, Fault> {
        if secret.len() > SECRET_MAX {
            return Err(Fault::TooLong { what: "the secret", bytes: secret.len(), max: SECRET_MAX });
        }
        let parameters = create_parameters(secret, template::sealed(policy).as_bytes());
        self.scoped(|tpm| {
            let mut session = Session::start(tpm, srk, Purpose::Hmac)?;
            let command = Command::new(Asked::Create).handle(srk.handle());
            session.run(tpm, &command, &srk.name(), parameters, Hidden::InCommand)?.parse(read_created)
        })
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    ///
    /// What stands in the way, see [`Fault::meaning`]. Nothing stays open in the TPM.
    pub fn unseal(&mut self, srk: &Srk, blob: &Blob, route: &Route<'_>) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let ticket = match route {
            Route::CommandCode | Route::Pcrs(_) => None,
            Route::Authorized(way) => Some(self.verified(way)?),
        };
        self.scoped(|tpm| {
            let sealed = tpm.load(srk, blob)?;
            let mut session = Session::start(tpm, srk, Purpose::Policy)?;
            match route {
                Route::CommandCode => tpm.policy_command_code(session.handle())?,
                Route::Pcrs(selection) => tpm.policy_pcr(session.handle(), *selection)?,
                Route::Authorized(way) => {
                    if let Some(ticket) = &ticket {
                        tpm.satisfy(session.handle(), way, ticket)?;
                    }
                }
            }
            let command = Command::new(Asked::Unseal).handle(sealed.handle());
            let nothing = Zeroizing::new(Vec::new());
            let answer = session.run(tpm, &command, &sealed.name(), nothing, Hidden::InAnswer)?;
            answer.parse(|reader| Ok(Zeroizing::new(reader.sized()?.to_vec())))
        })
    }

    /// The TPM's word that the vendor approved. The owner hierarchy's: the null hierarchy gives none that counts.
    fn verified(&mut self, way: &Authorized<'_>) -> Result<Ticket, Fault> {
        if way.policy_ref.len() > POLICY_REF_MAX {
            let bytes = way.policy_ref.len();
            return Err(Fault::TooLong { what: "the policy's reference", bytes, max: POLICY_REF_MAX });
        }
        if way.vendor.public_key().is_none() {
            return Err(Fault::NotOnCurve { what: "the vendor's key" });
        }
        let public = policy::vendor_public(&way.vendor);
        self.scoped(|tpm| {
            // An empty private part, which says that there is none.
            let parameters = Writer::new().u16(0).sized(&public).u32(OWNER);
            let answer = tpm.run(&Command::new(Asked::LoadExternal).parameters(parameters))?;
            if answer.parse(Reader::sized)? != template::name(&public) {
                return Err(Asked::LoadExternal.nonsense("it names another object"));
            }
            let digest = policy::approval(&way.approved, way.policy_ref);
            let parameters = Writer::new().sized(&digest).bytes(way.signature.wire().as_bytes());
            let command = Command::new(Asked::VerifySignature).handle(answer.handle()?).parameters(parameters);
            tpm.run(&command)?.parse(read_ticket)
        })
    }

    fn satisfy(&mut self, session: u32, way: &Authorized<'_>, ticket: &Ticket) -> Result<(), Fault> {
        self.policy_pcr(session, way.steps.pcrs)?;
        if let Some(limit) = way.steps.counter {
            nv::known(self.counter(limit.index)?, limit.index)?;
            let parameters = Writer::new().sized(&limit.at_most.to_be_bytes()).u16(0).u16(UNSIGNED_LE);
            let command = Command::new(Asked::PolicyNv).owned_handle(limit.index).handle(limit.index).handle(session);
            self.run(&command.parameters(parameters))?.parse(|_| Ok(()))?;
        }
        let parameters = Writer::new()
            .sized(way.approved.as_bytes())
            .sized(way.policy_ref)
            .sized(&policy::vendor_name(&way.vendor))
            .u16(VERIFIED)
            .u32(ticket.hierarchy)
            .sized(&ticket.digest);
        self.run(&Command::new(Asked::PolicyAuthorize).handle(session).parameters(parameters))?.parse(|_| Ok(()))?;
        way.then.map_or(Ok(()), |selection| self.policy_pcr(session, selection))
    }

    fn policy_pcr(&mut self, session: u32, selection: Pcrs) -> Result<(), Fault> {
        // An empty digest: the values are compared by the session's digest.
        let parameters = Writer::new().sized(&[]).bytes(selection.wire().as_bytes());
        self.run(&Command::new(Asked::PolicyPcr).handle(session).parameters(parameters))?.parse(|_| Ok(()))
    }

    fn policy_command_code(&mut self, session: u32) -> Result<(), Fault> {
        let parameters = Writer::new().u32(TpmCc::Unseal as u32);
        self.run(&Command::new(Asked::PolicyCommandCode).handle(session).parameters(parameters))?.parse(|_| Ok(()))
    }
}

/// TPM2B_SENSITIVE_CREATE, TPM2B_PUBLIC, no outside information, no PCRs of creation. Made at its full length, so that
/// no copy of the secret is left behind by growing.
pub(crate) fn create_parameters(secret: &[u8], template: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut parameters = Zeroizing::new(Vec::with_capacity(16 + secret.len() + template.len()));
    let count = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    parameters.extend(count(4 + secret.len()));
    parameters.extend([0, 0]);
    parameters.extend(count(secret.len()));
    parameters.extend(secret);
    parameters.extend(count(template.len()));
    parameters.extend(template);
    parameters.extend([0, 0]);
    parameters.extend([0; 4]);
    parameters
}

/// TPM2B_PRIVATE, TPM2B_PUBLIC, TPM2B_CREATION_DATA, digest, ticket.
pub(crate) fn read_created(reader: &mut Reader<'_>) -> Result<Blob, Short> {
    let (private, public) = (reader.sized()?, reader.sized()?);
    skip_creation(reader)?;
    Blob::new(public, private)
}

/// TPM2B_CREATION_DATA, its digest, TPMT_TK_CREATION.
pub(crate) fn skip_creation(reader: &mut Reader<'_>) -> Result<(), Short> {
    reader.sized()?;
    reader.sized()?;
    reader.u16()?;
    reader.u32()?;
    reader.sized().map(drop)
}

pub(crate) fn read_ticket(reader: &mut Reader<'_>) -> Result<Ticket, Short> {
    /// Longest digest of a ticket, bytes: that of SHA-512.
    const DIGEST_MAX: usize = 64;
    if reader.u16()? != VERIFIED {
        return Err(Short("its ticket is of another kind"));
    }
    let (hierarchy, digest) = (reader.u32()?, reader.sized()?);
    if digest.len() > DIGEST_MAX {
        return Err(Short("its ticket is too long"));
    }
    Ok(Ticket { hierarchy, digest: digest.to_vec() })
}
