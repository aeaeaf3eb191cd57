//! The script: one TOML document for both libraries. Everything may be left out; the default is one healthy GPU.
//!
//! ```toml
//! missing_symbols = ["cuMemAlloc_v2"]    # taken out of the installed files, so that looking them up fails
//! [cuda]
//! driver_version = 12080                 # what cuDriverGetVersion says: 1000 * major + 10 * minor
//! init = 0                               # the code that cuInit gives: 100 no device, 803 driver mismatch, 999 unknown
//! out_of_memory_at_bytes = 1048576       # an allocation that would bring the sum above this gives 2
//! lost_after_launches = 0                # the launch after which every call gives 46; 0 = from the start
//! scrub = true                           # false: allocations hold what others left there
//! fail = { cuModuleLoadData = 300 }      # the code that a call gives, always
//! delay_ms = { cuInit = 200 }            # how long a call takes at least
//! [[cuda.faults]]                        # a launch that ends badly, whatever its kernel does
//! launch = 2                             # the third launch of the process; or: kernel = "gemm_f32"
//! fault = "illegal-address"
//! [nvml]
//! init = 0                               # the code that nvmlInit gives: 9 driver not loaded, 18 driver mismatch
//! driver_version = "570.124.06"
//! fail = { nvmlDeviceGetPowerUsage = 3 }
//! [[gpus]]                               # see `Gpu`
//! name = "Fake GPU"
//! [[events]]                             # see `Event`; a reader gets each one once, in this order
//! gpu = 0
//! kind = "xid"
//! data = 79
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::gpu::{Event, Gpu};

/// What both libraries do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Exported names that are taken out of the installed files.
    pub missing_symbols: Vec<String>,
    /// What `libcuda.so.1` does.
    pub cuda: Cuda,
    /// What `libnvidia-ml.so.1` does.
    pub nvml: Nvml,
    /// The GPUs of the machine, by index. Both libraries show them.
    pub gpus: Vec<Gpu>,
    /// What NVML reports to those who wait for events. A reader gets each of them once, in this order, also those
    /// that were in the script before it began to wait.
    pub events: Vec<Event>,
}

/// What `libcuda.so.1` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cuda {
    /// What `cuDriverGetVersion` says: 1000 times the major plus 10 times the minor version of CUDA.
    pub driver_version: i32,
    /// The code that `cuInit` gives; 0 is success.
    pub init: i32,
    /// The allocation that would bring a process's sum above this many bytes gives 2, out of memory.
    pub out_of_memory_at_bytes: Option<u64>,
    /// A process's launch with this number, from 1, ends with the GPU gone from the bus: every call gives 46, device
    /// unavailable. 0: from the start.
    pub lost_after_launches: Option<u64>,
    /// Whether the driver zeroes memory when it is freed. `false`: a fresh allocation holds the byte 0x5a everywhere,
    /// as if another process had left it, and memory that was freed comes back with its bytes. Such allocations take
    /// the host's memory at once, so give the GPU little.
    pub scrub: bool,
    /// Codes that calls give, by exported name, whatever their arguments are.
    pub fail: BTreeMap<String, i32>,
    /// How many milliseconds calls that succeed take at least, by exported name.
    pub delay_ms: BTreeMap<String, u64>,
    /// Launches that end badly.
    pub faults: Vec<ScriptedFault>,
}

/// A launch that ends badly. It is met if what is given of `launch` and `kernel` fits; if neither is given, always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedFault {
    /// The number of the launch in its process, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<u64>,
    /// The kernel's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// How it ends.
    pub fault: Fault,
}

/// What `libnvidia-ml.so.1` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nvml {
    /// The `nvmlReturn_t` that `nvmlInit` gives; 0 is success.
    pub init: u32,
    /// The driver's version, as `nvidia-smi` shows it.
    pub driver_version: String,
    /// Codes that calls give, by exported name, whatever their arguments are.
    pub fail: BTreeMap<String, u32>,
    /// Whether the compute processes of a GPU also include the processes that have the `libcuda.so.1` mapped that lies
    /// beside this library. They are found in `/proc/*/maps` by the file's inode, so that a process in a jail counts too.
    pub find_processes: bool,
}

/// A script that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("the script of the fake GPU is not valid; the format is in the documentation of fake_gpu_script")]
    Format(#[source] toml::de::Error),
    /// The script cannot be written as TOML.
    #[error("the script of the fake GPU cannot be written as TOML")]
    Write(#[source] toml::ser::Error),
    /// An event of a GPU that the script does not have.
    #[error("event {event} names GPU {gpu}, but the script has {gpus} GPUs; count from 0")]
    NoSuchGpu {
        /// The event's place in the list, from 0.
        event: usize,
        /// The GPU that it names.
        gpu: usize,
        /// How many there are.
        gpus: usize,
    },
}

// === impl Script ===

impl Default for Script {
    fn default() -> Script {
        Script {
            missing_symbols: Vec::new(),
            cuda: Cuda::default(),
            nvml: Nvml::default(),
            gpus: vec![Gpu::default()],
            events: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a script. Errors: [`ScriptError::Format`] with the line, [`ScriptError::NoSuchGpu`].
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let script: Script = toml::from_str(text).map_err(ScriptError::Format)?;
        let gpus = script.gpus.len();
        match script.events.iter().enumerate().find(|(_, event)| event.gpu >= gpus) {
            Some((event, Event { gpu, .. })) => Err(ScriptError::NoSuchGpu { event, gpu: *gpu, gpus }),
            None => Ok(script),
        }
    }

    /// Writes the script as TOML. Errors: a value that TOML cannot hold, such as a number above 2^63.
    pub fn to_toml(&self) -> Result<String, ScriptError> {
        toml::to_string(self).map_err(ScriptError::Write)
    }
}

// === impl Cuda ===

impl Default for Cuda {
    fn default() -> Cuda {
        Cuda {
            driver_version: 12_080,
            init: 0,
            out_of_memory_at_bytes: None,
            lost_after_launches: None,
            scrub: true,
            fail: BTreeMap::new(),
            delay_ms: BTreeMap::new(),
            faults: Vec::new(),
        }
    }
}

impl Cuda {
    /// How the process's launch number `launch` (from 0) of `kernel` ends: by the script, else by the kernel's name.
    #[must_use]
    pub fn fault(&self, launch: u64, kernel: &str) -> Option<Fault> {
        let scripted = self.faults.iter().find(|scripted| {
            scripted.launch.is_none_or(|wanted| wanted == launch)
                && scripted.kernel.as_deref().is_none_or(|wanted| wanted == kernel)
        });
        scripted.map(|scripted| scripted.fault).or_else(|| Fault::of_kernel(kernel))
    }
}

// === impl Nvml ===

impl Default for Nvml {
    fn default() -> Nvml {
        Nvml { init: 0, driver_version: "570.124.06".to_owned(), fail: BTreeMap::new(), find_processes: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        match (Script::parse(text), expected) {
            (Ok(script), Ok(())) => {
                let again = Script::parse(&script.to_toml().expect("a parsed script can be written"));
                assert_eq!(again.expect("a written script can be read"), script, "{text}");
            }
            (Err(error), Err(part)) => {
                let chain =
                    format!("{error} {}", std::error::Error::source(&error).map_or(String::new(), ToString::to_string));
                assert!(chain.contains(part), "{text}: {chain}");
            }
            (Ok(_), Err(part)) => panic!("{text} was taken, without a word on {part}"),
            (Err(error), Ok(())) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn a_script_is_read_as_it_was_written_or_refused_by_name() {
        check("", Ok(()));
        check("missing_symbols = ['cuInit']\n[cuda]\ninit = 803\nscrub = false", Ok(()));
        check("[cuda]\nfail = { cuMemAlloc_v2 = 2 }\n[[cuda.faults]]\nlaunch = 2\nfault = 'illegal-address'", Ok(()));
        check("[[gpus]]\nname = 'A'\n[[gpus]]\nlost = true\n[[events]]\ngpu = 1\nkind = 'xid'\ndata = 79", Ok(()));
        check("[[gpus]]\necc = false\n[[gpus]]\nmig = true\n[gpus.ecc]\nvolatile = [1, 2]", Ok(()));
        check("[cuda]\ninitt = 1", Err("unknown field `initt`"));
        check("[[gpus]]\nvram = 1", Err("unknown field `vram`"));
        check("[[cuda.faults]]\nfault = 'smoke'", Err("unknown variant `smoke`"));
        check("[[events]]\ngpu = 1\nkind = 'xid'\ndata = 79", Err("names GPU 1"));
        check("[cuda\n", Err("TOML parse error"));
    }

    #[test]
    fn the_example_above_is_a_script() {
        let lines = include_str!("script.rs").lines().skip_while(|line| *line != "//! ```toml").skip(1);
        let text: Vec<_> = lines.map_while(|line| line.strip_prefix("//! ").filter(|line| *line != "```")).collect();
        let script = Script::parse(&text.join("\n")).expect("the documented example is valid");
        assert_eq!((script.cuda.faults.len(), script.events.len()), (1, 1));
    }

    #[test]
    fn a_scripted_fault_beats_the_kernels_own() {
        let cuda = Cuda {
            faults: vec![
                ScriptedFault { launch: Some(1), kernel: None, fault: Fault::Assert },
                ScriptedFault { launch: None, kernel: Some("trace".to_owned()), fault: Fault::Hang },
            ],
            ..Cuda::default()
        };
        let check = |launch, kernel, expected| assert_eq!(cuda.fault(launch, kernel), expected, "{launch} {kernel}");
        check(0, "gemm_f32", None);
        check(1, "gemm_f32", Some(Fault::Assert));
        check(1, "fault_misaligned", Some(Fault::Assert));
        check(2, "fault_misaligned", Some(Fault::Misaligned));
        check(7, "trace", Some(Fault::Hang));
    }
}
