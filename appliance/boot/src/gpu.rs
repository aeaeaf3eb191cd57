//! The driver of NVIDIA's GPUs, loaded, and its device nodes, which it leaves to others to make.
//!
//! Invariants: on a machine without such a GPU nothing is loaded, made or said. A node's numbers are the kernel's: the
//! major is what the driver registered, the minor what it gave the GPU. Only the nodes of computing are made: none that
//! profiles, none for pictures. A GPU that the driver does not drive is a notice; the rig works on without it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::exec::{Call, chain};
use crate::notices::{self, Notice};

/// Our notice's name.
const NOTICE: &str = "gpu";

/// NVIDIA's number on the bus, as sysfs writes it.
const VENDOR: &str = "0x10de";

/// Display controllers, with a screen or without: the first byte of the class.
const DISPLAY: &str = "0x03";

/// The module that pulls the other in.
const MODULE: &str = "nvidia-uvm";

/// Loading takes a second or two; nothing starts that waits for GPUs until this is over.
const LOAD_TIME: Duration = Duration::from_secs(60);

/// The driver knows 32 GPUs and more in one machine; a rig has far fewer.
const GPUS_MAX: usize = 64;

/// The names under which drivers register the major number of `nvidiactl` and every GPU, newest first.
const FRONT: [&str; 3] = ["nvidia", "nvidiactl", "nvidia-frontend"];

/// The minor number of `nvidiactl`. Source: the driver's `nv-chardev-numbers.h`.
const CONTROL_MINOR: u64 = 255;

/// Nodes that are of the driver as a whole: `nvidiactl` and `nvidia-uvm`.
const COMMON_NODES: usize = 2;

/// The daemon that keeps the driver awake, and root, who runs jobs.
const MODE: u32 = 0o660;

/// Where the kernel says what there is, and where the nodes go.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/sys/bus/pci/devices`.
    pub bus: PathBuf,
    /// `/proc/devices`.
    pub devices: PathBuf,
    /// `/proc/driver/nvidia/gpus`.
    pub gpus: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// `/run/rig/notices`.
    pub notices: PathBuf,
    /// `modprobe`.
    pub modprobe: PathBuf,
}

/// A node of the driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Below `/dev`.
    pub name: String,
    /// The kernel's number of the driver.
    pub major: u64,
    /// The driver's number of the device.
    pub minor: u64,
}

/// Why the GPUs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The modules do not load: the GPU is too old or too new for the driver, or broken.
    #[error("the driver does not load: {0}")]
    Load(String),
    /// It loaded, and the kernel does not list it.
    #[error("the kernel lists no {0} among its drivers")]
    Unlisted(&'static str),
    /// It loaded, and drives nothing.
    #[error("the driver takes none of the GPUs")]
    NoneTaken,
    /// The driver's words about a GPU are not what we know.
    #[error("the driver says of {} nothing that a node can be made of", .0.display())]
    Unclear(PathBuf),
    /// A node cannot be made.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

// === impl Places ===

impl Default for Places {
    fn default() -> Places {
        Places {
            bus: "/sys/bus/pci/devices".into(),
            devices: "/proc/devices".into(),
            gpus: "/proc/driver/nvidia/gpus".into(),
            dev: "/dev".into(),
            notices: "/run/rig/notices".into(),
            modprobe: "/usr/sbin/modprobe".into(),
        }
    }
}

/// Makes the machine's GPUs usable for root and the group `group`, if there are any. Returns the nodes. What is wrong
/// with a GPU is a notice. Errors: the notice cannot be written.
pub fn settle(places: &Places, group: u32) -> io::Result<Vec<Node>> {
    let found = on_bus(&places.bus);
    let settled = if found.is_empty() { Ok(Vec::new()) } else { load_and_make(places, group) };
    let (nodes, notices) = match settled {
        Ok(nodes) => {
            let notices = left_over(&found, &nodes).into_iter().collect();
            (nodes, notices)
        }
        Err(error) => {
            let what = format!("The NVIDIA driver cannot use this machine's GPU ({}).", found.join(", "));
            (Vec::new(), vec![notice(what, &chain(&error))])
        }
    };
    notices::write(&places.notices, &[NOTICE], &notices)?;
    Ok(nodes)
}

fn load_and_make(places: &Places, group: u32) -> Result<Vec<Node>, GpuError> {
    let load = Call::new(&places.modprobe, ["--", MODULE], LOAD_TIME);
    load.must().map_err(|error| GpuError::Load(error.to_string()))?;
    let devices = fs::read_to_string(&places.devices).map_err(failed("read", &places.devices))?;
    let nodes = nodes(&devices, &minors(&places.gpus)?)?;
    for node in &nodes {
        make(&places.dev, node, group)?;
    }
    Ok(nodes)
}

/// NVIDIA's display controllers on the bus, as `10de:2204`, sorted. None if there is no bus.
fn on_bus(bus: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bus) else { return Vec::new() };
    let id = |device: PathBuf| {
        let text = |name: &str| fs::read_to_string(device.join(name)).unwrap_or_default().trim().to_owned();
        let is_ours = text("vendor") == VENDOR && text("class").starts_with(DISPLAY);
        is_ours.then(|| format!("10de:{}", text("device").trim_start_matches("0x")))
    };
    let mut found: Vec<String> = entries.flatten().filter_map(|entry| id(entry.path())).collect();
    found.sort();
    found
}

/// The minor numbers of the GPUs that the driver has taken, sorted.
fn minors(gpus: &Path) -> Result<Vec<u64>, GpuError> {
    let mut minors = Vec::new();
    for entry in fs::read_dir(gpus).map_err(failed("read", gpus))?.take(GPUS_MAX) {
        let path = entry.map_err(failed("read", gpus))?.path().join("information");
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        minors.push(minor(&text).ok_or(GpuError::Unclear(path))?);
    }
    minors.sort_unstable();
    if minors.is_empty() { Err(GpuError::NoneTaken) } else { Ok(minors) }
}

/// `Device Minor:` in a GPU's `information`.
fn minor(information: &str) -> Option<u64> {
    let value = information.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    value.trim().parse().ok().filter(|minor| *minor < CONTROL_MINOR)
}

/// The nodes for GPUs with these minor numbers, by what `/proc/devices` lists.
fn nodes(devices: &str, minors: &[u64]) -> Result<Vec<Node>, GpuError> {
    let characters = devices.split("Block devices:").next().unwrap_or_default();
    let major = |name: &str| {
        let of = |line: &str| {
            let (major, found) = line.trim().split_once(' ')?;
            (found.trim() == name).then(|| major.parse().ok())?
        };
        characters.lines().find_map(of)
    };
    let front = FRONT.into_iter().find_map(major).ok_or(GpuError::Unlisted("nvidia"))?;
    let unified = major(MODULE).ok_or(GpuError::Unlisted(MODULE))?;
    let node = |name: String, major, minor| Node { name, major, minor };
    let mut nodes = vec![node("nvidiactl".to_owned(), front, CONTROL_MINOR), node(MODULE.to_owned(), unified, 0)];
    nodes.extend(minors.iter().map(|minor| node(format!("nvidia{minor}"), front, *minor)));
    Ok(nodes)
}

/// Makes `node` in `dev`, or takes the one that is there if it has the right number.
fn make(dev: &Path, node: &Node, group: u32) -> Result<(), GpuError> {
    let path = dev.join(&node.name);
    let number = makedev(node.major, node.minor);
    let is_right = match path.symlink_metadata() {
        Ok(found) => found.file_type().is_char_device() && found.rdev() == number,
        Err(_) => false,
    };
    if !is_right {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            Ok(()) | Err(_) => {}
        }
        let made = mknod(&path, SFlag::S_IFCHR, Mode::empty(), number);
        made.map_err(|errno| failed("make", &path)(errno.into()))?;
    }
    std::os::unix::fs::lchown(&path, Some(0), Some(group)).map_err(failed("give", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(failed("open", &path))
}

/// A notice, if the driver has taken fewer GPUs than the bus has.
fn left_over(found: &[String], nodes: &[Node]) -> Option<Notice> {
    let taken = nodes.len().saturating_sub(COMMON_NODES);
    let what = format!("The NVIDIA driver uses {taken} of this machine's {} GPUs.", found.len());
    (taken < found.len()).then(|| notice(what, &format!("There are {}.", found.join(", "))))
}

fn notice(what: String, why: &str) -> Notice {
    let next = format!(
        "It knows GPUs from Turing (GTX 16, RTX 20) to Hopper and Ada (RTX 40). If yours is one of them, switch the machine \
         off and on, and see that the card and its power cables sit well. The rig runs without it.\n{why}"
    );
    Notice::new(NOTICE, what, next)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GpuError {
    let path = path.to_owned();
    move |source| GpuError::File { action, path, source }
}

#[cfg(test)]
mod tests;
