//! What a TPM is and has: TPM2_GetCapability.

use crate::answer::Asked;
use crate::command::{Command, Tpm};
use crate::keys::PERSISTENT_SRK;
use crate::template::{self, P256};
use crate::wire::{Reader, Short, Writer};
use crate::{Fault, Pcrs};

// TPM_CAP.
const HANDLES: u32 = 1;
const BANKS: u32 = 5;
const PROPERTIES: u32 = 6;
const CURVES: u32 = 8;

// TPM_PT.
const MANUFACTURER: u32 = 0x105;
const FIRMWARE_HIGH: u32 = 0x10b;
const FIRMWARE_LOW: u32 = 0x10c;
const PERMANENT: u32 = 0x200;
/// TPMA_PERMANENT: inLockout.
const IN_LOCKOUT: u32 = 1 << 9;

/// First handles of loaded sessions, of saved ones, and of transient objects.
const KINDS_OF_HANDLES: [u32; 3] = [0x0200_0000, 0x0300_0000, 0x8000_0000];
/// Most values of one answer, more than a frame has room for.
const VALUES_MAX: u32 = 1024;
/// Values that are asked for at once.
const VALUES_EACH: u32 = 64;

/// What a TPM is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The maker's four letters, such as `INTC`. What is not printable is shown as `?`.
    pub manufacturer: String,
    /// The firmware's version, as the maker counts.
    pub firmware: u64,
    /// Whether it measures with SHA-256.
    pub sha256_bank: bool,
    /// Whether it has keys on P-256.
    pub p256: bool,
    /// Whether a storage root key of our template is in it, usable also where the owner hierarchy has a password.
    pub persistent_srk: bool,
    /// Whether it refuses everything with a password, after failed ones.
    pub is_locked_out: bool,
}

// === impl Tpm ===

impl Tpm {
    /// Asks the TPM what it is and has.
    pub fn probe(&mut self) -> Result<Probe, Fault> {
        let manufacturer = self.property(MANUFACTURER)?.unwrap_or_default().to_be_bytes();
        let firmware = [FIRMWARE_HIGH, FIRMWARE_LOW].map(|which| self.property(which).map(Option::unwrap_or_default));
        let [high, low] = firmware;
        let banks = self.capability(Asked::Banks, BANKS, 0)?.parse(read_banks)?;
        let curves = self.capability(Asked::Curves, CURVES, 0)?.parse(read_curves)?;
        let lasting = self.property(PERMANENT)?.unwrap_or_default();
        Ok(Probe {
            manufacturer: letters(manufacturer),
            firmware: u64::from(high?) << 32 | u64::from(low?),
            sha256_bank: !banks.is_empty(),
            p256: curves.contains(&P256),
            persistent_srk: self.persistent(PERSISTENT_SRK, template::srk().as_bytes())?.is_some(),
            is_locked_out: lasting & IN_LOCKOUT != 0,
        })
    }

    /// Sessions and transient objects in the TPM now; through a resource manager, those of this connection.
    pub fn open_handles(&mut self) -> Result<Vec<u32>, Fault> {
        let mut handles = Vec::new();
        for kind in KINDS_OF_HANDLES {
            handles.extend(self.capability(Asked::Handles, HANDLES, kind)?.parse(read_handles)?);
        }
        Ok(handles)
    }

    fn property(&mut self, which: u32) -> Result<Option<u32>, Fault> {
        let properties = self.capability(Asked::Properties, PROPERTIES, which)?.parse(read_properties)?;
        Ok(properties.into_iter().find(|(property, _)| *property == which).map(|(_, value)| value))
    }

    fn capability(&mut self, asked: Asked, kind: u32, from: u32) -> Result<crate::answer::Answer, Fault> {
        let count = if asked == Asked::Properties { 1 } else { VALUES_EACH };
        self.run(&Command::new(asked).parameters(Writer::new().u32(kind).u32(from).u32(count)))
    }
}

pub(crate) fn read_handles(reader: &mut Reader<'_>) -> Result<Vec<u32>, Short> {
    list(reader, HANDLES, Reader::u32)
}

pub(crate) fn read_properties(reader: &mut Reader<'_>) -> Result<Vec<(u32, u32)>, Short> {
    list(reader, PROPERTIES, |reader| Ok((reader.u32()?, reader.u32()?)))
}

pub(crate) fn read_curves(reader: &mut Reader<'_>) -> Result<Vec<u16>, Short> {
    list(reader, CURVES, Reader::u16)
}

pub(crate) fn read_banks(reader: &mut Reader<'_>) -> Result<Pcrs, Short> {
    of_kind(reader, BANKS)?;
    Pcrs::read(reader)
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    kind: u32,
    each: impl Fn(&mut Reader<'a>) -> Result<T, Short>,
) -> Result<Vec<T>, Short> {
    of_kind(reader, kind)?;
    let count = reader.u32()?;
    if count > VALUES_MAX {
        return Err(Short("it lists more than a frame has room for"));
    }
    (0..count).map(|_| each(reader)).collect()
}

fn of_kind(reader: &mut Reader<'_>, kind: u32) -> Result<(), Short> {
    reader.u8()?;
    if reader.u32()? == kind { Ok(()) } else { Err(Short("it tells of something else than was asked")) }
}

fn letters(bytes: [u8; 4]) -> String {
    let shown =
        bytes.into_iter().map(|byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' });
    let letters: String =
        bytes.into_iter().zip(shown).filter(|(byte, _)| *byte != 0).map(|(_, letter)| letter).collect();
    letters.trim_end().to_owned()
}
