//! Fuzzes manifests of releases.
#![no_main]

#[path = "../bodies/release_manifest.rs"]
mod release_manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| release_manifest::run(data));
