//! A third party's copy is the release, or it is refused.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use image::verify::{Copy, Evidence, Outcome, Report, verify};
use layout::manifest::PublicKey;
use synthetic::{Release, SBOM};
use tempfile::TempDir;

mod synthetic;

fn release() -> (TempDir, Release) {
    let folder = tempfile::tempdir().expect("a place for files");
    let release = synthetic::release(folder.path());
    (folder, release)
}

fn evidence(release: &Release) -> Evidence {
    Evidence {
        manifest: release.json.clone(),
        signature: release.signature.clone(),
        key: Some(PublicKey::from_hex(&release.keys.release_public()).expect("a key")),
        database: Some(release.keys.database().certificate().clone()),
        sbom: Some(SBOM.to_vec()),
    }
}

fn run(path: &Path, copy: Copy, evidence: &Evidence) -> Report {
    verify(path, copy, evidence, &mut |_, _| {}).expect("it can be read")
}

fn of(report: &Report, outcome: Outcome) -> Vec<&str> {
    report.lines.iter().filter(|line| line.outcome == outcome).map(|line| line.subject).collect()
}

#[test]
fn a_true_copy_is_proven_in_every_line_packed_or_not() {
    let (folder, release) = release();
    let packed = folder.path().join("rig.raw.zst");
    let raw = fs::read(&release.raw).expect("a disk");
    fs::write(&packed, zstd::encode_all(&raw[..], 1).expect("it packs")).expect("a file");
    for path in [&release.raw, &packed] {
        let report = run(path, Copy::Image, &evidence(&release));
        assert!(report.is_good(), "{report:#?}");
        let expected = [
            "manifest's signature",
            "image",
            "partitions",
            "boot partition",
            "loader",
            "Secure Boot",
            "kernel image",
            "Secure Boot",
            "root",
            "SBOM",
        ];
        assert_eq!(of(&report, Outcome::Proven), expected);
        assert_eq!(report.lines.len(), expected.len());
    }
}

#[test]
fn nothing_is_proven_without_a_key_or_by_another() {
    let (_folder, release) = release();
    let nobody = Evidence { key: None, ..evidence(&release) };
    let report = run(&release.raw, Copy::Image, &nobody);
    assert!(!report.is_good());
    assert_eq!(of(&report, Outcome::NotChecked), ["manifest's signature"]);
    let folder = tempfile::tempdir().expect("a place for keys");
    let other = synthetic::keys(folder.path(), true).release_public();
    let other = Evidence { key: Some(PublicKey::from_hex(&other).expect("a key")), ..evidence(&release) };
    let report = run(&release.raw, Copy::Image, &other);
    assert!(!report.is_good());
    assert_eq!(report.lines.len(), 1, "nothing is looked at under a manifest that nobody speaks for: {report:#?}");
}

#[test]
fn a_copy_with_one_other_byte_is_refused_and_the_place_is_named() {
    let (folder, release) = release();
    let raw = fs::read(&release.raw).expect("a disk");
    let copy = folder.path().join("copy.raw");
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut disk = raw.clone();
        change(&mut disk);
        fs::write(&copy, disk).expect("a disk");
        let report = run(&copy, Copy::Image, &evidence(&release));
        let line = report.lines.iter().find(|line| line.outcome == Outcome::Refused).expect("it is refused");
        assert!(line.detail.contains(expected), "{line:?}");
        assert!(!report.is_good());
    };
    check(&|disk| disk[(4 << 20) + 9] ^= 1, "from byte 4194304 are not those of the release");
    check(&|disk| disk.truncate(5 << 20), "it ends after 5242880 bytes of 8388608");
    check(&|disk| disk.push(0), "it goes on after");
    check(&|disk| disk.clear(), "it ends after 0 bytes");
    let packed = zstd::encode_all(&raw[..], 1).expect("it packs");
    fs::write(&copy, &packed[..packed.len() / 2]).expect("a file");
    let report = run(&copy, Copy::Image, &evidence(&release));
    assert_eq!(of(&report, Outcome::Refused), ["image"]);
}

#[test]
fn a_stick_in_use_is_compared_where_it_must_not_differ() {
    let (folder, release) = release();
    let raw = fs::read(&release.raw).expect("a disk");
    let stick = folder.path().join("stick");
    let check = |change: &dyn Fn(&mut Vec<u8>), refused: &[&str], is_good: bool| {
        let mut disk = raw.clone();
        change(&mut disk);
        fs::write(&stick, disk).expect("a disk");
        let report = run(&stick, Copy::Disk, &evidence(&release));
        assert_eq!(of(&report, Outcome::Refused), refused, "{report:#?}");
        assert_eq!(report.is_good(), is_good, "{report:#?}");
    };
    let find = |needle: &[u8]| raw.windows(needle.len()).position(|window| window == needle).expect("it is there");
    check(&|_| {}, &[], true);
    check(&|disk| disk[(3 << 20) + 70] = 1, &[], true);
    check(&|disk| disk[find(b"timeout 0")] = b'T', &[], true);
    check(&|disk| disk[(4 << 20) + 5000] ^= 1, &["root"], false);
    check(&|disk| disk[(6 << 20) + 5000] ^= 1, &["root"], false);
    // A superblock of 299 blocks in place of 300: the tree still fits, and the last block would not be read.
    check(&|disk| disk[(6 << 20) + 72] -= 1, &["root"], false);
    check(&|disk| disk[find(&[0x90; 64])] ^= 1, &["kernel image", "other programs"], false);
    check(&|disk| disk[find(&[0xeb; 64])] ^= 1, &["loader"], false);
    check(&|disk| disk[(1 << 20) + 510] = 0, &["boot partition"], false);
    check(&|disk| disk[..1 << 20].fill(0), &[], true);
    check(&|disk| disk.fill(0), &["partitions"], false);
}

#[test]
fn what_a_loader_would_start_besides_the_release_is_refused_on_a_stick() {
    let (folder, release) = release();
    let raw = fs::read(&release.raw).expect("a disk");
    let stick = folder.path().join("stick");
    let check = |change: &dyn Fn(&mut [u8]), expected: &str| {
        let mut disk = raw.clone();
        change(&mut disk);
        fs::write(&stick, disk).expect("a disk");
        let report = run(&stick, Copy::Disk, &evidence(&release));
        let line = report.lines.iter().find(|line| line.outcome == Outcome::Refused).expect("it is refused");
        assert!(line.subject == "other programs" && line.detail.contains(expected), "{line:?}");
        assert!(!report.is_good());
    };
    // A name in a folder: five letters, three bytes of other things, six letters.
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let find = |needle: &[u8]| raw.windows(needle.len()).position(|window| window == needle).expect("it is there");
    let name = find(&wide("db.au"));
    check(
        &|disk| {
            disk[name..name + 10].copy_from_slice(&wide("dbx.e"));
            disk[name + 13..name + 17].copy_from_slice(&wide("fi"));
        },
        "dbx.efi (unsigned)",
    );
    let keys = find(b"KEYS       ");
    check(&|disk| disk[keys..keys + 8].copy_from_slice(b"ENTRIES "), "ENTRIES");
}

#[test]
fn programs_signed_by_another_key_are_refused() {
    let (_folder, release) = release();
    let folder = tempfile::tempdir().expect("a place for keys");
    let other = synthetic::keys(folder.path(), true).database().certificate().clone();
    let report = run(&release.raw, Copy::Image, &Evidence { database: Some(other), ..evidence(&release) });
    assert_eq!(of(&report, Outcome::Refused), ["Secure Boot", "Secure Boot"]);
    let unnamed = run(&release.raw, Copy::Image, &Evidence { database: None, ..evidence(&release) });
    assert!(unnamed.is_good());
    assert_eq!(of(&unnamed, Outcome::NotChecked), ["Secure Boot", "Secure Boot"]);
}

#[test]
fn another_list_of_contents_is_refused() {
    let (_folder, release) = release();
    let report = run(&release.raw, Copy::Image, &Evidence { sbom: Some(b"{}".to_vec()), ..evidence(&release) });
    assert_eq!(of(&report, Outcome::Refused), ["SBOM"]);
    let report = run(&release.raw, Copy::Image, &Evidence { sbom: None, ..evidence(&release) });
    assert_eq!(of(&report, Outcome::NotChecked), ["SBOM"]);
    assert!(release.manifest.parts.contains_key("spdx.json"));
}
