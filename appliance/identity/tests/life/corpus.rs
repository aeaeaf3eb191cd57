//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use std::fs;
use std::path::Path;

use identity::Approvals;
use identity::file::KeyFile;

#[path = "../../../../tests/fuzz/bodies/sealed.rs"]
mod body;

/// Files of the corpus, and their bytes together: it is read by people, and by each run of the tests.
const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 100 * 1024;

#[test]
fn the_corpus_of_sealed_keys_is_read_without_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/sealed");
    let entries = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = entries.map(|path| (fs::read(&path).expect("a file"), path)).collect();
    let bytes: usize = files.iter().map(|(data, _)| data.len()).sum();
    assert!((1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX, "{} files, {bytes} bytes", files.len());
    for (data, path) in files {
        println!("{}", path.display());
        // A seed that no longer parses would leave the fuzzer at the door.
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        assert!(!is_key || KeyFile::parse(&data).is_ok(), "{}", path.display());
        assert!(path.file_name().is_none_or(|name| name != "approvals.json") || Approvals::parse(&data).is_ok());
        body::run(&data);
    }
}
