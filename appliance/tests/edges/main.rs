//! The provider at its edges: lying registries, hostile services, people with questions and bad settings.
//! One binary, so that it is linked once.

mod compose;
mod containers;
mod corpus;
mod direct;
mod fake_gpus;
mod fake_runner;
mod hostile;
mod ledger;
mod lying;
mod registry;
mod services;
mod settings;
mod status;
