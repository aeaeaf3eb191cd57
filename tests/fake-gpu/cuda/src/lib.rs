//! A `libcuda.so.1` without a GPU: the driver calls that a worker makes, over memory of the host.
//!
//! Kernels of the crate `kernels` run by name on the CPU. Kernels named `fault_*` and launches that the script names end
//! as that fault does on a real GPU: the launch succeeds, the next call that waits gives the code, and from then on
//! every call that needs the context gives it too. `fault_hang` never returns to whoever waits.
//!
//! Owns: a process's contexts, device memory, modules, streams and events ([`driver`]). Device addresses are numbers in a
//! space of their own, so a wild one is noticed and never followed. Streams run at once and in the order of the calls.
//! Never: compiles PTX, looks at a device node, or is part of a binary that ships.
//!
//! Where it is stricter than a GPU: an access one byte behind an allocation is noticed, where a GPU notices it at the
//! next page. Where it is more forgiving: it does not know capture, graphs, pools, peers or textures, and does not export
//! them.
//!
//! Read first: `driver.rs`, then `exports/` for what is there.

mod code;
mod context;
mod device;
mod driver;
mod exports;
mod launch;
mod memory;
mod module;
