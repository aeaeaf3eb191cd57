//! What the machine is.

use std::process::Command;
use std::time::Duration;

use cuda::messages::{Probe, ProbedDevice};

use crate::report::Environment;
use crate::worker::output;

/// How long a program that only says something may take.
const SAYS_WITHIN: Duration = Duration::from_secs(30);

/// What the build was made from, which `tests/gpu.sh --build` says.
const REVISION: Option<&str> = option_env!("RIG_REVISION");

/// As far as it can be told without using the GPU; what cannot be told is empty.
pub(crate) fn environment(probe: &Probe, device: &ProbedDevice) -> Environment {
    let version = |version: Option<bundle::Version>| version.map(|version| version.to_string()).unwrap_or_default();
    let (major, minor) = device.compute_capability;
    Environment {
        date: says("date", &["-u", "+%Y-%m-%d %H:%M:%S UTC"]),
        revision: REVISION.unwrap_or("a build without tests/gpu.sh").to_owned(),
        gpu: device.name.clone(),
        uuid: device.uuid.clone(),
        compute_capability: format!("{major}.{minor}"),
        vram_bytes: device.vram_bytes,
        driver: driver(&device.uuid),
        cuda: version(probe.driver_version),
        linker: version(probe.linker_version),
        kernel: file("/proc/sys/kernel/osrelease"),
        cpu: processor(&file("/proc/cpuinfo")),
        cpus: std::thread::available_parallelism().map_or(0, |count| u64::try_from(count.get()).unwrap_or(0)),
        jail: String::new(),
    }
}

/// The driver's own version.
fn driver(uuid: &str) -> String {
    let asked = says("nvidia-smi", &["-i", uuid, "--query-gpu=driver_version", "--format=csv,noheader"]);
    if !asked.is_empty() {
        return asked;
    }
    // The kernel's module says it in the first line, among other words.
    let said = file("/proc/driver/nvidia/version");
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    said.split_whitespace().find(is_version).unwrap_or_default().to_owned()
}

fn says(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stderr(std::process::Stdio::null());
    output(&mut command, SAYS_WITHIN).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    name.trim_start_matches([' ', '\t', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_a_name_or_none() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: a b"), "A CPU @ 2 GHz");
        assert_eq!(processor("processor\t: 0"), "");
    }
}
