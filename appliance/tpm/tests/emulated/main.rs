//! The crate against a real TPM emulator. Each test has one of its own, gone with the test.

mod attestation;
mod bench;
mod bus;
mod corpus;
mod counter;
mod owned;
mod policy;
mod seal;
