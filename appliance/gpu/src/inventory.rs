//! What GPUs this machine has, as far as their boards say: plain values that travel from the runner to the provider and
//! into `rig gpu`.
//!
//! Invariants: nothing here calls a driver. What a board does not support is `None`, never zero. Units are in the
//! names.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// More GPUs than any machine has; what a driver reports beyond it is not looked at.
pub const GPUS_MAX: u32 = 64;

/// NVML's own bound for a UUID, MIG devices included.
const UUID_CHARS_MAX: usize = 96;

/// The name of one GPU that stays when others are added or fail. It is also the value of `CUDA_VISIBLE_DEVICES`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuUuid(String);

/// A text that is not the UUID of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the UUID of a GPU; one looks like GPU-8f3c1f0a-... in `rig gpu`")]
pub struct NotAUuid {
    text: String,
}

/// All GPUs that answer, and the driver they answer through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The kernel driver's version, such as `580.95.05`.
    pub driver_version: Option<String>,
    /// The newest CUDA that the driver supports.
    pub cuda_version: Option<CudaVersion>,
    /// By index.
    pub gpus: Vec<Gpu>,
    /// GPUs that are there and do not answer.
    pub silent: Vec<Silent>,
}

/// A GPU that the driver lists and cannot talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// Its index in the driver's list.
    pub index: u32,
    /// What the driver said instead.
    pub why: String,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its place in NVML's list; changes when GPUs come and go.
    pub index: u32,
    /// The number of its device node, `/dev/nvidiaN`; not always the index.
    pub minor: Option<u32>,
    /// Its lasting name.
    pub uuid: GpuUuid,
    /// The product's name.
    pub model: String,
    /// `DOMAIN:BUS:DEVICE.FUNCTION` in hexadecimal, eight digits of domain.
    pub pci_bus_id: Option<String>,
    /// The board's serial number; consumer boards have none.
    pub serial: Option<String>,
    /// The version of the board's firmware.
    pub vbios_version: Option<String>,
    /// All of its memory, with what the driver keeps for itself.
    pub vram_bytes: Option<u64>,
    /// What its kernels may use.
    pub compute_capability: Option<ComputeCapability>,
    /// Its connection to the machine.
    pub pcie: PcieLink,
    /// Limits on what it draws.
    pub power: PowerLimits,
    /// Temperatures at which it protects itself.
    pub temperature_limits: TemperatureLimits,
    /// Error correction of its memory.
    pub ecc: Option<Mode>,
    /// Cut into instances; data-centre boards only.
    pub mig: Option<Mode>,
    /// Whether the driver stays loaded without a client.
    pub is_persistent: Option<bool>,
    /// Fans that the board controls.
    pub fans: Option<u32>,
}

/// A mode that takes effect with a reset or reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// Now.
    pub is_on: bool,
    /// After the next reset or reboot.
    pub is_on_next: bool,
}

/// Generation and lanes. An idle GPU slows its link down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PcieLink {
    /// Now.
    pub generation: Option<u32>,
    /// The most that GPU and slot agree on.
    pub generation_max: Option<u32>,
    /// Lanes now.
    pub width: Option<u32>,
    /// Lanes at most.
    pub width_max: Option<u32>,
}

/// Milliwatts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PowerLimits {
    /// What is set.
    pub limit_mw: Option<u32>,
    /// What holds when nobody sets one.
    pub default_mw: Option<u32>,
    /// The lowest that can be set.
    pub min_mw: Option<u32>,
    /// The highest that can be set.
    pub max_mw: Option<u32>,
    /// What holds now, all limiters taken together.
    pub enforced_mw: Option<u32>,
}

/// Degrees Celsius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TemperatureLimits {
    /// The chip switches itself off.
    pub shutdown_c: Option<u32>,
    /// The hardware halves its clocks or worse.
    pub slowdown_c: Option<u32>,
    /// The chip may be held below its base clock.
    pub gpu_max_c: Option<u32>,
    /// The memory is slowed down.
    pub memory_max_c: Option<u32>,
}

/// Such as 9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// The architecture's family: a cubin runs within one.
    pub major: u32,
    /// A cubin runs on its own and later ones.
    pub minor: u32,
}

/// Such as 12.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CudaVersion {
    /// 12.
    pub major: u32,
    /// 8.
    pub minor: u32,
}

// === impl GpuUuid ===

impl GpuUuid {
    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GpuUuid {
    type Error = NotAUuid;

    fn try_from(text: String) -> Result<Self, NotAUuid> {
        let begins = text.starts_with("GPU-") || text.starts_with("MIG-");
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if begins && is_plain && (5..=UUID_CHARS_MAX).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(NotAUuid { text: text.chars().take(UUID_CHARS_MAX).collect() })
        }
    }
}

impl FromStr for GpuUuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        Self::try_from(text.to_owned())
    }
}

impl From<GpuUuid> for String {
    fn from(uuid: GpuUuid) -> Self {
        uuid.0
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Inventory ===

impl Inventory {
    /// The GPU of that name.
    pub fn gpu(&self, uuid: &GpuUuid) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.uuid == *uuid)
    }
}

// === impl CudaVersion ===

impl CudaVersion {
    /// From CUDA's own number: 12080 is 12.8.
    pub fn from_number(number: u32) -> Self {
        Self { major: number / 1_000, minor: number % 1_000 / 10 }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

// === impl ComputeCapability ===

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_stand_in_an_environment_is_a_uuid() {
        let check = |text: &str, expected: bool| assert_eq!(text.parse::<GpuUuid>().is_ok(), expected, "{text:?}");
        check("GPU-8f3c1f0a-0000-1111-2222-333344445555", true);
        check("MIG-8f3c1f0a-0000-1111-2222-333344445555", true);
        check("GPU-", false);
        check("", false);
        check("0", false);
        check("GPU-1,GPU-2", false);
        check("GPU-1\n", false);
        check("GPU-\u{e9}", false);
        check(&format!("GPU-{}", "a".repeat(UUID_CHARS_MAX)), false);
    }

    #[test]
    fn a_cuda_version_is_read_from_its_number() {
        let check = |number, text: &str| assert_eq!(CudaVersion::from_number(number).to_string(), text);
        check(12_080, "12.8");
        check(13_000, "13.0");
        check(11_040, "11.4");
    }
}
