//! The ledger: every fact in order, durable before anything is done because of it.
//!
//! Invariants:
//! - [`Ledger::append`] returns only when its facts are on disk (SQLite in WAL mode, `synchronous=FULL`), all or none.
//! - The chain cursor moves in the same transaction as the facts found before it, so a crash re-reads and never skips.
//! - [`Ledger::replay`] folds a snapshot and the facts after it; the snapshot only saves time.
//!
//! On disk (version 1, `PRAGMA user_version`):
//!
//! ```text
//! fact(seq INTEGER PRIMARY KEY, at INTEGER, news TEXT)    one JSON fact a row
//! word(key TEXT PRIMARY KEY, value TEXT)                  'cursor', 'snapshot' ({"seq", "book"})
//! pin(source TEXT, reference TEXT, digest TEXT)           what a moving tag was when it was first asked
//! ```

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use work::{Book, Fact, News};

/// Facts after which a start folds them into a snapshot and drops them.
pub const FACTS_KEPT: u64 = 50_000;

/// The version of what is on disk.
const VERSION: i64 = 1;

/// The ledger of one rig.
#[derive(Debug)]
pub struct Ledger {
    db: Connection,
    path: PathBuf,
}

/// What the ledger could not do.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The database refused.
    #[error("{what} ledger {}", path.display())]
    Database {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is from a newer image.
    #[error("ledger {} has version {found}, this image knows {VERSION}: boot the newer image, or move the file away", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A row does not decode.
    #[error("decode {what} in ledger {}", path.display())]
    Decode {
        /// Which row.
        what: String,
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    seq: i64,
    book: Book,
}

// === impl Ledger ===

impl Ledger {
    /// Opens or makes the ledger at `path`. Errors: [`LedgerError::Database`], [`LedgerError::Version`].
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let fail = |what| {
            let path = path.to_owned();
            move |source| LedgerError::Database { what, path, source }
        };
        let db = Connection::open(path).map_err(fail("open"))?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(fail("open"))?;
        db.pragma_update(None, "synchronous", "FULL").map_err(fail("open"))?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail("read"))?;
        if found > VERSION {
            return Err(LedgerError::Version { path: path.to_owned(), found });
        }
        db.execute_batch(
            "BEGIN;
             CREATE TABLE IF NOT EXISTS fact(seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, news TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS word(key TEXT PRIMARY KEY, value TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS pin(source TEXT, reference TEXT, digest TEXT NOT NULL, PRIMARY KEY(source, reference));
             PRAGMA user_version = 1;
             COMMIT;",
        )
        .map_err(fail("prepare"))?;
        Ok(Ledger { db, path: path.to_owned() })
    }

    /// Appends `facts` and moves the `cursor` (any JSON), all or none. On return they are on disk.
    pub fn append<C: Serialize>(&mut self, facts: &[Fact], cursor: Option<&C>) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let fail = move |source| LedgerError::Database { what: "append to", path: path.clone(), source };
        let rows = facts.iter().map(|fact| encode(&self.path, "fact", &fact.news)).collect::<Result<Vec<_>, _>>()?;
        let cursor = cursor.map(|cursor| encode(&self.path, "cursor", cursor)).transpose()?;
        let tx = self.db.transaction().map_err(&fail)?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO fact(at, news) VALUES (?1, ?2)").map_err(&fail)?;
            for (fact, news) in facts.iter().zip(rows) {
                insert.execute(params![fact.at.cast_signed(), news]).map_err(&fail)?;
            }
        }
        if let Some(cursor) = cursor {
            tx.execute("INSERT OR REPLACE INTO word(key, value) VALUES ('cursor', ?1)", [cursor]).map_err(&fail)?;
        }
        tx.commit().map_err(&fail)
    }

    /// The cursor of the newest append that moved it.
    pub fn cursor<C: DeserializeOwned>(&self) -> Result<Option<C>, LedgerError> {
        self.word("cursor")
    }

    /// Folds everything into a book. Its steps are dropped: [`Book::outstanding`] names what is due.
    pub fn replay(&self) -> Result<Book, LedgerError> {
        let (mut book, after) = match self.word::<Snapshot>("snapshot")? {
            Some(Snapshot { seq, mut book }) => {
                book.reindex();
                (book, seq)
            }
            None => (Book::default(), 0),
        };
        let fail = |source| LedgerError::Database { what: "replay", path: self.path.clone(), source };
        let mut facts = self.db.prepare("SELECT seq, at, news FROM fact WHERE seq > ?1 ORDER BY seq").map_err(fail)?;
        let mut rows = facts.query([after]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let (seq, at, news): (i64, i64, String) =
                (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?, row.get(2).map_err(fail)?);
            let news: News = self.decode(&format!("fact {seq}"), &news)?;
            book.enter(Fact { at: at.cast_unsigned(), news });
        }
        Ok(book)
    }

    /// Folds the facts into a snapshot when more than [`FACTS_KEPT`] have gathered. `book` is what they fold to.
    pub fn compact(&mut self, book: &Book) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let fail = move |source| LedgerError::Database { what: "compact", path: path.clone(), source };
        let (count, seq): (i64, Option<i64>) = self
            .db
            .query_row("SELECT count(*), max(seq) FROM fact", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(&fail)?;
        let Some(seq) = seq.filter(|_| count.cast_unsigned() > FACTS_KEPT) else { return Ok(()) };
        let snapshot = encode(&self.path, "snapshot", &Snapshot { seq, book: book.clone() })?;
        let tx = self.db.transaction().map_err(&fail)?;
        tx.execute("INSERT OR REPLACE INTO word(key, value) VALUES ('snapshot', ?1)", [snapshot]).map_err(&fail)?;
        tx.execute("DELETE FROM fact WHERE seq <= ?1", [seq]).map_err(&fail)?;
        tx.commit().map_err(&fail)
    }

    /// How many facts stand after the snapshot.
    pub fn facts(&self) -> Result<u64, LedgerError> {
        let count: i64 = self
            .db
            .query_row("SELECT count(*) FROM fact", [], |row| row.get(0))
            .map_err(|source| LedgerError::Database { what: "count", path: self.path.clone(), source })?;
        Ok(count.cast_unsigned())
    }

    fn word<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LedgerError> {
        let value: Option<String> = self
            .db
            .query_row("SELECT value FROM word WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(|source| LedgerError::Database { what: "read", path: self.path.clone(), source })?;
        value.map(|value| self.decode(key, &value)).transpose()
    }

    fn decode<T: DeserializeOwned>(&self, what: &str, text: &str) -> Result<T, LedgerError> {
        serde_json::from_str(text).map_err(|source| LedgerError::Decode {
            what: what.to_owned(),
            path: self.path.clone(),
            source,
        })
    }
}

fn encode<T: Serialize>(path: &Path, what: &str, value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|source| LedgerError::Decode {
        what: what.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// The digests that moving tags had when they were first asked: a separate handle on the ledger's file, because images
/// are pulled beside the loop that appends facts.
#[derive(Debug)]
pub struct TagPins {
    db: std::sync::Mutex<Connection>,
    path: PathBuf,
}

// === impl TagPins ===

impl TagPins {
    /// Opens the pins of the ledger at `path`, which exists. Errors: [`LedgerError::Database`].
    pub fn open(path: &Path) -> Result<TagPins, LedgerError> {
        let fail = |source| LedgerError::Database { what: "open", path: path.to_owned(), source };
        let db = Connection::open(path).map_err(fail)?;
        db.busy_timeout(std::time::Duration::from_secs(10)).map_err(fail)?;
        Ok(TagPins { db: std::sync::Mutex::new(db), path: path.to_owned() })
    }

    /// The digest that `reference` had for `source` when it was first asked.
    pub fn get(&self, source: &str, reference: &str) -> Result<Option<String>, LedgerError> {
        self.with(|db| {
            db.query_row("SELECT digest FROM pin WHERE source = ?1 AND reference = ?2", [source, reference], |r| {
                r.get(0)
            })
            .optional()
        })
    }

    /// Notes what `reference` is for `source`.
    pub fn set(&self, source: &str, reference: &str, digest: &str) -> Result<(), LedgerError> {
        self.with(|db| db.execute("INSERT OR REPLACE INTO pin VALUES (?1, ?2, ?3)", [source, reference, digest]))?;
        Ok(())
    }

    fn with<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let db = self.db.lock().expect("no holder of this lock panics");
        ask(&db).map_err(|source| LedgerError::Database { what: "ask", path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(range: std::ops::Range<u64>) -> Vec<Fact> {
        range.map(|at| Fact { at, news: News::Ticked }).collect()
    }

    #[test]
    fn facts_and_cursor_survive_a_reopening() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ledger.db");
        let mut ledger = Ledger::open(&path).expect("opens");
        ledger.append(&ticks(1..4), Some(&7_u64)).expect("appends");
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opens again");
        assert_eq!(ledger.cursor::<u64>().expect("reads"), Some(7));
        assert_eq!(ledger.replay().expect("replays").now(), 3);
    }

    #[test]
    fn a_compacted_ledger_folds_to_the_same_book() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut ledger = Ledger::open(&dir.path().join("ledger.db")).expect("opens");
        ledger.append(&ticks(1..FACTS_KEPT + 3), None::<&u64>).expect("appends");
        let book = ledger.replay().expect("replays");
        ledger.compact(&book).expect("compacts");
        assert_eq!(ledger.facts().expect("counts"), 0);
        ledger.append(&ticks(90_000..90_001), None::<&u64>).expect("appends");
        assert_eq!(ledger.replay().expect("replays").now(), 90_000);
    }

    #[test]
    fn a_ledger_of_a_newer_image_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ledger.db");
        Connection::open(&path).expect("opens").pragma_update(None, "user_version", 9).expect("sets");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Version { found: 9, .. })));
    }
}
