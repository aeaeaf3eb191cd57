//! Fuzzes the client of a source's service, fed with an answer's bytes.
#![no_main]

#[path = "../bodies/answer.rs"]
mod answer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answer::run(data));
