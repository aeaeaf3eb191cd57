//! What the network is told of the GPUs: the `gpu` member of the provider's base data.
//!
//! Invariants: `model` and `totalVRAM.value` are always there, for schedulers read them; `value` is a whole number of
//! GB or `"N/A"`, as the readers of the other members expect. Nothing that names the single board (UUID, serial) is in
//! it.

use crate::inventory::Inventory;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One GB as schedulers count it: what a board of "24 GB" has is 24 of these, less what its firmware keeps.
const GB: u64 = 1 << 30;

/// The `gpu` member for these GPUs. `model` names each kind once, joined by `, `; `totalVRAM` is the sum over all,
/// rounded to the nearest GB; `driver`, `cuda` and `computeCapability` (the lowest of all) only where they are known.
pub fn gpu_member(inventory: &Inventory) -> Value {
    let gpus = &inventory.gpus;
    let models: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    let models: Vec<&str> = models.into_iter().collect();
    let model = if models.is_empty() { "N/A".to_owned() } else { models.join(", ") };
    let vram_bytes: Option<u64> = gpus.iter().map(|gpu| gpu.vram_bytes).sum();
    let vram: Value = match vram_bytes {
        Some(bytes) if bytes > 0 => (bytes.saturating_add(GB / 2) / GB).into(),
        Some(_) | None => "N/A".into(),
    };
    let mut member = json!({
        "model": model,
        "count": gpus.len(),
        "totalVRAM": { "value": vram, "unit": "GB" },
    });
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            member[name] = value.into();
        }
    };
    add("driver", inventory.driver_version.clone().filter(|_| !gpus.is_empty()));
    add("cuda", inventory.cuda_version.filter(|_| !gpus.is_empty()).map(|version| version.to_string()));
    add("computeCapability", gpus.iter().filter_map(|gpu| gpu.compute_capability).min().map(|cc| cc.to_string()));
    member
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{ComputeCapability, CudaVersion, Gpu, PcieLink, PowerLimits, TemperatureLimits};

    const MIB: u64 = 1 << 20;

    fn gpu(model: &str, vram_bytes: Option<u64>, compute_capability: Option<(u32, u32)>) -> Gpu {
        Gpu {
            index: 0,
            minor: None,
            uuid: "GPU-1".parse().expect("a UUID"),
            model: model.to_owned(),
            pci_bus_id: None,
            serial: Some("1234".to_owned()),
            vbios_version: None,
            vram_bytes,
            compute_capability: compute_capability.map(|(major, minor)| ComputeCapability { major, minor }),
            pcie: PcieLink::default(),
            power: PowerLimits::default(),
            temperature_limits: TemperatureLimits::default(),
            ecc: None,
            mig: None,
            is_persistent: None,
            fans: None,
        }
    }

    #[track_caller]
    fn check(gpus: Vec<Gpu>, expected: Value) {
        let cuda_version = Some(CudaVersion { major: 12, minor: 8 });
        let inventory = Inventory { driver_version: Some("570.1".to_owned()), cuda_version, gpus, silent: Vec::new() };
        assert_eq!(gpu_member(&inventory), expected);
    }

    #[test]
    fn the_member_says_what_schedulers_read() {
        check(
            vec![gpu("NVIDIA GeForce RTX 4090", Some(24_564 * MIB), Some((8, 9)))],
            json!({"model": "NVIDIA GeForce RTX 4090", "count": 1, "totalVRAM": {"value": 24, "unit": "GB"},
                "driver": "570.1", "cuda": "12.8", "computeCapability": "8.9"}),
        );
        check(
            vec![
                gpu("B", Some(81_559 * MIB), Some((9, 0))),
                gpu("A", Some(8_188 * MIB), Some((8, 6))),
                gpu("B", Some(81_559 * MIB), None),
            ],
            json!({"model": "A, B", "count": 3, "totalVRAM": {"value": 167, "unit": "GB"},
                "driver": "570.1", "cuda": "12.8", "computeCapability": "8.6"}),
        );
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        check(Vec::new(), json!({"model": "N/A", "count": 0, "totalVRAM": {"value": "N/A", "unit": "GB"}}));
        check(
            vec![gpu("A", None, None), gpu("A", Some(MIB), None)],
            json!({"model": "A", "count": 2, "totalVRAM": {"value": "N/A", "unit": "GB"},
                "driver": "570.1", "cuda": "12.8"}),
        );
    }
}
