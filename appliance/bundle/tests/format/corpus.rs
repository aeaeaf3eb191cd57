//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

#[path = "../../../../tests/fuzz/bodies/bundle.rs"]
mod body;
#[path = "../../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

#[test]
fn the_corpus_of_bundles_is_read_without_harm() {
    for (path, data) in seeds("bundle") {
        // A seed that no longer parses would leave the fuzzer at the door.
        let is_archive = path.extension().is_some_and(|extension| extension == "bundle");
        assert!(!is_archive || bundle::Bundle::parse(&data).is_ok(), "{}", path.display());
        body::run(&data);
    }
}
