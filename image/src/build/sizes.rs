//! How large each component of the root is, before it is packed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Components by where their files begin; the first that fits counts.
const COMPONENTS: [(&str, &str); 12] = [
    ("usr/bin/rig-", "programs"),
    ("usr/lib/rig/", "programs"),
    ("usr/lib/firmware/nvidia/", "NVIDIA"),
    ("usr/lib/x86_64-linux-gnu/nvidia/", "NVIDIA"),
    ("usr/lib/x86_64-linux-gnu/libnvJitLink", "NVIDIA"),
    ("usr/lib/modules/", "modules"),
    ("usr/lib/firmware/", "firmware"),
    ("usr/share/licenses/", "licences"),
    ("usr/lib/systemd/", "systemd"),
    ("usr/lib/x86_64-linux-gnu/systemd/", "systemd"),
    ("usr/lib/x86_64-linux-gnu/", "libraries"),
    ("", "rest"),
];

pub(super) fn components(root: &Path) -> io::Result<BTreeMap<&'static str, u64>> {
    let mut sums: BTreeMap<&'static str, u64> = COMPONENTS.iter().map(|(_, name)| (*name, 0)).collect();
    add(root, root, &mut sums)?;
    Ok(sums)
}

fn add(root: &Path, folder: &Path, sums: &mut BTreeMap<&'static str, u64>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, found) = (entry.path(), entry.metadata()?);
        if found.is_dir() {
            add(root, &path, sums)?;
        } else if found.is_file() {
            let inside = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let component =
                COMPONENTS.iter().find(|(head, _)| inside.starts_with(head)).map_or("rest", |(_, name)| name);
            *sums.entry(component).or_default() += found.len();
        }
    }
    Ok(())
}
