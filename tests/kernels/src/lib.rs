//! The kernels of the four example bundles and of the runner's benchmark, computed on the CPU.
//!
//! For tests on a machine without a GPU: the driver that is not there calls [`launch`] where a real one would start a
//! grid, and a test compares what came out with [`mod@reference`], which computes each whole job in another way.
//!
//! This crate owns the signatures of the kernels in `tests/bundles/*/*.cu` ([`names`], [`parameters`]) and the layout
//! of their buffers, as documented below. It never opens a file, keeps no state between launches, and holds nothing
//! that a bundle's format says: a launch is a name, a grid, a block and arguments.
//!
//! # The kernels
//!
//! All matrices are row-major, all numbers little-endian, all sizes counts of elements. `ceil` is the quotient of a
//! division, rounded up. A thread outside the launched grid computes nothing, so a grid that is too small leaves a part
//! of its outputs as it was.
//!
//! | kernel | arguments | grid, block |
//! |---|---|---|
//! | `gemm_f32` | `f32* a` m k, `f32* b` k n, `f32* c` m n (written), `u32 m, n, k` | ceil n/64, ceil m/64; 16 16 |
//! | `gemm_f16` | `f16* a` m k, `f16* b` k n, `f32* c` m n (written), `u32 m, n, k` | ceil n/128, ceil m/128; 256 |
//! | `trace` | `f32* accumulation` w h 3 (added to), `u32 width, height, sample, seed` | ceil w/8, ceil h/8; 8 8 |
//! | `tonemap` | `f32* accumulation` w h 3, `u8* image` w h 3 (written), `u32 width, height, samples` | ceil w/8, ceil h/8; 8 8 |
//! | `forces` | `f32* bodies` n 4 (x y z mass), `f32* accelerations` n 3 (written), `u32 n`, `f32 softening` | ceil n/256; 256 |
//! | `integrate` | `f32* bodies` n 4 (changed), `f32* velocities` n 3 (changed), `f32* accelerations` n 3, `u32 n`, `f32 dt` | ceil n/256; 256 |
//! | `forward_hidden` | `f32* x` batch inputs, `f32* w1` inputs hidden, `f32* b1` hidden, `f32* h` batch hidden (written), `u32 batch, inputs, hidden` | ceil hidden/16, ceil batch/16; 16 16 |
//! | `forward_output` | `f32* h`, `f32* w2` hidden outputs, `f32* b2` outputs, `f32* probabilities` batch outputs (written), `u32 batch, hidden, outputs` | batch; 32 |
//! | `output_gradient` | `f32* probabilities`, `u32* labels` batch, `f32* gradient` batch outputs (written), `f32* loss` 1 (written), `u32 batch, outputs` | ceil batch outputs/256; 256 |
//! | `backward_output` | `f32* h`, `f32* gradient`, `f32* gw2` hidden outputs (written), `f32* gb2` outputs (written), `u32 batch, hidden, outputs` | ceil outputs/16, ceil hidden/16; 16 16 |
//! | `backward_hidden` | `f32* gradient`, `f32* w2`, `f32* h`, `f32* gh` batch hidden (written), `u32 batch, hidden, outputs` | ceil hidden/16, ceil batch/16; 16 16 |
//! | `backward_input` | `f32* x`, `f32* gh`, `f32* gw1` inputs hidden (written), `f32* gb1` hidden (written), `u32 batch, inputs, hidden` | ceil hidden/16, ceil inputs/16; 16 16 |
//! | `bench_fma_f32`, `bench_mma_f16` | `f32* out` 256 (written), `u32 rounds` | any; 256 |
//! | `sgd` | `f32* w` count (changed), `f32* g` count, `u32 count`, `f32 rate` | ceil count/256; 256 |
//!
//! A block larger than the one in the table, counted in threads, is refused as a driver refuses it (the kernels are
//! compiled with that bound).
//!
//! No launch of the bundles gives a kernel two pointers into one allocation. Who passes such pointers gives each a copy
//! and writes back those that [`Kind::Pointer::writes`] names.
//!
//! # Where to read first
//!
//! [`launch`], then one kernel (`gemm.rs`), then its reference (`reference/gemm.rs`).

#![forbid(unsafe_code)]

mod launch;
mod memory;
mod signature;

mod bench;
mod gemm;
mod mlp;
mod n_body;
mod path_tracer;
mod scene;

pub mod reference;

pub use launch::{LaunchError, launch};
pub use memory::Argument;
pub use signature::{Kind, Parameter, names, parameters};
