//! What this machine is made of: the serials, addresses and ids that a key without a TPM is bound to.
//!
//! A field is a kind and a canonical value, so that the same part gives the same field in another slot, after another
//! boot and under another kernel. What many machines share is no field: makers leave placeholders, and drives that a
//! thief takes along, such as the USB stick that the rig boots from, say nothing about the machine. A value counts
//! once, because some boards print one number on three labels.
//!
//! What cannot be read is absent, never an error: [`Fields::absent`] says which part and why. No value is shown by
//! `Debug`, `Display` or a reason; places are names of the kernel's that hold no value (interface names may hold a MAC,
//! so a network card is named by its PCI address).

mod placeholder;
mod sys;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use self::placeholder::{is_placeholder_serial, is_placeholder_uuid};

/// A rig of twelve GPUs has some twenty fields; each one costs an Argon2id at every start, and the search for those
/// that match grows with the binomial of this number.
pub const FIELDS_MAX: usize = 16;

/// SMBIOS strings end at 64 bytes, a drive's serial at 20; the longest that is read is a `wwid` of some 80.
pub const VALUE_BYTES_MAX: usize = 128;

/// Letters and digits that a serial has at least. Shorter ones are numbers of a batch, or words such as `NONE`.
const SERIAL_CHARACTERS_MIN: usize = 5;

/// Reasons that are kept: a machine with more drives and cards is told of the first ones.
const ABSENT_MAX: usize = 64;

/// What part of a machine a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The board's SMBIOS UUID.
    ProductUuid,
    /// The serial of the main board.
    BoardSerial,
    /// The serial of the whole product.
    ProductSerial,
    /// The serial of the case.
    ChassisSerial,
    /// The id of an NVIDIA GPU: of the card, in whichever slot.
    Gpu,
    /// The serial of an NVMe or SATA drive that stays in the machine.
    Disk,
    /// The permanent MAC of a network card on PCI.
    Nic,
}

/// One part of this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    kind: Kind,
    value: Zeroizing<String>,
}

/// Why a part gives no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no such file.
    Missing,
    /// The file is there, and reading it gave this error.
    Unreadable(io::ErrorKind),
    /// More bytes than a field's file or value has.
    TooLong,
    /// Not what such a value looks like.
    Malformed,
    /// What a maker leaves where a value should be.
    Placeholder,
    /// Too short to tell two machines apart.
    TooShort,
    /// Removable, or on USB: it goes where its bearer goes.
    Portable,
    /// An address that software gave.
    NotPermanent,
    /// The value is another field's already.
    Repeated,
    /// There are [`FIELDS_MAX`] fields that come before it.
    TooMany,
}

/// A part that gives no field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// What it would have been.
    pub kind: Kind,
    /// The kernel's name of the part: `board_serial`, `nvme0n1`, `0000:03:00.0`.
    pub place: String,
    /// Why not.
    pub why: Why,
}

/// The fields of one machine, at most [`FIELDS_MAX`] and no two alike, and what gave none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Fields {
    present: Vec<Field>,
    absent: Vec<Absent>,
}

/// Reads the fields of the machine whose `sys` and `proc` are below `root`: `/` on a rig.
///
/// The identity of the board is readable by root alone, so that another user gets fewer fields.
pub fn read(root: &Path) -> Fields {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for reading in sys::read(root) {
        let sys::Reading { kind, place, value } = reading;
        match value.and_then(|value| Field::parse(kind, &value)) {
            Ok(field) => found.push((field, place)),
            Err(why) => absent.push(Absent { kind, place, why }),
        }
    }
    Fields::choose(found, absent)
}

/// Whether NVIDIA GPUs are plugged in that have not told their ids yet: their driver is not up, or has not started them.
pub(crate) fn awaits_gpus(root: &Path) -> bool {
    sys::awaits_gpus(root)
}

// === impl Kind ===

impl Kind {
    /// Every kind, in the order of preference: first what stays when cards are moved, then what carries most entropy.
    pub const ALL: [Self; 7] = [
        Self::ProductUuid,
        Self::BoardSerial,
        Self::ProductSerial,
        Self::ChassisSerial,
        Self::Gpu,
        Self::Disk,
        Self::Nic,
    ];

    /// The kind in one word. Part of what a binding's keys are derived from: never changed.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProductUuid => "product-uuid",
            Self::BoardSerial => "board-serial",
            Self::ProductSerial => "product-serial",
            Self::ChassisSerial => "chassis-serial",
            Self::Gpu => "gpu",
            Self::Disk => "disk",
            Self::Nic => "nic",
        }
    }

    /// Serials are compared across kinds, because one label may fill three of them.
    fn is_serial(self) -> bool {
        match self {
            Self::BoardSerial | Self::ProductSerial | Self::ChassisSerial => true,
            Self::ProductUuid | Self::Gpu | Self::Disk | Self::Nic => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Field ===

impl Field {
    /// Makes `raw` canonical: what a kernel file says, with white space around it.
    ///
    /// Errors: the [`Why`] for which it is no field.
    pub fn parse(kind: Kind, raw: &str) -> Result<Self, Why> {
        if raw.len() > VALUE_BYTES_MAX {
            return Err(Why::TooLong);
        }
        let raw = raw.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let value = match kind {
            Kind::ProductUuid => uuid(raw)?,
            Kind::Gpu => uuid(raw.strip_prefix("GPU-").ok_or(Why::Malformed)?)?,
            Kind::Nic => mac(raw)?,
            Kind::BoardSerial | Kind::ProductSerial | Kind::ChassisSerial | Kind::Disk => serial(raw)?,
        };
        Ok(Self { kind, value: Zeroizing::new(value) })
    }

    /// What it names.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its canonical value. For the derivation of keys, never for people.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Sixteen bytes in lower case hexadecimal with hyphens in their places.
fn uuid(raw: &str) -> Result<String, Why> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let raw = raw.as_bytes();
    let is_formed = raw.len() == 36
        && raw.iter().enumerate().all(|(place, byte)| match HYPHENS.contains(&place) {
            true => *byte == b'-',
            // The driver writes `?` for each digit of a GPU that it has not started.
            false => byte.is_ascii_hexdigit() || *byte == b'?',
        });
    if !is_formed {
        return Err(if raw.is_empty() { Why::Placeholder } else { Why::Malformed });
    }
    let value = String::from_utf8(raw.to_ascii_lowercase()).map_err(|_| Why::Malformed)?;
    if is_placeholder_uuid(&value) { Err(Why::Placeholder) } else { Ok(value) }
}

/// A burnt-in address of six bytes. One whose maker's half is marked as local was made up by software.
fn mac(raw: &str) -> Result<String, Why> {
    let value = raw.to_ascii_lowercase();
    let parts: Vec<_> = value.split(':').collect();
    let byte = |part: &&str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let bytes: Vec<u8> = parts.iter().map(byte).collect::<Option<_>>().ok_or(Why::Malformed)?;
    let [first, _, _, tail @ ..] = bytes.as_slice() else { return Err(Why::Malformed) };
    if tail.len() != 3 || value.contains('+') {
        return Err(Why::Malformed);
    }
    const GROUP_OR_LOCAL: u8 = 0b11;
    let is_blank = tail.iter().all(|byte| *byte == tail[0]) && matches!(tail[0], 0x00 | 0xff);
    if is_blank || bytes.iter().all(|byte| byte == first) || value == "00:11:22:33:44:55" {
        return Err(Why::Placeholder);
    }
    if first & GROUP_OR_LOCAL != 0 { Err(Why::NotPermanent) } else { Ok(value) }
}

/// Printable ASCII in upper case, with one space where there were several.
fn serial(raw: &str) -> Result<String, Why> {
    if !raw.bytes().all(|byte| matches!(byte, b' ' | b'\t') || byte.is_ascii_graphic()) {
        return Err(Why::Malformed);
    }
    let value = raw.split_ascii_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
    if is_placeholder_serial(&value) {
        return Err(Why::Placeholder);
    }
    let characters = value.bytes().filter(u8::is_ascii_alphanumeric).count();
    if characters < SERIAL_CHARACTERS_MIN { Err(Why::TooShort) } else { Ok(value) }
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "not there",
            Self::Unreadable(kind) => return write!(f, "not readable: {kind}"),
            Self::TooLong => "too long",
            Self::Malformed => "not of the form of such a value",
            Self::Placeholder => "a placeholder of the maker's",
            Self::TooShort => "too short",
            Self::Portable => "removable or on USB",
            Self::NotPermanent => "an address that software gave",
            Self::Repeated => "the same as another field",
            Self::TooMany => "one too many",
        })
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.place, self.why)
    }
}

// === impl Fields ===

impl Fields {
    /// The fields among `readings`, which are kinds with raw values. Their places are their numbers, from one.
    pub fn from_readings<'a>(readings: impl IntoIterator<Item = (Kind, &'a str)>) -> Self {
        let mut found = Vec::new();
        let mut absent = Vec::new();
        for ((kind, raw), number) in readings.into_iter().zip(1_usize..) {
            let place = number.to_string();
            match Field::parse(kind, raw) {
                Ok(field) => found.push((field, place)),
                Err(why) => absent.push(Absent { kind, place, why }),
            }
        }
        Self::choose(found, absent)
    }

    /// Takes each value once, sorts by value so that slots do not matter, and takes one of each kind by turns, so that
    /// no kind crowds out another.
    fn choose(mut found: Vec<(Field, String)>, mut absent: Vec<Absent>) -> Self {
        found.sort_by(|(one, _), (other, _)| one.kind.cmp(&other.kind).then_with(|| one.value().cmp(other.value())));
        let mut turns: BTreeMap<(usize, Kind), (Field, String)> = BTreeMap::new();
        let mut of_kind: BTreeMap<Kind, usize> = BTreeMap::new();
        for (field, place) in found {
            let repeats = |other: &Field| {
                other.value == field.value
                    && (other.kind == field.kind || other.kind.is_serial() && field.kind.is_serial())
            };
            if turns.values().any(|(other, _)| repeats(other)) {
                absent.push(Absent { kind: field.kind, place, why: Why::Repeated });
                continue;
            }
            let turn = of_kind.entry(field.kind).or_default();
            turns.insert((*turn, field.kind), (field, place));
            *turn += 1;
        }
        let mut chosen: Vec<_> = turns.into_values().collect();
        let surplus = chosen.split_off(chosen.len().min(FIELDS_MAX));
        absent.extend(surplus.into_iter().map(|(field, place)| Absent { kind: field.kind, place, why: Why::TooMany }));
        absent.truncate(ABSENT_MAX);
        Self { present: chosen.into_iter().map(|(field, _)| field).collect(), absent }
    }

    /// The fields, in a fixed order of preference.
    pub fn present(&self) -> &[Field] {
        &self.present
    }

    /// What gave no field, and why.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }

    /// How many fields there are.
    pub fn count(&self) -> u8 {
        u8::try_from(self.present.len()).unwrap_or(u8::MAX)
    }

    /// How many fields there are of `kind`.
    pub fn count_of(&self, kind: Kind) -> usize {
        self.present.iter().filter(|field| field.kind == kind).count()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.present.iter().map(|field| field.kind).collect();
        f.debug_struct("Fields").field("present", &kinds).field("absent", &self.absent).finish()
    }
}

/// `4 fields: product-uuid 1, gpu 3; without board-serial board_serial: not there`.
impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fields", self.present.len())?;
        let counts = Kind::ALL.iter().map(|kind| (kind, self.count_of(*kind))).filter(|(_, count)| *count > 0);
        for ((kind, count), number) in counts.zip(0_usize..) {
            write!(f, "{} {kind} {count}", if number == 0 { ":" } else { "," })?;
        }
        for (absent, number) in self.absent.iter().zip(0_usize..) {
            write!(f, "{} {absent}", if number == 0 { "; without" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
