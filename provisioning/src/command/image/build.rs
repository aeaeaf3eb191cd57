//! `rig image build`.

use std::path::{Path, PathBuf};

use clap::Args;
use image::build::{Built, Order, build};
use image::definition::Definition;
use image::mirrors::Mirrors;

use crate::exit::{Exit, Failure};
use crate::screen::{Screen, Table};

/// Below the repository: everything that is built and kept.
const TARGET: &str = "target/image";

/// Build the image: one file to write to a stick or a disk.
///
/// Only apt, dpkg, cargo and a C compiler of this machine are used (Debian 12's, for the same bytes as anybody's); every
/// other tool comes with the packages that image/release/ names. No package's scripts run, nothing is mounted that outlives the command, and no loop device is needed. The
/// same sources and keys give the same image, byte for byte.
///
/// Without --keys, keys for development are made in target/image/keys. What they sign is for testing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig image build
  rig image build --flavour nvidia --keys ~/rig-keys
  rig image build --sector-size 4096 --out image-4k
  unshare --map-root-user --mount -- rig image build      (without being root)")]
pub(crate) struct Build {
    /// Which image: the file of that name in image/release/.
    #[arg(long, value_name = "NAME", default_value = "generic")]
    flavour: String,
    /// What the release is called; otherwise the version of this program.
    #[arg(long = "release", value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// The folder to fill; otherwise target/image/FLAVOUR in the repository. An earlier build in it is replaced; a folder
    /// with anything else in it is refused.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A Debian mirror, instead of this machine's; its security archive is beside it, at URL-security.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// A folder with the rig's programs, built already.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The disk's sectors.
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = sector_bytes)]
    sector_size: u32,
    /// The keys to sign with, as rig image keys made them.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Take the newest packages instead of the locked ones. The image is then not the one that the repository defines.
    #[arg(long)]
    renew: bool,
    /// The repository, if this is not run in it.
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Where to keep packages and tools; otherwise target/image/cache in the repository.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

// === impl Build ===

impl Build {
    pub(super) fn run(self, screen: Screen) -> Result<(), Failure> {
        // Keys that were named are never made: a vault that is not mounted would get some, and sign a release with them.
        if let Some(keys) = self.keys.as_ref().filter(|keys| !keys.is_dir()) {
            let failure = Failure::new(Exit::Usage, format!("there are no keys in {}", keys.display()));
            return Err(failure.next("mount the disk that they are on; or make some with: rig image keys DIR"));
        }
        let repository = repository_of(self.source)?;
        let target = repository.join(TARGET);
        let order = Order {
            flavour: self.flavour.clone(),
            version: self.version,
            out: self.out.unwrap_or_else(|| target.join(&self.flavour)),
            cache: cache_of(self.cache, &repository),
            mirrors: mirrors_of(self.mirror.as_deref())?,
            programs: self.programs,
            sector_bytes: self.sector_size,
            keys: self.keys.unwrap_or_else(|| target.join("keys")),
            renews: self.renew,
            repository,
        };
        if order.renews {
            screen.note(
                "the newest packages are taken instead of the locked ones; their lock is renewed.lock beside the image",
            );
        }
        let waiting = screen.wait("reading");
        let built = build(&order, &mut |what| waiting.say(what));
        drop(waiting);
        let built = built.map_err(|error| Failure::new(Exit::Failed, super::lock::chain(&error)))?;
        if built.has_new_keys {
            screen.note(&format!("new keys for development are in {}", order.keys.display()));
        }
        screen.answer(&built, || text(screen, &built));
        Ok(())
    }
}

fn text(screen: Screen, built: &Built) -> String {
    let mut steps = Table::with_header(["step", "seconds", "of processor"]);
    let seconds = |ms: u64| format!("{}.{}", ms / 1000, ms % 1000 / 100);
    for step in &built.steps {
        steps.push([step.step.to_owned(), seconds(step.elapsed_ms), seconds(step.cpu_ms)]);
    }
    let mut files = Table::with_header(["file", "bytes"]);
    for (file, bytes) in &built.files {
        files.push([file.clone(), bytes.to_string()]);
    }
    format!("{}\n\n{}\n\n{}", screen.table(&steps), screen.table(&files), built.raw.display())
}

/// The repository that was named, or that the current folder is in.
pub(super) fn repository_of(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let from = match named {
        Some(named) => named.canonicalize(),
        None => std::env::current_dir(),
    };
    let from = from.map_err(|error| Failure::new(Exit::Usage, error))?;
    Definition::repository(&from).map_err(|error| Failure::new(Exit::Usage, error))
}

pub(super) fn mirrors_of(named: Option<&str>) -> Result<Mirrors, Failure> {
    let mirrors = match named {
        Some(url) => Mirrors::at(url),
        None => Mirrors::of_this_machine(),
    };
    mirrors.map_err(|error| Failure::new(Exit::Usage, error))
}

pub(super) fn cache_of(named: Option<PathBuf>, repository: &Path) -> PathBuf {
    named.unwrap_or_else(|| repository.join(TARGET).join("cache"))
}

fn sector_bytes(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("disks have sectors of 512 or 4096 bytes".to_owned()),
    }
}
