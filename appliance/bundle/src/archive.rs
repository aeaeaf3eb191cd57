//! The archive: names and bytes in, one possible sequence of bytes out, and back.
//!
//! Reading never follows extensions, links or directories: an entry is a plain file or the archive is refused. What was
//! read is packed again and compared, so that no byte of an archive is without meaning, and equal bundles have equal
//! digests.

use std::io::Read;

use tar::{Archive, Builder, EntryType, Header};

use crate::bundle::BundleError;
use crate::limits::{ARCHIVE_BYTES_MAX, FILE_CHARS_MAX, MODULES_MAX};

/// The first file.
pub(crate) const MANIFEST: &str = "bundle.toml";

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The one archive that holds `files`. Errors: a name, an order or a size that no archive has.
pub(crate) fn write(files: &[(&str, &[u8])]) -> Result<Vec<u8>, BundleError> {
    check(files)?;
    let mut archive = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        let refused = |error: std::io::Error| BundleError::at(name, error.to_string());
        header.set_path(name).map_err(refused)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(bytes.len()).map_err(|_| BundleError::at(name, "it is too long"))?);
        header.set_cksum();
        archive.append(&header, *bytes).map_err(refused)?;
    }
    let archive = archive.into_inner().map_err(|error| BundleError::at("archive", error.to_string()))?;
    if archive.len() > ARCHIVE_BYTES_MAX {
        return Err(BundleError::TooLong { bytes: archive.len() });
    }
    Ok(archive)
}

/// The files of an archive. Errors: it is too long, no archive, or not the canonical one of what it holds.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<File>, BundleError> {
    if bytes.len() > ARCHIVE_BYTES_MAX {
        return Err(BundleError::TooLong { bytes: bytes.len() });
    }
    let broken = |error: std::io::Error| BundleError::at("archive", error.to_string());
    let mut files: Vec<File> = Vec::new();
    for entry in Archive::new(bytes).entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).chars().take(2 * FILE_CHARS_MAX).collect::<String>();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(BundleError::at(&format!("archive entry {name:?}"), "only plain files may stand in a bundle"));
        }
        if files.len() > MODULES_MAX {
            return Err(BundleError::at("archive", format!("it has more than {} files", MODULES_MAX + 1)));
        }
        // No more than the archive has, whatever the header says.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(broken)?;
        files.push(File { name, bytes: content });
    }
    let borrowed: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.bytes.as_slice())).collect();
    let canonical = write(&borrowed)?;
    if canonical == bytes {
        return Ok(files);
    }
    let same = canonical.iter().zip(bytes).take_while(|(ours, theirs)| ours == theirs).count();
    Err(BundleError::NotCanonical { offset: same })
}

/// Names and their order.
fn check(files: &[(&str, &[u8])]) -> Result<(), BundleError> {
    match files.first() {
        Some((MANIFEST, _)) => {}
        Some((other, _)) => {
            return Err(BundleError::at("archive", format!("its first file is {other:?}, not {MANIFEST:?}")));
        }
        None => return Err(BundleError::at("archive", format!("it is empty; its first file is {MANIFEST:?}"))),
    }
    let modules = &files[1..];
    if modules.len() > MODULES_MAX {
        return Err(BundleError::at("archive", format!("it has {} modules, at most {MODULES_MAX}", modules.len())));
    }
    if let Some((name, _)) = modules.iter().find(|(name, _)| !is_file_name(name) || *name == MANIFEST) {
        let reason = format!("a module's file is named with 1 to {FILE_CHARS_MAX} of a-z, 0-9, `_`, `.` and `-`");
        return Err(BundleError::at(&format!("archive entry {name:?}"), reason));
    }
    match modules.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let reason = format!("it stands behind {:?}; modules are sorted by name and stand once", pair[0].0);
            Err(BundleError::at(&format!("archive entry {:?}", pair[1].0), reason))
        }
    }
}

/// A flat name that means the same on every system: no folder, nothing hidden, nothing above.
pub(crate) fn is_file_name(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    (1..=FILE_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}
