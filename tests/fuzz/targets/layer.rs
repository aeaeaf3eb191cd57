//! Fuzzes the layers of images.
#![no_main]

#[path = "../bodies/layer.rs"]
mod layer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| layer::run(data));
