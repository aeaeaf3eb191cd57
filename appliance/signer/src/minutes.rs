//! The usage of the last day, on disk, so that a restart refills no budget.
//!
//! `<state>/usage.ring`, mode 0600, is a ring of [`Usage::MINUTES_MAX`] slots of 64 bytes. Minute `m` of the clock has
//! slot `m` modulo their number, and each signature writes its minute's slot anew:
//!
//! ```text
//!  0        8         16      20     24          40                         64
//!  ├────────┼─────────┼───────┼──────┼───────────┼──────────────────────────┤
//!  │ minute │ last ms │ calls │ zero │ gas, wei  │ first 24 of Keccak-256   │   little endian; all zero: unused
//!  └────────┴─────────┴───────┴──────┴───────────┴──────────────────────────┘
//! ```
//!
//! Invariants:
//! * The clock of the budgets never goes back, nor does a new process take it back: it starts at the wall clock or at
//!   the last signature, whichever is later, and then counts by itself.
//! * A slot is written before the signature exists, but not synced: killing the signer refills nothing, a power cut may
//!   refill what the kernel had not written yet, some seconds' worth. A sync for each signature would wear a stick out.
//! * What cannot be read counts as unused and is logged: it costs a budget once, not the provider its work.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy::primitives::keccak256;
use signer::policy::{Minute, Permit, Usage};

use crate::files;

const FILE_NAME: &str = "usage.ring";

const SLOT_BYTES: usize = 64;
const CHECKED_BYTES: usize = 40;
const RING_BYTES: usize = SLOT_BYTES * Usage::MINUTES_MAX;

/// What was signed lately, and the clock that it is measured with.
#[derive(Debug)]
pub(crate) struct Minutes {
    file: File,
    usage: Usage,
    clock: Clock,
}

/// Time since the Unix epoch, as far as the wall clock was right when the process began.
#[derive(Debug, Clone, Copy)]
struct Clock {
    base: Duration,
    began: Instant,
}

// === impl Minutes ===

impl Minutes {
    /// Opens the ring in `state`, or makes one. `calls_max` is the policy's. Errors: what the system says.
    pub(crate) fn open(state: &Path, calls_max: u32) -> io::Result<Self> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::open_at(state, calls_max, wall)
    }

    fn open_at(state: &Path, calls_max: u32, wall: Duration) -> io::Result<Self> {
        let path = state.join(FILE_NAME);
        let (file, minutes) = match files::open(&path)? {
            Some(file) if file.metadata()?.len() == RING_BYTES as u64 => {
                let minutes = read(&file)?;
                (file, minutes)
            }
            found => {
                if found.is_some() {
                    tracing::warn!("the ring of usage has another length and is made anew");
                }
                files::replace(state, FILE_NAME, &[0; RING_BYTES])?;
                let file = files::open(&path)?.ok_or(io::ErrorKind::NotFound)?;
                (file, Vec::new())
            }
        };
        let usage = Usage::restore(minutes, calls_max);
        let clock = Clock { base: wall.max(usage.latest()), began: Instant::now() };
        Ok(Self { file, usage, clock })
    }

    /// Time on the clock of the budgets.
    pub(crate) fn now(&self) -> Duration {
        self.clock.base + self.clock.began.elapsed()
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Counts `permit` at `now`, in memory and on disk.
    pub(crate) fn enter(&mut self, permit: &Permit<'_>, now: Duration) {
        let minute = self.usage.enter(permit, now);
        let ring = Usage::MINUTES_MAX as u64;
        let offset = minute.minute % ring * SLOT_BYTES as u64;
        if let Err(error) = self.file.write_all_at(&slot_of(&minute), offset) {
            tracing::warn!(%error, "usage is counted in memory only");
        }
    }
}

fn read(file: &File) -> io::Result<Vec<Minute>> {
    let mut bytes = vec![0; RING_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    let (slots, _) = bytes.as_chunks::<SLOT_BYTES>();
    let used = || slots.iter().filter(|slot| **slot != [0; SLOT_BYTES]);
    let minutes: Vec<Minute> = used().filter_map(parse).collect();
    let damaged = used().count() - minutes.len();
    if damaged > 0 {
        tracing::warn!(damaged, "minutes of usage could not be read and count as unused");
    }
    Ok(minutes)
}

fn slot_of(minute: &Minute) -> [u8; SLOT_BYTES] {
    let last_ms = u64::try_from(minute.last.as_millis()).unwrap_or(u64::MAX);
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&minute.minute.to_le_bytes());
    slot[8..16].copy_from_slice(&last_ms.to_le_bytes());
    slot[16..20].copy_from_slice(&minute.calls.to_le_bytes());
    slot[24..CHECKED_BYTES].copy_from_slice(&minute.gas_wei.to_le_bytes());
    let checksum = keccak256(&slot[..CHECKED_BYTES]);
    slot[CHECKED_BYTES..].copy_from_slice(&checksum[..SLOT_BYTES - CHECKED_BYTES]);
    slot
}

fn parse(slot: &[u8; SLOT_BYTES]) -> Option<Minute> {
    let (body, checksum) = slot.split_first_chunk::<CHECKED_BYTES>()?;
    if !keccak256(body).starts_with(checksum) {
        return None;
    }
    let (minute, rest) = body.split_first_chunk()?;
    let (last_ms, rest) = rest.split_first_chunk()?;
    let (calls, rest) = rest.split_first_chunk()?;
    let (_, gas_wei) = rest.split_first_chunk::<4>()?;
    Some(Minute {
        minute: u64::from_le_bytes(*minute),
        // Kept in whole milliseconds, and rounded up, so that what is restored never ends sooner.
        last: Duration::from_millis(u64::from_le_bytes(*last_ms).saturating_add(1)),
        calls: u32::from_le_bytes(*calls),
        gas_wei: u128::from_le_bytes(gas_wei.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use alloy::consensus::{TxEip1559, TypedTransaction};
    use alloy::primitives::{TxKind, U256, address};
    use signer::policy::{Policy, PolicyFile, Rule};
    use tempfile::TempDir;

    use super::*;

    const WALL: Duration = Duration::from_secs(1_800_000_000);
    const CALLS_MAX: u32 = 120;

    /// A permit of a fortieth of a coin; the policy allows five coins in a day.
    fn with_permit<T>(minutes: &mut Minutes, then: impl FnOnce(&mut Minutes, Result<Permit<'_>, Rule>) -> T) -> T {
        let owner = address!("0x00000000000000000000000000000000000000A1");
        let file = PolicyFile::parse(include_str!("../signer.example.toml"), Path::new("signer.toml"));
        let policy =
            Policy::bind(file.expect("the example parses"), address!("0x00000000000000000000000000000000000000f1"));
        let tx = TypedTransaction::from(TxEip1559 {
            chain_id: 1071,
            gas_limit: 5_000_000,
            max_fee_per_gas: 5_000_000_000,
            to: TxKind::Call(owner),
            value: U256::from(1),
            ..TxEip1559::default()
        });
        let (now, usage) = (minutes.now(), minutes.usage());
        let policy = policy.expect("the example binds");
        let checked = policy.check(&tx, now, usage).map_err(|refusal| refusal.rule);
        then(minutes, checked)
    }

    fn sign(minutes: &mut Minutes, count: usize) {
        for _ in 0..count {
            with_permit(minutes, |minutes, permit| {
                let now = minutes.now();
                minutes.enter(&permit.expect("within the budgets"), now);
            });
        }
    }

    fn verdict(minutes: &mut Minutes) -> Result<(), Rule> {
        with_permit(minutes, |_, permit| permit.map(drop))
    }

    fn open(state: &TempDir, wall: Duration) -> Minutes {
        Minutes::open_at(state.path(), CALLS_MAX, wall).expect("a ring")
    }

    #[test]
    fn a_restart_refills_no_budget_and_neither_does_a_clock_that_was_set_back() {
        let state = tempfile::tempdir().expect("a directory");
        let mut minutes = open(&state, WALL);
        sign(&mut minutes, 120);
        assert_eq!(verdict(&mut minutes), Err(Rule::CallsPerMinute));
        drop(minutes);
        let year = Duration::from_secs(365 * 24 * 3600);
        for wall in [WALL, WALL - Duration::from_secs(3600), WALL - year, Duration::ZERO] {
            assert_eq!(verdict(&mut open(&state, wall)), Err(Rule::CallsPerMinute), "{wall:?}");
        }
        // Two minutes later the calls are there again; the gas of 120 and 80 of them is all of the day's.
        let mut minutes = open(&state, WALL + Duration::from_secs(120));
        sign(&mut minutes, 80);
        drop(minutes);
        for (wall, expected) in [
            (WALL + Duration::from_secs(240), Err(Rule::GasWeiPerDay)),
            (WALL - year, Err(Rule::CallsPerMinute)),
            (WALL + Duration::from_secs(23 * 3600), Err(Rule::GasWeiPerDay)),
            (WALL + Duration::from_secs(25 * 3600), Ok(())),
        ] {
            let found = verdict(&mut open(&state, wall));
            assert!(found == expected || wall < WALL && found == Err(Rule::GasWeiPerDay), "{wall:?}: {found:?}");
        }
    }

    #[test]
    fn the_ring_has_one_size_and_what_is_damaged_in_it_counts_as_unused() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join(FILE_NAME);
        sign(&mut open(&state, WALL), 3);
        let mut bytes = fs::read(&path).expect("the ring");
        assert_eq!(bytes.len(), RING_BYTES);
        assert_eq!(open(&state, WALL).usage().latest().as_secs(), WALL.as_secs());
        let slot = bytes.iter().position(|byte| *byte != 0).expect("a used slot");
        bytes[slot] ^= 1;
        fs::write(&path, &bytes).expect("write");
        assert_eq!(open(&state, WALL).usage().latest(), Duration::ZERO);
        fs::write(&path, "short").expect("write");
        assert_eq!(open(&state, WALL).usage().latest(), Duration::ZERO);
        assert_eq!(fs::metadata(&path).expect("the ring").len(), RING_BYTES as u64);
    }

    #[test]
    fn a_slot_is_as_the_module_doc_says() {
        let minute = Minute { minute: 7, last: Duration::from_millis(420_005), calls: 2, gas_wei: 1 << 100 };
        let slot = slot_of(&minute);
        assert_eq!(slot[..8], 7_u64.to_le_bytes());
        assert_eq!(slot[8..16], 420_005_u64.to_le_bytes());
        assert_eq!(slot[16..24], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(slot[24..40], (1_u128 << 100).to_le_bytes());
        assert_eq!(slot[40..], keccak256(&slot[..40])[..24]);
        assert_eq!(parse(&slot), Some(Minute { last: Duration::from_millis(420_006), ..minute }));
    }
}
