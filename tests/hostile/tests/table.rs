//! Every attack of the list has its test, and every test of an attack is on the list.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hostile::attacks::{ATTACKS, Where};

/// Numbers with a test, at least: so many that excuses cannot take the place of tests.
const TESTED_MIN: usize = 63;

/// What a rig refuses before there is a job is tested beside the code that refuses it.
const ELSEWHERE: [&str; 1] = ["../../appliance/tests/edges/hostile.rs"];

/// The files that may hold tests of attacks.
fn files() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = ELSEWHERE.map(|path| here.join(path)).to_vec();
    let mut dirs = vec![here.join("tests")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("this folder").flatten() {
            let path = entry.path();
            if path.is_dir() { &mut dirs } else { &mut files }.push(path);
        }
    }
    files
}

/// The names of the tests of each number.
fn tests() -> BTreeMap<u8, Vec<String>> {
    let mut tests: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for path in files() {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for line in text.lines() {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let Some(name) = line.strip_prefix("fn attack_") else { continue };
            let number = name.split('_').next().and_then(|number| number.parse().ok());
            let number = number.unwrap_or_else(|| panic!("{}: attack_{name}", path.display()));
            tests.entry(number).or_default().push(name.to_owned());
        }
    }
    tests
}

#[test]
fn every_attack_has_a_test() {
    let tests = tests();
    let numbers: Vec<u8> = ATTACKS.iter().map(|(number, _, _)| *number).collect();
    assert!(numbers.is_sorted());
    let strangers: Vec<_> = tests.keys().filter(|number| !numbers.contains(number)).collect();
    assert!(strangers.is_empty(), "tests of attacks that are not on the list: {strangers:?}");
    println!(
        "{} of {} attacks have a test, {} tests in all",
        tests.len(),
        ATTACKS.len(),
        tests.values().flatten().count()
    );
    let mut missing = Vec::new();
    for (number, what, place) in ATTACKS {
        match (place, tests.contains_key(&number)) {
            (Where::Residual(why) | Where::Gpu(why), false) => println!("{number}, {what}, has none: {why}"),
            (Where::Residual(_) | Where::Gpu(_), true) => {
                panic!("{number}, {what}: said to have no test, and has one")
            }
            (_, true) => {}
            (_, false) => missing.push((number, what)),
        }
    }
    assert!(missing.is_empty(), "attacks without a test: {missing:?}");
    assert!(tests.len() >= TESTED_MIN, "{} numbers have a test", tests.len());
}
