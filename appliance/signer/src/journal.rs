//! What was answered: one response per task, durable before its signature exists.
//!
//! `<state>/responses.journal`, mode 0600, is only appended to; every record has 64 bytes, so none straddles a sector:
//!
//! ```text
//!  0         8                                                   56         64
//!  ├─────────┼──────────────────────────────────────────────────┼──────────┤
//!  │ RIGRESP │ zeros                                            │ checksum │  header, version 1
//!  │    \x01 │                                                  │          │
//!  ├─────────┴────────┬──────────────────────────────┬──────────┼──────────┤
//!  │ task, 20 bytes   │ Keccak-256 of calldata, 32   │ minute 4 │ checksum │  one per answered task
//!  └──────────────────┴──────────────────────────────┴──────────┴──────────┘
//!  minute: since the clock's zero, little endian. checksum: first 8 bytes of the Keccak-256 of the 56 before it.
//! ```
//!
//! Invariants:
//! * The key signs an [`Entered`] only, and a response becomes one after its record has reached the disk.
//! * Bytes past the last whole record, and a last record of zeros, are what a power cut leaves: no signature came of
//!   them, and they are dropped. Anything else that does not check is damage. It is named, it is left as it is, and
//!   responses are refused until somebody has looked; everything else is still signed.
//! * Memory and disk are bounded by [`Bounds`]. Only answers older than its `keep` are ever forgotten.
//!
//! A journal that is missing is a new one: deleting it forgets what was answered, so only this user may.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy::primitives::{Address, B256, keccak256};
use signer::policy::{Permit, Refusal, Response, Rule};

use crate::files;

const FILE_NAME: &str = "responses.journal";

const MAGIC: [u8; 8] = *b"RIGRESP\x01";
const RECORD_BYTES: usize = 64;
const CHECKED_BYTES: usize = 56;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Most answered tasks.
    records_max: usize,
    /// How long an answer is remembered at least.
    keep: Duration,
    /// Fewest answers to forget at once: forgetting writes the whole file anew.
    forget_min: usize,
}

/// Tasks live for minutes to days. One response every ten seconds for sixty days fits: 32 MiB on disk and some 60 MiB
/// in memory, on a rig that is never idle. A provider that was taken over can fill it with tasks that do not exist, in
/// days at the policy's calls per minute; then responses are refused until somebody looks, which is as it should be.
const BOUNDS: Bounds = Bounds { records_max: 1 << 19, keep: Duration::from_secs(60 * 24 * 3600), forget_min: 1 << 13 };

/// A permit that may be signed: if it is a response, it is the only one to its task.
#[derive(Debug)]
pub(crate) struct Entered<'a>(Permit<'a>);

/// What was answered, or why that is not known.
#[derive(Debug)]
pub(crate) enum Journal {
    /// It was read whole.
    Sound(Responses),
    /// It was not; no response is signed.
    Unreadable(JournalError),
}

/// Every answered task, and the file that holds them.
#[derive(Debug)]
pub(crate) struct Responses {
    file: File,
    state: PathBuf,
    /// Length of the file up to its last whole record.
    bytes: u64,
    known: HashMap<Address, Answer>,
    bounds: Bounds,
    /// Nothing can be added any more: a sync failed, and after that the kernel's word for the file is worth nothing.
    is_stuck: bool,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    digest: B256,
    minute: u32,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is damaged at byte {offset} ({why}): restore it from a backup; moving it away lets tasks that are \
         answered already be answered again"
    )]
    Damaged { path: PathBuf, offset: u64, why: &'static str },
}

// === impl Entered ===

impl<'a> Entered<'a> {
    pub(crate) fn permit(&self) -> &Permit<'a> {
        &self.0
    }
}

// === impl Journal ===

impl Journal {
    /// Opens the journal in `state`, or begins one.
    pub(crate) fn open(state: &Path) -> Self {
        match Responses::open(state, BOUNDS) {
            Ok(responses) => Self::Sound(responses),
            Err(error) => {
                tracing::error!(error = words(&error), "responses are refused, the journal cannot be used");
                Self::Unreadable(error)
            }
        }
    }

    /// Lets `permit` be signed, after its response, if it is one, has become durable.
    /// Errors: [`Rule::SecondResponse`], [`Rule::Journal`].
    pub(crate) fn enter<'a>(&mut self, permit: Permit<'a>, now: Duration) -> Result<Entered<'a>, Refusal> {
        match (permit.response(), &mut *self) {
            (None, _) => {}
            (Some(response), Self::Sound(responses)) => responses.enter(response, now)?,
            (Some(_), Self::Unreadable(error)) => return Err(Rule::Journal.broken(words(error))),
        }
        Ok(Entered(permit))
    }
}

// === impl Responses ===

impl Responses {
    fn open(state: &Path, bounds: Bounds) -> Result<Self, JournalError> {
        let path = state.join(FILE_NAME);
        let open = || files::open(&path).map_err(at("open", &path));
        let file = match open()? {
            Some(file) => file,
            None => {
                files::replace(state, FILE_NAME, &checked(&MAGIC)).map_err(at("begin", &path))?;
                open()?.ok_or_else(|| at("open", &path)(io::ErrorKind::NotFound.into()))?
            }
        };
        let mut responses =
            Self { file, state: state.to_owned(), bytes: 0, known: HashMap::new(), bounds, is_stuck: false };
        responses.load(&path)?;
        Ok(responses)
    }

    /// Reads the file, and cuts off what a power cut left at its end.
    fn load(&mut self, path: &Path) -> Result<(), JournalError> {
        let damaged = |offset, why| JournalError::Damaged { path: path.to_owned(), offset, why };
        let length = self.file.metadata().map_err(at("examine", path))?.len();
        let records = length / RECORD_BYTES as u64;
        if records > self.bounds.records_max as u64 + 1 {
            return Err(damaged(length, "it is longer than a journal grows"));
        }
        let mut bytes = BufReader::new(self.file.try_clone().map_err(at("open", path))?);
        for number in 0..records {
            let offset = number * RECORD_BYTES as u64;
            let mut record = [0; RECORD_BYTES];
            bytes.read_exact(&mut record).map_err(at("read", path))?;
            if number > 0 && number + 1 == records && record == [0; RECORD_BYTES] {
                break;
            }
            let body = body_of(&record).ok_or_else(|| damaged(offset, "the checksum is wrong"))?;
            match number {
                0 if body.starts_with(&MAGIC) => {}
                0 => return Err(damaged(offset, "the header is unknown")),
                _ => {
                    let (task, answer) = parse(body);
                    let before = self.known.insert(task, answer);
                    if before.is_some_and(|before| before.digest != answer.digest) {
                        return Err(damaged(offset, "it holds a second answer to a task"));
                    }
                }
            }
            self.bytes = offset + RECORD_BYTES as u64;
        }
        if self.bytes == 0 {
            return Err(damaged(0, "it has no header"));
        }
        if self.bytes < length {
            tracing::warn!(bytes = length - self.bytes, "an unfinished record was dropped from the journal");
            let cut = self.file.set_len(self.bytes).and_then(|()| self.file.sync_data());
            cut.map_err(at("cut the unfinished end off", path))?;
        }
        Ok(())
    }

    fn enter(&mut self, response: Response, now: Duration) -> Result<(), Refusal> {
        let Response { task, digest } = response;
        match self.known.get(&task) {
            Some(answer) if answer.digest == digest => return Ok(()),
            Some(answer) => {
                let why = format!("task {task} was answered with calldata {}, this is {digest}", answer.digest);
                return Err(Rule::SecondResponse.broken(why));
            }
            None => {}
        }
        let minute = u32::try_from(now.as_secs() / 60).unwrap_or(u32::MAX);
        if self.known.len() >= self.bounds.records_max {
            self.forget(minute)?;
        }
        let answer = Answer { digest, minute };
        self.append(&record_of(task, answer))?;
        self.known.insert(task, answer);
        Ok(())
    }

    /// Adds a record, and returns when it is on the disk.
    fn append(&mut self, record: &[u8; RECORD_BYTES]) -> Result<(), Refusal> {
        if self.is_stuck {
            return Err(Rule::Journal.broken("an earlier write failed: start the signer again".to_owned()));
        }
        if let Err(error) = self.file.write_all_at(record, self.bytes) {
            // A full disk: nothing was promised yet, and what was half written goes away again.
            self.is_stuck = self.file.set_len(self.bytes).is_err();
            return Err(broken("write", &error));
        }
        if let Err(error) = self.file.sync_data() {
            self.is_stuck = true;
            return Err(broken("sync", &error));
        }
        self.bytes += RECORD_BYTES as u64;
        Ok(())
    }

    /// Writes the file anew without the answers that are older than they must be kept.
    fn forget(&mut self, minute: u32) -> Result<(), Refusal> {
        let keep = u32::try_from(self.bounds.keep.as_secs() / 60).unwrap_or(u32::MAX);
        let is_young = |answer: &Answer| minute.saturating_sub(answer.minute) <= keep;
        let young = self.known.values().filter(|answer| is_young(answer)).count();
        if self.known.len() - young < self.bounds.forget_min {
            let most = self.bounds.records_max;
            return Err(Rule::Journal.broken(format!("{most} tasks were answered lately, which is all it holds")));
        }
        let kept = self.known.iter().filter(|(_, answer)| is_young(answer));
        let bytes: Vec<u8> = [checked(&MAGIC)]
            .into_iter()
            .chain(kept.map(|(task, answer)| record_of(*task, *answer)))
            .flatten()
            .collect();
        let path = self.state.join(FILE_NAME);
        let reopened = files::replace(&self.state, FILE_NAME, &bytes).and_then(|()| files::open(&path));
        match reopened {
            Ok(Some(file)) => self.file = file,
            // The old file may be the one without a name now: what is added to it would be lost.
            Ok(None) => return Err(self.stick(&io::ErrorKind::NotFound.into())),
            Err(error) => return Err(self.stick(&error)),
        }
        self.bytes = bytes.len() as u64;
        self.known.retain(|_, answer| is_young(answer));
        Ok(())
    }

    fn stick(&mut self, error: &io::Error) -> Refusal {
        self.is_stuck = true;
        broken("rewrite", error)
    }
}

fn broken(step: &str, error: &io::Error) -> Refusal {
    tracing::error!(%error, step, "the journal of responses cannot be written");
    Rule::Journal.broken(format!("{step} the journal of responses: {error}"))
}

/// The error with its causes, for a line of log and for a refusal.
fn words(error: &JournalError) -> String {
    match error {
        JournalError::File { source, .. } => format!("{error}: {source}"),
        JournalError::Damaged { .. } => error.to_string(),
    }
}

fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::File { step, path, source }
}

fn record_of(task: Address, answer: Answer) -> [u8; RECORD_BYTES] {
    checked(&[task.as_slice(), answer.digest.as_slice(), &answer.minute.to_le_bytes()].concat())
}

/// `body`, filled up with zeros, and its checksum.
fn checked(body: &[u8]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..body.len()].copy_from_slice(body);
    let checksum = keccak256(&record[..CHECKED_BYTES]);
    record[CHECKED_BYTES..].copy_from_slice(&checksum[..RECORD_BYTES - CHECKED_BYTES]);
    record
}

fn body_of(record: &[u8; RECORD_BYTES]) -> Option<&[u8; CHECKED_BYTES]> {
    let (body, checksum) = record.split_first_chunk()?;
    keccak256(body).starts_with(checksum).then_some(body)
}

fn parse(body: &[u8; CHECKED_BYTES]) -> (Address, Answer) {
    let (task, rest) = body.split_at(20);
    let (digest, minute) = rest.split_at(32);
    let minute = u32::from_le_bytes(minute.try_into().expect("the last four of 56 bytes"));
    (Address::from_slice(task), Answer { digest: B256::from_slice(digest), minute })
}

#[cfg(test)]
mod tests;
