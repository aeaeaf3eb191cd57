//! Fuzzes bindings of keys to machines.
#![no_main]

#[path = "../bodies/binding.rs"]
mod binding;

libfuzzer_sys::fuzz_target!(|data: &[u8]| binding::run(data));
