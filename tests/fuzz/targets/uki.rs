//! Fuzzes kernel images.
#![no_main]

#[path = "../bodies/uki.rs"]
mod uki;

libfuzzer_sys::fuzz_target!(|data: &[u8]| uki::run(data));
