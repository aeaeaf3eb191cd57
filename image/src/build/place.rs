//! Where the files that are published go.
//!
//! Invariant: what is replaced is an earlier build. A folder with anything else in it, such as somebody's home, is refused
//! before an hour of work and not deleted after it.

use std::fs;
use std::io;
use std::path::Path;

use super::{BuildError, failed};

/// What a build leaves besides the files that begin with the release's name.
const OTHERS: [&str; 2] = ["parts", "renewed.lock"];

/// Whether `out` may be replaced by a build of the release `name`. Errors: `Occupied`; `File` if that cannot be told.
pub(super) fn check(out: &Path, name: &str) -> Result<(), BuildError> {
    let occupied = |found: String| Err(BuildError::Occupied { out: out.to_owned(), found });
    let kind = match out.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed("look at", out))?.file_type(),
    };
    if !kind.is_dir() || out.file_name().is_none() {
        return occupied("what is no folder of its own".to_owned());
    }
    for entry in fs::read_dir(out).map_err(failed("read", out))? {
        let found = entry.map_err(failed("read", out))?.file_name().to_string_lossy().into_owned();
        if !OTHERS.contains(&found.as_str()) && !found.starts_with(&format!("{name}-")) {
            return occupied(found);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_build_is_replaced_by_a_build() {
        let home = tempfile::tempdir().expect("a folder");
        let out = home.path().join("out");
        check(&out, "rig").expect("it is not there yet");
        fs::create_dir_all(out.join("parts")).expect("a folder");
        check(&out, "rig").expect("an earlier build");
        for file in ["rig-0.1.0-generic.raw", "rig-0.1.0-generic.manifest.json", "renewed.lock"] {
            fs::write(out.join(file), "").expect("a file");
            check(&out, "rig").expect(file);
        }
        fs::write(out.join("thesis.txt"), "").expect("a file");
        let error = check(&out, "rig").expect_err("that is somebody's").to_string();
        assert!(error.contains("thesis.txt"), "{error}");
    }

    #[test]
    fn what_is_no_folder_is_not_replaced() {
        let home = tempfile::tempdir().expect("a folder");
        let (file, link) = (home.path().join("file"), home.path().join("link"));
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink(home.path(), &link).expect("a link");
        for out in [file, link, home.path().join("..")] {
            check(&out, "rig").expect_err("that is no build");
        }
    }
}
