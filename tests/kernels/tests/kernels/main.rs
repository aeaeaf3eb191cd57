//! The kernels against their references, their refusals, and the bundles in `tests/bundles` against the signatures.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod device;
mod jobs;
mod launches;
mod sources;
