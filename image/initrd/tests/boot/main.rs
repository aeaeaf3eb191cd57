//! Starts the first process in a guest, on every kind of disk that a rig has, and on disks with something wrong.
//!
//! Needs QEMU, `mkfs.erofs`, `veritysetup`, `xz` and `swtpm` on this machine, and an unpacked kernel package below
//! `RIG_IMAGE_CACHE` (`target/image/cache` without it), as a build of the image leaves it. So it runs only when it is
//! named: `cargo test -p initrd --test boot -- in_vm::`. One guest at a time; each ends with its test.

mod disk;
mod guest;
mod in_vm;
mod kernel;
mod parts;
