//! The machine as the script and the state file have it at this moment, and the gate that every call passes.
//!
//! Invariants: nothing is kept between calls but the count of `nvmlInit`; a device's handle is a number made from its
//! index, checked at every call and never followed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use fake_gpu_script::{Gpu, NVML_SCRIPT, Script, Settings, State, trailer};

use crate::code::{Answer, Code};

/// The handle of GPU 0; the next ones follow in steps of 16.
const FIRST_HANDLE: usize = 0x4e56_0000;

/// How often `nvmlInit` was called and not yet undone.
static CLIENTS: AtomicU32 = AtomicU32::new(0);

/// The script and where its settings are kept.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) script: Script,
    state: PathBuf,
}

/// One GPU at this moment.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    pub(crate) index: usize,
    pub(crate) gpu: &'a Gpu,
    pub(crate) set: Settings,
    pub(crate) machine: &'a Machine,
}

/// Runs one call. `name` is the exported name, for the script.
pub(crate) fn call(name: &str, body: impl FnOnce(&Machine) -> Answer) -> u32 {
    let answer = Machine::now().and_then(|machine| {
        if CLIENTS.load(Ordering::Relaxed) == 0 {
            return Err(Code::UNINITIALIZED);
        }
        machine.gate(name)?;
        body(&machine)
    });
    answer.map_or_else(|Code(code)| code, |()| 0)
}

/// Runs one call about the GPU with this handle.
pub(crate) fn ask(name: &str, handle: usize, body: impl FnOnce(&Device<'_>) -> Answer) -> u32 {
    call(name, |machine| {
        let index = index(handle).ok_or(Code::INVALID_ARGUMENT)?;
        let gpu = machine.script.gpus.get(index).ok_or(Code::INVALID_ARGUMENT)?;
        if gpu.lost {
            return Err(Code::GPU_IS_LOST);
        }
        let state = State::read(&machine.state).map_err(|_| Code::UNKNOWN)?;
        body(&Device { index, gpu, set: state.settings(&gpu.uuid), machine })
    })
}

/// `nvmlInit`.
pub(crate) fn init(name: &str) -> u32 {
    let answer = Machine::now().and_then(|machine| {
        machine.gate(name)?;
        if machine.script.nvml.init != 0 {
            return Err(Code(machine.script.nvml.init));
        }
        CLIENTS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    answer.map_or_else(|Code(code)| code, |()| 0)
}

/// `nvmlShutdown`.
pub(crate) fn shutdown() -> u32 {
    let one_less = |clients: u32| clients.checked_sub(1);
    match CLIENTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        Ok(_) => 0,
        Err(_) => Code::UNINITIALIZED.0,
    }
}

/// The handle of the GPU with this index.
pub(crate) fn handle(index: usize) -> usize {
    FIRST_HANDLE + 16 * index
}

/// The index of the GPU with this handle.
pub(crate) fn index(handle: usize) -> Option<usize> {
    let offset = handle.checked_sub(FIRST_HANDLE)?;
    offset.is_multiple_of(16).then_some(offset / 16)
}

// === impl Machine ===

impl Machine {
    /// Reads the script. Errors: 999 and a line on standard error, which a test shows.
    pub(crate) fn now() -> Answer<Machine> {
        let (path, script) = match std::env::var_os(NVML_SCRIPT) {
            Some(path) => {
                let path = PathBuf::from(path);
                let script = read(&path);
                (path, script)
            }
            None => {
                let path = fake_gpu_edge::own_path().ok_or(Code::UNKNOWN)?;
                let script = trailer::read(&path).map_err(|error| error.to_string());
                (path, script)
            }
        };
        let script = script.map_err(|error| {
            eprintln!("fake libnvidia-ml: {}: {error}", path.display());
            Code::UNKNOWN
        })?;
        Ok(Machine { script, state: State::path_of(&path) })
    }

    fn gate(&self, name: &str) -> Answer {
        match self.script.nvml.fail.get(name) {
            None | Some(0) => Ok(()),
            Some(code) => Err(Code(*code)),
        }
    }
}

fn read(path: &Path) -> Result<Script, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Script::parse(&text).map_err(|error| error.to_string())
}

// === impl Device ===

impl Device<'_> {
    /// Changes what is set on this GPU and notes `call`. Errors: 4 if the state cannot be written.
    pub(crate) fn change(&self, call: &str, change: impl FnOnce(&mut Settings)) -> Answer {
        State::change(&self.machine.state, &self.gpu.uuid, call, change).map_err(|error| {
            eprintln!("fake libnvidia-ml: {error}");
            Code::NO_PERMISSION
        })
    }

    /// The power limit that holds, milliwatts.
    pub(crate) fn power_limit_mw(&self) -> u32 {
        self.set.power_limit_mw.unwrap_or(self.gpu.power_limit_default_mw)
    }

    /// Graphics, SM, memory or video clock now, MHz, within what was locked.
    pub(crate) fn clock_mhz(&self, domain: u32) -> Answer<u32> {
        let clock =
            *usize::try_from(domain).ok().and_then(|at| self.gpu.clocks_mhz.get(at)).ok_or(Code::INVALID_ARGUMENT)?;
        let locked = match domain {
            0 | 1 => self.set.gpu_clocks_mhz,
            2 => self.set.memory_clocks_mhz,
            _ => None,
        };
        Ok(locked.map_or(clock, |[low, high]| clock.clamp(low, high)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_leads_back_to_its_gpu_and_nothing_else_is_one() {
        for gpu in [0, 1, 15] {
            assert_eq!(index(handle(gpu)), Some(gpu));
        }
        for wild in [0, 1, FIRST_HANDLE - 16, FIRST_HANDLE + 1] {
            assert_eq!(index(wild), None, "{wild:#x}");
        }
    }
}
