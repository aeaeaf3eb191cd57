//! Fuzzes the callback listener, fed with a connection's bytes.
#![no_main]

#[path = "../bodies/callback.rs"]
mod callback;

libfuzzer_sys::fuzz_target!(|data: &[u8]| callback::run(data));
