//! Whole jobs computed in another way, to compare a bundle's outputs with.
//!
//! Nothing here calls a kernel. The arithmetic is in double precision and written from the mathematics, not from the
//! CUDA source; only the path tracer shares the scene and the draws, because a picture by other draws is another
//! picture. Each job says with which tolerance its outputs agree and where that number comes from.

mod compare;
pub mod gemm;
pub mod mlp;
pub mod n_body;
pub mod path_tracer;

pub use compare::{Difference, ImageDifference, ImageTolerance, Tolerance, compare, compare_images, floats};
