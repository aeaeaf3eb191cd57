//! What the rig says of itself on chain: a JSON document with the four fields that schedulers are known to read, and
//! little more: how the key is kept. Source: protocol §3.2.

use gpu::Inventory;
use gpu::inventory::CudaVersion;
use runner::protocol::Gpus;
use serde_json::{Value, json};
use signer::Identity;

use crate::memory::kib;

/// The document for a machine whose `/proc/cpuinfo` and `/proc/meminfo` read so, and whose GPUs are these; `None` where
/// the rig offers none. `identity` says how well the key is kept.
pub fn document(cpuinfo: &str, meminfo: &str, gpus: Option<&Gpus>, identity: &Identity) -> Vec<u8> {
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim())
    });
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let ram: Value = kib(meminfo, "MemTotal").map_or_else(|| "N/A".into(), |kib| kib.div_ceil(1 << 20).into());
    let document = json!({
        "cpu": { "model": model.unwrap_or("N/A"), "cores": cores },
        "gpu": gpu::base_data::gpu_member(&inventory(gpus)),
        "ram": { "total": { "value": ram, "unit": "GB" } },
        "version": env!("CARGO_PKG_VERSION"),
        // What the rig says of itself. Nobody has checked it: that takes evidence of the TPM, which is not on chain.
        "identity": { "tier": identity.tier, "fields": identity.fields, "attested": false },
    });
    document.to_string().into_bytes()
}

fn inventory(gpus: Option<&Gpus>) -> Inventory {
    let version = |version: bundle::Version| CudaVersion { major: version.major, minor: version.minor };
    Inventory {
        driver_version: gpus.and_then(|gpus| gpus.driver.clone()),
        cuda_version: gpus.and_then(|gpus| gpus.cuda).map(version),
        gpus: gpus.into_iter().flat_map(|gpus| &gpus.gpus).map(|report| report.gpu.clone()).collect(),
        silent: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use signer::{KeyState, Tier};

    use super::*;
    use crate::gpus::samples;

    fn document(cpuinfo: &str, meminfo: &str, gpus: Option<&Gpus>) -> Vec<u8> {
        let (address, state) = (Address::ZERO, KeyState::Open);
        let identity = Identity { address, tier: Tier::N, fields: 5, state, replaces: None };
        super::document(cpuinfo, meminfo, gpus, &identity)
    }

    #[test]
    fn the_gpus_that_are_offered_are_described() {
        let gpus = samples::gpus(&[("A GPU", Some((8, 6))), ("A GPU", Some((8, 6)))]);
        let document: Value = serde_json::from_slice(&document("", "", Some(&gpus))).expect("JSON");
        assert_eq!(document["gpu"]["model"], "A GPU");
        assert_eq!(document["gpu"]["count"], 2);
        assert_eq!(document["gpu"]["totalVRAM"]["value"], 16);
        assert_eq!(document["gpu"]["cuda"], "12.8");
        assert_eq!(document["gpu"]["computeCapability"], "8.6");
    }

    #[test]
    fn the_four_fields_that_schedulers_read_are_there() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU\nprocessor\t: 1\nmodel name\t: A CPU\n";
        let document: Value =
            serde_json::from_slice(&document(cpuinfo, "MemTotal:  16384000 kB\n", None)).expect("JSON");
        assert_eq!(document["cpu"]["model"], "A CPU");
        assert_eq!(document["cpu"]["cores"], 2);
        assert_eq!(document["ram"]["total"]["value"], 16);
        assert_eq!(document["gpu"]["model"], "N/A");
        assert_eq!(document["gpu"]["totalVRAM"]["value"], "N/A");
    }

    #[test]
    fn the_tier_is_said_and_nothing_that_nobody_checked_is_claimed() {
        let document: Value = serde_json::from_slice(&document("", "", None)).expect("JSON");
        assert_eq!(document["identity"], json!({ "tier": "N", "fields": 5, "attested": false }));
    }

    #[test]
    fn a_machine_that_says_nothing_still_gives_a_document() {
        let document: Value = serde_json::from_slice(&document("", "", None)).expect("JSON");
        assert_eq!(document["ram"]["total"]["value"], "N/A");
    }
}
