//! `rig image sign`: a program for UEFI or a manifest, signed by hand.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use image::keys::Keys;
use serde_json::json;

use super::keys::failure;
use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// The largest thing that is signed: a kernel image.
const FILE_BYTES_MAX: u64 = 128 << 20;
const MANIFEST_SUFFIX: &str = ".manifest.json";
const SIGNATURE_SUFFIX: &str = ".manifest.sig";

/// Sign a loader, a kernel image or a manifest.
///
/// A build signs what it makes; this is for a file that was built without keys, or elsewhere. A file that ends with
/// .manifest.json gets a signature beside it, any other is taken for a program for UEFI and written anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig image sign rig-2026.11.1-generic.manifest.json --keys keys/
  rig image sign uki.efi --keys keys/ --out uki.signed.efi")]
pub(crate) struct Sign {
    /// What to sign.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder that rig image keys made.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Where to write; a file that is not there yet. Beside a manifest by default.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

// === impl Sign ===

impl Sign {
    pub(crate) fn run(&self, screen: Screen) -> Result<(), Failure> {
        let keys = Keys::open(&self.keys).map_err(failure)?;
        let bytes = read(&self.file)?;
        let name = self.file.to_string_lossy();
        let (signed, out) = match name.strip_suffix(MANIFEST_SUFFIX) {
            Some(stem) => {
                layout::manifest::Manifest::parse(&bytes).map_err(|error| Failure::new(Exit::Usage, error))?;
                let beside = || PathBuf::from(format!("{stem}{SIGNATURE_SUFFIX}"));
                (image::sign::manifest(&keys, &bytes), self.out.clone().unwrap_or_else(beside))
            }
            None => {
                let out = self.out.clone().ok_or_else(|| {
                    Failure::new(Exit::Usage, "where does the signed program go?").next("name a file with --out")
                })?;
                (image::sign::uki(&keys, &bytes).map_err(|error| Failure::new(Exit::Usage, error))?, out)
            }
        };
        write(&out, &signed)?;
        let answer = json!({"signed": self.file, "out": out, "release": keys.release_public()});
        screen.answer(&answer, || format!("Signed: {}", out.display()));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::new(Exit::Usage, format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        true => Ok(bytes),
        false => Err(Failure::new(Exit::Usage, format!("{} is larger than any kernel image", path.display()))),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}
