//! Certificates of TPM makers from files.

use std::fs;
use std::path::{Path, PathBuf};

use attest::Roots;

use super::{read_at_most, unusable};
use crate::exit::{Exit, Failure};

/// Longest file of roots, bytes: a collection of every maker's in PEM has about 3 MB.
const MAX_FILE: usize = 16 << 20;
/// Most files in a folder that are looked at.
const MAX_FILES: usize = 4096;
/// How files with certificates end.
const ENDINGS: [&str; 4] = ["pem", "crt", "cer", "der"];

/// The roots in `path`: a file, or a folder whose files end like certificates do.
pub(super) fn load(path: &Path) -> Result<Roots, Failure> {
    let mut roots = Roots::none();
    let files = if path.is_dir() { list(path)? } else { vec![path.to_owned()] };
    for file in &files {
        let bytes = read_at_most(file, MAX_FILE)?;
        if bytes.len() > MAX_FILE {
            return Err(unusable("use", file, format!("it has more than {MAX_FILE} bytes")));
        }
        roots.add(&bytes).map_err(|fault| unusable("use", file, fault))?;
    }
    match roots.is_empty() {
        false => Ok(roots),
        true => {
            let words = format!("{} has no file that ends with .{}", path.display(), ENDINGS.join(", ."));
            Err(Failure::new(Exit::Usage, words).next("put the certificates of the TPM makers that you trust there"))
        }
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| unusable("read", folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unusable("read", folder, error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        if ending.is_some_and(|ending| ENDINGS.contains(&&*ending)) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(unusable("use", folder, format!("it has more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}
