//! Which range of the host's user ids belongs to which source.
//!
//! Invariants: two sources never share a range; a source keeps its range until it is forgotten, because its volumes
//! are owned by it; no range contains an id that a person or a service of the host has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use runner::protocol::SourceName;
use serde::{Deserialize, Serialize};

/// The first host id of slot 0. Debian gives people 1000 to 59999 and subordinate ranges from 100000.
const FIRST_ID: u32 = 200_000;

/// Ids per slot, inside the jail 0 to 65535.
pub(crate) use runner::layer::IDS as IDS_PER_SLOT;

/// The most sources that a state directory ever knows.
const SLOTS_MAX: u32 = 1024;

/// A range of host ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Slot(u32);

/// The durable table: one file per source in `slots/`, holding the slot's number.
#[derive(Debug)]
pub(crate) struct Slots {
    dir: PathBuf,
    allocation: Mutex<()>,
    /// Indexed by slot.
    images: Vec<Mutex<()>>,
    /// Indexed by slot.
    runs: Vec<Mutex<()>>,
}

/// A slot that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    #[error("{operation} slot file {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("all {SLOTS_MAX} slots are taken")]
    Exhausted,
}

// === impl Slot ===

impl Slot {
    /// The host id that the jail's id 0 is.
    pub(crate) fn base_id(self) -> u32 {
        FIRST_ID + self.0 * IDS_PER_SLOT
    }

    /// Unique among the sources that are known.
    pub(crate) fn number(self) -> u16 {
        // `parse` and `of` admit no number from SLOTS_MAX upwards.
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }
}

// === impl Slots ===

impl Slots {
    pub(crate) fn new(state: &Path) -> Self {
        let locks = || (0..SLOTS_MAX).map(|_| Mutex::new(())).collect();
        Self { dir: state.join("slots"), allocation: Mutex::new(()), images: locks(), runs: locks() }
    }

    /// The slot of `source`, given now if it has none.
    pub(crate) fn of(&self, source: &SourceName) -> Result<Slot, SlotError> {
        let _allocation = self.allocation.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(source.as_str());
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| SlotError::File { operation, path, source }
        };
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text).map_err(failed("parse", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
        }
        let mut taken = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            // A leading dot is a half-written file of a runner that was killed; nothing refers to it.
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            taken.push(parse(&text).map_err(failed("parse", &path))?);
        }
        let free = (0..SLOTS_MAX).map(Slot).find(|slot| !taken.contains(slot)).ok_or(SlotError::Exhausted)?;
        let half = self.dir.join(".half");
        fs::write(&half, format!("{}\n", free.0)).map_err(failed("write", &half))?;
        fs::rename(&half, &path).map_err(failed("rename", &path))?;
        Ok(free)
    }

    /// The slot of `source`, if it has one.
    pub(crate) fn known(&self, source: &SourceName) -> Result<Option<Slot>, SlotError> {
        let path = self.dir.join(source.as_str());
        let failed = |operation| {
            let path = path.clone();
            move |source| SlotError::File { operation, path, source }
        };
        match fs::read_to_string(&path) {
            Ok(text) => parse(&text).map(Some).map_err(failed("parse")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// Gives the slot of `source` to whoever comes next. Nothing of the source may be left.
    pub(crate) fn free(&self, source: &SourceName) -> Result<(), SlotError> {
        let _allocation = self.allocation.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(source.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SlotError::File { operation: "remove", path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody else opens, starts, stops or forgets `source`, and answers its slot, given now if it has
    /// none.
    pub(crate) fn turn(&self, source: &SourceName) -> Result<(Slot, MutexGuard<'_, ()>), SlotError> {
        loop {
            let slot = self.of(source)?;
            let turn = self.lock_run(slot);
            // It may have been forgotten while we waited, and the slot been given to another.
            if self.known(source)? == Some(slot) {
                return Ok((slot, turn));
            }
        }
    }

    /// Waits until nobody else unpacks for `source` or forgets it, and answers its slot, given now if it has none.
    pub(crate) fn image_turn(&self, source: &SourceName) -> Result<(Slot, MutexGuard<'_, ()>), SlotError> {
        loop {
            let slot = self.of(source)?;
            let turn = self.lock_images(slot);
            if self.known(source)? == Some(slot) {
                return Ok((slot, turn));
            }
        }
    }

    /// Waits until nobody else unpacks for the source of `slot`.
    pub(crate) fn lock_images(&self, slot: Slot) -> MutexGuard<'_, ()> {
        // `parse` and `of` admit no number from SLOTS_MAX upwards.
        self.images[slot.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else starts or stops the source of `slot`. Apart from the images: a source can be
    /// stopped while its next image is unpacked.
    pub(crate) fn lock_run(&self, slot: Slot) -> MutexGuard<'_, ()> {
        self.runs[slot.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(text: &str) -> io::Result<Slot> {
    match text.trim_end().parse() {
        Ok(number) if number < SLOTS_MAX => Ok(Slot(number)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not the number of a slot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_keeps_its_slot_and_shares_it_with_nobody() {
        let state = tempfile::tempdir().expect("a directory");
        fs::create_dir(state.path().join("slots")).expect("mkdir");
        let name = |text: &str| text.parse::<SourceName>().expect("a name");
        let slots = Slots::new(state.path());
        let first = slots.of(&name("a")).expect("a slot");
        let second = slots.of(&name("b")).expect("a slot");
        assert_ne!(first, second);
        assert_eq!(Slots::new(state.path()).of(&name("a")).expect("the same slot"), first);
        assert!(second.base_id() - first.base_id() >= IDS_PER_SLOT);
    }
}
