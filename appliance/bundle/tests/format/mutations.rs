//! Archives that differ from the canonical one: each byte of them has a meaning, or the archive is refused.

use bundle::Bundle;
use proptest::prelude::*;

use crate::example::{PTX, TOML, packed};

/// The block of the first file's header.
const HEADER_BYTES: usize = 512;

fn archive() -> Vec<u8> {
    packed(TOML).expect("the example is a bundle")
}

/// The archive with a header field overwritten and the header's sum mended.
fn with_field(at: usize, value: &[u8]) -> Vec<u8> {
    let mut archive = archive();
    archive[at..at + value.len()].copy_from_slice(value);
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..HEADER_BYTES].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    archive
}

fn refused(archive: &[u8], what: &str) {
    assert!(Bundle::parse(archive).is_err(), "{what} was accepted");
}

#[test]
fn another_header_of_the_same_files_is_refused() {
    assert_eq!(with_field(100, b"0000644\0"), archive(), "a header that is written again is the same");
    let cases: [(usize, &[u8], &str); 14] = [
        (100, b"0000755\0", "an executable"),
        (100, b"0004644\0", "a setuid file"),
        (108, b"0001750\0", "an owner"),
        (116, b"0001750\0", "a group"),
        (136, b"00000000001\0", "a time"),
        (156, b"\0", "an old regular file"),
        (156, b"1", "a hard link"),
        (156, b"2", "a symbolic link"),
        (156, b"5", "a folder"),
        (156, b"x", "a pax header"),
        (157, b"/etc/passwd", "a link's target"),
        (257, b"ustar  \0", "GNU's magic"),
        (265, b"root", "an owner's name"),
        (345, b"..", "a path's prefix"),
    ];
    for (at, value, what) in cases {
        refused(&with_field(at, value), what);
    }
    refused(&with_field(124, b"77777777777\0"), "a size of 8 GiB");
    refused(&with_field(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "a size in binary");
    refused(&with_field(124, b"00000000000\0"), "an empty manifest");
    refused(&with_field(0, b"./bundle.toml\0"), "another way to write the name");
}

#[test]
fn bytes_around_and_between_are_refused() {
    let good = archive();
    refused(&[], "nothing");
    refused(&[good.clone(), vec![0; 512]].concat(), "a third zero block");
    refused(&[good.clone(), good.clone()].concat(), "a second archive");
    refused(&good[..good.len() - 512], "an archive with one zero block");
    refused(&good[..good.len() - 1024], "an archive without an end");
    refused(&good[..700], "half a file");
    let mut padded = good.clone();
    let end = HEADER_BYTES + TOML.len();
    assert_eq!(padded[end], 0, "the example ends before its block does");
    padded[end] = 1;
    refused(&padded, "a byte in the padding");
}

#[test]
fn a_bundle_is_packed_as_it_was_read() {
    let archive = archive();
    let parsed = Bundle::parse(&archive).expect("the example is a bundle");
    let files = parsed.modules().iter().map(|module| (module.file(), module.bytes()));
    let files: Vec<_> = [("bundle.toml", TOML.as_bytes())].into_iter().chain(files).collect();
    assert_eq!(bundle::pack(&files).expect("it was a bundle"), archive);
    assert_eq!(parsed.modules()[0].bytes(), PTX.as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_archive_is_refused_or_another_bundle(at in 0usize..12_000, value: u8, also in 0usize..12_000, second: u8) {
        let good = archive();
        let mut bad = good.clone();
        let length = bad.len();
        bad[at % length] = value;
        bad[also % length] ^= second;
        if let Ok(parsed) = Bundle::parse(&bad) {
            let digest = Bundle::parse(&good).expect("the example is a bundle").digest();
            prop_assert_eq!(parsed.digest() == digest, bad == good);
        }
    }

    #[test]
    fn a_cut_archive_is_refused(end in 0usize..12_000) {
        let good = archive();
        if end < good.len() {
            prop_assert!(Bundle::parse(&good[..end]).is_err());
        }
    }

    #[test]
    fn a_changed_manifest_never_panics(at in 0usize..4_000, text in "[ -~\\n]{0,6}") {
        let mut toml = TOML.to_owned();
        let at = at % toml.len();
        toml.replace_range(at..(at + text.len()).min(toml.len()), &text);
        if let Ok(archive) = packed(&toml) {
            let parsed = Bundle::parse(&archive).expect("what was packed is parsed");
            for function in parsed.functions() {
                let _ = function.plan(&Default::default());
            }
        }
    }
}
