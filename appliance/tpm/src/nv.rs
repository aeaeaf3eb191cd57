//! What stays in the TPM: our counter, and the certificates that its maker put there.
//!
//! A counter only goes up. Deleting it and making it again does not bring it back: a new one starts above every count
//! that any deleted counter of this TPM ever had.

use tpm2_protocol::data::TpmRcBase as Rc;

use crate::answer::Asked;
use crate::command::{Command, Tpm};
use crate::keys::OWNER;
use crate::template::{NAME, SHA256};
use crate::wire::{Reader, Short, Writer};
use crate::{Fault, template};

/// Index of the counter of confirmed releases, in the range that the owner hands out (0x01800000 to 0x01bfffff).
pub const RELEASE_COUNTER: u32 = 0x0182_5249;

/// Where "TCG EK Credential Profile" keeps the certificates of the RSA-2048 and the P-256 endorsement key.
const CERTIFICATES: [u32; 2] = [0x01c0_0002, 0x01c0_000a];
/// Longest certificate that is taken in, bytes. A maker's has 800 to 2000.
const CERTIFICATE_MAX: u16 = 4096;
/// Bytes that every TPM reads at once: MAX_NV_BUFFER_SIZE of the PC client profile is at least 512.
const READ_EACH: u16 = 512;

// TPMA_NV.
const AUTH_WRITE: u32 = 1 << 2;
const COUNTER: u32 = 1 << 4;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
const WRITTEN: u32 = 1 << 29;
/// Ours: whoever reaches the TPM reads and counts up, with an empty password that no lockout touches.
const OURS: u32 = AUTH_WRITE | COUNTER | AUTH_READ | NO_DA;
const COUNTER_BYTES: u16 = 8;

/// TPMS_NV_PUBLIC of an index.
pub(crate) struct NvPublic {
    whole: Vec<u8>,
    size: u16,
}

// === impl Tpm ===

impl Tpm {
    /// What the counter at `index` shows. `None`: there is none, or it never counted.
    ///
    /// # Errors
    ///
    /// [`Fault::ForeignCounter`] where something else is there.
    pub fn counter(&mut self, index: u32) -> Result<Option<u64>, Fault> {
        let Some(public) = self.nv_public(index)? else { return Ok(None) };
        if public.whole == counter_public(index, 0).as_bytes() {
            return Ok(None);
        }
        if public.whole != counter_public(index, WRITTEN).as_bytes() {
            return Err(Fault::ForeignCounter { index });
        }
        let bytes = self.nv_read(index, COUNTER_BYTES)?;
        let count = bytes.try_into().map_err(|_| Asked::NvRead.nonsense("the counter has another size"))?;
        Ok(Some(u64::from_be_bytes(count)))
    }

    /// Makes the counter, unless it is there, and counts once, so that it shows something. Gives what it shows.
    ///
    /// # Errors
    ///
    /// [`crate::Meaning::OwnerAuth`] where the owner hierarchy has a password; [`Fault::ForeignCounter`].
    pub fn define_counter(&mut self, index: u32) -> Result<u64, Fault> {
        if let Some(count) = self.counter(index)? {
            return Ok(count);
        }
        if self.nv_public(index)?.is_none() {
            let parameters = Writer::new().sized(&[]).sized(counter_public(index, 0).as_bytes());
            self.run(&Command::new(Asked::NvDefineSpace).owned_handle(OWNER).parameters(parameters))?
                .parse(|_| Ok(()))?;
        }
        self.increment(index)
    }

    /// Counts once, and gives what the counter shows then.
    pub fn increment(&mut self, index: u32) -> Result<u64, Fault> {
        self.run(&Command::new(Asked::NvIncrement).owned_handle(index).handle(index))?.parse(|_| Ok(()))?;
        known(self.counter(index)?, index)
    }

    /// The certificates of endorsement keys that the TPM's maker left in it, DER; none on many.
    pub fn ek_certificates(&mut self) -> Result<Vec<Vec<u8>>, Fault> {
        let mut certificates = Vec::new();
        for index in CERTIFICATES {
            let Some(public) = self.nv_public(index)? else { continue };
            if public.size > CERTIFICATE_MAX {
                continue;
            }
            match self.nv_read(index, public.size) {
                Ok(bytes) => certificates.extend(der(&bytes).map(<[u8]>::to_vec)),
                // An index that was never written, or is locked away from us, holds no certificate for us.
                Err(Fault::Refused { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(certificates)
    }

    fn nv_public(&mut self, index: u32) -> Result<Option<NvPublic>, Fault> {
        match self.run(&Command::new(Asked::NvReadPublic).handle(index)) {
            Err(Fault::Refused { code, .. }) if code.base() == Some(Rc::Handle) => Ok(None),
            Err(fault) => Err(fault),
            Ok(answer) => answer.parse(read_public).map(Some),
        }
    }

    fn nv_read(&mut self, index: u32, size: u16) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(size.into());
        let mut offset = 0;
        while offset < size {
            let wanted = (size - offset).min(READ_EACH);
            let command = Command::new(Asked::NvRead).owned_handle(index).handle(index);
            let answer = self.run(&command.parameters(Writer::new().u16(wanted).u16(offset)))?;
            let read = answer.parse(Reader::sized)?;
            if read.len() != usize::from(wanted) {
                return Err(Asked::NvRead.nonsense("it has another number of bytes than were asked for"));
            }
            bytes.extend_from_slice(read);
            offset += wanted;
        }
        Ok(bytes)
    }
}

/// A count that has to be there.
pub(crate) fn known(count: Option<u64>, index: u32) -> Result<u64, Fault> {
    count.ok_or(Fault::NoCounter { index })
}

/// Name of our counter once it has counted.
pub(crate) fn counter_name(index: u32) -> [u8; NAME] {
    template::name(counter_public(index, WRITTEN).as_bytes())
}

fn counter_public(index: u32, written: u32) -> Writer {
    Writer::new().u32(index).u16(SHA256).u32(OURS | written).sized(&[]).u16(COUNTER_BYTES)
}

/// TPM2B_NV_PUBLIC, name.
pub(crate) fn read_public(reader: &mut Reader<'_>) -> Result<NvPublic, Short> {
    let whole = reader.sized()?;
    reader.sized()?;
    let mut fields = Reader::new(whole);
    fields.bytes(4 + 2 + 4)?;
    fields.sized()?;
    let size = fields.u16()?;
    fields.end()?;
    Ok(NvPublic { whole: whole.to_vec(), size })
}

/// The DER value at the front of `bytes`: makers reserve more room than the certificate takes.
fn der(bytes: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    let (header, count): (usize, usize) = match *bytes {
        [SEQUENCE, count @ ..=0x7f, ..] => (2, count.into()),
        [SEQUENCE, 0x81, count, ..] => (3, count.into()),
        [SEQUENCE, 0x82, high, low, ..] => (4, u16::from_be_bytes([high, low]).into()),
        _ => return None,
    };
    bytes.get(..header + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_certificate_is_cut_off() {
        let check =
            |bytes: &[u8], expected: Option<usize>| assert_eq!(der(bytes).map(<[u8]>::len), expected, "{bytes:02x?}");
        check(&[0x30, 2, 1, 1, 0xff, 0xff], Some(4));
        check(&[0x30, 0x81, 1, 1, 0], Some(4));
        check(&[0x30, 0x82, 0, 1, 1, 0], Some(5));
        check(&[0x30, 0], Some(2));
        for none in
            [&[][..], &[0x30], &[0x30, 3, 1, 1], &[0x31, 0], &[0x30, 0x80, 0, 0], &[0x30, 0x83, 0, 0, 1, 0], &[0xff; 9]]
        {
            check(none, None);
        }
    }
}
