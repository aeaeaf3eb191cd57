//! A bundle: an archive whose every part was checked against every other.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::archive::{self, File, MANIFEST};
use crate::digest::Digest;
use crate::expression::unknown;
use crate::function::Function;
use crate::limits::{ARCHIVE_BYTES_MAX, DESCRIPTION_CHARS_MAX, FUNCTIONS_MAX, MODULES_MAX, NAME_CHARS_MAX};
use crate::manifest::{self, Manifest};
use crate::module::Module;

/// Kernels, and the functions that launch them.
#[derive(Clone, Debug)]
pub struct Bundle {
    digest: Digest,
    name: String,
    description: String,
    modules: Vec<Module>,
    functions: Vec<Function>,
}

/// An archive that is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Longer than any bundle.
    #[error("the archive has {bytes} bytes, a bundle has at most {ARCHIVE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Its files would be packed differently.
    #[error("the archive differs from its canonical form at byte {offset}; pack its files again")]
    NotCanonical {
        /// The first byte that differs.
        offset: usize,
    },
    /// Of another format.
    #[error("bundle.toml: format 1 is read here, not {}", found.map_or("one without a number".to_owned(), |format| format.to_string()))]
    Format {
        /// What it says.
        found: Option<i64>,
    },
    /// A key that does not exist at this place.
    #[error("bundle.toml line {line}: unknown key `{key}`{}", nearest.as_ref().map(|key| format!(", did you mean `{key}`?")).unwrap_or_default())]
    UnknownKey {
        /// The line, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The key of this place that is closest to it.
        nearest: Option<String>,
    },
    /// Not TOML, a value of the wrong kind, a key that is missing or stands twice.
    #[error("bundle.toml line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the parser found.
        message: String,
    },
    /// A part is wrong, or does not go with the others.
    #[error("{place}: {reason}")]
    Place {
        /// Such as `function.gemm_f32.steps[2].arguments[0]`.
        place: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

// === impl BundleError ===

impl BundleError {
    pub(crate) fn at(place: &str, reason: impl Into<String>) -> BundleError {
        BundleError::Place { place: place.to_owned(), reason: reason.into() }
    }
}

// === impl Bundle ===

impl Bundle {
    /// Reads an archive and checks all that can be checked before parameters are known. Errors: see [`BundleError`].
    pub fn parse(archive: &[u8]) -> Result<Bundle, BundleError> {
        let mut files = archive::read(archive)?.into_iter();
        let manifest = files.next().map(|file| manifest::read(&file.bytes)).transpose()?;
        let manifest = manifest.ok_or_else(|| BundleError::at("archive", format!("it has no {MANIFEST}")))?;
        let modules = modules(&manifest, files.collect())?;
        check_name("name", &manifest.name)?;
        if manifest.description.chars().count() > DESCRIPTION_CHARS_MAX {
            let reason = format!("it has more than {DESCRIPTION_CHARS_MAX} characters");
            return Err(BundleError::at("description", reason));
        }
        if !(1..=FUNCTIONS_MAX).contains(&manifest.functions.len()) {
            let reason = format!("a bundle has 1 to {FUNCTIONS_MAX} functions, this has {}", manifest.functions.len());
            return Err(BundleError::at("function", reason));
        }
        let functions = manifest.functions.iter().map(|(name, text)| {
            check_name("function", name)?;
            Function::check(name, text, &modules)
        });
        let functions = functions.collect::<Result<Vec<_>, BundleError>>()?;
        let Manifest { name, description, .. } = manifest;
        Ok(Bundle { digest: Digest::of(archive), name, description, modules, functions })
    }

    /// sha256 of the archive.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bundle's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for, in its author's words. May be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// In the order of `bundle.toml`. Launches count from here.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// In the order of their names.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter()
    }

    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name() == name)
    }
}

/// The canonical archive of `files`, names with their bytes: `bundle.toml` first, then the modules sorted by name. It
/// is parsed too, so that what is packed is a bundle. Errors: see [`BundleError`].
pub fn pack(files: &[(&str, &[u8])]) -> Result<Vec<u8>, BundleError> {
    let archive = archive::write(files)?;
    Bundle::parse(&archive).map(|_| archive)
}

/// Each `[[module]]` with its file, and no file without one.
fn modules(manifest: &Manifest, mut files: Vec<File>) -> Result<Vec<Module>, BundleError> {
    // None at all is legal: such a bundle fills and copies.
    if manifest.modules.len() > MODULES_MAX {
        let reason = format!("a bundle has at most {MODULES_MAX} modules, this has {}", manifest.modules.len());
        return Err(BundleError::at("module", reason));
    }
    let mut names = BTreeSet::new();
    let mut modules = Vec::new();
    for (index, text) in manifest.modules.iter().enumerate() {
        let place = format!("module[{index}]");
        check_name(&format!("{place}.name"), &text.name)?;
        if !names.insert(&text.name) {
            return Err(BundleError::at(&format!("{place}.name"), format!("`{}` stands twice", text.name)));
        }
        let Some(found) = files.iter().position(|file| file.name == text.file) else {
            let mut reason = unknown(&text.file, files.iter().map(|file| file.name.as_str()));
            reason.push_str("; each module has its own file in the archive");
            return Err(BundleError::at(&format!("{place}.file"), reason));
        };
        let file = files.swap_remove(found);
        modules.push(Module::check(text, file.bytes).map_err(|reason| BundleError::at(&place, reason))?);
    }
    match files.first() {
        None => Ok(modules),
        Some(file) => Err(BundleError::at(&format!("archive entry {:?}", file.name), "no module names this file")),
    }
}

/// A name of ours: a letter, then letters, digits and underscores, all lower-case.
pub(crate) fn check_name(place: &str, name: &str) -> Result<(), BundleError> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let goes_on = bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if begins && goes_on && name.len() <= NAME_CHARS_MAX {
        return Ok(());
    }
    let reason = format!(
        "{:?} is no name: a-z, then at most {} of a-z, 0-9 and `_`",
        name.chars().take(80).collect::<String>(),
        NAME_CHARS_MAX - 1
    );
    Err(BundleError::at(place, reason))
}
