//! Which shared objects are mapped into this process: what a jail for it must hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The most lines that are looked at; a process with a driver and a linker has some hundreds.
const LINES_MAX: usize = 16_384;

/// Shared objects that are mapped now, sorted, each once. Empty where `/proc` is not mounted.
pub(crate) fn mapped() -> Vec<PathBuf> {
    shared_objects(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default())
}

/// The mapped object whose file name begins with `name`.
pub(crate) fn find(mapped: &[PathBuf], name: &str) -> Option<PathBuf> {
    let is_it =
        |path: &&PathBuf| path.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(name.as_bytes()));
    mapped.iter().find(is_it).cloned()
}

/// A line of `/proc/PID/maps`: range, permissions, offset, device, inode, and the path if there is one.
fn shared_objects(maps: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.find('/').map(|at| line[at..].to_owned());
    let is_shared_object = |path: &String| {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".so") || name.contains(".so.")
    };
    let found: BTreeSet<_> = maps.lines().take(LINES_MAX).filter_map(path).filter(is_shared_object).collect();
    found.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_objects_are_found_among_all_that_is_mapped() {
        let maps = "\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 12 /usr/bin/rig-cuda
7f00c0000000-7f00c0001000 r--p 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f00c0001000-7f00c0002000 r-xp 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f00c0003000-7f00c0004000 r-xp 00000000 fe:00 14 /opt/a driver/libcuda.so.570.86
7f00c0005000-7f00c0006000 rw-s 00000000 00:05 15 /dev/nvidiactl
7f00c0007000-7f00c0008000 rw-p 00000000 00:00 0
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0 [stack]";
        let found = shared_objects(maps);
        let expected = ["/opt/a driver/libcuda.so.570.86", "/usr/lib/x86_64-linux-gnu/libc.so.6"].map(PathBuf::from);
        assert_eq!(found, expected);
        assert_eq!(find(&found, "libcuda.so"), Some(expected[0].clone()));
        assert_eq!(find(&found, "libnvJitLink.so"), None);
        assert!(shared_objects("").is_empty());
    }

    #[test]
    fn this_process_has_a_c_library() {
        assert!(find(&mapped(), "libc.so").is_some());
    }
}
