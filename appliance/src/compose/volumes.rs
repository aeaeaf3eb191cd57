//! `volumes` and `tmpfs`: what a service sees beside its image.
//!
//! Only named volumes are kept, one set for each source. A directory of the host is never shown; with the owner's
//! exception an empty volume stands in its place, the same one wherever the same path is named. Invariant: each
//! [`Volume`] has a name that no other has, and each target stands once in a service.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::ComposeError;
use super::document::Value;
use super::exceptions::Exception;
use super::mounts::{self, Targets};
use super::node::{Node, Reading, cut};
use super::plan::{Mount, Tmpfs, Volume};
use super::units::{bytes, bytes_of};

/// Volumes of one source. Source: real files have four; each is a directory with a quota.
pub(super) const VOLUMES_MAX: usize = 16;

/// Entries of one service's `volumes` and of its `tmpfs`.
pub(super) const MOUNTS_MAX: usize = 32;

/// The longest name of a volume, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// How much of a host's path goes into the name of its volume, in characters; a hash tells the rest apart.
const SLUG_CHARS_MAX: usize = 24;

const DECLARED_KEYS: &[&str] = &["name", "driver", "driver_opts", "external", "labels"];
const OPTION_KEYS: &[&str] = &["type", "o", "device", "size"];
const LONG_KEYS: &[&str] =
    &["type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs", "image"];

/// Why a host's directory is refused.
const NO_BINDS: &str = "the host's files are not shown to a job";

/// Files of the host that programs only want the time zone from.
const CLOCKS: [&str; 2] = ["/etc/localtime", "/etc/timezone"];

/// The volumes of a file: what is declared, and which of it is used.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    declared: BTreeMap<String, Option<u64>>,
    used: Vec<Volume>,
    /// Paths of the host that volumes stand for.
    paths: Vec<String>,
}

/// What a service sees.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) mounts: Vec<Mount>,
    pub(super) tmpfs: Vec<Tmpfs>,
    /// `/dev/shm` as a `tmpfs` entry sizes it.
    pub(super) shm_bytes: Option<u64>,
}

// === impl Shelf ===

impl Shelf {
    /// Reads the `volumes` of the file.
    pub(super) fn declare(node: Option<&Node<'_>>, reading: &mut Reading<'_>) -> Result<Shelf, ComposeError> {
        let mut shelf = Shelf::default();
        for (name, node) in node.map(|node| node.named(VOLUMES_MAX)).transpose()?.unwrap_or_default() {
            check_name(name)?;
            let bytes = if *node.value == Value::Nothing { None } else { declared_bytes(&node, reading)? };
            shelf.declared.insert(name.to_owned(), bytes);
        }
        Ok(shelf)
    }

    /// Notes what is declared and not used, and gives out what is used.
    pub(super) fn finish(self, reading: &mut Reading<'_>) -> Vec<Volume> {
        let is_used = |name: &String| self.used.iter().any(|volume| volume.name == *name);
        for name in self.declared.keys().filter(|name| !is_used(name)) {
            reading.ignore(&format!("volumes.{name}"), "no service mounts it");
        }
        self.used
    }

    /// Reads the `volumes` of a service.
    pub(super) fn mounts(
        &mut self,
        service: &str,
        node: &Node<'_>,
        seen: &mut Seen,
        targets: &mut Targets,
        reading: &mut Reading<'_>,
    ) -> Result<(), ComposeError> {
        for entry in node.list(MOUNTS_MAX)? {
            match entry.value {
                Value::Map(_) => self.long(service, &entry, seen, targets, reading)?,
                _ => {
                    let mount = self.short(service, &entry, targets, reading)?;
                    seen.mounts.extend(mount);
                }
            }
        }
        Ok(())
    }

    /// `target`, `source:target` or `source:target:mode`
    fn short(
        &mut self,
        service: &str,
        node: &Node<'_>,
        targets: &mut Targets,
        reading: &mut Reading<'_>,
    ) -> Result<Option<Mount>, ComposeError> {
        let text = node.text(reading)?;
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, mode) = match parts[..] {
            [target] => (None, target, ""),
            [source, target] => (Some(source), target, ""),
            [source, target, mode] => (Some(source), target, mode),
            _ => return Err(node.bad(&text, "`volume:target` or `volume:target:ro`")),
        };
        let mut read_only = false;
        for word in mode.split(',') {
            match word {
                "ro" => read_only = true,
                "" | "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" => {}
                other => return Err(node.bad(other, "the mode `ro` or `rw`")),
            }
        }
        self.mount(service, node, source, target, read_only, targets, reading)
    }

    /// The map form.
    fn long(
        &mut self,
        service: &str,
        node: &Node<'_>,
        seen: &mut Seen,
        targets: &mut Targets,
        reading: &mut Reading<'_>,
    ) -> Result<(), ComposeError> {
        let fields = node.fields(LONG_KEYS)?;
        fields.ignore(&[("consistency", "there is one kind"), ("bind", "there are no binds")], reading);
        let kind = fields.need("type")?;
        let target = fields.need("target")?.text(reading)?;
        let source = fields.text("source", reading)?;
        let read_only = fields.flag("read_only", reading)?;
        if let Some(options) = fields.get("volume") {
            let options = options.fields(&["nocopy", "subpath", "labels"])?;
            options.refuse(&[("subpath", "a volume is mounted whole")])?;
        }
        match kind.text(reading)?.as_str() {
            "volume" => {
                if source.as_deref().is_some_and(is_path) {
                    return Err(node.refuse("a volume has a name, not a path"));
                }
                let mount = self.mount(service, node, source.as_deref(), &target, read_only, targets, reading)?;
                seen.mounts.extend(mount);
                Ok(())
            }
            "bind" => {
                let source = fields.need("source")?.text(reading)?;
                if !is_path(&source) {
                    return Err(node.bad(&source, "a path"));
                }
                let mount = self.mount(service, node, Some(&source), &target, read_only, targets, reading)?;
                seen.mounts.extend(mount);
                Ok(())
            }
            "tmpfs" => mounts::tmpfs_of_map(node, &target, fields.get("tmpfs").as_ref(), seen, targets, reading),
            other @ ("npipe" | "cluster" | "image") => {
                Err(kind.bad(other, "`volume` or `tmpfs`, other kinds are not run"))
            }
            other => Err(kind.bad(other, "`volume` or `tmpfs`")),
        }
    }

    /// One mount; `None` if it is harmless to go without.
    #[expect(clippy::too_many_arguments, reason = "what one line of the file says, and what it is read with")]
    fn mount(
        &mut self,
        service: &str,
        node: &Node<'_>,
        source: Option<&str>,
        target: &str,
        read_only: bool,
        targets: &mut Targets,
        reading: &mut Reading<'_>,
    ) -> Result<Option<Mount>, ComposeError> {
        if source.is_some_and(|source| CLOCKS.contains(&source)) {
            reading.ignore(&node.path, "a job's clock is UTC");
            return Ok(None);
        }
        if source.is_some_and(is_path) {
            // Before the target is looked at: what the owner should hear of a bind is that it is one.
            reading.refuse_unless(&node.path, NO_BINDS, Exception::VolumeForBind)?;
        }
        let target = targets.take(node, target)?;
        let volume = match source {
            None => self.made(node, &format!("anonymous-{}", short_hash(&[service, &target])))?,
            Some(path) if is_path(path) => {
                let path = path.trim_end_matches('/');
                self.note_nesting(node, path, reading);
                let slug: String = path.chars().filter(char::is_ascii_alphanumeric).take(SLUG_CHARS_MAX).collect();
                self.made(node, &format!("host-{slug}-{}", short_hash(&[path])))?
            }
            Some(name) => {
                check_name(name)?;
                let bytes = *self.declared.get(name).ok_or_else(|| node.not_declared("volume", name))?;
                self.index_of(node, name, bytes)?
            }
        };
        Ok(Some(Mount { volume, target, read_only }))
    }

    /// Notes a path below another: on a host they share files, as volumes they do not.
    fn note_nesting(&mut self, node: &Node<'_>, path: &str, reading: &mut Reading<'_>) {
        let is_below = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        if let Some(other) = self.paths.iter().find(|other| is_below(path, other) || is_below(other, path)) {
            let (path, other) = (cut(path), cut(other));
            reading.note(format!("`{}`: {path} and {other} are two volumes here, and share no files", node.path));
        }
        if !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.to_owned());
        }
    }

    /// A volume that has no name in the file.
    fn made(&mut self, node: &Node<'_>, name: &str) -> Result<usize, ComposeError> {
        if self.declared.contains_key(name) {
            return Err(node.twice(format!("the volume `{name}`")));
        }
        self.index_of(node, name, None)
    }

    fn index_of(&mut self, node: &Node<'_>, name: &str, bytes: Option<u64>) -> Result<usize, ComposeError> {
        if let Some(at) = self.used.iter().position(|volume| volume.name == name) {
            return Ok(at);
        }
        if self.used.len() == VOLUMES_MAX {
            let path = node.path.clone();
            return Err(ComposeError::TooMany { path, count: VOLUMES_MAX + 1, max: VOLUMES_MAX });
        }
        self.used.push(Volume { name: name.to_owned(), bytes });
        Ok(self.used.len() - 1)
    }
}

/// The size that a declaration gives its volume, if any.
fn declared_bytes(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<Option<u64>, ComposeError> {
    let fields = node.fields(DECLARED_KEYS)?;
    fields.ignore(&[("name", "the rig names its volumes"), ("labels", "labels are not read")], reading);
    fields.refuse(&[("external", "a volume of another source is not shown to this one")])?;
    if let Some(driver) = fields.get("driver") {
        let text = driver.text(reading)?;
        if text != "local" {
            return Err(driver.bad(&text, "`local`, other drivers are not run"));
        }
    }
    let mut size = fields.get("x-size").map(|size| bytes(&size, reading)).transpose()?;
    let Some(options) = fields.get("driver_opts") else { return Ok(size) };
    let opts = options.fields(OPTION_KEYS)?;
    if let Some(option) = opts.get("size") {
        size = Some(bytes(&option, reading)?);
    }
    let kind = opts.text("type", reading)?.unwrap_or_default();
    let words = opts.text("o", reading)?.unwrap_or_default();
    let device = opts.text("device", reading)?.unwrap_or_default();
    if kind == "tmpfs" {
        reading.ignore(&options.path, "a named volume is kept on disk");
        let option = words.split(',').find_map(|word| word.strip_prefix("size="));
        let option = option.map(|text| bytes_of(text).ok_or_else(|| options.bad(text, "a size such as `16g`")));
        return Ok(option.transpose()?.or(size));
    }
    let is_bind = is_path(&device) || words.split(',').any(|word| matches!(word, "bind" | "rbind"));
    match kind.as_str() {
        "" | "none" | "bind" if is_bind => {
            reading.refuse_unless(&options.path, NO_BINDS, Exception::VolumeForBind)?;
        }
        "" if words.is_empty() && device.is_empty() => {}
        _ => return Err(options.refuse("a volume is a directory of the rig, no other file system")),
    }
    Ok(size)
}

/// Whether a mount's source is a path of the host rather than a name.
fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~', '\\']) || source.contains(['/', '\\'])
}

/// Checks that a name is one harmless path component.
fn check_name(name: &str) -> Result<(), ComposeError> {
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if is_name { Ok(()) } else { Err(ComposeError::BadName { name: cut(name), what: "volume" }) }
}

/// Eight hexadecimal digits that stand for texts.
fn short_hash(texts: &[&str]) -> String {
    let hash = texts.iter().fold(Sha256::new(), |hash, text| hash.chain_update(text).chain_update([0]));
    hex::encode(&hash.finalize()[..4])
}
