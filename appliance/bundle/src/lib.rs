//! Kernel bundles: kernels for a GPU, and plans of what to launch, from strangers.
//!
//! A task that names a bundle brings no program for the CPU. It brings compiled kernels, and for each function a plan that
//! says which buffers there are, what is launched on them in which order, what comes from the task's `data` and what goes
//! into the response. This crate reads that, judges it and works it out, down to the last number.
//!
//! It owns the format: the archive, `bundle.toml`, the expressions, the plan. It is pure: bytes and values in, values out.
//! It never touches a file, a network, a clock or a GPU, and it never asks a driver: a rig without one judges every bundle
//! like any other. It does not read the code in a module beyond its head and its exported names; a kernel that strays
//! beyond its views is held by the GPU's own memory protection and by the worker's process, not by this crate.
//!
//! Read first: [`Bundle::parse`], then [`Function::bind`], [`Function::plan`] and [`Function::respond`], which are the life
//! of a task in its order. [`reference`](mod@reference) runs a plan on plain memory, for tests. All bounds stand in
//! [`limits`].
//!
//! # The archive
//!
//! A POSIX `ustar` archive without compression. One sequence of bytes for one bundle:
//!
//! ```text
//! +-------------------+ header (512)   name `bundle.toml`, mode 0000644, uid 0000000, gid 0000000, size (11 octal digits),
//! |    bundle.toml    |                mtime 00000000000, checksum (7 octal digits, NUL), type `0`, no link, magic
//! +-------------------+                `ustar\0` `00`, no owner names, no device numbers, no prefix
//! | content, padded   | n * 512        zeros up to the next block
//! +-------------------+
//! | a.cubin           | header, content: the modules' files in byte order of their names,
//! | b.ptx             | each name [a-z0-9_.-]{1,64}, not beginning with a dot, no folders
//! +-------------------+
//! | zeros             | 1024, and nothing behind
//! +-------------------+
//! ```
//!
//! [`Bundle::parse`] packs what it has read and compares: an archive with any other byte is refused, so the sha256 of the
//! archive, the bundle's [`Digest`], names its meaning. At most 64 MiB, 256 KiB of them `bundle.toml`.
//!
//! # `bundle.toml`
//!
//! Format 1. Every key that is not shown here is refused, with its line and the nearest key. Optional keys are marked `?`.
//! `EXPR` is an expression in quotes, or a number; `NAME` is `[a-z][a-z0-9_]{0,31}`; `POINTER` is a JSON pointer of at most
//! eight parts.
//!
//! ```text
//! format = 1
//! name = NAME
//! description = TEXT                     ? at most 500 characters
//!
//! [[module]]                             at most 32, each with its own file
//! name = NAME
//! file = FILE                            in the archive
//! kind = "ptx" | "cubin" | "fatbin"
//! ptx_isa = "8.4"                        ptx only: equal to the file's .version, 6.0 or later
//! target = "sm_75"                       ptx, cubin: equal to the file's own. A fatbin lists its targets itself
//! min_driver = "12.4"                    the CUDA version that a driver must support; not less than ISA and target need
//!
//! [function.NAME]                        1 to 64
//! determinism = "bitwise-any" | "bitwise-same-class" | "none" | { tolerance = 1e-4, metric = "relative" | "absolute" }
//! seconds = 20                           the deadline of a run, 1 to 3600
//! vram_bytes = EXPR                      ? the buffers, each rounded up to 512 bytes, may not take more
//!
//! [function.NAME.parameters.NAME]        0 to 32: scalars of `data`
//! type = "u32" | "i32" | "u64" | "i64" | "f32" | "f64"
//! from = POINTER                         ? default /NAME
//! min, max = NUMBER                      whole numbers: both. Floats: ?. Never NaN, never infinite
//! default = NUMBER                       ? then `data` may leave it out
//!
//! [function.NAME.buffers.NAME]           1 to 64; sorted by name everywhere
//! type = "u8" | "i8" | "u16" | "i16" | "f16" | "bf16" | "u32" | "i32" | "f32" | "u64" | "i64" | "f64"
//! elements = EXPR                        at least 1; at most 16 GiB
//! input = { from = POINTER, as = "base64" | "content" | "json" }              ? without: zeros
//! output = { to = POINTER, as = "base64" | "content" | "json" }               ?
//! output = { to = POINTER, as = "png", width = EXPR, height = EXPR, channels = 1 | 3 | 4 }    u8, as many elements
//!
//! [[function.NAME.steps]]                1 to 256 with those inside of repeats; one of
//! launch = KERNEL                        exported by
//! module = NAME                          ? needed if several modules export it
//! grid = [EXPR, EXPR, EXPR]              1 to 3; x to 2147483647, y and z to 65535
//! block = [EXPR, EXPR, EXPR]             1 to 3; x, y to 1024, z to 64, together to 1024
//! shared_bytes = EXPR                    ? to 232448
//! arguments = [                          to 64; number and sizes as the kernel has them, where its module says
//!   { buffer = NAME, access = "read" | "write" | "read-write", offset = EXPR ?, elements = EXPR ? },
//!   { value = NUMBER | EXPR | PARAMETER, type = a parameter's type },
//! ]
//!
//! copy = { from = NAME, to = NAME, from_offset = EXPR ?, to_offset = EXPR ?, elements = EXPR ? }       of one type
//! fill = { buffer = NAME, value = NUMBER | EXPR | PARAMETER, offset = EXPR ?, elements = EXPR ? }
//! mark = NAME                            not inside of a repeat
//!
//! repeat = EXPR                          at most 4 deep
//! index = NAME                           ? counts from 0 in the expressions inside
//! [[function.NAME.steps.steps]]          the steps that are repeated
//!
//! [function.NAME.times.NAME]             milliseconds between two marks, a number of the response
//! from, until = MARK
//! to = POINTER                           ? default /NAME
//! ```
//!
//! Offsets and numbers of elements count elements, not bytes. Without `elements` a view goes to the end of its buffer.
//! Steps run one after the other; what one writes, the next one reads. A value that is the name of a parameter of that very
//! type is passed on unchanged, which is the only way for floats and for whole numbers that may be negative.
//!
//! ```text
//! EXPR    = product *( ("+" / "-") product )           64 bits without sign; overflow, a result below zero and
//! product = atom *( ("*" / "/" / "%") atom )           division by zero are errors that name the expression
//! atom    = digits / NAME / "(" EXPR ")" / ("min" / "max" / "ceil_div") "(" EXPR "," EXPR ")"
//! ```
//!
//! At most 256 characters and 16 parentheses deep. Names are whole parameters that cannot be negative, and the indices of
//! the repeats around.
//!
//! # What is checked, and when
//!
//! [`Bundle::parse`], without any value: form and names; that each module is what it says, and its versions can be; that
//! each launch names an exported kernel and gives it as many arguments of the sizes that it takes; that no two outputs go to
//! the same place; and, from the bounds of the parameters, that no values make more than 65,536 operations, 1,048,576
//! arguments, or 16,777,216 parts of expressions to evaluate. A repeat without such a bound does not exist.
//!
//! [`Function::plan`], with the values: every size and place. A buffer has an element and at most 16 GiB. Views, copies and
//! fills lie in their buffers. In one launch, two views that share a byte both only read. Copies do not overlap
//! themselves. Grid, block and shared memory are what a GPU has. Every output is written or is an input. The operations that
//! remain are a [`Plan`]: numbers only, the same on every machine, with a digest of its own.
//!
//! # In and out
//!
//! | `as` | in `data` | in the response |
//! |---|---|---|
//! | `base64` | little-endian bytes in standard base64 with padding, as many as the buffer has | the same |
//! | `content` | a link; what it gives is as long as the buffer | a link to what was published ([`Publish`]) |
//! | `json` | an array of numbers, each exact for whole types (one number where there is one element) | the same; NaN and infinity are `null` |
//! | `png` | | standard base64 of a PNG, 8 bits a channel |
//!
//! Inputs and outputs cross process borders as raw bytes: the input buffers in the order of their names, one behind the
//! other without padding, and the output buffers likewise. [`Parameters`] travel as JSON, `{"factor": "f32 0.1"}`, exact to
//! the bit.
#![forbid(unsafe_code)]

mod archive;
mod bind;
mod bundle;
mod digest;
mod expression;
mod function;
pub mod limits;
mod manifest;
mod module;
mod plan;
mod pointer;
pub mod reference;
mod respond;
mod scalar;
mod version;

pub use self::bind::{BindError, Bound, InputSource, Parameters};
pub use self::bundle::{Bundle, BundleError, pack};
pub use self::digest::{Digest, DigestError};
pub use self::function::{Buffer, Determinism, Function, Metric, Parameter};
pub use self::module::{Kernel, Kind, Module};
pub use self::plan::{Access, Argument, Launch, Operation, Plan, PlanError, PlannedBuffer, View};
pub use self::respond::{Answer, Publish, RespondError};
pub use self::scalar::{ElementType, Scalar, ScalarError};
pub use self::version::{Arch, Version, VersionError};
