//! Where the key is: one process holds it, and no other ever did, on a rig with a TPM and on one without.
//!
//! The TPM is a real emulator. What a process holds is read from its memory by the kernel, as a debugger of root would;
//! the key is learnt afterwards, by opening it as the signer does.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use identity::{Options, Wish};
use serde_json::json;
use swtpm::Emulator;
use tempfile::TempDir;
use testbed::hardware;
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions};

use crate::town::{COIN, SOON, Terms, asked, family, input, serving, source, task, works};

/// More than any process of a rig maps for writing.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// A process of the rig, and all that it had in memory.
struct Remembered {
    name: String,
    memory: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_tpm_the_rig_earns_and_its_signer_alone_ever_holds_the_key() {
    let tpm = Emulator::start();
    let machine = TempDir::new().expect("a folder");
    hardware::machine(machine.path(), 1).expect("a machine");
    let options =
        RigOptions { tpm: tpm.place(), hardware: Some(machine.path().to_owned()), ..works("sources = \"any\"") };
    let mut rig = earned(&options, "B").await;

    let remembered = remember(&rig);
    assert!(rig.stop().expect("the rig stops"));
    let key = key_of(&rig, &options);
    judge(&remembered, &key);
    no_file_holds(rig.dir(), &key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tpm_the_rig_earns_and_says_that_its_key_is_software() {
    let machine = TempDir::new().expect("a folder");
    hardware::machine(machine.path(), 2).expect("a machine");
    let options = RigOptions { hardware: Some(machine.path().to_owned()), ..works("sources = \"any\"") };
    let mut rig = earned(&options, "N").await;
    let said = asked(&rig, &["status"]);
    let kept = said["identity"]["kept"].as_str().unwrap_or_default().to_owned();
    assert!(kept.starts_with("N (software, bound to ") && kept.ends_with("parts: clone detection)"), "{kept}");

    let remembered = remember(&rig);
    assert!(rig.stop().expect("the rig stops"));
    let key = key_of(&rig, &options);
    judge(&remembered, &key);
    no_file_holds(rig.dir(), &key);
}

/// A rig that has answered a task and was paid, and says that its key is of `tier`.
async fn earned(options: &RigOptions, tier: &str) -> Rig {
    let market = Market::open().await;
    let terms = Terms { delivery: Delivery::First, lockup_wei: 0 };
    let source = source(&market, market.metadata().await, terms).await;
    let rig = serving(&market, options, 1).await;
    let said = asked(&rig, &["status"]);
    assert_eq!(said["identity"]["tier"], json!(tier), "{said:#}");
    let task = task(&market, source, input(&market, "add", json!({ "a": 2, "b": 3 })).await, COIN, 120).await;
    rig.wait_task(task, &["settled"], SOON).expect("the rig answers and is paid");
    rig
}

/// The memory of signer, runner, provider, and of all that they started.
fn remember(rig: &Rig) -> Vec<Remembered> {
    let roots = rig.pids().into_iter().filter_map(|pid| i32::try_from(pid).ok());
    let of = |pid: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        Some(Remembered { name, memory: memory_of(pid) })
    };
    family(roots).into_iter().filter_map(of).collect()
}

/// All that a process can write, as far as the kernel gives it.
fn memory_of(pid: i32) -> Vec<u8> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let Ok(memory) = fs::File::open(format!("/proc/{pid}/mem")) else { return Vec::new() };
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let Some((from, to)) = line.split_whitespace().next().and_then(|range| range.split_once('-')) else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else { continue };
        let bytes = to.saturating_sub(from).min(MEMORY_BYTES_MAX);
        let mut part = vec![0; usize::try_from(bytes).expect("it is bounded")];
        // A device's memory cannot be read so; no key is there.
        if let Ok(read) = memory.read_at(&mut part, from) {
            all.extend_from_slice(&part[..read]);
        }
    }
    all
}

/// The key that the stopped rig's signer used.
fn key_of(rig: &Rig, options: &RigOptions) -> [u8; 32] {
    let opened = identity::open(&Options {
        state: rig.dir().join("signer"),
        tpm: Some(options.tpm.clone()).filter(|place| !place.is_empty()).map(|place| place.parse().expect("a place")),
        hardware: options.hardware.clone().expect("these rigs have a machine"),
        wish: Wish::Auto,
        vendor: None,
        approvals: None,
        generation: 0,
    });
    *opened.expect("the state is known").active.expect("the key opens again").scalar
}

fn judge(remembered: &[Remembered], key: &[u8; 32]) {
    let (signer, others): (Vec<_>, Vec<_>) = remembered.iter().partition(|each| each.name == "rig-signer");
    let [signer] = signer[..] else { panic!("there are {} signers", signer.len()) };
    assert!(holds(&signer.memory, key), "the signer's memory was not read, so the others' proves nothing");
    assert!(others.iter().any(|each| each.name == "rig-provider"), "the provider was not looked at");
    for other in others {
        assert!(!other.memory.is_empty(), "the memory of {} was not read", other.name);
        assert!(!holds(&other.memory, key), "{} holds the key", other.name);
    }
}

/// The key is sealed or encrypted wherever the rig keeps it.
fn no_file_holds(folder: &Path, key: &[u8; 32]) {
    let files = files(folder);
    assert!(files.contains(&folder.join("signer/provider.key")), "the key's own file was not looked at");
    for file in files {
        let bytes = fs::read(&file).expect("a file of the stopped rig can be read");
        assert!(!holds(&bytes, key), "{} holds the key in the clear", file.display());
    }
}

/// Whether `key` stands in `bytes`, most or least significant byte first.
fn holds(bytes: &[u8], key: &[u8; 32]) -> bool {
    let mut reversed = *key;
    reversed.reverse();
    bytes.windows(32).any(|window| window == key || window == reversed)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    found
}
