//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use identity::Approvals;
use identity::file::KeyFile;

#[path = "../../../../tests/fuzz/bodies/sealed.rs"]
mod body;
#[path = "../../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

#[test]
fn the_corpus_of_sealed_keys_is_read_without_harm() {
    for (path, data) in seeds("sealed") {
        // A seed that no longer parses would leave the fuzzer at the door.
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        assert!(!is_key || KeyFile::parse(&data).is_ok(), "{}", path.display());
        assert!(path.file_name().is_none_or(|name| name != "approvals.json") || Approvals::parse(&data).is_ok());
        body::run(&data);
    }
}
