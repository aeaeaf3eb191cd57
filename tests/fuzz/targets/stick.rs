//! Fuzzes the settings on the stick.
#![no_main]

#[path = "../bodies/stick.rs"]
mod stick;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stick::run(data));
