//! Keys in the TPM: the storage root key, the endorsement keys, the attestation key, and the TLS key.

use tpm2_protocol::data::TpmRcBase as Rc;
use zeroize::Zeroizing;

use crate::answer::Asked;
use crate::blob::Blob;
use crate::command::{Command, Tpm};
use crate::point::{EcPoint, EcSignature};
use crate::session::NO_HANDLE;
use crate::template::{self, ECDSA, NAME, PUBLIC_MAX, SHA256};
use crate::wire::{Reader, Short, Writer};
use crate::{Fault, seal};

/// TPM_RH_OWNER.
pub(crate) const OWNER: u32 = 0x4000_0001;
/// TPM_RH_ENDORSEMENT.
pub(crate) const ENDORSEMENT: u32 = 0x4000_000b;
/// Where "TCG TPM v2.0 Provisioning Guidance" keeps a storage root key.
pub(crate) const PERSISTENT_SRK: u32 = 0x8100_0001;
/// Where it keeps an RSA-2048 endorsement key.
const PERSISTENT_EK_RSA: u32 = 0x8101_0001;
/// TPM_ST_HASHCHECK.
const HASHCHECK: u16 = 0x8024;
/// Random bytes that one command gives at least: the size of SHA-256's digest.
const RANDOM_EACH: usize = 32;
/// Random bytes that may be asked for at once: a few keys.
const RANDOM_MAX: usize = 1024;

/// A key that is loaded. Flush it: [`Tpm::flush`].
#[derive(Debug)]
#[must_use = "a TPM has room for three objects: flush it"]
pub struct Loaded {
    handle: u32,
    public: Vec<u8>,
}

/// The storage root key under which everything of ours is sealed. Flush it: [`Tpm::flush_srk`].
#[derive(Debug)]
#[must_use = "a TPM has room for three objects: flush it"]
pub struct Srk {
    key: Loaded,
    is_persistent: bool,
}

/// The kinds of endorsement keys that nearly every TPM can make again from its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EkKind {
    /// Template L-1. Takes a chip seconds to make, unless it is persistent.
    Rsa2048,
    /// Template L-2.
    P256,
}

// === impl Loaded ===

impl Loaded {
    /// Handle in the TPM, valid on this connection.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// TPMT_PUBLIC.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Name: what a certification is about.
    pub fn name(&self) -> [u8; NAME] {
        template::name(&self.public)
    }

    /// The public point. `None` for an RSA key.
    pub fn point(&self) -> Option<EcPoint> {
        template::point(&self.public).ok()
    }
}

// === impl Srk ===

impl Srk {
    /// Whether it was in the TPM already. If not, it was made again from the owner hierarchy's seed.
    pub fn is_persistent(&self) -> bool {
        self.is_persistent
    }

    /// Name. The same for the same TPM until it is cleared.
    pub fn name(&self) -> [u8; NAME] {
        self.key.name()
    }

    pub(crate) fn handle(&self) -> u32 {
        self.key.handle
    }

    pub(crate) fn point(&self) -> Result<EcPoint, Fault> {
        self.key.point().ok_or(Fault::NotOnCurve { what: "the TPM's storage root key" })
    }
}

// === impl Tpm ===

impl Tpm {
    /// `bytes` random bytes of the TPM, at most 1024. They cross the bus in the clear: mix them with others.
    pub fn random(&mut self, bytes: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if bytes > RANDOM_MAX {
            return Err(Fault::TooLong { what: "the wish for random bytes", bytes, max: RANDOM_MAX });
        }
        let mut random = Zeroizing::new(Vec::with_capacity(bytes));
        while random.len() < bytes {
            let wanted = (bytes - random.len()).min(RANDOM_EACH);
            let parameters = Writer::new().u16(u16::try_from(wanted).unwrap_or(u16::MAX));
            let answer = self.run(&Command::new(Asked::GetRandom).parameters(parameters))?;
            let given = answer.parse(Reader::sized)?;
            if given.is_empty() || given.len() > wanted {
                return Err(Asked::GetRandom.nonsense("it has another number of bytes than were asked for"));
            }
            random.extend_from_slice(given);
        }
        Ok(random)
    }

    /// The storage root key: the persistent one if it is of our template, else made again. Never makes it persistent.
    ///
    /// # Errors
    ///
    /// [`crate::Meaning::OwnerAuth`] where the owner hierarchy has a password and no persistent key is of our template.
    pub fn srk(&mut self) -> Result<Srk, Fault> {
        let template = template::srk();
        if let Some(key) = self.persistent(PERSISTENT_SRK, template.as_bytes())? {
            return Ok(Srk { key, is_persistent: true });
        }
        self.srk_made_again()
    }

    /// The storage root key made again from its seed, whatever is persistent: a program may have made another key of
    /// our template persistent after something was sealed. Errors: as [`Tpm::srk`].
    pub fn srk_made_again(&mut self) -> Result<Srk, Fault> {
        Ok(Srk { key: self.primary(OWNER, template::srk())?, is_persistent: false })
    }

    /// Name of the P-256 endorsement key: the same after a clear, another on another TPM.
    pub fn ek_name(&mut self) -> Result<Vec<u8>, Fault> {
        self.scoped(|tpm| Ok(tpm.ek(EkKind::P256)?.name().to_vec()))
    }

    /// An endorsement key.
    pub fn ek(&mut self, kind: EkKind) -> Result<Loaded, Fault> {
        match kind {
            EkKind::Rsa2048 => {
                let template = template::ek_rsa();
                match self.persistent(PERSISTENT_EK_RSA, template.as_bytes())? {
                    Some(key) => Ok(key),
                    None => self.primary(ENDORSEMENT, template),
                }
            }
            EkKind::P256 => self.primary(ENDORSEMENT, template::ek_p256()),
        }
    }

    /// The attestation key: a restricted P-256 primary of the endorsement hierarchy, so the same after a clear.
    pub fn ak(&mut self) -> Result<Loaded, Fault> {
        self.primary(ENDORSEMENT, template::attestation())
    }

    /// Makes a P-256 key that never leaves this TPM and signs any digest.
    pub fn tls_key(&mut self, srk: &Srk) -> Result<Blob, Fault> {
        let parameters = seal::create_parameters(&[], template::tls().as_bytes());
        let command = Command::new(Asked::Create).owned_handle(srk.handle());
        self.run(&command.parameters(Writer::new().bytes(&parameters)))?.parse(seal::read_created)
    }

    /// Loads a blob.
    ///
    /// # Errors
    ///
    /// [`crate::Meaning::Integrity`] where the blob was not made under this storage root key.
    pub fn load(&mut self, srk: &Srk, blob: &Blob) -> Result<Loaded, Fault> {
        let parts = blob.to_bytes();
        let halves = || {
            let mut reader = Reader::new(&parts);
            Ok::<_, Short>((reader.sized()?, reader.sized()?))
        };
        let (public, private) = halves().map_err(|Short(why)| Asked::Load.nonsense(why))?;
        let parameters = Writer::new().sized(private).sized(public);
        self.opening(|tpm| {
            let answer = tpm.run(&Command::new(Asked::Load).owned_handle(srk.handle()).parameters(parameters))?;
            if answer.parse(Reader::sized)? != blob.name() {
                return Err(Asked::Load.nonsense("it names another object"));
            }
            Ok(Loaded { handle: answer.handle()?, public: blob.public().to_vec() })
        })
    }

    /// Signs a SHA-256 digest with a P-256 key. A restricted key refuses.
    pub fn sign(&mut self, key: &Loaded, digest: [u8; 32]) -> Result<EcSignature, Fault> {
        let parameters = Writer::new().sized(&digest).u16(ECDSA).u16(SHA256).u16(HASHCHECK).u32(NO_HANDLE).sized(&[]);
        self.run(&Command::new(Asked::Sign).owned_handle(key.handle).parameters(parameters))?.parse(EcSignature::read)
    }

    /// Gives a key's room back. A persistent key stays.
    pub fn flush(&mut self, key: Loaded) -> Result<(), Fault> {
        self.flush_handle(key.handle)
    }

    /// Gives the storage root key's room back. A persistent one stays.
    pub fn flush_srk(&mut self, srk: Srk) -> Result<(), Fault> {
        self.flush(srk.key)
    }

    fn primary(&mut self, hierarchy: u32, template: Writer) -> Result<Loaded, Fault> {
        let parameters = Writer::new().bytes(&seal::create_parameters(&[], template.as_bytes()));
        self.opening(|tpm| {
            let command = Command::new(Asked::CreatePrimary).owned_handle(hierarchy).parameters(parameters);
            let answer = tpm.run(&command)?;
            let public = answer.parse(read_primary)?;
            if !template::is_made_from(&public, template.as_bytes()) {
                return Err(Asked::CreatePrimary.nonsense("its key is of another template"));
            }
            Ok(Loaded { handle: answer.handle()?, public })
        })
    }

    /// A persistent key, if there is one of that template. One of another template is somebody else's.
    pub(crate) fn persistent(&mut self, handle: u32, template: &[u8]) -> Result<Option<Loaded>, Fault> {
        let public = match self.run(&Command::new(Asked::ReadPublic).handle(handle)) {
            Err(Fault::Refused { code, .. }) if code.base() == Some(Rc::Handle) => return Ok(None),
            Err(fault) => return Err(fault),
            Ok(answer) => answer.parse(read_public)?,
        };
        Ok(template::is_made_from(&public, template).then_some(Loaded { handle, public }))
    }
}

/// TPM2B_PUBLIC, TPM2B_CREATION_DATA, digest, ticket, name.
pub(crate) fn read_primary(reader: &mut Reader<'_>) -> Result<Vec<u8>, Short> {
    let public = public(reader)?;
    seal::skip_creation(reader)?;
    named(reader, &public)?;
    Ok(public)
}

/// TPM2B_PUBLIC, name, qualified name.
pub(crate) fn read_public(reader: &mut Reader<'_>) -> Result<Vec<u8>, Short> {
    let public = public(reader)?;
    let name = reader.sized()?;
    reader.sized()?;
    // A name of another hash is of a key that is not ours: the template tells.
    if name.len() == NAME && name.starts_with(&SHA256.to_be_bytes()) && name != template::name(&public) {
        return Err(Short("its name is not its public area's"));
    }
    Ok(public)
}

fn public(reader: &mut Reader<'_>) -> Result<Vec<u8>, Short> {
    let public = reader.sized()?;
    if public.len() > PUBLIC_MAX { Err(Short("its public area is too long")) } else { Ok(public.to_vec()) }
}

fn named(reader: &mut Reader<'_>, public: &[u8]) -> Result<(), Short> {
    if reader.sized()? == template::name(public) { Ok(()) } else { Err(Short("its name is not its public area's")) }
}
