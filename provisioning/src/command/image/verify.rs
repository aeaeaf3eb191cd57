//! `rig image verify`: whether a copy is the release that it says it is.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use image::keys::certificate;
use image::verify::{Copy, Evidence, Outcome, Report, verify};
use layout::manifest::{MANIFEST_BYTES_MAX, PublicKey};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::screen::{Screen, Table};

/// A signature has 72 bytes, a key 130 digits, a certificate a page.
const SMALL_BYTES_MAX: usize = 64 * 1024;
const SBOM_BYTES_MAX: usize = 64 << 20;
/// What may stand behind an image's name; the manifest's name is what remains with another ending.
const IMAGE_SUFFIXES: [&str; 3] = [".raw.zst", ".raw", ".img"];

/// Prove that an image or a stick is the release that it says it is.
///
/// Reads all of it once. Checks the manifest's signature, every chunk of the image, the partition table, the files that
/// firmware would start and what they start, every block of the root, and that the list of contents is the release's.
/// Runs and writes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig image verify rig-2026.11.1-generic.raw.zst --key 03d6…
      The manifest, its signature and the SBOM lie beside the image.
  rig image verify rig-2026.11.1-generic.raw --key release.pub --certificate db.crt
      Checks the signatures for Secure Boot too.
  rig image verify --disk /dev/sdX --manifest rig-2026.11.1-generic.manifest.json --key release.pub
      A stick that was in use: its loader, kernel image and root are compared; its settings, its state and the other
      slot are its owner's, and are not. A program besides, such as the other slot's kernel image, is refused unless
      --certificate is given and it carries that signature.

Take the key from another place than the image: whoever changes the one could change the other. Ends with 0 only if the
key's signature and everything under it hold, and with 1 if something does not or no key was given.")]
pub(crate) struct Verify {
    /// The image, .raw or .raw.zst.
    #[arg(value_name = "IMAGE", required_unless_present = "disk", conflicts_with = "disk")]
    image: Option<PathBuf>,
    /// A stick or a disk as it is now.
    #[arg(long, value_name = "DEVICE", requires = "manifest")]
    disk: Option<PathBuf>,
    /// The release's manifest; beside the image by default.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Its signature; beside the manifest by default.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// The release key: 66 or 130 hex digits, or a file with them.
    #[arg(long, value_name = "HEX|FILE")]
    key: Option<String>,
    /// The certificate whose signature loader and kernel image must carry, PEM or DER.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

// === impl Verify ===

impl Verify {
    pub(crate) fn run(&self, screen: Screen) -> Result<(), Failure> {
        let (path, copy) = match (&self.image, &self.disk) {
            (Some(image), _) => (image, Copy::Image),
            (None, Some(disk)) => (disk, Copy::Disk),
            (None, None) => return Err(Failure::new(Exit::Usage, "name an image, or a disk with --disk")),
        };
        let evidence = self.evidence(path)?;
        let waiting = screen.wait("Reading");
        let mut progress = |done: u64, all: u64| {
            waiting.say(format!("Reading {} of {} MiB", done >> 20, all >> 20));
        };
        let report = verify(path, copy, &evidence, &mut progress);
        drop(waiting);
        let report = report.map_err(|error| match copy {
            Copy::Image => Failure::new(Exit::Failed, error),
            Copy::Disk => Failure::new(Exit::Failed, error).next("reading a disk needs root: sudo rig image verify …"),
        })?;
        let is_good = report.is_good();
        let answer = json!({"good": is_good, "lines": report.lines});
        screen.answer(&answer, || table(screen, &report));
        match (is_good, evidence.key) {
            (true, _) => Ok(()),
            (false, None) => {
                Err(Failure::new(Exit::Failed, "nothing says who made this").next("give the release key with --key"))
            }
            (false, Some(_)) => {
                Err(Failure::new(Exit::Failed, "this is not the release").next("download it again, from its own place"))
            }
        }
    }

    fn evidence(&self, image: &Path) -> Result<Evidence, Failure> {
        let manifest = self.manifest.clone().unwrap_or_else(|| beside(image, &IMAGE_SUFFIXES, ".manifest.json"));
        let other = |suffix| beside(&manifest, &[".manifest.json"], suffix);
        let signature = self.signature.clone().unwrap_or_else(|| other(".manifest.sig"));
        let sbom = other(".spdx.json");
        let key = self.key.as_deref().map(public_key).transpose()?;
        let database = self.certificate.as_ref().map(|path| {
            certificate(&read(path, SMALL_BYTES_MAX)?)
                .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))
        });
        Ok(Evidence {
            manifest: read(&manifest, MANIFEST_BYTES_MAX)?,
            // Without a key there is nothing that a signature could be compared with.
            signature: if key.is_some() { read(&signature, SMALL_BYTES_MAX)? } else { Vec::new() },
            key,
            database: database.transpose()?,
            sbom: sbom.exists().then(|| read(&sbom, SBOM_BYTES_MAX)).transpose()?,
        })
    }
}

fn table(screen: Screen, report: &Report) -> String {
    let mut table = Table::with_header(["CHECK", "RESULT", "WHAT WAS COMPARED"]);
    for line in &report.lines {
        let result = match line.outcome {
            Outcome::Proven => "proven",
            Outcome::NotChecked => "not checked",
            Outcome::Refused => "REFUSED",
        };
        table.push([line.subject.to_owned(), result.to_owned(), line.detail.clone()]);
    }
    screen.table(&table)
}

/// `file` with another ending.
fn beside(file: &Path, endings: &[&str], ending: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    file.with_file_name(format!("{stem}{ending}"))
}

fn public_key(text: &str) -> Result<PublicKey, Failure> {
    let path = Path::new(text);
    let digits = match path.exists() {
        true => String::from_utf8_lossy(&read(path, SMALL_BYTES_MAX)?).into_owned(),
        false => text.to_owned(),
    };
    PublicKey::from_hex(&digits).map_err(|error| Failure::new(Exit::Usage, error))
}

fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::new(Exit::Usage, format!("{}: {error}", path.display()));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() <= bytes_max {
        true => Ok(bytes),
        false => Err(Failure::new(Exit::Usage, format!("{} has more than {bytes_max} bytes", path.display()))),
    }
}
