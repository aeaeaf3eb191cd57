//! The format from outside: what is accepted and what it becomes, and everything that is refused.
//!
//! One binary, so that it is linked once. `tests/files` has the inputs, `tests/golden` what must come out.

mod binding;
mod code;
mod corpus;
mod example;
mod golden;
mod mutations;
mod plans;
mod properties;
mod refusals;
