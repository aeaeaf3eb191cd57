//! The example bundle, and ways to spoil it.

use std::error::Error;
use std::path::PathBuf;

use bundle::{Bundle, BundleError, Function, pack};

pub(crate) const TOML: &str = include_str!("../files/example.toml");
pub(crate) const PTX: &str = include_str!("../files/example.ptx");

/// A bundle of `toml` and the example's module.
pub(crate) fn packed(toml: &str) -> Result<Vec<u8>, BundleError> {
    pack(&[("bundle.toml", toml.as_bytes()), ("example.ptx", PTX.as_bytes())])
}

pub(crate) fn parsed(toml: &str) -> Bundle {
    let archive = packed(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    Bundle::parse(&archive).expect("what was packed is parsed")
}

pub(crate) fn function(toml: &str) -> Function {
    parsed(toml).functions().next().expect("a bundle has a function").clone()
}

/// The example with its first `old` replaced.
pub(crate) fn with(old: &str, new: &str) -> String {
    assert!(TOML.contains(old), "the example has no {old}");
    TOML.replacen(old, new, 1)
}

/// An error with all of its sources.
pub(crate) fn words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}

pub(crate) fn place(folder: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder).join(file)
}
