//! Fuzzes partition tables, fed with a disk.
#![no_main]

#[path = "../bodies/disk.rs"]
mod disk;
#[path = "../bodies/gpt.rs"]
mod gpt;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gpt::run(data));
