//! 49: images that unpack to very much. Each bound is met, said by name, and soon.

use std::time::Duration;

use hostile::guard::{Guard, Refused, bottom};
use hostile::oci::{self, Pack};
use hostile::raw_tar::{BLOCK, Entry, RawTar, binary, kind, octal};
use hostile::rig::Setup;
use runner::protocol::Digest;
use rustix::fs::FileType;

const MIB: usize = 1 << 20;

/// What an unpacker may have in memory: the largest window of zstd twice over, and room.
const MEMORY_MAX: u64 = 300 << 20;

/// The runner itself only passes things on.
const RUNNER_MEMORY_MAX: u64 = 64 << 20;

/// What the header of a bomb claims: less than an image may unpack to, so that this is not what stops it.
const CLAIMED_BYTES: u64 = 30 << 30;

/// How long a bomb of any size may take: up to its bound, and one second.
const SOON: Duration = Duration::from_secs(4);

/// An image of one layer that is packed already, whatever it holds.
fn packed(guard: &Guard, suffix: &str, blob: &[u8]) -> Digest {
    let content = guard.content();
    let layer = oci::blob(&content, &format!("application/vnd.oci.image.layer.v1.tar{suffix}"), blob);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [oci::digest(b"nobody gets that far")] },
    });
    let config = oci::blob(&content, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    oci::manifest(&content, &config, &[layer])
}

fn defused(guard: &Guard, manifest: &Digest, says: &str) -> Refused {
    let (refused, peaks) = guard.peaks(|| guard.refuses(manifest));
    println!("{} after {:?}", refused.detail, refused.took);
    assert!(refused.detail.contains(says), "{}", refused.detail);
    assert!(refused.took < SOON, "{:?}", refused.took);
    assert!(peaks.child < MEMORY_MAX && peaks.runner < RUNNER_MEMORY_MAX, "{peaks:?}");
    refused
}

/// Numbers that no compressor makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// The header of a file of `bytes`.
fn header(bytes: u64) -> Vec<u8> {
    RawTar::new().entry(&Entry { size: binary(bytes), ..Entry::new(kind::FILE, b"zeroes", b"") }).broken_off()
}

#[test]
fn attack_49_a_gzip_bomb_is_refused_when_its_ratio_is_over_the_bound() {
    let guard = Guard::new();
    let (_, header) = Pack::Gzip.pack(&header(CLAIMED_BYTES));
    let (_, zeroes) = Pack::Gzip.pack(&vec![0; 16 * MIB]);
    // 32 GiB, in members of 16 MiB: minutes of work, if it were done.
    let bomb = [header, zeroes.repeat(2048)].concat();
    defused(&guard, &packed(&guard, "+gzip", &bomb), "expands more than 200 times");
    guard.unharmed();
}

#[test]
fn attack_49_a_zstd_bomb_is_refused_when_its_ratio_is_over_the_bound() {
    let guard = Guard::new();
    let (_, header) = Pack::Zstd.pack(&header(CLAIMED_BYTES));
    let (_, zeroes) = Pack::Zstd.pack(&vec![0; 64 * MIB]);
    // 64 GiB, in frames of 64 MiB, of a few kilobytes each.
    let bomb = [header, zeroes.repeat(1024)].concat();
    defused(&guard, &packed(&guard, "+zstd", &bomb), "expands more than 200 times");
    guard.unharmed();
}

#[test]
fn attack_49_padding_behind_the_end_of_a_tar_counts_as_well() {
    let guard = Guard::new();
    let (_, tar) = Pack::Zstd.pack(&RawTar::new().file(b"small", b"x").finish());
    let (_, zeroes) = Pack::Zstd.pack(&vec![0; 64 * MIB]);
    let bomb = [tar, zeroes.repeat(1024)].concat();
    defused(&guard, &packed(&guard, "+zstd", &bomb), "expands more than 200 times");
    guard.unharmed();
}

#[test]
fn attack_49_names_and_records_that_are_bombs_themselves_do_not_fill_the_memory() {
    let guard = Guard::new();
    let (_, zeroes) = Pack::Zstd.pack(&vec![b'a'; 64 * MIB]);
    for kind in [b'L', b'K', b'x', b'g'] {
        let entry = Entry { size: binary(CLAIMED_BYTES), ..Entry::new(kind, b"x", b"") };
        let (_, header) = Pack::Zstd.pack(&RawTar::new().entry(&entry).broken_off());
        defused(&guard, &packed(&guard, "+zstd", &[header, zeroes.repeat(64)].concat()), "");
    }
    guard.unharmed();
}

#[test]
fn attack_49_an_image_just_below_the_ratio_meets_the_bound_on_its_bytes() {
    let guard = Guard::over(Setup::default().options(&["--unpacked-bytes-max", "100000000"]));
    // 150 MiB of 1 MiB: 150 times.
    let bytes = (150 * MIB) as u64;
    let tar = [header(bytes), noise(MIB), vec![0; 149 * MIB], vec![0; 2 * BLOCK]].concat();
    let (_, blob) = Pack::Zstd.pack(&tar);
    assert!(blob.len() * 200 > tar.len(), "{} bytes", blob.len());
    defused(&guard, &packed(&guard, "+zstd", &blob), "more bytes");
    // In two layers, each of which would fit.
    let half = |name: &[u8]| RawTar::new().file(name, &noise(60_000_000)).finish();
    let manifest = oci::image(&guard.content(), &[(&half(b"a"), Pack::Plain), (&half(b"b"), Pack::Plain)], "{}");
    let answer = guard.client.prepare(&hostile::guard::stranger(), &manifest);
    let refused = hostile::rig::refusal(answer).to_string();
    assert!(refused.contains("bytes") || refused.contains("more than an image may unpack to"), "{refused}");
    guard.unharmed();
}

#[test]
fn attack_49_a_window_larger_than_memory_is_refused() {
    let guard = Guard::new();
    // Magic, a frame header without flags, a window of 3.75 TiB; then of 1 GiB; then content of 2^63 bytes in one piece.
    let frames: [&[u8]; 3] =
        [&[0x28, 0xB5, 0x2F, 0xFD, 0, 0xFF], &[0x28, 0xB5, 0x2F, 0xFD, 0, 20 << 3], &[0x28, 0xB5, 0x2F, 0xFD, 0xE0]];
    for frame in frames {
        let blob = [frame, &[0, 0, 0, 0, 0, 0, 0, 0x80], &noise(MIB)].concat();
        defused(&guard, &packed(&guard, "+zstd", &blob), "");
    }
    guard.unharmed();
}

#[test]
fn attack_49_a_bomb_inside_a_bomb_stays_packed() {
    let guard = Guard::new();
    let (_, inner) = Pack::Gzip.pack(&vec![0; 32 * MIB]);
    let (_, middle) = Pack::Gzip.pack(&RawTar::new().file(b"inner.tar.gz", &inner).finish());
    let length = i64::try_from(middle.len()).expect("small");
    let seen = guard.seen(&[RawTar::new().file(b"layer.tar.gz", &middle).file(b"zeroes.gz", &inner).finish()]);
    assert_eq!(seen.stat("layer.tar.gz").map(|found| found.st_size), Some(length));
    assert_eq!(seen.kind("layer.tar"), None);
    // A layer that is packed twice is no tar.
    let (_, twice) = Pack::Gzip.pack(&middle);
    defused(&guard, &packed(&guard, "+gzip", &twice), "");
    guard.unharmed();
}

/// `count` entries of `kind` with names of their own. The sums of the headers are brought up to date, which is many
/// times faster than making each anew.
fn many(kind: u8, count: usize) -> Vec<u8> {
    let template = RawTar::new().entry(&Entry::new(kind, b"many/0000000", b"")).broken_off();
    let sum = u32::from_str_radix(std::str::from_utf8(&template[148..154]).expect("digits"), 8).expect("a number");
    let mut tar = Vec::with_capacity(count * BLOCK + 2 * BLOCK);
    for number in 0..count {
        let at = tar.len();
        tar.extend(&template);
        // Every second digit first, so that neighbours differ and the whole does not pack too well.
        let digits = format!("{:07}", number * 7_368_787 % 9_999_991);
        tar[at + 5..at + 12].copy_from_slice(digits.as_bytes());
        let sum = sum + digits.bytes().map(|digit| u32::from(digit - b'0')).sum::<u32>();
        tar[at + 148..at + 154].copy_from_slice(format!("{sum:06o}").as_bytes());
    }
    tar.extend([0; 2 * BLOCK]);
    tar
}

#[test]
fn attack_49_a_million_entries_are_refused_at_the_bound() {
    let guard = Guard::new();
    // Of a kind that is not made: each counts all the same, and the test is not about this machine's disk.
    let (_, blob) = Pack::Zstd.pack(&many(kind::FIFO, 500_001));
    let (refused, peaks) = guard.peaks(|| guard.refuses(&packed(&guard, "+zstd", &blob)));
    assert!(refused.detail.contains("500000 entries"), "{}", refused.detail);
    assert!(refused.took < Duration::from_secs(20), "{:?}", refused.took);
    assert!(peaks.child < MEMORY_MAX, "{peaks:?}");
    guard.unharmed();
}

#[test]
fn attack_49_directories_that_paths_imply_count_as_entries() {
    let guard = Guard::new();
    // Each entry makes 250 directories: some two thousand of them are over the bound, in a blob of kilobytes.
    let mut tar = RawTar::new();
    for number in 0..12 {
        let path = format!("{number}/{}f", "d/".repeat(249));
        tar = tar.long(b'L', path.as_bytes()).file(b"", b"");
    }
    let manifest = guard.image(&[tar.finish()], "{}");
    let prepared = guard.client.prepare(&hostile::guard::stranger(), &manifest).expect("prepare");
    assert_eq!(prepared.entries, 12 * 251);
    guard.unharmed();
}

#[test]
fn attack_49_ten_thousand_layers_are_refused_before_any_is_unpacked() {
    let guard = Guard::new();
    let content = guard.content();
    let layer = oci::blob(&content, "application/vnd.oci.image.layer.v1.tar", &bottom());
    for count in [129, 10_000] {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": vec![oci::digest(&bottom()); count] },
        });
        let config = oci::blob(&content, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = oci::manifest(&content, &config, &vec![layer.clone(); count]);
        let refused = defused(&guard, &manifest, &format!("{count} layers"));
        assert!(refused.took < Duration::from_secs(1), "{:?}", refused.took);
    }
    // More than a document may be long.
    let config = oci::blob(&content, "application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = oci::manifest(&content, &config, &vec![layer; 40_000]);
    defused(&guard, &manifest, "bytes, of at most");
    guard.unharmed();
}

#[test]
fn attack_49_one_layer_a_hundred_times_is_one_layer() {
    let guard = Guard::new();
    let small = RawTar::new().file(b"small", b"x").finish();
    let seen = guard.seen(&vec![small; 127]);
    assert_eq!(seen.read("small").as_deref(), Some(&b"x"[..]));
    assert_eq!(hostile::guard::names(&guard.state("layers")).len(), 2);
    guard.unharmed();
}

#[test]
fn attack_49_a_path_of_four_kilobytes_is_refused_and_one_at_the_bound_leaves_nothing() {
    let guard = Guard::new();
    for path in [
        format!("{}f", "a/".repeat(2047)),
        format!("{}f", "a/".repeat(256)),
        "a".repeat(4096),
        "a".repeat(256),
        "a/".repeat(40_000),
        format!("{}f", "a".repeat(255) + "/").repeat(20),
    ] {
        for layer in [
            RawTar::new().long(b'L', path.as_bytes()).file(b"", b"x"),
            RawTar::new().pax(b'x', &[(b"path", path.as_bytes())]).dir(b"d"),
        ] {
            let refused = guard.refuses_layer(layer.finish());
            assert!(refused.detail.len() < 20_000, "{} bytes of words", refused.detail.len());
        }
    }
    let deep = format!("{}f", "a/".repeat(255));
    let seen = guard.seen(&[RawTar::new().long(b'L', deep.as_bytes()).file(b"", b"x").finish()]);
    assert_eq!(seen.kind(&deep), Some(FileType::RegularFile));
    guard.unharmed();
}

#[test]
fn attack_49_links_do_not_make_a_tree_deeper_than_its_bound() {
    let guard = Guard::new();
    let step = "d/".repeat(200);
    let mut layer = RawTar::new();
    // Each link leads to the end of the path before it, and the next path begins there.
    for number in 0..20 {
        let from = if number == 0 { String::new() } else { format!("l{}/", number - 1) };
        layer = layer.long(b'L', format!("{from}{step}f").as_bytes()).file(b"", b"x");
        let target = if number == 0 { step.clone() } else { format!("l{}/{step}", number - 1) };
        layer = layer.long(b'K', target.as_bytes()).link(kind::SYMLINK, format!("l{number}").as_bytes(), b"");
    }
    let refused = guard.refuses_layer(layer.finish());
    assert!(refused.detail.contains("256 directories"), "{}", refused.detail);
    guard.unharmed();
}

#[test]
fn attack_49_a_link_loop_is_refused() {
    let guard = Guard::new();
    for layer in [
        RawTar::new().link(kind::SYMLINK, b"loop", b"loop").file(b"loop/f", b"x"),
        RawTar::new().link(kind::SYMLINK, b"a", b"b").link(kind::SYMLINK, b"b", b"a").file(b"a/f", b"x"),
        RawTar::new().link(kind::SYMLINK, b"a", b"a/a/a/a/a/a/a/a").file(b"a/f", b"x"),
    ] {
        guard.refuses_layer(layer.finish());
    }
    guard.unharmed();
}

#[test]
fn attack_49_a_header_that_says_nothing_goes_on_for_ever_and_is_cut_off() {
    let guard = Guard::over(Setup::default().options(&["--unpacked-bytes-max", "50000000"]));
    // Records for a next entry that never comes, each packed so that the ratio stays small.
    let mut tar = RawTar::new();
    for _ in 0..60 {
        let comment = hex::encode(noise(MIB / 2));
        tar = tar.pax(b'x', &[(b"comment", comment.as_bytes())]);
    }
    let (_, blob) = Pack::Zstd.pack(&tar.finish());
    defused(&guard, &packed(&guard, "+zstd", &blob), "");
    // The size that a header claims is held against the bound before a byte of it is written.
    let claims = RawTar::new().entry(&Entry { size: octal(60_000_000), ..Entry::new(kind::FILE, b"f", b"x") });
    let refused = guard.refuses_layer(claims.finish());
    assert!(refused.detail.contains("more bytes"), "{}", refused.detail);
    guard.unharmed();
}
