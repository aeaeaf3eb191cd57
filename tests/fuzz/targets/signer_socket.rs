//! Fuzzes the signer's protocol and policy, fed with a connection's bytes.
#![no_main]

#[path = "../bodies/signer_socket.rs"]
mod signer_socket;

libfuzzer_sys::fuzz_target!(|data: &[u8]| signer_socket::run(data));
