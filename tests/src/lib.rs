//! The stage for tests that need the real thing: a real chain, the SDK that others published, a real image registry.
//!
//! It owns the drivers of those programs. It never stands in for one of them: what a test sees through here is what the
//! program itself said. What the programs need is installed by `tests/setup.sh`.
//!
//! Read first: [`stage`] (a devnet with the SDK beside it), then [`sdk`] and [`registry`].
#![forbid(unsafe_code)]

pub mod booted;
pub mod client;
pub mod driver;
pub mod gateway;
pub mod guest;
pub mod hardware;
pub mod island;
pub mod market;
pub mod node;
pub mod proxy;
pub mod registry;
pub mod rig;
pub mod sdk;
pub mod stage;
pub mod stick;
pub mod teller;
pub mod town;
