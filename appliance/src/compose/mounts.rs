//! Where something is mounted in a service, and the file systems in memory that are mounted there.

use super::ComposeError;
use super::document::Value;
use super::node::{Node, Reading};
use super::plan::Tmpfs;
use super::units::{bytes, bytes_of};
use super::volumes::{MOUNTS_MAX, Seen};

/// Size of a file system in memory whose size the file leaves out, in bytes. Source: none; Docker gives it half of the
/// memory.
const TMPFS_BYTES: u64 = 256 << 20;

/// The longest target, in bytes. Source: the kernel's `PATH_MAX` less what stands before it.
const TARGET_BYTES_MAX: usize = 1024;

/// What the jail itself puts in place; a mount over it would be a mount over the jail.
const JAILS_OWN: [&str; 6] = ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];

/// Where `shm_size` applies.
const SHM: &str = "/dev/shm";

/// The targets of one service.
#[derive(Debug, Default)]
pub(super) struct Targets(Vec<String>);

// === impl Targets ===

impl Targets {
    /// Checks a target and takes it. Returns it without needless slashes and dots.
    pub(super) fn take(&mut self, node: &Node<'_>, target: &str) -> Result<String, ComposeError> {
        let target = plain(node, target)?;
        if JAILS_OWN.iter().any(|own| target == *own || target.starts_with(&format!("{own}/"))) {
            return Err(node.bad(&target, "a target outside what the jail itself puts in place"));
        }
        self.once(node, target)
    }

    /// The same for a target that may be `/dev/shm`.
    fn take_in_memory(&mut self, node: &Node<'_>, target: &str) -> Result<String, ComposeError> {
        if plain(node, target)? == SHM { self.once(node, SHM.to_owned()) } else { self.take(node, target) }
    }

    fn once(&mut self, node: &Node<'_>, target: String) -> Result<String, ComposeError> {
        if self.0.contains(&target) {
            return Err(node.twice(format!("the target `{}`", super::node::cut(&target))));
        }
        self.0.push(target.clone());
        Ok(target)
    }
}

/// A path inside a container: absolute, without `..`, and not the root itself. Returned without needless parts.
pub(super) fn plain(node: &Node<'_>, path: &str) -> Result<String, ComposeError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let is_plain = path.starts_with('/')
        && path.len() <= TARGET_BYTES_MAX
        && !parts.is_empty()
        && !parts.contains(&"..")
        && !path.chars().any(char::is_control);
    if !is_plain {
        return Err(node.bad(path, "an absolute path below `/`, without `..`"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Reads `tmpfs`: `target` or `target:options`, one or a list.
pub(super) fn tmpfs(
    node: &Node<'_>,
    seen: &mut Seen,
    targets: &mut Targets,
    reading: &mut Reading<'_>,
) -> Result<(), ComposeError> {
    for entry in node.one_or_list(MOUNTS_MAX)? {
        let text = entry.text(reading)?;
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut tmpfs = Tmpfs { target: targets.take_in_memory(&entry, target)?, bytes: TMPFS_BYTES, mode: None };
        let mut is_sized = false;
        for option in options.split(',') {
            match option.split_once('=').unwrap_or((option, "")) {
                ("size", size) => {
                    tmpfs.bytes = sized(&entry, bytes_of(size), size)?;
                    is_sized = true;
                }
                ("mode", mode) => tmpfs.mode = Some(octal(&entry, mode)?),
                ("" | "rw" | "exec" | "noexec" | "nosuid" | "nodev" | "noatime" | "async", _) => {}
                ("uid" | "gid" | "nr_inodes" | "nr_blocks" | "suid" | "dev" | "ro", _) => {
                    reading.ignore(&entry.path, "of its options only `size` and `mode` are read");
                }
                (other, _) => return Err(entry.bad(other, "the option `size` or `mode`")),
            }
        }
        keep(tmpfs, is_sized, seen);
    }
    Ok(())
}

/// A `volumes` entry of the type `tmpfs`.
pub(super) fn tmpfs_of_map(
    node: &Node<'_>,
    target: &str,
    options: Option<&Node<'_>>,
    seen: &mut Seen,
    targets: &mut Targets,
    reading: &Reading<'_>,
) -> Result<(), ComposeError> {
    let mut tmpfs = Tmpfs { target: targets.take_in_memory(node, target)?, bytes: TMPFS_BYTES, mode: None };
    let fields = options.map(|options| options.fields(&["size", "mode"])).transpose()?;
    let (size, mode) = fields.map(|fields| (fields.get("size"), fields.get("mode"))).unwrap_or_default();
    if let Some(size) = &size {
        tmpfs.bytes = sized(size, Some(bytes(size, reading)?), "0")?;
    }
    if let Some(mode) = mode {
        tmpfs.mode = Some(match mode.value {
            // The YAML parser has understood the leading zero.
            Value::Whole(_) => mode.whole(reading, MODE).and_then(|bits| permitted(&mode, bits))?,
            _ => octal(&mode, &mode.text(reading)?)?,
        });
    }
    keep(tmpfs, size.is_some(), seen);
    Ok(())
}

const MODE: &str = "permissions such as `1777`";

fn octal(node: &Node<'_>, text: &str) -> Result<u32, ComposeError> {
    let bits = u32::from_str_radix(text, 8).map_err(|_| node.bad(text, MODE))?;
    permitted(node, bits)
}

fn permitted(node: &Node<'_>, bits: u32) -> Result<u32, ComposeError> {
    if bits <= 0o7777 { Ok(bits) } else { Err(node.bad(&format!("{bits:o}"), MODE)) }
}

/// A size that is not 0, which would mean no bound.
fn sized(node: &Node<'_>, bytes: Option<u64>, text: &str) -> Result<u64, ComposeError> {
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| node.bad(text, "a size such as `64m`"))
}

fn keep(tmpfs: Tmpfs, is_sized: bool, seen: &mut Seen) {
    if tmpfs.target == SHM {
        seen.shm_bytes = is_sized.then_some(tmpfs.bytes);
    } else {
        seen.tmpfs.push(tmpfs);
    }
}
