//! The exported functions, by what they are about. Each says what it needs (see [`crate::driver`]), takes its arguments
//! apart and calls the safe code.
//!
//! Names and signatures are those of `cuda.h`; handles are numbers as wide as a pointer. A version suffix belongs to
//! the name: what `cuda.h` calls `cuMemAlloc` is `cuMemAlloc_v2` in the library.
#![expect(unsafe_code, reason = "an exported name is `unsafe(no_mangle)`: no other library here defines it")]

mod context;
mod device;
mod launch;
mod memory;
mod module;
mod stream;
