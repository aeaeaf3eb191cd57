//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use std::fs;
use std::path::Path;

use tpm::Fault;
use tpm::answer::{Asked, understand};

#[path = "../../../../tests/fuzz/bodies/tpm.rs"]
mod body;

/// Files of the corpus, and their bytes together: it is read by people, and by each run of the tests.
const FILES_MAX: usize = 80;
const BYTES_MAX: usize = 100 * 1024;

#[test]
fn the_corpus_of_answers_is_read_without_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/tpm");
    let entries = fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = entries.map(|path| (fs::read(&path).expect("a file"), path)).collect();
    let bytes: usize = files.iter().map(|(data, _)| data.len()).sum();
    assert!((1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX, "{} files, {bytes} bytes", files.len());
    let mut understood = [false; Asked::ALL.len()];
    for (data, path) in files {
        println!("{}", path.display());
        body::run(&data);
        // A seed that is no longer taken would leave the fuzzer at the door.
        if path.extension().is_some_and(|extension| extension == "answer") {
            let kind = usize::from(data[0]);
            match understand(Asked::ALL[kind], &data[1..]) {
                Ok(()) => understood[kind] = true,
                Err(Fault::Refused { .. }) => {}
                Err(fault) => panic!("{}: {fault}", path.display()),
            }
        }
    }
    let without = Asked::ALL.iter().zip(understood).filter(|(_, is_there)| !is_there).map(|(asked, _)| asked);
    assert_eq!(without.collect::<Vec<_>>(), [&Asked::Unseal; 0], "commands without an answer in the corpus");
}
