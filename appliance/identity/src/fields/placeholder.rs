//! What makers leave where a serial or a UUID should be.
//!
//! A placeholder that is taken for a serial binds nothing: every board of the batch has it. A real serial that is taken
//! for a placeholder costs one field. So the rules err to the second side. Source of the table: what boards of the
//! usual makers report through SMBIOS, see the research on hardware-bound keys.

/// Serials that are one of these, without what is neither letter nor digit.
#[rustfmt::skip]
const WORDS: [&str; 27] = [
    "ASSET", "ASSETTAG", "BLANK", "BSN12345678901234567", "CHASSISSN", "DEFAULT", "EMPTY", "FILLBYOEM",
    "INVALID", "MB1234567890", "NA", "NB1234567890", "NIL", "NONE", "NOTDEFINED", "NOTSET", "NULL", "OEM",
    "OEMSTRING", "SERIAL", "SERNO", "SN", "SSN12345678901234567", "STANDARD", "TBD", "UNDEFINED", "UNKNOWN",
];

/// Serials that begin with one of these: some boards cut the phrase short, some add to it. `QM000` and the number of
/// its slot is an emulated drive.
#[rustfmt::skip]
const BEGINNINGS: [&str; 13] = [
    "BASEBOARDSERIAL", "BOARDSERIAL", "CHASSISSERIAL", "DEFAULTSTRING", "NOSERIAL", "NOTAPPLICABLE",
    "NOTAVAILABLE", "NOTSPECIFIED", "QM000", "SERIALNUM", "SYSSERIAL", "SYSTEMSERIAL", "TOBEFILLED",
];

/// UUIDs of whole batches, in lower case, that [`UUID_BYTES_MIN`] lets through.
const UUIDS: [&str; 5] = [
    "00020003-0004-0005-0006-000700080009",
    "00112233-4455-6677-8899-aabbccddeeff",
    "03000200-0400-0500-0006-000700080009",
    "03020100-0504-0706-0809-0a0b0c0d0e0f",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

/// Different bytes that a UUID has at least. A random one has fifteen or sixteen; one that is a MAC behind zeros has
/// seven, and is no field beside the MAC itself.
const UUID_BYTES_MIN: usize = 8;

/// Different characters that a serial has at least: blanks, zeros, `FF`, `AA000001` and their like have up to three.
const SERIAL_CHARACTERS_MIN: usize = 4;

/// Whether many machines have `serial`, which is in upper case. An empty one is a placeholder too.
pub(super) fn is_placeholder_serial(serial: &str) -> bool {
    let bare: Vec<u8> = serial.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let is_word = WORDS.iter().any(|word| word.as_bytes() == bare);
    let is_phrase = BEGINNINGS.iter().any(|beginning| bare.starts_with(beginning.as_bytes()));
    is_word || is_phrase || distinct(&bare) < SERIAL_CHARACTERS_MIN || counts_up(&bare)
}

/// Whether many machines have `uuid`, which is formed and in lower case.
pub(super) fn is_placeholder_uuid(uuid: &str) -> bool {
    let digits: Vec<u8> = uuid.bytes().filter(|byte| *byte != b'-').collect();
    let bytes: Vec<&[u8]> = digits.chunks(2).collect();
    let is_known = UUIDS.contains(&uuid) || uuid.contains('?');
    // A Dell board without a service tag: its name, and blanks in the tag's place.
    let is_dell_blank = uuid.starts_with("4c4c4544-00") && uuid.ends_with("202020");
    is_known || is_dell_blank || distinct(&bytes) < UUID_BYTES_MIN
}

fn distinct<T: Ord + Clone>(items: &[T]) -> usize {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items.len()
}

/// `0123456789`, `1234567890`, `123456789ABCDEF`: each follows the one before it, and a zero may follow the nine.
fn counts_up(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| match (pair[0], pair[1]) {
        (b'9', next) => matches!(next, b'0' | b'A'),
        (byte, next) => byte.checked_add(1) == Some(next),
    })
}
