//! Changes that the driver's sources need for one kernel or another: `image/release/patches/nvidia/NNNN-what.patch`.
//!
//! ```text
//! Driver: 550.163.01
//! Kernel-From: 6.12.117
//! Kernel-Before: 6.13
//!
//! Why, for who reads it in a year.
//!
//! --- a/nvidia/nv-pci.c
//! ```
//! Invariants: a patch is for one driver; it is used for kernels from the first to before the second version, of which
//! either may be missing; those for the driver are tried in the order of their names and each must apply exactly.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A patch is a page; a larger file is something else.
const PATCH_BYTES_MAX: u64 = 1024 * 1024;

/// What the names end in. Other files are left alone.
const ENDING: &str = ".patch";

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) name: String,
    pub(super) text: String,
    driver: String,
    from: Option<Vec<u32>>,
    before: Option<Vec<u32>>,
}

/// Why the patches cannot be used.
#[derive(Debug, Error)]
pub enum PatchError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {what}", path.display())]
    Head { path: PathBuf, what: String },
}

/// Those in `folder` that `driver` needs for `kernel`, in the order in which they apply.
pub(super) fn chosen(folder: &Path, driver: &str, kernel: &str) -> Result<Vec<Patch>, PatchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PatchError::Read { path, source }
    };
    let mut names = Vec::new();
    for file in fs::read_dir(folder).map_err(failed(folder))? {
        let name = file.map_err(failed(folder))?.file_name();
        names.extend(name.into_string().ok().filter(|name| name.ends_with(ENDING)));
    }
    names.sort();
    let mut patches = Vec::new();
    for name in names {
        let path = folder.join(&name);
        let head = |what: String| PatchError::Head { path: path.clone(), what };
        if fs::metadata(&path).map_err(failed(&path))?.len() > PATCH_BYTES_MAX {
            return Err(head(format!("it has more than {PATCH_BYTES_MAX} bytes")));
        }
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        patches.push(Patch::parse(name, text).map_err(head)?);
    }
    let kernel = numbers(kernel).unwrap_or_default();
    patches.retain(|patch| patch.driver == driver && patch.is_for(&kernel));
    Ok(patches)
}

// === impl Patch ===

impl Patch {
    fn parse(name: String, text: String) -> Result<Patch, String> {
        let (mut driver, mut from, mut before) = (None, None, None);
        let mut lines = text.lines();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (key, value) = line.split_once(": ").ok_or(format!("{line:?} is not `Key: value`"))?;
            let version = || numbers(value).ok_or(format!("{value:?} is no version of a kernel"));
            match key {
                "Driver" => driver = Some(value.to_owned()),
                "Kernel-From" => from = Some(version()?),
                "Kernel-Before" => before = Some(version()?),
                other => return Err(format!("it has no key {other:?}; there are Driver, Kernel-From, Kernel-Before")),
            }
        }
        if lines.next().is_none_or(|why| why.is_empty() || why.starts_with("---")) {
            return Err("it does not say why it is there, behind the first empty line".to_owned());
        }
        if !text.lines().any(|line| line.starts_with("--- ")) {
            return Err("it changes nothing".to_owned());
        }
        let driver = driver.ok_or("it does not say for which driver: `Driver: 550.163.01` is missing".to_owned())?;
        Ok(Patch { name, text, driver, from, before })
    }

    fn is_for(&self, kernel: &[u32]) -> bool {
        self.from.as_ref().is_none_or(|from| kernel >= from.as_slice())
            && self.before.as_ref().is_none_or(|before| kernel < before.as_slice())
    }
}

/// The numbers that `6.12.117+deb13-amd64` begins with.
fn numbers(version: &str) -> Option<Vec<u32>> {
    let end = version.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(version.len());
    version[..end].split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "550.163.01";

    fn patch(head: &str) -> String {
        format!("{head}\n\nWhy.\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n")
    }

    #[test]
    fn a_patch_is_taken_for_its_driver_and_from_one_kernel_to_before_another() {
        let check = |head: &str, kernel: &str, expected: bool| {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("0001-x.patch"), patch(head)).expect("write");
            fs::write(folder.path().join("README"), "not a patch").expect("write");
            let found = chosen(folder.path(), DRIVER, kernel).expect(head);
            assert_eq!(found.len(), usize::from(expected), "{head} for {kernel}");
        };
        check("Driver: 550.163.01", "6.12.117+deb13-amd64", true);
        check("Driver: 550.163.02", "6.12.117+deb13-amd64", false);
        for (kernel, expected) in [("6.12.116+deb13-amd64", false), ("6.12.117+deb13-amd64", true), ("6.13.1", true)] {
            check("Driver: 550.163.01\nKernel-From: 6.12.117", kernel, expected);
        }
        for (kernel, expected) in [("6.12.9+deb13-amd64", true), ("6.12.117+deb13-amd64", false), ("7.0", false)] {
            check("Driver: 550.163.01\nKernel-From: 6.1\nKernel-Before: 6.12.117", kernel, expected);
        }
    }

    #[test]
    fn patches_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["0010-c.patch", "0002-b.patch", "0001-a.patch"] {
            fs::write(folder.path().join(name), patch("Driver: 550.163.01")).expect("write");
        }
        let found = chosen(folder.path(), DRIVER, "6.12.117").expect("patches");
        let names: Vec<&str> = found.iter().map(|patch| patch.name.as_str()).collect();
        assert_eq!(names, ["0001-a.patch", "0002-b.patch", "0010-c.patch"]);
    }

    #[test]
    fn a_patch_that_does_not_say_what_it_is_for_and_why_is_refused() {
        let check = |text: &str, expected: &str| {
            let refused = Patch::parse("x".to_owned(), text.to_owned()).expect_err(text);
            assert!(refused.contains(expected), "{text}: {refused}");
        };
        check(&patch("Kernel-From: 6.12"), "for which driver");
        check(&patch("Driver: 550.163.01\nKernel-From: new"), "no version");
        check(&patch("Driver: 550.163.01\nKernel: 6"), "no key");
        check("--- a/x\n+++ b/x\n", "Key: value");
        check("Driver: 550.163.01\n\n--- a/x\n+++ b/x\n", "why");
        check("Driver: 550.163.01\n", "why");
        check("Driver: 550.163.01\n\nWhy.\n", "changes nothing");
    }

    #[test]
    fn the_patches_of_the_release_are_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("release/patches/nvidia");
        let found = chosen(&folder, DRIVER, "6.12.117+deb13-amd64").expect("patches");
        assert_eq!(found.len(), 1);
        assert_eq!(chosen(&folder, DRIVER, "6.12.94+deb13-amd64").expect("patches"), []);
    }
}
