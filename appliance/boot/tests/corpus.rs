//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use boot::wipe::wiped;

#[path = "../../../tests/fuzz/seeds.rs"]
mod seeds;
#[path = "../../../tests/fuzz/bodies/stick.rs"]
mod stick;

use seeds::seeds;

#[test]
fn the_corpus_of_settings_is_read_without_harm() {
    for (path, data) in seeds("stick") {
        stick::run(&data);
        // A seed that no longer holds secrets would leave the fuzzer at the door.
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if ["all-on.toml", "windows.toml", "inline.toml", "dotted.toml", "quoted.toml"].contains(&name) {
            let wiped = wiped(boot::text::of(&data).expect(name), true).expect(name);
            assert!(wiped.taken.len() >= 2, "{name}: {:?}", wiped.taken);
        }
    }
}
