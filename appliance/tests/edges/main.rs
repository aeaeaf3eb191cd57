//! The provider at its edges: lying registries, hostile services, people with questions and bad settings.
//! One binary, so that it is linked once.

mod compose;
mod containers;
mod fake_runner;
mod ledger;
mod lying;
mod registry;
mod settings;
mod status;
