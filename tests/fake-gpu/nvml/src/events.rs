//! Event sets: who waits for what, and how far in the script's list each has read.
//!
//! A set gets each event of the list once, in its order, if it registered for that GPU and kind. Events that a test takes
//! out of the script are gone; those that it appends are new.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fake_gpu_script::Event;

use crate::code::{Answer, Code};
use crate::machine::Machine;

/// How often the script is read while somebody waits.
const PERIOD: Duration = Duration::from_millis(10);

static SETS: Mutex<BTreeMap<usize, Set>> = Mutex::new(BTreeMap::new());

/// One event set.
#[derive(Debug, Default)]
struct Set {
    /// Kinds by the GPU's index, as NVML's bits.
    wanted: BTreeMap<usize, u64>,
    /// How many events of the list were looked at.
    seen: usize,
}

/// A new set's handle.
pub(crate) fn create() -> usize {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = sets.last_key_value().map_or(0x4556_0000, |(last, _)| last + 16);
    sets.insert(handle, Set::default());
    handle
}

/// Forgets a set.
pub(crate) fn free(handle: usize) -> Answer {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    sets.remove(&handle).map(|_| ()).ok_or(Code::INVALID_ARGUMENT)
}

/// Adds kinds of events of a GPU to a set.
pub(crate) fn register(handle: usize, gpu: usize, kinds: u64) -> Answer {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let set = sets.get_mut(&handle).ok_or(Code::INVALID_ARGUMENT)?;
    *set.wanted.entry(gpu).or_default() |= kinds;
    Ok(())
}

/// The set's next event. Errors: 10 after `timeout`; 15 if no event is left and a GPU of the set is lost.
pub(crate) fn wait(handle: usize, timeout: Duration) -> Answer<Event> {
    let until = Instant::now() + timeout;
    loop {
        let machine = Machine::now()?;
        if let Some(event) = next(handle, &machine)? {
            return Ok(event);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Code::TIMEOUT);
        }
        std::thread::sleep(PERIOD.min(left));
    }
}

fn next(handle: usize, machine: &Machine) -> Answer<Option<Event>> {
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let set = sets.get_mut(&handle).ok_or(Code::INVALID_ARGUMENT)?;
    let events = &machine.script.events;
    set.seen = set.seen.min(events.len());
    while let Some(event) = events.get(set.seen) {
        set.seen += 1;
        if set.wanted.get(&event.gpu).is_some_and(|kinds| kinds & event.kind.bit() != 0) {
            return Ok(Some(*event));
        }
    }
    let lost = |gpu: &usize| machine.script.gpus.get(*gpu).is_some_and(|gpu| gpu.lost);
    if set.wanted.keys().any(lost) { Err(Code::GPU_IS_LOST) } else { Ok(None) }
}
