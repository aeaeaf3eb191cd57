//! Any bytes as a kernel image: sections that lie in the file as its own table says and share nothing, and a digest that
//! no signature changes and every byte that the firmware loads does.

use layout::uki::{UKI_BYTES_MAX, Uki};

/// Where the optional header begins, counted from the PE signature; in it the checksum, and the fifth directory, which is
/// the signatures', for both kinds of header. Source: PE format.
const OPTIONAL: usize = 24;
const CHECKSUM: usize = 64;
const CERTIFICATES: [(u16, usize); 2] = [(0x10b, 96 + 32), (0x20b, 112 + 32)];
const SECTION_BYTES: usize = 40;

/// Where things stand in a file that was read.
struct Places {
    checksum: usize,
    certificates: usize,
    headers_end: usize,
    /// Name, place in the file, and how much of it is the content.
    sections: Vec<(String, usize, usize, usize)>,
}

/// Reads `data`.
pub(crate) fn run(data: &[u8]) {
    let uki = match Uki::read(data) {
        Ok(uki) => uki,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(data.len() <= UKI_BYTES_MAX);
    let places = places(data);
    sections(data, &uki, &places);
    command_line(&uki);
    digest(data, &uki, &places);
}

fn sections(data: &[u8], uki: &Uki<'_>, places: &Places) {
    let mut taken = vec![(0, places.headers_end)];
    for (name, at, raw, content) in &places.sections {
        let found = uki.section(name).expect("it is in the table");
        assert_eq!(found, &data[*at..at + content], "{name}");
        if *raw > 0 {
            taken.push((*at, at + raw));
        }
    }
    taken.sort_unstable();
    assert!(taken.windows(2).all(|two| two[0].1 <= two[1].0), "parts share bytes: {taken:?}");
    assert!(taken.iter().all(|(_, end)| *end <= data.len()));
    assert_eq!(uki.section("longer than any"), None);
}

fn command_line(uki: &Uki<'_>) {
    let line = uki.command_line();
    assert!(line.is_none_or(|line| !line.contains('\0') && line == line.trim()), "{line:?}");
    if let Some(hash) = uki.root_hash() {
        let word = format!("roothash={hash}");
        let words: Vec<_> = line.iter().flat_map(|line| line.split_ascii_whitespace()).collect();
        let said: Vec<_> = words.iter().filter(|word| word.starts_with("roothash=")).collect();
        assert!(said.len() == 1 && said[0].eq_ignore_ascii_case(&word), "{said:?}");
    }
}

fn digest(data: &[u8], uki: &Uki<'_>, places: &Places) {
    let digest = uki.authenticode();
    let digest_of = |file: &[u8]| Uki::read(file).ok().map(|uki| uki.authenticode());
    let mut file = data.to_vec();
    file[places.checksum] ^= 0xff;
    assert_eq!(digest_of(&file), Some(digest), "the checksum is in the digest");

    if data[places.certificates..places.certificates + 8] == [0; 8] {
        let mut file = data.to_vec();
        file.resize(data.len().next_multiple_of(8), 0);
        let end = u32::try_from(file.len()).expect("it is small");
        file[places.certificates..places.certificates + 4].copy_from_slice(&end.to_le_bytes());
        file[places.certificates + 4] = 16;
        file.extend([0x55; 16]);
        assert_eq!(digest_of(&file), Some(digest), "signing changes the digest");
    }

    // One byte of each part, which the file itself chooses.
    let choice = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let left_out = [places.checksum..places.checksum + 4, places.certificates..places.certificates + 8];
    let parts = places.sections.iter().map(|(_, at, raw, _)| (*at, *raw)).chain([(0, places.headers_end)]);
    for (at, length) in parts.filter(|(_, length)| *length > 0) {
        let at = at + choice % length;
        if !left_out.iter().any(|range| range.contains(&at)) {
            let mut file = data.to_vec();
            file[at] ^= 1;
            assert_ne!(digest_of(&file), Some(digest), "byte {at} is not in the digest");
        }
    }
}

/// The headers of a file that was found whole, read a second way.
fn places(data: &[u8]) -> Places {
    let two = |at: usize| u16::from_le_bytes(data[at..at + 2].try_into().expect("two bytes"));
    let four = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes")) as usize;
    let pe = four(60);
    let optional = pe + OPTIONAL;
    let (_, certificates) = CERTIFICATES.into_iter().find(|(kind, _)| *kind == two(optional)).expect("a kind");
    let table = optional + usize::from(two(pe + 20));
    let section = |index: usize| {
        let at = table + index * SECTION_BYTES;
        let name = std::str::from_utf8(&data[at..at + 8]).expect("it is text").trim_end_matches('\0').to_owned();
        let (in_memory, raw, place) = (four(at + 8), four(at + 16), four(at + 20));
        // What has no bytes in the file may say that they lie anywhere.
        (name, if raw == 0 { 0 } else { place }, raw, raw.min(in_memory))
    };
    let sections = (0..usize::from(two(pe + 6))).map(section).collect();
    let (checksum, certificates) = (optional + CHECKSUM, optional + certificates);
    Places { checksum, certificates, headers_end: four(optional + 60), sections }
}
