//! The files that a fuzzer starts from, for the tests that take them through what it calls: what once was found stays
//! mended.

use std::fs;
use std::path::{Path, PathBuf};

/// Files of one corpus, and their bytes together: it is read by people, and by each run of the tests.
const FILES_MAX: usize = 80;
const BYTES_MAX: usize = 100 * 1024;

/// Every file of the corpus of `target`. Each is named as it is taken, so the last one named is the one that failed.
///
/// # Panics
/// If there is no corpus, or more than the bounds.
pub(crate) fn seeds(target: &str) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut corpora = above.map(|folder| folder.join("tests/fuzz/corpus").join(target));
    let corpus = corpora.find(|folder| folder.is_dir()).unwrap_or_else(|| panic!("{target} has no corpus"));
    let entries = fs::read_dir(corpus).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect();
    let bytes: usize = files.iter().map(|(_, data)| data.len()).sum();
    assert!((1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX, "{} files, {bytes} bytes", files.len());
    files.into_iter().inspect(|(path, _)| println!("{}", path.display()))
}
