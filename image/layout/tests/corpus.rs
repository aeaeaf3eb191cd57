//! Every file of the fuzzers' corpora, through what the fuzzers call: what once was found stays mended.

use layout::fat::{Fat, Reading};
use layout::gpt::Table;
use layout::manifest::Manifest;
use layout::uki::Uki;

#[path = "../../../tests/fuzz/bodies/disk.rs"]
mod disk;
#[path = "../../../tests/fuzz/bodies/fat.rs"]
mod fat;
#[path = "../../../tests/fuzz/bodies/gpt.rs"]
mod gpt;
#[path = "../../../tests/fuzz/bodies/release_manifest.rs"]
mod release_manifest;
#[path = "../../../tests/fuzz/seeds.rs"]
mod seeds;
#[path = "../../../tests/fuzz/bodies/uki.rs"]
mod uki;

use disk::Disk;
use seeds::seeds;

/// Runs the corpus of `target`. Of its files `good` must still be taken: a seed that no longer is would leave the fuzzer
/// at the door.
fn replay(target: &str, run: fn(&[u8]), good: &[&str], is_taken: impl Fn(&[u8]) -> bool) {
    let mut taken = 0;
    for (path, data) in seeds(target) {
        run(&data);
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| good.contains(&name)) {
            assert!(is_taken(&data), "{}", path.display());
            taken += 1;
        }
    }
    assert_eq!(taken, good.len(), "{good:?} are in the corpus");
}

#[test]
fn the_corpus_of_partition_tables_is_read_without_harm() {
    let good = ["usual", "sectors-4096", "entries-256", "backup-alone", "primary-alone", "image-on-a-longer-stick"];
    replay("gpt", gpt::run, &good, |data| Disk::of(data).is_some_and(|mut disk| Table::read(&mut disk).is_ok()));
}

#[test]
fn the_corpus_of_fat_volumes_is_read_and_written_without_harm() {
    let good = ["fat32", "fat16", "one-table", "made-by-mkfs", "long-settings-name"];
    replay("fat", fat::run, &good, |data| {
        let fat = Disk::of(data).and_then(|disk| Fat::open(disk, Reading::Strict).ok());
        fat.is_some_and(|mut fat| fat.entries().is_ok_and(|entries| entries.len() >= 2))
    });
}

#[test]
fn the_corpus_of_kernel_images_is_read_without_harm() {
    replay("uki", uki::run, &["usual", "pe32", "signed", "gaps", "memory-only"], |data| Uki::read(data).is_ok());
}

#[test]
fn the_corpus_of_release_manifests_is_read_without_harm() {
    let good = ["generic.json", "one-line.json", "sectors-4096.json", "no-parts.json", "escaped.json"];
    replay("release_manifest", release_manifest::run, &good, |data| Manifest::parse(data).is_ok());
}
