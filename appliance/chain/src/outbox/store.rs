//! Rows on disk: SQLite in WAL mode with `synchronous=FULL`, so that what was stored before a broadcast is there after a
//! power cut.
//!
//! ```text
//! owner   chain_id, address                     one row: whose file this is
//! intent  id, key, target, data, value_wei, created_s,
//!         state      queued | in_flight | mined | closed
//!         nonce, overtaken_at                   in_flight
//!         nonce, tx, block, block_hash, is_success, fee_wei, is_answered    mined, and kept when closed
//!         outcome                               closed: why, for people
//! version hash, intent, nonce, gas, kind, max_fee_wei, tip_wei, raw         every signed version, never deleted alone
//! ```
//!
//! Invariants: one process has the file (exclusive lock); two rows that are not closed never hold one nonce (a unique
//! index); a version and the state that needs it are written in one transaction. Amounts are decimal text, hashes and
//! addresses blobs, 64-bit numbers two's complement.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::primitives::{Address, B256, Bytes};
use rusqlite::{Connection, Row as Record, named_params, params};

use super::{
    bid::Bid,
    row::{Inclusion, Intent, Row, State, Timers, Version},
};

/// `user_version` of the schema above.
const SCHEMA: i64 = 1;
/// Closed rows that are kept for people to look at.
const CLOSED_MAX: i64 = 10_000;
/// How long a predecessor may take to let go of the file.
const LOCK_WAIT: Duration = Duration::from_secs(5);

const CREATE: &str = "
    CREATE TABLE owner (chain_id INTEGER NOT NULL, address BLOB NOT NULL);
    CREATE TABLE intent (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        target BLOB NOT NULL,
        data BLOB NOT NULL,
        value_wei TEXT NOT NULL,
        created_s INTEGER NOT NULL DEFAULT (unixepoch()),
        state TEXT NOT NULL CHECK (state IN ('queued', 'in_flight', 'mined', 'closed')),
        nonce INTEGER, overtaken_at INTEGER,
        tx BLOB, block INTEGER, block_hash BLOB, is_success INTEGER, fee_wei TEXT, is_answered INTEGER,
        outcome TEXT
    );
    CREATE UNIQUE INDEX one_row_per_nonce ON intent (nonce) WHERE state IN ('in_flight', 'mined');
    CREATE INDEX intent_by_state ON intent (state);
    CREATE TABLE version (
        hash BLOB PRIMARY KEY,
        intent INTEGER NOT NULL REFERENCES intent (id) ON DELETE CASCADE,
        nonce INTEGER NOT NULL,
        gas INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        max_fee_wei TEXT NOT NULL,
        tip_wei TEXT NOT NULL,
        raw BLOB NOT NULL
    );
    CREATE INDEX version_by_intent ON version (intent);
    PRAGMA user_version = 1;
";

/// The outbox file could not be used. Nothing is sent that could not be stored first.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{operation} in the outbox {path}")]
    Sqlite {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file was written by another version of this program.
    #[error("outbox {path} has schema {found}, this program knows {SCHEMA}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
    },
    /// The file belongs to another key or another chain; its nonces mean nothing here.
    #[error("outbox {path} belongs to {address} on chain {chain_id}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        address: Address,
        /// On which chain.
        chain_id: u64,
    },
    /// The thread that wrote it is gone.
    #[error("write to the outbox {path} was abandoned")]
    Abandoned {
        /// The file.
        path: PathBuf,
    },
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Store {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
}

// === impl Store ===

impl Store {
    /// Opens or creates the file for `address` on `chain_id`. Blocks for as long as a disk takes.
    pub(super) fn open(path: &Path, chain_id: u64, address: Address) -> Result<Self, StoreError> {
        let sqlite = |operation| move |source| StoreError::Sqlite { operation, path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(sqlite("open"))?;
        prepare(&connection).map_err(sqlite("prepare"))?;
        match connection.query_row("PRAGMA user_version", [], |record| record.get(0)).map_err(sqlite("read schema"))? {
            SCHEMA => {}
            0 => create(&connection, chain_id, address).map_err(sqlite("create"))?,
            found => return Err(StoreError::Schema { path: path.to_owned(), found }),
        }
        let (chain, owner) = connection
            .query_row("SELECT chain_id, address FROM owner", [], |record| {
                Ok((record.get::<_, i64>(0)?.cast_unsigned(), address_of(record, 1)?))
            })
            .map_err(sqlite("read owner"))?;
        if (chain, owner) != (chain_id, address) {
            return Err(StoreError::Foreign { path: path.to_owned(), address: owner, chain_id: chain });
        }
        Ok(Self { path: path.to_owned(), connection: Arc::new(Mutex::new(connection)) })
    }

    /// Every row that is not closed, oldest first.
    pub(super) fn unfinished(&self) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        read_unfinished(&connection).map_err(|source| StoreError::Sqlite {
            operation: "read rows",
            path: self.path.clone(),
            source,
        })
    }

    /// Stores a new intent and returns its row.
    pub(super) async fn insert(&self, intent: Intent) -> Result<Row, StoreError> {
        self.write("insert intent", move |connection| {
            connection.execute(
                "INSERT INTO intent (key, target, data, value_wei, state) VALUES (?1, ?2, ?3, ?4, 'queued')",
                params![intent.key, intent.to.as_slice(), intent.data.as_ref(), intent.value_wei.to_string()],
            )?;
            let id = connection.last_insert_rowid();
            Ok(Row { id, intent, state: State::Queued, versions: Vec::new(), timers: Timers::default() })
        })
        .await
    }

    /// Stores a signed version and the state that goes with it, before anything is broadcast.
    pub(super) async fn sign(&self, id: i64, version: Version, state: State) -> Result<(), StoreError> {
        self.write("store signed bytes", move |connection| {
            let transaction = connection.transaction()?;
            let (kind, max_fee_wei, tip_wei) = match version.bid {
                Bid::Dynamic { max_fee_wei, tip_wei } => (2, max_fee_wei, tip_wei),
                Bid::Legacy { gas_price_wei } => (0, gas_price_wei, gas_price_wei),
            };
            transaction.execute(
                "INSERT OR IGNORE INTO version (hash, intent, nonce, gas, kind, max_fee_wei, tip_wei, raw)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    version.hash.as_slice(),
                    id,
                    version.nonce.cast_signed(),
                    version.gas.cast_signed(),
                    kind,
                    max_fee_wei.to_string(),
                    tip_wei.to_string(),
                    version.raw.as_ref(),
                ],
            )?;
            write_state(&transaction, id, &state)?;
            transaction.commit()
        })
        .await
    }

    /// Stores where a row stands.
    pub(super) async fn set(&self, id: i64, state: State) -> Result<(), StoreError> {
        self.write("store state", move |connection| write_state(connection, id, &state)).await
    }

    /// Closes a row; `outcome` is for people.
    pub(super) async fn close(&self, id: i64, outcome: String) -> Result<(), StoreError> {
        self.write("close row", move |connection| {
            connection
                .execute("UPDATE intent SET state = 'closed', outcome = ?2 WHERE id = ?1", params![id, outcome])?;
            connection.execute(
                "DELETE FROM intent WHERE state = 'closed' AND id <= (SELECT max(id) FROM intent) - ?1",
                [CLOSED_MAX],
            )?;
            Ok(())
        })
        .await
    }

    /// Runs on a thread that may block for an fsync. A caller that is dropped meanwhile does not stop it.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|source| StoreError::Sqlite { operation, path: self.path.clone(), source }),
            Err(_) => Err(StoreError::Abandoned { path: self.path.clone() }),
        }
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_WAIT)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // Takes the lock now, not at the first write.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

fn create(connection: &Connection, chain_id: u64, address: Address) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(CREATE)?;
    transaction.execute("INSERT INTO owner VALUES (?1, ?2)", params![chain_id.cast_signed(), address.as_slice()])?;
    transaction.commit()
}

fn write_state(connection: &Connection, id: i64, state: &State) -> rusqlite::Result<()> {
    match state {
        State::Queued => connection
            .execute("UPDATE intent SET state = 'queued', nonce = NULL, overtaken_at = NULL WHERE id = ?1", [id]),
        State::InFlight { nonce, overtaken_at } => connection.execute(
            "UPDATE intent SET state = 'in_flight', nonce = ?2, overtaken_at = ?3 WHERE id = ?1",
            params![id, nonce.cast_signed(), overtaken_at.map(u64::cast_signed)],
        ),
        State::Mined { nonce, inclusion, is_answered } => connection.execute(
            "UPDATE intent SET state = 'mined', nonce = :nonce, overtaken_at = NULL, tx = :tx, block = :block,
             block_hash = :block_hash, is_success = :is_success, fee_wei = :fee_wei, is_answered = :is_answered
             WHERE id = :id",
            named_params! {
                ":id": id,
                ":nonce": nonce.cast_signed(),
                ":tx": inclusion.hash.as_slice(),
                ":block": inclusion.block.cast_signed(),
                ":block_hash": inclusion.block_hash.as_slice(),
                ":is_success": inclusion.is_success,
                ":fee_wei": inclusion.fee_wei.to_string(),
                ":is_answered": is_answered,
            },
        ),
    }?;
    Ok(())
}

fn read_unfinished(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut versions = connection.prepare("SELECT * FROM version WHERE intent = ?1 ORDER BY rowid")?;
    let mut intents = connection.prepare("SELECT * FROM intent WHERE state <> 'closed' ORDER BY id")?;
    let rows = intents.query_map([], |record| {
        let id = record.get("id")?;
        let versions = versions.query_map([id], version_of)?.collect::<Result<_, _>>()?;
        let intent = Intent {
            key: record.get("key")?,
            to: address_of(record, "target")?,
            data: Bytes::from(record.get::<_, Vec<u8>>("data")?),
            value_wei: decimal(record, "value_wei")?,
        };
        Ok(Row { id, intent, state: state_of(record)?, versions, timers: Timers::default() })
    })?;
    rows.collect()
}

fn state_of(record: &Record<'_>) -> rusqlite::Result<State> {
    let nonce = |record: &Record<'_>| Ok::<_, rusqlite::Error>(record.get::<_, i64>("nonce")?.cast_unsigned());
    match record.get::<_, String>("state")?.as_str() {
        "in_flight" => Ok(State::InFlight {
            nonce: nonce(record)?,
            overtaken_at: record.get::<_, Option<i64>>("overtaken_at")?.map(i64::cast_unsigned),
        }),
        "mined" => Ok(State::Mined {
            nonce: nonce(record)?,
            inclusion: Inclusion {
                hash: B256::from(record.get::<_, [u8; 32]>("tx")?),
                block: record.get::<_, i64>("block")?.cast_unsigned(),
                block_hash: B256::from(record.get::<_, [u8; 32]>("block_hash")?),
                is_success: record.get("is_success")?,
                fee_wei: decimal(record, "fee_wei")?,
            },
            is_answered: record.get("is_answered")?,
        }),
        _ => Ok(State::Queued),
    }
}

fn version_of(record: &Record<'_>) -> rusqlite::Result<Version> {
    let max_fee_wei = decimal(record, "max_fee_wei")?;
    let bid = match record.get::<_, i64>("kind")? {
        0 => Bid::Legacy { gas_price_wei: max_fee_wei },
        _ => Bid::Dynamic { max_fee_wei, tip_wei: decimal(record, "tip_wei")? },
    };
    Ok(Version {
        hash: B256::from(record.get::<_, [u8; 32]>("hash")?),
        nonce: record.get::<_, i64>("nonce")?.cast_unsigned(),
        gas: record.get::<_, i64>("gas")?.cast_unsigned(),
        bid,
        raw: Bytes::from(record.get::<_, Vec<u8>>("raw")?),
    })
}

fn address_of(record: &Record<'_>, column: impl rusqlite::RowIndex) -> rusqlite::Result<Address> {
    Ok(Address::from(record.get::<_, [u8; 20]>(column)?))
}

fn decimal<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    record: &Record<'_>,
    column: &str,
) -> rusqlite::Result<T> {
    let text: String = record.get(column)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::U256;

    const ME: Address = Address::repeat_byte(7);

    fn intent(key: &str) -> Intent {
        Intent { key: key.to_owned(), to: ME, data: Bytes::from_static(b"call"), value_wei: U256::MAX }
    }

    fn version(nonce: u64) -> Version {
        let bid = Bid::Dynamic { max_fee_wei: u128::MAX, tip_wei: 1 };
        Version {
            hash: B256::with_last_byte(nonce.to_le_bytes()[0]),
            nonce,
            gas: 21_000,
            bid,
            raw: Bytes::from_static(b"raw"),
        }
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.sqlite");
        let store = Store::open(&path, 31_337, ME).expect("opens");
        let row = store.insert(intent("a")).await.expect("inserts");
        let queued = store.insert(intent("b")).await.expect("inserts");
        let closed = store.insert(intent("c")).await.expect("inserts");
        let state = State::InFlight { nonce: u64::MAX, overtaken_at: Some(3) };
        store.sign(row.id, version(4), state).await.expect("signs");
        store.close(closed.id, "reverts".to_owned()).await.expect("closes");
        drop(store);

        let rows = Store::open(&path, 31_337, ME).expect("opens").unfinished().expect("reads");
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].state, &rows[0].versions), (state, &vec![version(4)]));
        assert_eq!((&rows[1].intent, rows[1].state, rows[1].id), (&intent("b"), State::Queued, queued.id));
    }

    #[tokio::test]
    async fn a_mined_row_keeps_its_receipt() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.sqlite");
        let store = Store::open(&path, 1, ME).expect("opens");
        let row = store.insert(intent("a")).await.expect("inserts");
        let inclusion = Inclusion {
            hash: B256::repeat_byte(1),
            block: 9,
            block_hash: B256::repeat_byte(2),
            is_success: false,
            fee_wei: U256::MAX,
        };
        let state = State::Mined { nonce: 5, inclusion, is_answered: true };
        store.set(row.id, state).await.expect("stores");
        assert_eq!(store.unfinished().expect("reads")[0].state, state);
    }

    #[tokio::test]
    async fn two_rows_never_hold_one_nonce() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("outbox.sqlite"), 1, ME).expect("opens");
        let (first, second) = (store.insert(intent("a")).await, store.insert(intent("b")).await);
        let state = State::InFlight { nonce: 4, overtaken_at: None };
        store.set(first.expect("inserts").id, state).await.expect("stores");
        store.set(second.expect("inserts").id, state).await.expect_err("the nonce is held");
    }

    #[test]
    fn a_file_of_another_key_chain_or_schema_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.sqlite");
        drop(Store::open(&path, 1, ME).expect("opens"));
        assert!(matches!(Store::open(&path, 2, ME), Err(StoreError::Foreign { chain_id: 1, .. })));
        assert!(matches!(Store::open(&path, 1, Address::ZERO), Err(StoreError::Foreign { address: ME, .. })));
        let connection = Connection::open(&path).expect("opens");
        connection.pragma_update(None, "user_version", 9).expect("writes");
        drop(connection);
        assert!(matches!(Store::open(&path, 1, ME), Err(StoreError::Schema { found: 9, .. })));
    }
}
