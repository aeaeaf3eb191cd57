//! An image from its OCI layout to something that can be run from: ours beside `skopeo copy` and `umoci unpack`.
//!
//! Both sides begin with the same layout on the same disk, copy its blobs while hashing them, and unpack every layer.
//! Ours then also seals each layer; what is left of the tree is that file. The blobs are counted on neither side.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hostile::observed::{descendants, status, tree};
use hostile::oci;
use runner::protocol::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::bed::{Bed, layer_inside};
use crate::table::{Part, Row, Table};

/// Rounds that are counted, besides one that is not.
const ROUNDS: u32 = 7;

/// The tag of the image in its layout.
const TAG: &str = "handler:1";

/// Between two looks at the memory of a tree of processes.
const LOOK: Duration = Duration::from_millis(2);

const MIB: f64 = 1_048_576.0;

/// An image in an OCI layout.
#[derive(Debug)]
pub(crate) struct SourceImage {
    layout: PathBuf,
    digest: Digest,
    manifest: Value,
    config: Value,
}

/// What one way of unpacking took.
#[derive(Debug, Default)]
struct Took {
    seconds: Vec<f64>,
    peak_mib: Vec<f64>,
    largest_mib: Vec<f64>,
    disk_mib: Vec<f64>,
}

pub(crate) fn measure(bed: &Bed, layout: &Path, _: u32, table: &mut Table) -> Result<()> {
    let image = SourceImage::read(layout)?;
    let (mut ours, mut theirs) = (Took::default(), Took::default());
    for round in 0..=ROUNDS {
        eprintln!("bench: images, round {round} of {ROUNDS}");
        // The first is thrown away: it warms the page cache for both.
        let (first, second) = (image.ours(bed)?, image.theirs(bed)?);
        if round > 0 {
            ours.add(first);
            theirs.add(second);
        }
    }
    let anchor = "skopeo, umoci";
    let rows_of = |name: &str, took: Took, bound: &str| {
        [
            Row::new(format!("{name}: time"), "s", took.seconds, bound.to_owned()),
            Row::new(
                format!("{name}: memory, all processes, peak"),
                "MiB",
                took.peak_mib,
                "shared pages once, looked at every 2 ms",
            ),
            Row::new(format!("{name}: memory, largest process"), "MiB", took.largest_mib, "its own VmHWM"),
            Row::new(format!("{name}: disk to run from"), "MiB", took.disk_mib, "blocks"),
        ]
    };
    let mut own = rows_of("ours", ours, "inflate, hash, write, mkfs.erofs; one layer after the other");
    let other = rows_of("skopeo copy + umoci unpack", theirs, "inflate, hash, write");
    for (row, other) in own.iter_mut().zip(&other) {
        row.beside(other.median(), anchor);
    }
    let notes = vec![
        format!("the image: {}", image.size()),
        "ours: blobs copied and hashed by the bench as the provider would, then Missing and Prepare. Its memory is the \
         resident runner, the spawner, the unpacker and mkfs.erofs together"
            .to_owned(),
    ];
    table.add(Part { title: "image handling".to_owned(), rows: own.into_iter().chain(other).collect(), notes });
    Ok(())
}

// === impl SourceImage ===

impl SourceImage {
    pub(crate) fn read(layout: &Path) -> Result<Self> {
        let index = read_json(&layout.join("index.json"))
            .with_context(|| format!("find the image in {}; tests/setup.sh makes it", layout.display()))?;
        let tagged = index["manifests"].as_array().into_iter().flatten();
        let descriptor = { tagged }
            .find(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] == TAG)
            .with_context(|| format!("{} has no image {TAG}", layout.display()))?;
        let digest = digest_of(descriptor)?;
        let blob = |digest: &Digest| read_json(&layout.join("blobs/sha256").join(digest.hex()));
        let manifest = blob(&digest)?;
        let config = blob(&digest_of(&manifest["config"])?)?;
        Ok(Self { layout: layout.to_owned(), digest, manifest, config })
    }

    /// In words.
    pub(crate) fn size(&self) -> String {
        let bytes: u64 = self.layers().iter().filter_map(|layer| layer["size"].as_u64()).sum();
        #[expect(clippy::cast_precision_loss, reason = "an image is far below 2^52 bytes")]
        let mib = bytes as f64 / MIB;
        format!("Debian with Python, {} layers, {mib:.1} MiB packed", self.layers().len())
    }

    fn layers(&self) -> Vec<Value> {
        self.manifest["layers"].as_array().cloned().unwrap_or_default()
    }

    /// The same image with one more layer, which has the bench's own program; its blobs are in the content store.
    pub(crate) fn copy_below(&self, bed: &Bed) -> Result<Digest> {
        let content = bed.rig.content();
        self.copy_blobs(&content)?;
        let own = layer_inside(&bed.inside)?;
        let mut layers = self.layers();
        layers.push(oci::blob(&content, "application/vnd.oci.image.layer.v1.tar", &own));
        let mut config = self.config.clone();
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().context("the image has diff ids")?;
        diff_ids.push(Value::String(oci::digest(&own)));
        config["config"] = serde_json::json!({});
        let config = oci::blob(&content, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        Ok(oci::manifest(&content, &config, &layers))
    }

    /// Copies what the image consists of into a content store, and checks each digest on the way.
    fn copy_blobs(&self, content: &Path) -> Result<()> {
        let parts = self.layers().into_iter().chain([self.manifest["config"].clone()]);
        let mut digests = vec![self.digest.clone()];
        for part in parts {
            digests.push(digest_of(&part)?);
        }
        for digest in digests {
            let name = Path::new("blobs/sha256").join(digest.hex());
            let (mut from, mut to) = (File::open(self.layout.join(&name))?, File::create(content.join(&name))?);
            let (mut hash, mut piece) = (Sha256::new(), vec![0; 256 * 1024]);
            loop {
                match from.read(&mut piece)? {
                    0 => break,
                    count => {
                        hash.update(&piece[..count]);
                        to.write_all(&piece[..count])?;
                    }
                }
            }
            let found = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            ensure!(found == digest.hex(), "blob {digest} has digest {found}");
        }
        Ok(())
    }

    fn ours(&self, bed: &Bed) -> Result<[f64; 4]> {
        bed.client().collect(true)?;
        let source = hostile::rig::name("images");
        let began = Instant::now();
        let (done, peaks) = watched(bed.rig.runner_pid(), || {
            self.copy_blobs(&bed.rig.content())?;
            let missing = bed.client().missing(&self.digest)?;
            ensure!(missing.len() == self.layers().len(), "only {} layers are missing", missing.len());
            let prepared = bed.client().prepare(&source, &self.digest)?;
            ensure!(!prepared.already, "it was sealed before");
            Ok(())
        });
        done?;
        let seconds = began.elapsed().as_secs_f64();
        Ok([seconds, peaks.0, peaks.1, mib_below(&bed.rig.state("layers"))])
    }

    fn theirs(&self, bed: &Bed) -> Result<[f64; 4]> {
        let (layout, bundle) = (bed.path("umoci-layout"), bed.path("umoci-bundle"));
        for left in [&layout, &bundle] {
            if left.exists() {
                fs::remove_dir_all(left)?;
            }
        }
        let (from, to) = (format!("oci:{}:{TAG}", self.layout.display()), format!("oci:{}:{TAG}", layout.display()));
        let began = Instant::now();
        let first = tool(Command::new("skopeo").args(["copy", "--quiet", &from, &to]))?;
        let image = format!("{}:{TAG}", layout.display());
        let second = tool(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
        let seconds = began.elapsed().as_secs_f64();
        let peaks = (first.0.max(second.0), first.1.max(second.1));
        let disk = mib_below(&bundle.join("rootfs"));
        fs::remove_dir_all(&layout)?;
        fs::remove_dir_all(&bundle)?;
        Ok([seconds, peaks.0, peaks.1, disk])
    }
}

// === impl Took ===

impl Took {
    fn add(&mut self, [seconds, peak, largest, disk]: [f64; 4]) {
        self.seconds.push(seconds);
        self.peak_mib.push(peak);
        self.largest_mib.push(largest);
        self.disk_mib.push(disk);
    }
}

/// Runs a tool to its end; answers the peaks of its memory.
fn tool(command: &mut Command) -> Result<(f64, f64)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child: Child = child.with_context(|| format!("start {name}; is its Debian package installed?"))?;
    let (done, peaks) = watched(child.id(), || child.wait_with_output());
    let done = done?;
    if done.status.success() {
        return Ok(peaks);
    }
    bail!("{name}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim())
}

/// Looks at a process and all below it while `act` runs; answers the most memory that all had together, and that one
/// had, in MiB.
fn watched<T>(pid: u32, act: impl FnOnce() -> T) -> (T, (f64, f64)) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut together, mut highest) = (0.0_f64, BTreeMap::new());
            while !over.load(Ordering::Relaxed) {
                let pids: Vec<u32> = std::iter::once(pid).chain(descendants(pid)).collect();
                together = together.max(pids.iter().filter_map(|pid| share(*pid)).sum());
                highest.extend(pids.iter().filter_map(|pid| Some((*pid, memory(*pid, "VmHWM")?))));
                std::thread::sleep(LOOK);
            }
            (together, highest.into_values().fold(0.0, f64::max))
        });
        let result = act();
        over.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap_or_default())
    })
}

/// The memory of a process, in MiB; of pages that several have, its share, so that a sum counts them once.
fn share(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(value.trim_end_matches("kB").trim().parse::<f64>().ok()? / 1024.0)
}

/// In MiB.
fn memory(pid: u32, key: &str) -> Option<f64> {
    let kib: f64 = status(pid, key)?.trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "a disk of a bench is far below 2^52 bytes")]
fn mib_below(dir: &Path) -> f64 {
    tree(dir).1 as f64 / MIB
}

fn digest_of(descriptor: &Value) -> Result<Digest> {
    let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
    digest.parse().with_context(|| format!("{digest} is no SHA-256"))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
}
