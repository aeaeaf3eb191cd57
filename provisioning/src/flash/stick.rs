//! The partition of a rig's stick that people see, and the files on it.
//!
//! Invariants: it is found by its name in the partition table, never by its place; what is written is read back from the
//! medium; what is read is bounded, because anybody may have put it there.

use std::time::SystemTime;

use boot::text::{self, TextError};
use layout::fat::{Fat, FatError, Reading};
use layout::gpt::{GptError, Table};
use layout::parts::SETTINGS_LABEL;
use thiserror::Error;

use super::target::{Stretch, Target, TargetError};

/// The owner's settings.
pub(crate) const SETTINGS_FILE: &str = "rig.toml";

/// What the rig says of itself.
const STATUS_FILE: &str = "rig-status.txt";

/// The longest settings that a rig reads.
const SETTINGS_BYTES_MAX: u32 = 64 << 10;

/// The rig writes a page.
const STATUS_BYTES_MAX: u32 = 64 << 10;

/// The open partition.
#[derive(Debug)]
pub(crate) struct Stick<'a> {
    target: &'a mut Target,
    start: u64,
    bytes: u64,
}

/// Why a stick's files cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum StickError {
    #[error("it has no partition table, so it is no rig's stick; or its writing was cut")]
    Table(#[source] GptError),
    #[error("it has no partition {SETTINGS_LABEL}, so it is no rig's stick")]
    Partition,
    #[error("the partition {SETTINGS_LABEL}")]
    Fat(#[from] FatError),
    #[error("{SETTINGS_FILE} on it cannot be read")]
    Text(#[source] TextError),
    #[error("{SETTINGS_FILE} has {0} bytes, and a rig reads {SETTINGS_BYTES_MAX} at most")]
    Long(usize),
    #[error("{SETTINGS_FILE} was written, and something else was read back: the stick is failing, use another")]
    Differs,
    #[error(transparent)]
    Target(#[from] TargetError),
}

// === impl Stick ===

impl<'a> Stick<'a> {
    /// The stick in `target`, by its own table.
    pub(crate) fn find(target: &'a mut Target) -> Result<Stick<'a>, StickError> {
        let bytes = target.bytes();
        let table = Table::read(&mut target.stretch(0, bytes)).map_err(StickError::Table)?;
        Stick::within(target, &table)
    }

    /// The stick in `target`, by a table that is known to be right.
    pub(crate) fn within(target: &'a mut Target, table: &Table) -> Result<Stick<'a>, StickError> {
        let partition = table.by_name(SETTINGS_LABEL).ok_or(StickError::Partition)?;
        let (start, bytes) = (partition.offset(table), partition.bytes(table));
        Ok(Stick { target, start, bytes })
    }

    /// `rig.toml` as it stands; empty if there is none.
    pub(crate) fn settings(&mut self) -> Result<String, StickError> {
        let bytes = self.fat()?.read_named(SETTINGS_FILE, SETTINGS_BYTES_MAX)?.unwrap_or_default();
        text::of(&bytes).map(str::to_owned).map_err(StickError::Text)
    }

    /// What the rig wrote about itself; `None` before its first boot.
    pub(crate) fn status(&mut self) -> Result<Option<String>, StickError> {
        let bytes = self.fat()?.read_named(STATUS_FILE, STATUS_BYTES_MAX)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Replaces `rig.toml`, and reads it back from the medium.
    pub(crate) fn write_settings(&mut self, text: &str) -> Result<(), StickError> {
        if text.len() > usize::try_from(SETTINGS_BYTES_MAX).unwrap_or(usize::MAX) {
            return Err(StickError::Long(text.len()));
        }
        self.fat()?.replace(SETTINGS_FILE, text.as_bytes(), SystemTime::now())?;
        self.target.sync()?;
        self.target.forget();
        match self.fat()?.read_named(SETTINGS_FILE, SETTINGS_BYTES_MAX)? {
            Some(bytes) if bytes == text.as_bytes() => Ok(()),
            Some(_) | None => Err(StickError::Differs),
        }
    }

    fn fat(&mut self) -> Result<Fat<Stretch<'_>>, StickError> {
        Ok(Fat::open(self.target.stretch(self.start, self.bytes), Reading::Lenient)?)
    }
}
