//! A whole rig on a network that fails: every task ends with exactly one response, the owner is paid exactly once for
//! each, and no nonce is stuck.

mod inputs;
mod kills;
mod reorgs;
mod stand;
mod weather;
