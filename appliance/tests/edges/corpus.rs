//! Every file of the fuzzers' corpora, through what the fuzzers call: what once was found stays mended.

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
#[path = "../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

fn replay(target: &str, run: fn(&[u8])) {
    for (_, data) in seeds(target) {
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
