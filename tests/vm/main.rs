//! The image on hardware that moves, breaks, forgets and is tampered with: every row is a real boot.
//!
//! `tests/vm.sh` runs all of it, one row after the other, and writes the table `tests/reports/vm.md`; it takes hours,
//! because the processor is emulated. `tests/run.sh` has one row run, that of a new stick, and skips the others (all are
//! named `in_vm::`).
//!
//! Read first: [`lab`] (what a row gets), then `in_vm/story.rs`.
#![forbid(unsafe_code)]

mod lab;
mod variables;

mod in_vm {
    mod cuts;
    mod driver;
    mod entries;
    mod moves;
    mod secure_boot;
    mod story;
    mod tampering;
    mod tpm;
    mod upkeep;
}
