//! The claims that `work` makes, against a simulated world: one binary, so that the world is built once.

mod bounds;
mod crash_at_every_prefix;
mod golden_facts;
mod histories;
mod policy;
mod sources;
mod world;
