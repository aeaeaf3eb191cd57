//! One GPU of the machine that is not there: what it is, and how it does at the moment.

use serde::{Deserialize, Serialize};

/// A GPU as CUDA and NVML show it. Units are in the names; a default stands for each field that a script leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// The product's name.
    pub name: String,
    /// `GPU-` and a UUID.
    pub uuid: String,
    /// The board's serial number; empty: the board has none (NVML: not supported).
    pub serial: String,
    /// `DOMAIN:BUS:DEVICE.0` in hexadecimal, as NVML writes it.
    pub pci_bus_id: String,
    /// Vendor in the low half, device in the high half.
    pub pci_device_id: u32,
    /// Major and minor.
    pub compute_capability: [u32; 2],
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// All of the GPU's memory.
    pub vram_bytes: u64,
    /// What others than the asking process use of it.
    pub vram_used_bytes: u64,
    /// The GPU fell off the bus: NVML gives 15 for whatever is asked of it.
    pub lost: bool,
    /// What the driver wants done: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset.
    pub recovery_action: u32,
    /// A bit set: 4 power cap, 8 hardware slowdown, 32 software thermal, 64 hardware thermal, 128 power brake, and more.
    pub throttle_reasons: u64,
    /// Power drawn now.
    pub power_mw: u32,
    /// The limit that holds if nobody set one.
    pub power_limit_default_mw: u32,
    /// The lowest limit that can be set.
    pub power_limit_min_mw: u32,
    /// The highest limit that can be set.
    pub power_limit_max_mw: u32,
    /// Drawn since the driver was loaded.
    pub energy_mj: u64,
    /// Of the chip.
    pub temperature_c: u32,
    /// Of the memory; 0: it has no sensor.
    pub memory_temperature_c: u32,
    /// Shutdown, slowdown, the memory's and the chip's highest, in NVML's order of thresholds 0 to 3.
    pub temperature_thresholds_c: [u32; 4],
    /// Graphics, SM, memory, video: now.
    pub clocks_mhz: [u32; 4],
    /// Graphics, SM, memory, video: the highest.
    pub max_clocks_mhz: [u32; 4],
    /// How long it was held back, nanoseconds: by power, by temperature.
    pub violation_ns: [u64; 2],
    /// Percent of the last sample in which a kernel ran, and in which memory was accessed.
    pub utilisation_percent: [u32; 2],
    /// Generation and lanes: now.
    pub pcie_link: [u32; 2],
    /// Generation and lanes: the most.
    pub pcie_link_max: [u32; 2],
    /// Sent and received, kilobytes a second.
    pub pcie_throughput_kbps: [u32; 2],
    /// Packets sent again.
    pub pcie_replays: u32,
    /// Error correction. `None`, in a script `ecc = false`: NVML says that it is not supported.
    #[serde(with = "ecc_or_false")]
    pub ecc: Option<Ecc>,
    /// Whether the GPU is cut into instances; `None`: it cannot be.
    pub mig: Option<bool>,
    /// Fans. Without one (0) the fan calls are not supported.
    pub fans: u32,
    /// What the fans do when nobody set them, percent.
    pub fan_percent: u32,
    /// Processes with a context on the GPU, beside those that are found by their mapped library.
    pub processes: Vec<Process>,
}

/// Counts of memory errors. Corrected and uncorrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ecc {
    /// Since the driver was loaded.
    pub volatile: [u64; 2],
    /// Since the GPU was made.
    pub aggregate: [u64; 2],
    /// Rows remapped after corrected and after uncorrected errors.
    pub remapped_rows: [u32; 2],
    /// A remapping waits for a reset.
    pub remap_pending: bool,
    /// A remapping failed.
    pub remap_failed: bool,
    /// Pages retired after corrected and after uncorrected errors.
    pub retired_pages: [u32; 2],
}

/// A process with a context on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// As the host counts.
    pub pid: u32,
    /// Its share of the GPU's memory.
    pub vram_bytes: u64,
}

/// Something that NVML reports to those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The GPU's index.
    pub gpu: usize,
    /// What happened.
    pub kind: EventKind,
    /// For an Xid its number, for a recovery action the action; else 0.
    #[serde(default)]
    pub data: u64,
}

/// The events that NVML knows and a rig may care for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A corrected memory error.
    SingleBitEcc,
    /// An uncorrected memory error.
    DoubleBitEcc,
    /// The driver reported an Xid.
    Xid,
    /// The clocks changed.
    Clock,
    /// The wanted recovery action changed.
    RecoveryAction,
}

// === impl Gpu ===

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu {
            name: "Fake GPU".to_owned(),
            uuid: "GPU-0fa4e000-0000-4000-8000-000000000000".to_owned(),
            serial: "1320000000000".to_owned(),
            pci_bus_id: "00000000:01:00.0".to_owned(),
            pci_device_id: 0x2684_10de,
            compute_capability: [8, 9],
            multiprocessors: 16,
            vram_bytes: 1 << 30,
            vram_used_bytes: 64 << 20,
            lost: false,
            recovery_action: 0,
            throttle_reasons: 0,
            power_mw: 31_500,
            power_limit_default_mw: 300_000,
            power_limit_min_mw: 100_000,
            power_limit_max_mw: 350_000,
            energy_mj: 123_456_789,
            temperature_c: 41,
            memory_temperature_c: 48,
            temperature_thresholds_c: [98, 95, 105, 90],
            clocks_mhz: [210, 210, 405, 555],
            max_clocks_mhz: [2520, 2520, 10_501, 1950],
            violation_ns: [0, 0],
            utilisation_percent: [0, 0],
            pcie_link: [4, 16],
            pcie_link_max: [4, 16],
            pcie_throughput_kbps: [0, 0],
            pcie_replays: 0,
            ecc: Some(Ecc::default()),
            mig: None,
            fans: 2,
            fan_percent: 30,
            processes: Vec::new(),
        }
    }
}

impl Gpu {
    /// The default GPU with another index in its UUID, serial number and PCI address, for machines with several.
    #[must_use]
    pub fn numbered(index: u8) -> Gpu {
        Gpu {
            uuid: format!("GPU-0fa4e000-0000-4000-8000-0000000000{index:02x}"),
            serial: format!("13200000000{index:02}"),
            pci_bus_id: format!("00000000:{:02X}:00.0", u32::from(index) + 1),
            ..Gpu::default()
        }
    }

    /// The architecture's number: 89 for a compute capability of 8.9.
    #[must_use]
    pub fn arch(&self) -> u32 {
        self.compute_capability[0] * 10 + self.compute_capability[1]
    }

    /// The 16 bytes of the UUID; digits that are missing count as 0.
    #[must_use]
    pub fn uuid_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let digits: Vec<u8> = self
            .uuid
            .trim_start_matches("GPU-")
            .chars()
            .filter_map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        bytes
    }
}

// === impl EventKind ===

impl EventKind {
    /// NVML's bit for this kind. Source: `nvml.h`, `nvmlEventType*`.
    #[must_use]
    pub fn bit(self) -> u64 {
        match self {
            EventKind::SingleBitEcc => 0x1,
            EventKind::DoubleBitEcc => 0x2,
            EventKind::Xid => 0x8,
            EventKind::Clock => 0x10,
            EventKind::RecoveryAction => 0x8000,
        }
    }
}

/// TOML has no null, and an absent key is the default: a GPU without error correction is written `ecc = false`.
mod ecc_or_false {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Ecc;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Is(bool),
        Counts(Ecc),
    }

    pub(super) fn serialize<S: Serializer>(ecc: &Option<Ecc>, serializer: S) -> Result<S::Ok, S::Error> {
        ecc.map_or(Written::Is(false), Written::Counts).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ecc>, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Is(false) => None,
            Written::Is(true) => Some(Ecc::default()),
            Written::Counts(ecc) => Some(ecc),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_the_bytes_that_it_shows() {
        let check = |uuid: &str, expected: [u8; 16]| {
            let gpu = Gpu { uuid: uuid.to_owned(), ..Gpu::default() };
            assert_eq!(gpu.uuid_bytes(), expected, "{uuid}");
        };
        check("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        check("GPU-ff", [255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        check("", [0; 16]);
        assert_ne!(Gpu::numbered(0).uuid_bytes(), Gpu::numbered(1).uuid_bytes());
    }
}
