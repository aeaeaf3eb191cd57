//! The licences of what is in the image, in one packed file: distributing the image obliges us to hand them on.
//!
//! Invariant: each text is there once, under the names and versions of all packages that have it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::lock::LockedPackage;

/// Read with `zstdcat`.
const FILE: &str = "usr/share/licenses/packages.zst";

/// Two hundred texts that have much in common: a high level pays.
const LEVEL: i32 = 19;

/// Texts, each with whose it is.
#[derive(Debug, Default)]
pub(super) struct Licences {
    texts: BTreeMap<String, Vec<String>>,
}

// === impl Licences ===

impl Licences {
    /// Moves what `package` brought out of `root`.
    pub(super) fn gather(&mut self, root: &Path, package: &LockedPackage) -> io::Result<()> {
        let share = root.join("usr/share");
        let docs = share.join("doc");
        if docs.exists() {
            for folder in fs::read_dir(&docs)? {
                let file = folder?.path().join("copyright");
                if file.is_file() {
                    self.add(&fs::read(&file)?, format!("{} {}", package.name, package.version));
                }
            }
            fs::remove_dir_all(&docs)?;
        }
        let shared = share.join("common-licenses");
        if shared.exists() {
            for file in fs::read_dir(&shared)? {
                let file = file?;
                if file.file_type()?.is_file() {
                    self.add(&fs::read(file.path())?, file.file_name().to_string_lossy().into_owned());
                }
            }
            fs::remove_dir_all(&shared)?;
        }
        Ok(())
    }

    fn add(&mut self, text: &[u8], whose: String) {
        self.texts.entry(String::from_utf8_lossy(text).into_owned()).or_default().push(whose);
    }

    pub(super) fn write(mut self, root: &Path) -> io::Result<()> {
        let mut by_name: Vec<(String, &str)> = Vec::new();
        for (text, names) in &mut self.texts {
            names.sort();
            by_name.push((names.join(", "), text));
        }
        by_name.sort();
        let mut all = String::new();
        for (names, text) in by_name {
            all.push_str(&format!("==> {names}\n\n{}\n\n", text.trim_end()));
        }
        let path = root.join(FILE);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, zstd::bulk::compress(all.as_bytes(), LEVEL)?)
    }
}
