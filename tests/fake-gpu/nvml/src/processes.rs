//! Which processes compute on a GPU: those of the script, and those that have the fake `libcuda.so.1` mapped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fake_gpu_script::Process;

use crate::machine::Device;

/// What a found process is said to use of the GPU's memory.
const FOUND_BYTES: u64 = 64 << 20;

/// The processes on a GPU, by process id.
pub(crate) fn on(device: &Device<'_>) -> Vec<Process> {
    let mut processes = device.gpu.processes.clone();
    if device.machine.script.nvml.find_processes {
        let library = fake_gpu_edge::own_path().map(|path| path.with_file_name("libcuda.so.1"));
        if let Some(library) = library.and_then(|path| fs::metadata(path).ok()) {
            processes.extend(found(library.ino(), device.index, &device.gpu.uuid));
        }
    }
    processes.sort_by_key(|process| process.pid);
    processes.dedup_by_key(|process| process.pid);
    processes
}

/// A process that ends while it is looked at is none; so is one that this process may not look at.
fn found(inode: u64, index: usize, uuid: &str) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let on_it = pids.filter(|pid| {
        let directory = Path::new("/proc").join(pid.to_string());
        fs::read_to_string(directory.join("maps")).is_ok_and(|maps| maps_inode(&maps, inode))
            && fs::read(directory.join("environ")).is_ok_and(|environment| sees(&environment, index, uuid))
    });
    on_it.map(|pid| Process { pid, vram_bytes: FOUND_BYTES }).collect()
}

/// Lines: address, rights, offset, device, inode, path.
fn maps_inode(maps: &str, inode: u64) -> bool {
    maps.lines().any(|line| line.split_ascii_whitespace().nth(4).and_then(|word| word.parse().ok()) == Some(inode))
}

/// Whether the environment leaves this GPU visible.
fn sees(environment: &[u8], index: usize, uuid: &str) -> bool {
    let variable = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"CUDA_VISIBLE_DEVICES="));
    let Some(shown) = variable.map(String::from_utf8_lossy) else { return true };
    shown
        .split(',')
        .map(str::trim)
        .any(|entry| entry.parse() == Ok(index) || entry.starts_with("GPU-") && uuid.starts_with(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_known_by_its_inode_whatever_its_path() {
        let maps = "7f00-7f01 r-xp 00001000 00:2b 4242 /lib/libcuda.so.1\n7f01-7f02 rw-p 00000000 00:00 0 [heap]\n";
        assert!(maps_inode(maps, 4242));
        assert!(!maps_inode(maps, 1));
        assert!(!maps_inode("", 4242));
    }

    #[test]
    fn a_process_is_on_the_gpus_that_its_environment_shows() {
        let check = |environment: &str, expected| {
            assert_eq!(sees(environment.as_bytes(), 1, "GPU-12ab"), expected, "{environment:?}");
        };
        check("", true);
        check("HOME=/\0CUDA_VISIBLE_DEVICES=GPU-12ab\0", true);
        check("CUDA_VISIBLE_DEVICES=GPU-1", true);
        check("CUDA_VISIBLE_DEVICES=0, 1", true);
        check("CUDA_VISIBLE_DEVICES=0", false);
        check("CUDA_VISIBLE_DEVICES=GPU-9", false);
        check("CUDA_VISIBLE_DEVICES=", false);
    }
}
