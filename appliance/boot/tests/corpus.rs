//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use std::fs;
use std::path::Path;

use boot::wipe::wiped;

#[path = "../../../tests/fuzz/bodies/stick.rs"]
mod stick;

/// Files of the corpus, and their bytes together: it is read by people, and by each run of the tests.
const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 100 * 1024;

#[test]
fn the_corpus_of_settings_is_read_without_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/stick");
    let entries = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = entries.map(|path| (fs::read(&path).expect("a file"), path)).collect();
    let bytes: usize = files.iter().map(|(data, _)| data.len()).sum();
    assert!((1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX, "{} files, {bytes} bytes", files.len());
    for (data, path) in files {
        println!("{}", path.display());
        stick::run(&data);
    }
    // A seed that no longer holds secrets would leave the fuzzer at the door.
    for name in ["all-on.toml", "windows.toml", "inline.toml", "dotted.toml", "quoted.toml"] {
        let bytes = fs::read(folder.join(name)).expect(name);
        let wiped = wiped(boot::text::of(&bytes).expect(name), true).expect(name);
        assert!(wiped.taken.len() >= 2, "{name}: {:?}", wiped.taken);
    }
}
