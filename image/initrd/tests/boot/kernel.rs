//! The kernel and its modules, from what a build of the image unpacked, and the first root made of them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the buses, the root and the watchdog need; what these need comes with them. As the image does it: watchdogs first.
const MODULES: [&str; 14] = [
    "i6300esb",
    "virtio_blk",
    "nvme",
    "ahci",
    "sd_mod",
    "xhci_pci",
    "usb_storage",
    "sdhci_pci",
    "mmc_block",
    "sha256_ssse3",
    "crc32c_intel",
    "dm_mod",
    "dm_verity",
    "erofs",
];

/// A kernel package, unpacked.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

/// The one that the cache has.
pub(crate) fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(find)
}

fn find() -> Kernel {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = env::var_os("RIG_IMAGE_CACHE").map_or(repository.join("target/image/cache"), PathBuf::from);
    let kernels = cache.join("kernels");
    let hint = "an unpacked kernel package is there; rig image build makes it, or set RIG_IMAGE_CACHE";
    let mut found: Vec<PathBuf> = listed(&kernels).into_iter().filter(|path| path.join("boot").is_dir()).collect();
    found.sort();
    let folder = found.pop().unwrap_or_else(|| panic!("{}: {hint}", kernels.display()));
    let image = listed(&folder.join("boot")).into_iter().find(|path| path.to_string_lossy().contains("vmlinuz-"));
    let modules = listed(&folder.join("usr/lib/modules")).into_iter().next();
    Kernel { image: image.expect("the package has a kernel"), modules: modules.expect("the package has modules") }
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("a folder can be listed").path()).collect()
}

/// The first root, packed: `init`, the modules, and `extra` as the loader would add it.
pub(crate) fn initrd(init: &Path, extra: &[(&str, &str)]) -> Vec<u8> {
    static MODULES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let modules = MODULES.get_or_init(modules);
    let mut archive = Vec::new();
    for folder in ["dev", "modules", "proc", "run", "sys", "sysroot", ".extra"] {
        entry(&mut archive, folder, 0o040_755, &[]);
    }
    entry(&mut archive, "init", 0o100_755, &fs::read(init).expect("rig-init was built"));
    let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
    entry(&mut archive, "modules/order", 0o100_644, order.as_bytes());
    for (name, content) in modules {
        entry(&mut archive, &format!("modules/{name}"), 0o100_644, content);
    }
    for (name, content) in extra {
        entry(&mut archive, &format!(".extra/{name}"), 0o100_644, content.as_bytes());
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Every module with what it needs before it.
fn modules() -> Vec<(String, Vec<u8>)> {
    let folder = &kernel().modules;
    let needs = fs::read_to_string(folder.join("modules.dep")).expect("the modules were indexed");
    let needs: BTreeMap<String, (&str, Vec<&str>)> = needs
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (name(path), (path, needs.split_whitespace().collect())))
        .collect();
    let mut order: Vec<&str> = Vec::new();
    for module in MODULES {
        let Some((path, needs)) = needs.get(module) else { panic!("the kernel has no module {module}") };
        for path in needs.iter().rev().chain([path]) {
            if !order.contains(path) {
                order.push(path);
            }
        }
    }
    let unpacked = |path: &&str| {
        let output = Command::new("xz").arg("-dc").arg(folder.join(path)).output().expect("xz runs");
        assert!(output.status.success(), "xz unpacks {path}");
        (format!("{}.ko", name(path)), output.stdout)
    };
    order.iter().map(unpacked).collect()
}

/// A module's name as the kernel writes it.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// One entry of a cpio archive in the form "newc".
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    archive.extend(b"070701");
    let fields = [0, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
