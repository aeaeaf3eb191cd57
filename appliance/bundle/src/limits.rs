//! Every bound of the format. Each is far above honest use, and keeps parsing and planning within a second and within
//! memory that a provider has beside its other work.

/// An archive: parsed whole in memory, three times as large while it is compared with its canonical form.
pub const ARCHIVE_BYTES_MAX: usize = 64 << 20;
/// `bundle.toml`: as long as the rig's own settings may be.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;
/// `[[module]]` of a bundle.
pub const MODULES_MAX: usize = 32;
/// Kernels that one module exports; libraries of templates have hundreds.
pub const KERNELS_MAX: usize = 1024;
/// `[function.*]` of a bundle.
pub const FUNCTIONS_MAX: usize = 64;
/// Parameters of a function.
pub const PARAMETERS_MAX: usize = 32;
/// Buffers of a function.
pub const BUFFERS_MAX: usize = 64;
/// Steps of a function, nested ones included.
pub const STEPS_MAX: usize = 256;
/// Repeats within repeats.
pub const NESTING_MAX: usize = 4;
/// Operations of a plan, repeats unrolled: at 5 microseconds each, a third of a second of launching.
pub const OPERATIONS_MAX: u64 = 65_536;
/// Arguments of a launch.
pub const ARGUMENTS_MAX: usize = 64;
/// Arguments of all launches of a plan: 40 MiB of them.
pub const PLAN_ARGUMENTS_MAX: u64 = 1 << 20;
/// Numbers, names and signs of expressions that are gone through to make a plan: about a tenth of a second.
pub const PLAN_EVALUATIONS_MAX: u64 = 1 << 24;
/// Characters of an expression. It is read and evaluated recursively; this bounds the stack.
pub const EXPRESSION_CHARS_MAX: usize = 256;
/// Parentheses and calls within each other in an expression.
pub const EXPRESSION_DEPTH_MAX: usize = 16;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 32;
/// Characters of a file's name.
pub const FILE_CHARS_MAX: usize = 64;
/// Characters of an exported kernel's name; C++ spells types into them.
pub const KERNEL_CHARS_MAX: usize = 256;
/// Characters of the description.
pub const DESCRIPTION_CHARS_MAX: usize = 500;
/// Characters of a JSON pointer in `bundle.toml`.
pub const POINTER_CHARS_MAX: usize = 256;
/// Parts of a JSON pointer: the response is built this deep.
pub const POINTER_PARTS_MAX: usize = 8;
/// Characters of a link in a task's `data`.
pub const LINK_CHARS_MAX: usize = 2048;
/// Bytes of a buffer.
pub const BUFFER_BYTES_MAX: u64 = 16 << 30;
/// What a buffer's bytes are rounded up to: no allocation of the driver takes less.
pub const VRAM_GRANULE_BYTES: u64 = 512;
/// The deadline of a run.
pub const SECONDS_MAX: u32 = 3600;
/// Threads of a block. Source: CUDA C++ programming guide, compute capabilities (also the next four).
pub const BLOCK_THREADS_MAX: u32 = 1024;
/// Threads of a block in x, y and z.
pub const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
/// Blocks in x, y and z.
pub const GRID_MAX: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];
/// Dynamic shared memory of a block on the GPUs that have most: 227 KiB.
pub const SHARED_BYTES_MAX: u32 = 232_448;
/// Threads of a launch: as many as a grid of one dimension has. The product of the three others may not overflow.
pub const THREADS_MAX: u64 = 1 << 41;
/// Width and height of a PNG.
pub const IMAGE_SIDE_MAX: u64 = 16_384;
/// Bytes of buffers that the reference interpreter takes: it is for tests.
pub const REFERENCE_BYTES_MAX: u64 = 1 << 30;
