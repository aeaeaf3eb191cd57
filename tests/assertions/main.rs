//! The 31 assertions of the protocol's acceptance list, each a test of its own on a network of its own.
//!
//! The published SDK makes every call that it has; alloy makes the rest. A number in a name is the number in the list.
//! Together they say that the local contracts are what the SDK's users will meet, so what the rig learns against them
//! holds elsewhere.

mod answers;
mod conservation;
mod lists;
mod money;
mod people;
mod sources;
mod tasks;
mod views;
