//! The verifier against a real TPM's work: an emulator enrols, answers, certifies and quotes, and every lie is refused.
//!
//! One test binary, because each further one would link everything again.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod clocks;
mod honest;
mod refusals;
mod stage;
