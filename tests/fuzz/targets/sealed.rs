//! Fuzzes key files and the vendor's approvals.
#![no_main]

#[path = "../bodies/sealed.rs"]
mod sealed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sealed::run(data));
