//! The runner, driven through its socket: real jails on this kernel, images made from this host's own programs.
//!
//! Needs root, as the runner does. Nothing here leaves the network namespaces that the jails bring with them.

mod confinement;
mod life;
mod oci;
mod probe;
mod raw;
mod refusals;
mod rig;
mod unpacking;
