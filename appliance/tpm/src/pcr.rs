//! Platform configuration registers of the SHA-256 bank: which, and what is in them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::Fault;
use crate::answer::Asked;
use crate::command::{Command, Tpm};
use crate::template::SHA256;
use crate::wire::{Reader, Short, Writer};

/// PCRs that a TPM for a computer has.
const COUNT: u8 = 24;
/// Most PCRs that one PCR_Read gives: TPML_DIGEST has room for 8.
const READ_MAX: usize = 8;
/// Reads that a selection may take: three of eight, and one for a PCR that was extended meanwhile.
const READS_MAX: usize = 4;

/// A selection of PCRs of the SHA-256 bank, below 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pcrs(u32);

/// Values of PCRs of the SHA-256 bank, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrValues(BTreeMap<u8, [u8; 32]>);

// === impl Pcrs ===

impl Pcrs {
    /// A selection that is known when this is written. Does not compile with an index of 24 or more, in a constant.
    pub const fn of<const N: usize>(indices: [u8; N]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < N {
            assert!(indices[at] < COUNT, "a PCR's index is below 24");
            bits |= 1 << indices[at];
            at += 1;
        }
        Self(bits)
    }

    /// A selection from outside. `None` with an index of 24 or more.
    pub fn new(indices: impl IntoIterator<Item = u8>) -> Option<Self> {
        indices.into_iter().try_fold(Self(0), |all, index| (index < COUNT).then(|| Self(all.0 | 1 << index)))
    }

    /// The indices, from the lowest.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..COUNT).filter(move |index| self.contains(*index))
    }

    /// Whether `index` is selected.
    pub const fn contains(self, index: u8) -> bool {
        index < COUNT && self.0 >> index & 1 == 1
    }

    /// Whether none is selected.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// TPML_PCR_SELECTION.
    pub(crate) fn wire(self) -> Writer {
        let [low, middle, high, _] = self.0.to_le_bytes();
        Writer::new().u32(1).u16(SHA256).u8(3).bytes(&[low, middle, high])
    }

    /// The SHA-256 part of a TPML_PCR_SELECTION; none where that bank is not listed.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Short> {
        /// Banks that a TPM may have: TPML_PCR_SELECTION has room for 16.
        const BANKS_MAX: u32 = 16;
        let banks = reader.u32()?;
        if banks > BANKS_MAX {
            return Err(Short("it lists more banks of PCRs than there are"));
        }
        let mut ours = Self(0);
        for _ in 0..banks {
            let algorithm = reader.u16()?;
            let size = reader.u8()?;
            let bits = reader.bytes(size.into())?;
            if algorithm == SHA256 {
                let bits =
                    bits.iter().take(3).enumerate().fold(0, |all, (at, byte)| all | u32::from(*byte) << (8 * at));
                ours = Self(ours.0 | bits);
            }
        }
        Ok(ours)
    }
}

// === impl PcrValues ===

impl PcrValues {
    /// Which PCRs these are.
    pub fn selection(&self) -> Pcrs {
        Pcrs(self.0.keys().fold(0, |all, index| all | 1 << index))
    }

    /// The value of one.
    pub fn get(&self, index: u8) -> Option<[u8; 32]> {
        self.0.get(&index).copied()
    }

    /// Index and value, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = (u8, [u8; 32])> {
        self.0.iter().map(|(index, value)| (*index, *value))
    }

    /// SHA-256 over the values, from the lowest index: what PolicyPCR and Quote are over.
    pub fn digest(&self) -> [u8; 32] {
        self.0.values().fold(Sha256::new(), |hash, value| hash.chain_update(value)).finalize().into()
    }
}

/// Values from elsewhere, such as a prediction for a release. What has an index of 24 or more is left out.
impl FromIterator<(u8, [u8; 32])> for PcrValues {
    fn from_iter<I: IntoIterator<Item = (u8, [u8; 32])>>(values: I) -> Self {
        Self(values.into_iter().filter(|(index, _)| *index < COUNT).collect())
    }
}

// === impl Tpm ===

impl Tpm {
    /// The values of `selection`.
    ///
    /// # Errors
    ///
    /// [`Fault::NoSha256Bank`] where the TPM does not keep all of them with SHA-256.
    pub fn pcrs(&mut self, selection: &Pcrs) -> Result<PcrValues, Fault> {
        let mut values = PcrValues::default();
        let mut left = *selection;
        for _ in 0..READS_MAX {
            if left.is_empty() {
                return Ok(values);
            }
            let answer = self.run(&Command::new(Asked::PcrRead).parameters(left.wire()))?;
            let read = answer.parse(read_values)?;
            if read.0.is_empty() {
                return Err(Fault::NoSha256Bank);
            }
            left = Pcrs(left.0 & !read.selection().0);
            values.0.extend(read.0);
        }
        if left.is_empty() { Ok(values) } else { Err(Fault::NoSha256Bank) }
    }

    /// Adds `digest` to a PCR's measurements of the SHA-256 bank. Cannot be taken back before the machine restarts.
    pub fn extend(&mut self, pcr: u8, digest: [u8; 32]) -> Result<(), Fault> {
        let digests = Writer::new().u32(1).u16(SHA256).bytes(&digest);
        self.run(&Command::new(Asked::PcrExtend).owned_handle(pcr.into()).parameters(digests))?.parse(|_| Ok(()))
    }
}

/// pcrUpdateCounter, TPML_PCR_SELECTION of what follows, TPML_DIGEST.
pub(crate) fn read_values(reader: &mut Reader<'_>) -> Result<PcrValues, Short> {
    reader.u32()?;
    let selection = Pcrs::read(reader)?;
    let count = usize::try_from(reader.u32()?).map_err(|_| Short("it counts too many values"))?;
    if count > READ_MAX || count != selection.iter().count() {
        return Err(Short("it has another number of values than it lists"));
    }
    let mut values = PcrValues::default();
    for index in selection.iter() {
        let value = reader.sized()?.try_into().map_err(|_| Short("a measurement has another size than SHA-256"))?;
        values.0.insert(index, value);
    }
    Ok(values)
}
