//! CUDA bundles on their author's machine: compiled, packed, looked at.
//!
//! Invariants: what is built depends on the sources and on the compiler only, so that building twice gives the same
//! bytes; no path of this machine goes into a bundle; what is packed was parsed by the crate `bundle`, as a rig will
//! parse it. Nothing here needs a GPU or a driver.
//!
//! Read first: [`build`] (the whole way), then [`manifest`] (what a source directory may leave out), [`toolkit`] (where
//! the compiler is) and [`nvrtc`] (the compiler).

pub(crate) mod archive;

pub(crate) mod build;

pub(crate) mod manifest;

pub(crate) mod toolkit;

pub(crate) mod nvrtc;

mod files;
