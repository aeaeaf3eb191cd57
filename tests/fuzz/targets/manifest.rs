//! Fuzzes the documents of a registry.
#![no_main]

#[path = "../bodies/manifest.rs"]
mod manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| manifest::run(data));
