//! No single flipped byte makes a rig run changed code.
//!
//! With `RIG_IMAGE_DIR` the image that a build left there is tried, at least a thousand times; without it a small one that
//! the test makes. `RIG_TAMPER_SEED` repeats a run.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use image::keys::certificate;
use image::tamper::{Area, Image, Tally, Verdict};

mod synthetic;

const ENV_IMAGE: &str = "RIG_IMAGE_DIR";
const ENV_CERTIFICATE: &str = "RIG_IMAGE_CERTIFICATE";
const ENV_SEED: &str = "RIG_TAMPER_SEED";
/// Of a real image, each area a fifth.
const FLIPS: u64 = 1500;
/// Of the small one: ten times as many are tried before a release.
const FLIPS_SMALL: u64 = 1000;

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    std::env::var(ENV_SEED).ok().and_then(|text| text.parse().ok()).unwrap_or_else(now)
}

fn tried(image: &Image, count: u64) -> Tally {
    let seed = seed();
    let tally = image.try_flips(seed, count, &mut |_| {}).expect("the image can be read");
    println!("{count} flips, {ENV_SEED}={seed}\n{}", tally.table());
    assert_eq!(tally.accepted(), Vec::<&Verdict>::new(), "{ENV_SEED}={seed}");
    assert_eq!(tally.counts.values().sum::<u64>(), count);
    tally
}

fn refused(tally: &Tally, area: Area) -> u64 {
    let is_refused = |(of, verdict): &(Area, Verdict)| *of == area && matches!(verdict, Verdict::Refused(_));
    tally.counts.iter().filter(|(key, _)| is_refused(key)).map(|(_, count)| count).sum()
}

#[test]
fn no_flip_in_a_small_release_is_accepted() {
    let folder = tempfile::tempdir().expect("a place for files");
    let release = synthetic::release(folder.path());
    let signed = Image::open(&release.raw, Some(release.keys.database().certificate().clone())).expect("it is whole");
    let tally = tried(&signed, FLIPS_SMALL);
    assert_eq!(refused(&tally, Area::Root), FLIPS_SMALL / 5, "every byte of the root matters");
    let measured = Image::open(&release.raw, None).expect("it is whole");
    tried(&measured, FLIPS_SMALL);
}

#[test]
fn the_same_seed_gives_the_same_flips() {
    let folder = tempfile::tempdir().expect("a place for files");
    let release = synthetic::release(folder.path());
    let image = Image::open(&release.raw, None).expect("it is whole");
    let once = image.try_flips(7, 100, &mut |_| {}).expect("it can be read");
    assert_eq!(image.try_flips(7, 100, &mut |_| {}).expect("it can be read"), once);
}

#[test]
fn an_image_that_is_not_whole_is_not_tried() {
    let folder = tempfile::tempdir().expect("a place for files");
    let release = synthetic::release(folder.path());
    let good = std::fs::read(&release.raw).expect("a disk");
    let path = folder.path().join("spoilt.raw");
    let check = |at: usize, expected: &str| {
        let mut disk = good.clone();
        disk[at] ^= 1;
        std::fs::write(&path, disk).expect("a disk");
        let error = Image::open(&path, Some(release.keys.database().certificate().clone())).expect_err("it is spoilt");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let esp = 1 << 20;
    check((4 << 20) + 5000, "the root does not fit its tree");
    check(esp + 11, "the ESP cannot be read");
    check(esp + 30_000, "");
}

fn built(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("RIG_IMAGE_DIR is a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let raw = paths.filter(|path| path.extension().is_some_and(|ending| ending == "raw")).max();
    raw.expect("RIG_IMAGE_DIR has a .raw")
}

#[test]
fn no_flip_in_the_image_that_was_built_is_accepted() {
    let Some(folder) = std::env::var_os(ENV_IMAGE).map(PathBuf::from) else { return };
    let database = std::env::var_os(ENV_CERTIFICATE)
        .map(|path| certificate(&std::fs::read(path).expect("a file")).expect("a certificate"));
    let image = Image::open(&built(&folder), database).expect("what was built is whole");
    tried(&image, FLIPS);
}
