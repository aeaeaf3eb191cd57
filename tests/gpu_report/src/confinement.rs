//! What a worker has in its jail (numbers 63 and 64 of the list), seen from the host while it waits for a job.
//!
//! A bundle brings no code for the processor, so nothing of a stranger's can ask the driver's device files for anything
//! but what the driver's library asks. What the jail leaves to a library that was taken over is in its own tests.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::backend::Backend;
use crate::bench::Bench;
use crate::faults::only_in_a_jail;
use crate::report::{Place, Row};

/// What a jail's `/dev` may hold for a GPU; its own node has a number behind.
const NODES: [&str; 3] = ["nvidia", "nvidiactl", "nvidia-uvm"];

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let Backend::Jailed(jailed) = &bench.backend else {
        let whats = [
            "NVML is not in the jail",
            "the worker's device nodes",
            "the worker's rights",
            "system calls are filtered",
        ];
        rows.extend(whats.into_iter().map(only_in_a_jail));
        return Ok(());
    };
    jailed.settle()?;
    let pid = worker_of(jailed.pid()).context("find the worker among the runner's processes")?;
    let place = |below: &str| PathBuf::from(format!("/proc/{pid}/{below}"));

    let maps = std::fs::read_to_string(place("maps")).context("read what the worker maps")?;
    let libraries = names(&place("root/lib"))?;
    let nvml = libraries.iter().find(|name| name.starts_with("libnvidia-ml"));
    let is_absent = nvml.is_none() && !maps.contains("libnvidia-ml");
    let note = format!("{} files in its /lib; none that writes clocks, power, ECC or modes", libraries.len());
    rows.push(Row::checked("NVML is not in the jail", Place::Jail, is_absent, note));

    let devices = names(&place("root/dev"))?;
    let nvidia: Vec<&String> = devices.iter().filter(|name| name.starts_with("nvidia")).collect();
    let expected = |name: &&String| NODES.contains(&name.trim_end_matches(|digit: char| digit.is_ascii_digit()));
    let gpus = nvidia.iter().filter(|name| name.ends_with(|digit: char| digit.is_ascii_digit())).count();
    let note = format!("{nvidia:?}");
    rows.push(Row::checked("the worker's device nodes", Place::Jail, nvidia.iter().all(expected) && gpus <= 1, note));

    let status = std::fs::read_to_string(place("status")).context("read the worker's status")?;
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default();
    let rights = ["CapPrm:", "CapEff:", "CapBnd:"].map(value);
    let has_none = rights.iter().all(|rights| !rights.is_empty() && rights.bytes().all(|digit| digit == b'0'));
    let note = format!("capabilities {}, no new privileges {}", rights[1], value("NoNewPrivs:"));
    rows.push(Row::checked("the worker's rights", Place::Jail, has_none && value("NoNewPrivs:") == "1", note));
    let filtered = value("Seccomp:") == "2";
    rows.push(Row::checked(
        "system calls are filtered",
        Place::Jail,
        filtered,
        format!("{} filters", value("Seccomp_filters:")),
    ));
    let admin = std::fs::read_to_string("/proc/driver/nvidia/params").unwrap_or_default();
    let profiling =
        admin.lines().find(|line| line.starts_with("RmProfilingAdminOnly")).unwrap_or("the driver does not say");
    let what = "profiling is for administrators only";
    rows.push(if profiling.ends_with(": 1") {
        Row::checked(what, Place::Host, true, profiling)
    } else {
        Row::not_run(what, Place::Host, format!("{profiling}; the owner sets it, as an option of the kernel's module"))
    });
    Ok(())
}

/// The process named `rig-cuda` below this one.
fn worker_of(runner: u32) -> Option<u32> {
    let mut parents = vec![];
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let parent = value("PPid:").and_then(|parent| parent.parse::<u32>().ok());
        parents.push((pid, parent, value("Name:") == Some("rig-cuda")));
    }
    let mut known = BTreeSet::from([runner]);
    // Generation by generation: runner, spawner, the jail's first process, the worker.
    for _ in 0..8 {
        let children = parents.iter().filter(|(_, parent, _)| parent.is_some_and(|parent| known.contains(&parent)));
        let children: Vec<u32> = children.map(|(pid, _, _)| *pid).collect();
        known.extend(children);
    }
    parents.iter().find(|(pid, _, is_worker)| *is_worker && known.contains(pid)).map(|(pid, _, _)| *pid)
}

fn names(dir: &std::path::Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
