//! The rig as its owner, its agent and its clients meet it: three real processes on a local network.
//!
//! Each claim has a rig of its own, so that any of them can be run alone. Read first: [`town`], the stage.

mod bundles;
mod endings;
mod identity;
mod owner;
mod race;
mod rotate;
mod taking;
mod town;
