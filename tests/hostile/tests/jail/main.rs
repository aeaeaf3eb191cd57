//! The runner, driven through its socket: real jails on this kernel, images made from this host's own programs.
//!
//! Needs root, as the runner does. Nothing here leaves the network namespaces that the jails bring with them.

mod confinement;
mod layers;
mod life;
mod mutation;
mod probe;
mod raw;
mod refusals;
mod seen;
mod services;
mod unpacking;
