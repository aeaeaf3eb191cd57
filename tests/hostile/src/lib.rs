//! What a stranger's code may try against the runner, and the means to watch it from outside.
//!
//! [`rig`] gives each test a runner of its own; [`oci`] makes the images, good and bad; [`observed`] counts what a
//! runner left on the machine; [`attacks`] lists the attacks and says where each is shown. The binary `attack` of this
//! package is what runs inside: it says what it saw, but the verdict is always taken from the host.
//!
//! Everything here needs root, as the runner does, and panics when the machine does not do as it is told: these are
//! means of tests. Nothing leaves this machine.

pub mod attacks;

pub mod oci;

pub mod guard;

pub mod observed;

pub mod raw_tar;

pub mod gpu;

pub mod rig;
