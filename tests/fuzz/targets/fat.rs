//! Fuzzes FAT volumes, fed with a disk.
#![no_main]

#[path = "../bodies/disk.rs"]
mod disk;
#[path = "../bodies/fat.rs"]
mod fat;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fat::run(data));
