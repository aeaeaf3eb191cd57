//! Stands in for systemd in a guest: says what the first process left, and ends as the kernel's command line asks.
//!
//! `witness=read` reads every byte of the root first, `witness=hang` never ends and feeds no watchdog; else the guest is
//! powered off. Every line that counts begins with `witness: `.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// Facts and files that the first process leaves.
const LEFT: [&str; 2] = ["/run/rig/boot", "/run/systemd"];

fn main() {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    println!("witness: process {}", std::process::id());
    for folder in LEFT {
        for path in files(Path::new(folder)) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            println!("witness: {} = {}", path.display(), text.trim_end().replace(['\n', '\t'], "|"));
        }
    }
    println!("witness: machine-id = {}", fs::read_to_string("/etc/machine-id").unwrap_or_default().trim());
    let pcr = fs::read_to_string("/sys/class/tpm/tpm0/pcr-sha256/11").unwrap_or_default();
    println!("witness: pcr 11 = {}", pcr.trim().to_lowercase());
    for mount in fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        println!("witness: mount {mount}");
    }
    let environment: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}")).collect();
    println!("witness: environment {}", environment.join(" "));
    println!("witness: writable {}", File::create("/usr/x").is_ok());
    if line.contains("witness=read") {
        let read: io::Result<u64> = files(Path::new("/usr")).iter().map(|path| Ok(fs::read(path)?.len() as u64)).sum();
        println!("witness: read {read:?}");
    }
    if line.contains("witness=hang") {
        println!("witness: hangs");
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
    println!("witness: done");
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// All files below `folder`, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
