//! The device nodes of GPUs, as the machine has them.
//!
//! Only those of computing, and of one GPU: none that profiles, shows pictures, or belongs to another GPU. A node is
//! never taken by its name alone: it must be a character device whose number the driver has registered.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};

use crate::furniture::Device;

/// The major number of `nvidiactl` and of every GPU. Source: the driver's `nv-chardev-numbers.h`.
const NVIDIA_MAJOR: u32 = 195;

/// The minor number of `nvidiactl`.
const CONTROL_MINOR: u32 = 255;

/// The driver's own program that makes its nodes, which udev knows nothing of.
const MODPROBE: &str = "/usr/bin/nvidia-modprobe";

/// Has the driver's program make the nodes that computing needs, where there is one. Without it, what is there is there.
pub(super) fn make_missing() {
    if !Path::new(MODPROBE).exists() {
        return;
    }
    let made = Command::new(MODPROBE).args(["-c", "0", "-u"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !made.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tracing::warn!(?made, "nvidia-modprobe did not make the device nodes");
    }
}

/// The nodes that a worker of the GPU with this minor number needs, as far as they are there.
pub(super) fn of_gpu(gpu_minor: Option<u32>) -> Vec<Device> {
    let unified = unified_memory_major();
    let mut wanted = vec![("nvidiactl".to_owned(), Some((NVIDIA_MAJOR, CONTROL_MINOR)))];
    wanted.extend(gpu_minor.map(|minor| (format!("nvidia{minor}"), Some((NVIDIA_MAJOR, minor)))));
    wanted.push(("nvidia-uvm".to_owned(), unified.map(|major| (major, 0))));
    wanted.into_iter().filter_map(|(name, number)| node(name, number?)).collect()
}

/// The machine's node of this name, if it has this number.
fn node(name: String, expected: (u32, u32)) -> Option<Device> {
    let path = format!("/dev/{name}");
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let status = openat(CWD, &path, flags, Mode::empty()).and_then(|node| fstat(&node)).ok()?;
    let number = status.st_rdev;
    let is_expected = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && (major(number), minor(number)) == expected;
    if !is_expected {
        tracing::error!(path, "a device node is not the driver's, and is not given to workers");
        return None;
    }
    Some(Device { name, number })
}

/// The major number of `nvidia-uvm`, which the kernel gives at load.
fn unified_memory_major() -> Option<u32> {
    let devices = std::fs::read_to_string("/proc/devices").ok()?;
    let line = devices.lines().find(|line| line.split_whitespace().nth(1) == Some("nvidia-uvm"))?;
    line.split_whitespace().next()?.parse().ok()
}
