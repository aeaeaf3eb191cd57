use proptest::prelude::*;

use super::*;

/// A small PE32+ file with the given sections, signed or not.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 0x40];
    file[0..2].copy_from_slice(b"MZ");
    file[60] = 0x40;
    file.extend(b"PE\0\0\x64\x86");
    file.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    file.extend([0; 12]);
    file.extend(240_u16.to_le_bytes());
    file.extend(0x22_u16.to_le_bytes());
    let optional = file.len();
    file.extend(vec![0; 240]);
    file[optional..optional + 2].copy_from_slice(&0x20b_u16.to_le_bytes());
    file[optional + 108] = 16;
    let headers_end: u32 = 0x400;
    file[optional + 60..optional + 64].copy_from_slice(&headers_end.to_le_bytes());
    let mut at = headers_end;
    let mut body = Vec::new();
    for (name, content) in sections {
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let long = u32::try_from(content.len()).unwrap();
        let raw = long.next_multiple_of(512);
        header[8..12].copy_from_slice(&long.to_le_bytes());
        header[16..20].copy_from_slice(&raw.to_le_bytes());
        header[20..24].copy_from_slice(&at.to_le_bytes());
        file.extend(header);
        body.extend_from_slice(content);
        body.resize(body.len().next_multiple_of(512), 0);
        at += raw;
    }
    file.resize(0x400, 0);
    file.extend(body);
    file
}

const SECTION_TABLE: usize = 0x40 + 24 + 240;
const CERTIFICATES: usize = 0x40 + 24 + 112 + 32;

fn usual() -> Vec<u8> {
    let line = format!("quiet roothash={} ro\0", "ab".repeat(32));
    pe(&[(".linux", &[7; 700]), (".cmdline", line.as_bytes()), (".initrd", b"cpio")])
}

fn changed(at: usize, value: u32) -> Vec<u8> {
    let mut file = usual();
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    file
}

#[test]
fn sections_and_the_root_are_found() {
    let file = usual();
    let uki = Uki::read(&file).expect("it is whole");
    assert_eq!(uki.section(".linux"), Some(&[7; 700][..]));
    assert_eq!(uki.section(".initrd"), Some(&b"cpio"[..]));
    assert_eq!(uki.section(".none"), None);
    assert!(uki.command_line().is_some_and(|line| line.ends_with("ro")));
    assert_eq!(uki.root_hash(), Some(RootHash::from_bytes([0xab; 32])));
}

#[test]
fn a_command_line_without_one_root_names_none() {
    let two = format!("roothash={0} roothash={0}", "ab".repeat(32));
    for line in ["", "quiet", "roothash=", "roothash=abcd", "xroothash=00", &two] {
        let file = pe(&[(".cmdline", line.as_bytes())]);
        assert_eq!(Uki::read(&file).expect("it is whole").root_hash(), None, "{line}");
    }
}

#[test]
fn a_command_line_ends_where_the_kernel_ends_it() {
    let hash = "ab".repeat(32);
    let check = |line: String, expected: &str, names_root: bool| {
        let file = pe(&[(".cmdline", line.as_bytes())]);
        let uki = Uki::read(&file).expect("it is whole");
        assert_eq!((uki.command_line(), uki.root_hash().is_some()), (Some(expected), names_root));
    };
    check(format!("quiet\0 roothash={hash}"), "quiet", false);
    check(format!(" roothash={hash} \0roothash={hash}\0\0"), &format!("roothash={hash}"), true);
    check("\0quiet".to_owned(), "", false);
}

#[test]
fn a_file_that_lies_is_refused() {
    let short = |what| UkiError::Short(what);
    let table = [
        (vec![], UkiError::Foreign("it does not begin as one")),
        (b"MZ".to_vec(), short("headers")),
        (changed(60, u32::MAX), UkiError::Foreign("it has no PE header")),
        (changed(60, 0x44), UkiError::Foreign("it has no PE header")),
        // The machine of 64-bit ARM; the field behind it is as it was.
        (changed(0x40 + 4, 0x0003_aa64), UkiError::Foreign("it is for another kind of machine")),
        (changed(0x40 + 6, 97), UkiError::Sections(97)),
        (changed(0x40 + 6, 0), UkiError::Sections(0)),
        (changed(0x40 + 24, 0x999), UkiError::Foreign("its headers are of an unknown kind")),
        (changed(0x40 + 24 + 60, 0x100), short("headers")),
        (changed(0x40 + 24 + 60, u32::MAX), short("headers")),
        (changed(0x40 + 24 + 108, 4), UkiError::Foreign("it has no place for a signature")),
        (changed(SECTION_TABLE + 20, 0x100), UkiError::Overlap(".linux".to_owned())),
        (changed(SECTION_TABLE + 20, u32::MAX), UkiError::Overlap(".linux".to_owned())),
        (changed(SECTION_TABLE + 16, u32::MAX), UkiError::Overlap(".linux".to_owned())),
        (changed(SECTION_TABLE + 16, 0x600), UkiError::Overlap(".cmdline".to_owned())),
        (pe(&[(".cmdline", b"a"), (".cmdline", b"b")]), UkiError::Twice(".cmdline".to_owned())),
        (changed(CERTIFICATES, 0xa00), UkiError::Tail),
        (changed(CERTIFICATES + 4, 8), short("signatures")),
    ];
    for (file, expected) in table {
        assert_eq!(Uki::read(&file).expect_err("it lies"), expected);
    }
    assert_eq!(Uki::read(&vec![0; UKI_BYTES_MAX + 1]).expect_err("it is too large"), UkiError::TooLarge(83_886_081));
}

#[test]
fn a_signature_changes_the_file_and_not_its_digest() {
    let mut file = usual();
    let digest = Uki::read(&file).expect("it is whole").authenticode();
    let end = u32::try_from(file.len()).unwrap();
    file.extend([0x55; 64]);
    file[CERTIFICATES..CERTIFICATES + 4].copy_from_slice(&end.to_le_bytes());
    file[CERTIFICATES + 4..CERTIFICATES + 8].copy_from_slice(&64_u32.to_le_bytes());
    file[0x40 + 24 + 64] = 9;
    assert_eq!(Uki::read(&file).expect("it is whole").authenticode(), digest);
}

#[test]
fn every_other_byte_is_in_the_digest() {
    let file = usual();
    let digest = Uki::read(&file).expect("it is whole").authenticode();
    let left_out = [0x40 + 24 + 64..0x40 + 24 + 68, CERTIFICATES..CERTIFICATES + 8];
    for at in (0..file.len()).filter(|at| !left_out.iter().any(|range| range.contains(at))) {
        let mut file = file.clone();
        file[at] ^= 1;
        if let Ok(uki) = Uki::read(&file) {
            assert_ne!(uki.authenticode(), digest, "byte {at}");
        }
    }
}

/// What `sbsign` 0.9.4 signs of this file. It was made of [`usual`], and the digest taken from the signature.
#[test]
fn the_digest_is_the_one_that_signing_tools_sign() {
    let file = usual();
    let digest = Uki::read(&file).expect("it is whole").authenticode();
    assert_eq!(hex::encode(digest), "5d00b78a702e3f2a23776ad469743b8f17d42f24c52a8b3eb5d25c6c0014a9e5");
}

proptest! {
    #[test]
    fn no_file_panics(changes in proptest::collection::vec((0_usize..0x400, any::<u8>()), 1..12)) {
        let mut file = usual();
        for (at, value) in changes {
            file[at] = value;
        }
        if let Ok(uki) = Uki::read(&file) {
            let _ = (uki.authenticode(), uki.root_hash());
        }
    }
}
