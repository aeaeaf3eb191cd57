//! Fuzzes kernel bundles.
#![no_main]

#[path = "../bodies/bundle.rs"]
mod bundle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bundle::run(data));
