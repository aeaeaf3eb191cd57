//! Faces for tests.

use alloy_primitives::address;
use serde_json::json;

use super::*;

pub(crate) fn plate() -> Plate {
    let owner = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
    let notices = "/nowhere/notices".into();
    Plate { notices, name: serde_json::from_value(json!("attic")).expect("a name"), owner, chain_id: 1071 }
}

pub(crate) fn seen(state: KeyState) -> Seen {
    let address = address!("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
    let replaces = (state != KeyState::Open).then_some(Address::repeat_byte(7));
    Seen::first(Identity { address, tier: Tier::B, fields: 0, state, replaces })
}

fn machine(uptime_s: u64) -> Machine {
    let (memory_used_mib, memory_mib) = (Some(1210), Some(7935));
    Machine { uptime_s: Some(uptime_s), memory_used_mib, memory_mib, processes: Some(38) }
}

/// A rig that earns.
pub(crate) fn paired() -> Face {
    let status = json!({
        "phase": "paired", "phase_text": "paired", "trouble": null, "draining": false,
        "gas_wei": "0xbaf6289f4e10000", "lockup_wei": "0x15af1d78b58c40000",
        "jobs": { "running": 2, "settled": 1284 },
        "sources": [
            { "source": "0x5FbDB2315678afecb367f032d93F642f64180aa3", "stage": "serving", "why": null, "doing": null },
            { "source": "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512", "stage": "preparing", "why": null,
              "doing": { "doing": "pulling" } },
            { "source": "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0", "stage": "refused",
              "why": "asks for a privileged container, which this rig does not give" },
        ],
    });
    let gpus = json!({ "gpus": [
        { "gpu": { "model": "NVIDIA GeForce RTX 4090" }, "state": { "state": "offered" } },
        { "gpu": { "model": "NVIDIA GeForce RTX 4090" }, "state": { "state": "needs-reset", "why": "bus error" } },
    ] });
    Face::of(&plate(), &seen(KeyState::Open), &status, &gpus, machine(1_036_800))
}

/// A new rig before its owner has done anything.
pub(crate) fn fresh() -> Face {
    unpaired(KeyState::Open, &Value::Null)
}

/// A rig whose key is in trouble, and whose network is.
pub(crate) fn troubled(state: KeyState) -> Face {
    let why = "ask https://rpc.example/TOKEN: connection refused after three tries, is the network up?";
    unpaired(state, &json!({ "kind": "passing", "why": why }))
}

fn unpaired(state: KeyState, trouble: &Value) -> Face {
    let status = json!({
        "phase": "unfunded", "phase_text": "waiting for gas: send coin to the rig's address, or run `rig pair`",
        "gas_wei": "0x0", "lockup_wei": "0x0", "jobs": { "running": 0, "settled": 0 }, "sources": [],
        "trouble": trouble,
    });
    Face::of(&plate(), &seen(state), &status, &Value::Null, machine(95))
}
