//! Every file of the fuzzers' corpora, through what the fuzzers call: what once was found stays mended.

use std::fs;
use std::path::Path;

#[path = "../../../tests/fuzz/bodies/answer.rs"]
mod answer;
#[path = "../../../tests/fuzz/bodies/callback.rs"]
mod callback;
#[path = "../../../tests/fuzz/bodies/compose.rs"]
mod compose;
#[path = "../../../tests/fuzz/bodies/layer.rs"]
mod layer;
#[path = "../../../tests/fuzz/bodies/manifest.rs"]
mod manifest;

/// Files of one corpus, and their bytes together: it is read by people, and by each run of the tests.
const FILES_MAX: usize = 60;
const BYTES_MAX: usize = 100 * 1024;

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = entries.map(|path| (fs::read(&path).expect("a file"), path)).collect();
    let bytes: usize = files.iter().map(|(data, _)| data.len()).sum();
    assert!((1..=FILES_MAX).contains(&files.len()) && bytes <= BYTES_MAX, "{} files, {bytes} bytes", files.len());
    for (data, path) in files {
        println!("{}", path.display());
        run(&data);
    }
}

#[test]
fn the_corpus_of_compose_files_is_read_without_harm() {
    replay("compose", compose::run);
}

#[test]
fn the_corpus_of_callbacks_is_heard_without_harm() {
    replay("callback", callback::run);
}

#[test]
fn the_corpus_of_answers_is_heard_without_harm() {
    replay("answer", answer::run);
}

#[test]
fn the_corpus_of_registry_documents_is_read_without_harm() {
    replay("manifest", manifest::run);
}

#[test]
fn the_corpus_of_layers_is_unpacked_without_harm() {
    replay("layer", layer::run);
}
