//! How a GPU does, second by second, and a summary of the last minutes.
//!
//! Invariants: nothing here calls a driver. A [`Ring`] never holds more than [`SAMPLES_MAX`]; what a board does not
//! measure is `None`. A fault that only a counter tells is told once, by [`faults_between`].

use crate::recovery::RecoveryAction;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Five minutes at one sample a second.
pub const SAMPLES_MAX: usize = 300;

/// One look at one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Part of the last sampling period in which a kernel ran.
    pub gpu_percent: Option<u32>,
    /// Part of it in which memory was read or written.
    pub memory_percent: Option<u32>,
    /// Memory in use, with what the driver keeps for itself.
    pub memory_used_bytes: Option<u64>,
    /// Power drawn.
    pub power_mw: Option<u32>,
    /// Energy since the driver was loaded.
    pub energy_mj: Option<u64>,
    /// Temperature of the chip.
    pub gpu_c: Option<u32>,
    /// Temperature of the memory.
    pub memory_c: Option<u32>,
    /// Clocks.
    pub clocks: Clocks,
    /// Why the clocks are below the highest, if they are.
    pub throttle: BTreeSet<Throttle>,
    /// Its connection to the machine.
    pub pcie: PcieTraffic,
    /// Errors of its memory.
    pub ecc: EccErrors,
    /// Rows of memory replaced by spare ones (Ampere and later).
    pub rows: Option<RemappedRows>,
    /// Pages of memory not used any more (before Ampere).
    pub retired_pages: Option<RetiredPages>,
    /// Speed of each fan, percent of its highest.
    pub fans_percent: Vec<u32>,
    /// Processes that compute on it.
    pub processes: Vec<Process>,
    /// What the driver says that the GPU needs; drivers from R565.
    pub recovery: Option<RecoveryAction>,
}

/// Megahertz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clocks {
    /// Graphics.
    pub graphics_mhz: Option<u32>,
    /// The multiprocessors.
    pub sm_mhz: Option<u32>,
    /// Memory.
    pub memory_mhz: Option<u32>,
    /// Video engines.
    pub video_mhz: Option<u32>,
}

/// Why a GPU is not at its highest clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Throttle {
    /// Nothing to do.
    Idle,
    /// Application clocks are set.
    ApplicationClocks,
    /// The power limit.
    PowerCap,
    /// The hardware protects itself from heat, power or a brake signal.
    HardwareSlowdown,
    /// Another GPU of its boost group is slower.
    SyncBoost,
    /// Too hot, held back by software.
    Heat,
    /// Too hot, held back by hardware.
    HardwareHeat,
    /// The power supply asked for less.
    PowerBrake,
    /// Display clocks are set.
    DisplayClocks,
}

/// The link to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PcieTraffic {
    /// Packets sent again since the driver was loaded: a bad slot, riser or cable.
    pub replays: Option<u32>,
    /// From the GPU.
    pub sent_kb_per_s: Option<u32>,
    /// To the GPU.
    pub received_kb_per_s: Option<u32>,
}

/// Memory errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EccErrors {
    /// Put right, since the driver was loaded.
    pub corrected: Option<u64>,
    /// Not put right, since the driver was loaded.
    pub uncorrected: Option<u64>,
    /// Put right, since the board was made.
    pub corrected_ever: Option<u64>,
    /// Not put right, since the board was made.
    pub uncorrected_ever: Option<u64>,
}

/// Rows of memory replaced by spare ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// After errors that could be put right.
    pub corrected: u32,
    /// After errors that could not.
    pub uncorrected: u32,
    /// A remapping waits for a reset.
    pub is_pending: bool,
    /// There is no spare row any more.
    pub has_failed: bool,
}

/// Pages of memory not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredPages {
    /// After several errors that could be put right.
    pub corrected: u32,
    /// After one that could not.
    pub uncorrected: u32,
    /// A page waits for a reset.
    pub is_pending: bool,
}

/// A process that computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// In the namespace of whoever asked.
    pub pid: u32,
    /// Memory that it holds there.
    pub memory_bytes: Option<u64>,
}

/// The last samples of one GPU, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    samples: VecDeque<Sample>,
}

/// A summary of a [`Ring`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many samples.
    pub samples: usize,
    /// The first one's time, Unix milliseconds.
    pub from_ms: u64,
    /// The last one's.
    pub until_ms: u64,
    /// Compute.
    pub gpu_percent: Option<Spread>,
    /// Memory traffic.
    pub memory_percent: Option<Spread>,
    /// Memory.
    pub memory_used_bytes: Option<Spread>,
    /// Power.
    pub power_mw: Option<Spread>,
    /// Chip.
    pub gpu_c: Option<Spread>,
    /// Memory.
    pub memory_c: Option<Spread>,
    /// Multiprocessors.
    pub sm_mhz: Option<Spread>,
    /// Energy used meanwhile.
    pub energy_mj: Option<u64>,
    /// Packets sent again meanwhile.
    pub pcie_replays: Option<u32>,
    /// In how many of the samples each reason held the clocks down.
    pub throttle: BTreeMap<Throttle, usize>,
}

/// The middle and the highest of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; the lower of two.
    pub median: u64,
    /// The highest.
    pub max: u64,
}

/// A fault that a sample shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterFault {
    /// The count of errors that could not be put right rose.
    EccUncorrected,
    /// The driver changed what it says that the GPU needs.
    Recovery(RecoveryAction),
}

/// What `after` shows that `before`, the sample of the same GPU before it, did not. Without one, only what the driver
/// asks for now: a count alone does not say when it rose. A counter that fell (the driver was loaded anew) is no fault.
pub fn faults_between(before: Option<&Sample>, after: &Sample) -> Vec<CounterFault> {
    let mut faults = Vec::new();
    let uncorrected = before.and_then(|before| before.ecc.uncorrected);
    if let (Some(before), Some(after)) = (uncorrected, after.ecc.uncorrected)
        && after > before
    {
        faults.push(CounterFault::EccUncorrected);
    }
    let known = before.and_then(|before| before.recovery).unwrap_or(RecoveryAction::None);
    if let Some(action) = after.recovery
        && action != known
    {
        faults.push(CounterFault::Recovery(action));
    }
    faults
}

// === impl Ring ===

impl Ring {
    /// Adds a sample; the oldest leaves when there are too many.
    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The newest.
    pub fn latest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Oldest first.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    /// Middles and highest of what there is; `None` without a sample.
    pub fn summary(&self) -> Option<Summary> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let spread =
            |measure: fn(&Sample) -> Option<u64>| Spread::of(self.samples.iter().filter_map(measure).collect());
        let mut throttle = BTreeMap::new();
        for reason in self.samples.iter().flat_map(|sample| &sample.throttle) {
            let count: &mut usize = throttle.entry(*reason).or_default();
            *count = count.saturating_add(1);
        }
        Some(Summary {
            samples: self.samples.len(),
            from_ms: first.at_ms,
            until_ms: last.at_ms,
            gpu_percent: spread(|sample| sample.gpu_percent.map(u64::from)),
            memory_percent: spread(|sample| sample.memory_percent.map(u64::from)),
            memory_used_bytes: spread(|sample| sample.memory_used_bytes),
            power_mw: spread(|sample| sample.power_mw.map(u64::from)),
            gpu_c: spread(|sample| sample.gpu_c.map(u64::from)),
            memory_c: spread(|sample| sample.memory_c.map(u64::from)),
            sm_mhz: spread(|sample| sample.clocks.sm_mhz.map(u64::from)),
            energy_mj: last.energy_mj.zip(first.energy_mj).and_then(|(last, first)| last.checked_sub(first)),
            pcie_replays: last.pcie.replays.zip(first.pcie.replays).and_then(|(last, first)| last.checked_sub(first)),
            throttle,
        })
    }
}

// === impl Spread ===

impl Spread {
    fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let median = *values.get(values.len().saturating_sub(1) / 2)?;
        values.last().map(|max| Self { median, max: *max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(at_ms: u64, power_mw: Option<u32>) -> Sample {
        Sample { at_ms, power_mw, ..Sample::default() }
    }

    #[test]
    fn a_summary_gives_the_middle_and_the_highest() {
        let check = |values: &[u64], expected: Option<(u64, u64)>| {
            let spread = Spread::of(values.to_vec());
            assert_eq!(spread.map(|spread| (spread.median, spread.max)), expected, "{values:?}");
        };
        check(&[], None);
        check(&[5], Some((5, 5)));
        check(&[9, 1], Some((1, 9)));
        check(&[3, 1, 2], Some((2, 3)));
        check(&[4, 3, 2, 1], Some((2, 4)));
    }

    #[test]
    fn a_summary_counts_what_rose_and_how_long_clocks_were_held() {
        let mut ring = Ring::default();
        assert_eq!(ring.summary(), None);
        for (second, energy) in [(0, 100), (1, 150), (2, 400)] {
            let throttle = if second == 0 { [].into() } else { [Throttle::PowerCap].into() };
            let power_mw = (second != 1).then_some(200_000);
            ring.push(Sample { energy_mj: Some(energy), throttle, ..sample(second * 1_000, power_mw) });
        }
        let summary = ring.summary().expect("there are samples");
        assert_eq!((summary.samples, summary.from_ms, summary.until_ms), (3, 0, 2_000));
        assert_eq!(summary.power_mw, Some(Spread { median: 200_000, max: 200_000 }));
        assert_eq!(summary.energy_mj, Some(300));
        assert_eq!(summary.gpu_percent, None);
        assert_eq!(summary.throttle, [(Throttle::PowerCap, 2)].into());
        let text = serde_json::to_string(&summary).expect("it can be written");
        assert_eq!(serde_json::from_str::<Summary>(&text).expect("it can be read"), summary);
    }

    #[test]
    fn a_counter_tells_a_fault_once() {
        let at = |uncorrected, recovery| Sample {
            ecc: EccErrors { uncorrected, ..EccErrors::default() },
            recovery,
            ..Sample::default()
        };
        let check = |before: Option<&Sample>, after: &Sample, expected: &[CounterFault]| {
            assert_eq!(faults_between(before, after), expected);
        };
        let (reset, none) = (RecoveryAction::GpuReset, RecoveryAction::None);
        check(None, &at(Some(7), Some(none)), &[]);
        check(None, &at(None, Some(reset)), &[CounterFault::Recovery(reset)]);
        check(Some(&at(Some(7), None)), &at(Some(7), None), &[]);
        check(Some(&at(Some(7), None)), &at(Some(8), None), &[CounterFault::EccUncorrected]);
        check(Some(&at(Some(7), None)), &at(Some(0), None), &[]);
        check(Some(&at(None, Some(reset))), &at(None, Some(reset)), &[]);
        check(Some(&at(None, Some(reset))), &at(None, Some(none)), &[CounterFault::Recovery(none)]);
    }

    proptest! {
        #[test]
        fn a_ring_is_bounded_and_keeps_the_newest(count in 0_u64..700) {
            let mut ring = Ring::default();
            for at_ms in 0..count {
                ring.push(sample(at_ms, None));
            }
            let kept: Vec<_> = ring.samples().map(|sample| sample.at_ms).collect();
            let expected: Vec<_> = (count.saturating_sub(300)..count).collect();
            prop_assert_eq!(kept, expected);
        }
    }
}
