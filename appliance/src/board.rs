//! What is known of sources beside the book: what is being done for each, and how the runner sees it.
//!
//! It is shown to people and never decided on; it is lost with the process, and nobody misses it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use runner::protocol::{Confinement, SourceName, SourceState};
use serde::Serialize;
use work::SourceId;

use crate::unix_now;

/// What is being done for a source that is not up yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "doing", rename_all = "kebab-case")]
pub enum Doing {
    /// Its metadata and its compose file are read.
    Reading,
    /// An image is brought here.
    Pulling {
        /// As the compose file names it.
        image: String,
        /// Bytes that have come, of those that are missing here.
        bytes: u64,
        /// Bytes that are missing here.
        of_bytes: u64,
        /// Which of the missing layers is coming, from 1.
        layer: usize,
        /// How many layers are missing here.
        layers: usize,
    },
    /// An image is unpacked and sealed.
    Unpacking {
        /// As the compose file names it.
        image: String,
    },
    /// The source's kernel bundle is brought here.
    Fetching {
        /// Its link.
        link: String,
    },
    /// Machine code is made from a module of the bundle.
    Compiling {
        /// The module's name.
        module: String,
        /// For which GPUs, such as `sm_90`.
        arch: String,
        /// Which of what is to be made, from 1.
        number: usize,
        /// How many there are to make.
        of: usize,
    },
    /// Services are started, and one of them is waited for.
    Starting {
        /// Which service.
        service: String,
        /// Until when.
        until: Until,
        /// Unix seconds since when.
        since_unix: u64,
        /// Bytes that the source has received from the internet so far.
        received_bytes: u64,
        /// The last line that the service printed.
        log: Option<String>,
    },
}

/// What a service is waited for to be or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Its health test succeeds.
    Healthy,
    /// It ends with status 0.
    Completed,
    /// Its port is open.
    Listening,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    doing: HashMap<SourceId, (u64, Doing)>,
    next: u64,
    confinement: Option<Confinement>,
    sources: HashMap<SourceName, SourceState>,
}

/// The place of one source on the board, cleared when this is dropped.
#[derive(Debug)]
pub struct Telling<'a> {
    board: &'a Board,
    source: SourceId,
    number: u64,
}

// === impl Board ===

impl Board {
    /// A place to say what is being done for `source`.
    pub fn begin(&self, source: SourceId) -> Telling<'_> {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.doing.insert(source, (number, Doing::Reading));
        drop(inner);
        Telling { board: self, source, number }
    }

    /// What is being done for a source.
    pub fn doing(&self, source: SourceId) -> Option<Doing> {
        self.lock().doing.get(&source).map(|(_, doing)| doing.clone())
    }

    /// Keeps what the runner said last.
    pub fn saw(&self, confinement: Confinement, sources: impl IntoIterator<Item = (SourceName, SourceState)>) {
        let mut inner = self.lock();
        inner.confinement = Some(confinement);
        inner.sources = sources.into_iter().collect();
    }

    /// How jails are limited on this machine; `None` before the runner was asked.
    pub fn confinement(&self) -> Option<Confinement> {
        self.lock().confinement
    }

    /// How the runner saw a source last.
    pub fn state(&self, source: &SourceName) -> Option<SourceState> {
        self.lock().sources.get(source).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

// === impl Telling ===

impl Telling<'_> {
    /// From now on this is being done.
    pub fn say(&self, doing: Doing) {
        let mut inner = self.board.lock();
        // A step that replaces this one has the place already.
        if let Some(place) = inner.doing.get_mut(&self.source).filter(|(number, _)| *number == self.number) {
            place.1 = doing;
        }
    }

    /// A service is waited for. The clock starts with the first of the same words.
    pub fn waits(&self, service: &str, until: Until, received_bytes: u64, log: Option<String>) {
        let since_unix = match self.board.doing(self.source) {
            Some(Doing::Starting { service: now, until: so, since_unix, .. }) if now == service && so == until => {
                since_unix
            }
            _ => unix_now(),
        };
        self.say(Doing::Starting { service: service.to_owned(), until, since_unix, received_bytes, log });
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut inner = self.board.lock();
        if inner.doing.get(&self.source).is_some_and(|(number, _)| *number == self.number) {
            inner.doing.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;

    #[test]
    fn a_step_that_was_replaced_neither_speaks_for_the_new_one_nor_clears_its_place() {
        let (board, source) = (Board::default(), SourceId(Address::repeat_byte(1)));
        let old = board.begin(source);
        let new = board.begin(source);
        new.say(Doing::Unpacking { image: "new".into() });
        old.say(Doing::Unpacking { image: "old".into() });
        drop(old);
        assert_eq!(board.doing(source), Some(Doing::Unpacking { image: "new".into() }));
        drop(new);
        assert_eq!(board.doing(source), None);
    }
}
