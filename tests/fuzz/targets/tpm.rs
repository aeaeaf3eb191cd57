//! Fuzzes what is taken for a TPM's answer.
#![no_main]

#[path = "../bodies/tpm.rs"]
mod tpm;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tpm::run(data));
