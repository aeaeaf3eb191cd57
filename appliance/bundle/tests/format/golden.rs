//! Golden files: the archive, its digest, and plans. A change of any of them is a change of the format.
//!
//! `BUNDLE_GOLDEN=write cargo test -p bundle` writes them anew.

use std::fs;

use bundle::{Bundle, Parameters, Scalar};

use crate::example::{TOML, packed, place};

#[track_caller]
fn golden(file: &str, found: &[u8]) {
    let path = place("golden", file);
    if std::env::var_os("BUNDLE_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, found).expect("the golden file can be written");
    }
    let expected = fs::read(&path).expect("the golden file can be read");
    assert!(expected == found, "{file} differs: the format has changed");
}

#[test]
fn the_example_is_packed_to_the_same_bytes_for_ever() {
    let archive = packed(TOML).expect("the example is a bundle");
    golden("example.bundle", &archive);
    let parsed = Bundle::parse(&archive).expect("the example is a bundle");
    golden("example.digest", format!("{}\n", parsed.digest()).as_bytes());
}

#[test]
fn the_example_is_planned_to_the_same_operations_for_ever() {
    let archive = fs::read(place("golden", "example.bundle")).expect("the golden file can be read");
    let parsed = Bundle::parse(&archive).expect("the example is a bundle");
    let function = parsed.function("scale").expect("it is there");
    let pairs = [("count", Scalar::U32(300)), ("rounds", Scalar::U64(1)), ("factor", Scalar::F32(0.1))];
    let plan = function.plan(&pairs.into_iter().collect::<Parameters>()).expect("a plan");
    let mut text = serde_json::to_vec_pretty(&plan).expect("a plan is plain");
    text.push(b'\n');
    golden("example.plan.json", &text);
    golden("example.plan.digest", format!("{}\n", plan.digest()).as_bytes());
}
