//! A jail's limits, and the control files that they become.

use std::io;

use super::CgroupError;

/// The kernel rounds memory limits down to whole pages. This is a multiple of every page size, so a rounded limit is
/// read back as it was written.
const MEMORY_GRAIN: u64 = 64 << 10;

/// Less than this is not enough for the first process to get as far as the service.
const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// What the kernel can number (`PID_MAX_LIMIT`).
const PROCESSES_MAX: u64 = 4 << 20;

/// The time over which processor time is measured out, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// The kernel gives out no less than one millisecond per period.
const CPU_MILLIS_MIN: u32 = 10;

/// More processors than one machine has, and far below where the kernel's arithmetic ends.
const CPU_MILLIS_MAX: u32 = 10_000_000;

const WEIGHT_MAX: u16 = 10_000;

/// Disks that one jail may have limits on.
const IO_DEVICES_MAX: usize = 16;

/// What one jail may take of the machine. Swap is always zero, and cgroups below the jail's own are never allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLimits {
    /// Memory in bytes, rounded down to whole 64 KiB: of processes, of tmpfs, of cached files, of the kernel's own
    /// for the jail. At the limit the kernel takes back caches; if that is not enough it kills the whole jail.
    pub(crate) memory_bytes: u64,
    /// Above this many bytes allocations are slowed down and caches taken back, and nothing is killed. Without
    /// something that watches the pressure, a job can stay between this and the limit for ever, doing next to nothing.
    pub(crate) memory_high_bytes: Option<u64>,
    /// Processes and threads, the jail's first process among them.
    pub(crate) processes: u64,
    /// Processor time in thousandths of one processor, per tenth of a second; none is as much as there is.
    pub(crate) cpu_millis: Option<u32>,
    /// Share of the processors among those who want them, 1 to 10 000; the kernel's default is 100.
    pub(crate) cpu_weight: Option<u16>,
    /// Share of the disks, 1 to 10 000; an error if the kernel has no such thing for any disk.
    pub(crate) io_weight: Option<u16>,
    /// At most one for each disk.
    pub(crate) io_max: Vec<IoMax>,
}

/// What one jail may ask of one disk per second. At least one of the four is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoMax {
    /// Number of the whole disk, not of a partition.
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    pub(crate) reads: Option<u64>,
    pub(crate) writes: Option<u64>,
}

/// One write to one control file, and the line that must be in the file afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    pub(super) reads: String,
}

// === impl CgroupLimits ===

impl CgroupLimits {
    /// Every limit as the kernel wants it, or which one makes no sense.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, CgroupError> {
        let mut settings = vec![setting("memory.max", memory("memory_bytes", self.memory_bytes)?)];
        if let Some(high) = self.memory_high_bytes {
            legal("memory_high_bytes", high, high <= self.memory_bytes, "it is not above memory_bytes")?;
            settings.push(setting("memory.high", memory("memory_high_bytes", high)?));
        }
        settings.push(setting("memory.oom.group", 1));
        let some = (1..=PROCESSES_MAX).contains(&self.processes);
        legal("processes", self.processes, some, "it is from 1 to 4194304")?;
        settings.push(setting("pids.max", self.processes));
        let quota = match self.cpu_millis {
            None => "max".to_owned(),
            Some(millis) => {
                let some = (CPU_MILLIS_MIN..=CPU_MILLIS_MAX).contains(&millis);
                legal("cpu_millis", millis.into(), some, "it is from 10 to 10000000")?;
                (u64::from(millis) * CPU_PERIOD_US / 1000).to_string()
            }
        };
        settings.push(setting("cpu.max", format!("{quota} {CPU_PERIOD_US}")));
        if let Some(share) = self.cpu_weight {
            settings.push(setting("cpu.weight", weight("cpu_weight", share)?));
        }
        if let Some(share) = self.io_weight {
            let value = format!("default {}", weight("io_weight", share)?);
            settings.push(setting("io.weight", value));
        }
        let disks = self.io_max.len();
        legal("io_max", disks as u64, disks <= IO_DEVICES_MAX, "it has at most 16 disks")?;
        for disk in &self.io_max {
            settings.push(setting("io.max", disk.line()?));
        }
        Ok(settings)
    }
}

// === impl IoMax ===

impl IoMax {
    /// As the kernel shows it. A limit of zero would be a disk that never answers, which the kernel refuses too.
    fn line(&self) -> Result<String, CgroupError> {
        let limits = [self.read_bytes, self.write_bytes, self.reads, self.writes];
        let given = limits.into_iter().flatten();
        legal("io_max", given.clone().count() as u64, given.clone().count() > 0, "one of its four limits is given")?;
        legal("io_max", 0, given.clone().all(|limit| limit > 0), "each of its limits is above 0")?;
        let [rbps, wbps, riops, wiops] = limits.map(|limit| limit.map_or("max".to_owned(), |limit| limit.to_string()));
        Ok(format!("{}:{} rbps={rbps} wbps={wbps} riops={riops} wiops={wiops}", self.major, self.minor))
    }
}

/// Whether no swap is in use by the machine.
pub(super) fn swap_is_off() -> io::Result<bool> {
    // A heading, then a line for each. A kernel without swap has no such file.
    match std::fs::read_to_string("/proc/swaps") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        swaps => Ok(swaps?.lines().count() <= 1),
    }
}

fn setting(file: &'static str, value: impl ToString) -> Setting {
    let value = value.to_string();
    Setting { file, reads: value.clone(), value }
}

fn memory(what: &'static str, bytes: u64) -> Result<u64, CgroupError> {
    // The kernel counts pages in a signed 64-bit number of bytes.
    let some = (MEMORY_BYTES_MIN..=i64::MAX.cast_unsigned()).contains(&bytes);
    legal(what, bytes, some, "it is from 8 MiB to 8 EiB less one")?;
    Ok(bytes / MEMORY_GRAIN * MEMORY_GRAIN)
}

fn weight(what: &'static str, share: u16) -> Result<u16, CgroupError> {
    legal(what, share.into(), (1..=WEIGHT_MAX).contains(&share), "it is from 1 to 10000")?;
    Ok(share)
}

fn legal(what: &'static str, value: u64, legal: bool, rule: &'static str) -> Result<(), CgroupError> {
    if legal { Ok(()) } else { Err(CgroupError::BadLimit { what, value, rule }) }
}
