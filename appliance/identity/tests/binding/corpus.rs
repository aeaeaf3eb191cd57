//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

#[path = "../../../../tests/fuzz/bodies/binding.rs"]
mod body;
#[path = "../../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

#[test]
fn the_corpus_of_bindings_is_read_without_harm() {
    for (path, data) in seeds("binding") {
        // A seed that no longer parses would leave the fuzzer at the door.
        let is_binding = path.extension().is_some_and(|extension| extension == "binding");
        assert!(!is_binding || identity::binding::Bound::parse(&data).is_ok(), "{}", path.display());
        body::run(&data);
    }
}
