//! What the binary can be: each role is one process that does one thing and ends.

pub(crate) mod gpu;

pub(crate) mod compile;

pub(crate) mod probe;

pub(crate) mod measure;
