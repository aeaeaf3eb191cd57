//! What belongs to one address: the ledger and the outbox. Another address begins with its own.
//!
//! ```text
//! state/address            whose the files beside it are
//! state/ledger.db …        the files of that address
//! state/of-0x…/ledger.db   those of an address that was here before, until it comes back
//! ```
//!
//! Invariants:
//! - Files move by renames within one file system; none is ever deleted or overwritten.
//! - `address` is written after the old files went and before the new ones come back, so that a crash between any two
//!   steps is finished by the next start, for whichever address that is.
//! - A folder without `address` belongs to whom its ledger says, and without one to whoever comes.
//!
//! The content store is shared: what it holds can be fetched again, or belongs to tasks that the old key had to answer.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::Address;
use thiserror::Error;
use tracing::info;

use crate::ledger::{Ledger, LedgerError};

/// The file that says whose the others are.
const OWNER_FILE: &str = "address";

/// What belongs to an address. SQLite's journals travel with their databases.
const FILES: [&str; 6] = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "outbox.db", "outbox.db-wal", "outbox.db-shm"];

/// Why the files of this address cannot be used.
#[derive(Debug, Error)]
pub enum AsideError {
    /// The file system refused.
    #[error("{what} {}", path.display())]
    Files {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file that says whose the others are says something else.
    #[error("{} holds no address: write the address that the ledger beside it belongs to", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
    },
    /// Both places hold a file: only a person can say which is right.
    #[error("{} and {} are both there: move one of them away", from.display(), to.display())]
    Both {
        /// What was to be moved.
        from: PathBuf,
        /// What stands in its way.
        to: PathBuf,
    },
    /// The ledger of a folder without an owner cannot be read.
    #[error("read whose ledger is in {}", path.display())]
    Ledger {
        /// The folder.
        path: PathBuf,
        /// What the ledger said.
        #[source]
        source: Box<LedgerError>,
    },
}

/// Makes the folder `state` that of `me`: what another address left is put aside, and what `me` left is brought back.
/// Call it before the databases are opened. Errors: [`AsideError`].
pub fn settle(state: &Path, me: Address) -> Result<(), AsideError> {
    let before = owner(state)?;
    if let Some(other) = before.filter(|other| *other != me) {
        info!(%other, %me, "the ledger of another address is put aside");
        move_all(state, &aside(state, other))?;
    }
    if before != Some(me) {
        write_owner(state, me)?;
    }
    let mine = aside(state, me);
    if mine.is_dir() {
        move_all(&mine, state)?;
        // Empty now; if something else was put there, it stays.
        let _ = fs::remove_dir(&mine);
    }
    Ok(())
}

/// Where the files of `address` are while another is here.
fn aside(state: &Path, address: Address) -> PathBuf {
    state.join(format!("of-{address:#x}"))
}

/// Whose the files are; `None`: nobody's yet.
fn owner(state: &Path) -> Result<Option<Address>, AsideError> {
    let path = state.join(OWNER_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| AsideError::Owner { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => owner_by_ledger(state),
        Err(error) => Err(fail("read", &path)(error)),
    }
}

fn owner_by_ledger(state: &Path) -> Result<Option<Address>, AsideError> {
    let path = state.join(FILES[0]);
    if !path.exists() {
        return Ok(None);
    }
    let book = Ledger::open(&path).and_then(|ledger| ledger.replay());
    let book = book.map_err(|source| AsideError::Ledger { path: state.to_owned(), source: Box::new(source) })?;
    Ok(book.rig().map(|rig| rig.provider.0))
}

/// Whole or absent: written beside, then renamed.
fn write_owner(state: &Path, me: Address) -> Result<(), AsideError> {
    let (path, beside) = (state.join(OWNER_FILE), state.join("address.new"));
    let mut file = fs::File::create(&beside).map_err(fail("make", &beside))?;
    file.write_all(format!("{me}\n").as_bytes()).map_err(fail("write", &beside))?;
    file.sync_all().map_err(fail("write", &beside))?;
    fs::rename(&beside, &path).map_err(fail("write", &path))?;
    sync(state)
}

fn move_all(from: &Path, to: &Path) -> Result<(), AsideError> {
    fs::create_dir_all(to).map_err(fail("make", to))?;
    for name in FILES {
        let (from, to) = (from.join(name), to.join(name));
        match (from.exists(), to.exists()) {
            (true, true) => return Err(AsideError::Both { from, to }),
            (true, false) => fs::rename(&from, &to).map_err(fail("move", &from))?,
            (false, _) => {}
        }
    }
    sync(from)?;
    sync(to)
}

fn sync(folder: &Path) -> Result<(), AsideError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("write", folder))
}

fn fail(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AsideError {
    let path = path.to_owned();
    move |source| AsideError::Files { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const A: Address = Address::repeat_byte(0xa);
    const B: Address = Address::repeat_byte(0xb);

    fn put(state: &Path, names: &[&str], whose: &str) {
        for name in names {
            fs::write(state.join(name), format!("{whose}'s {name}")).expect("writes");
        }
    }

    /// Every file of the address that is here, with what it holds.
    fn here(state: &Path) -> BTreeMap<&'static str, String> {
        FILES.iter().filter_map(|name| Some((*name, fs::read_to_string(state.join(name)).ok()?))).collect()
    }

    #[test]
    fn each_address_finds_its_own_again_and_nothing_is_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        settle(dir.path(), A).expect("settles");
        put(dir.path(), &["ledger.db", "ledger.db-wal", "outbox.db"], "a");
        put(dir.path(), &["callback.key"], "everybody");
        settle(dir.path(), A).expect("settles");
        let of_a = here(dir.path());
        assert_eq!(of_a.len(), 3);

        settle(dir.path(), B).expect("settles");
        assert!(here(dir.path()).is_empty() && dir.path().join("callback.key").exists());
        assert!(dir.path().join(format!("of-{A:#x}/ledger.db")).exists());
        put(dir.path(), &["ledger.db", "outbox.db"], "b");

        settle(dir.path(), A).expect("settles");
        assert_eq!(here(dir.path()), of_a);
        settle(dir.path(), B).expect("settles");
        assert_eq!(here(dir.path())["ledger.db"], "b's ledger.db");
    }

    #[test]
    fn a_crash_between_any_two_moves_is_finished_by_the_next_start_of_either() {
        // A power cut leaves a prefix of the moves, with `address` written or not.
        for moved in 0..=3 {
            for (is_written, next) in [(false, A), (false, B), (true, A), (true, B)] {
                let dir = tempfile::tempdir().expect("a folder");
                let names = ["ledger.db", "ledger.db-wal", "outbox.db"];
                settle(dir.path(), A).expect("settles");
                put(dir.path(), &names, "a");
                let of_a = here(dir.path());
                let (from, to) = (dir.path(), aside(dir.path(), A));
                fs::create_dir(&to).expect("makes");
                for name in &names[..moved] {
                    fs::rename(from.join(name), to.join(name)).expect("moves");
                }
                if is_written && moved == 3 {
                    write_owner(dir.path(), B).expect("writes");
                }
                settle(dir.path(), next).expect("settles");
                assert_eq!(here(dir.path()).is_empty(), next == B, "{moved} {is_written}");
                settle(dir.path(), A).expect("settles");
                assert_eq!(here(dir.path()), of_a, "{moved} {is_written}");
            }
        }
    }

    #[test]
    fn two_files_for_one_place_are_left_to_a_person() {
        let dir = tempfile::tempdir().expect("a folder");
        settle(dir.path(), A).expect("settles");
        put(dir.path(), &["ledger.db"], "a");
        fs::create_dir(aside(dir.path(), A)).expect("makes");
        put(&aside(dir.path(), A), &["ledger.db"], "another a");
        let error = settle(dir.path(), A).expect_err("both are there");
        assert!(error.to_string().contains("move one of them away"), "{error}");
        assert_eq!(here(dir.path())["ledger.db"], "a's ledger.db");
    }

    #[test]
    fn an_owner_that_is_no_address_is_refused() {
        for text in ["", "0x12", "attic", "\0"] {
            let dir = tempfile::tempdir().expect("a folder");
            fs::write(dir.path().join(OWNER_FILE), text).expect("writes");
            let error = settle(dir.path(), A).expect_err(text);
            assert!(error.to_string().contains("holds no address"), "{error}");
        }
    }

    #[test]
    fn a_ledger_without_an_owner_says_itself_whose_it_is() {
        use work::{Fact, News};
        let dir = tempfile::tempdir().expect("a folder");
        let mut ledger = Ledger::open(&dir.path().join("ledger.db")).expect("opens");
        let settings = include_str!("../../rig.example.toml");
        let settings: crate::settings::Settings =
            chain::settings::parse_toml(settings, Path::new("rig.toml")).expect("parses");
        let rig = settings.rig(A, String::new(), settings.environments(false));
        let began = Fact { at: 1, news: News::Began { rig: Box::new(rig) } };
        ledger.append::<()>(&[began], None).expect("appends");
        drop(ledger);
        settle(dir.path(), B).expect("settles");
        assert!(here(dir.path()).is_empty());
        settle(dir.path(), A).expect("settles");
        let book = Ledger::open(&dir.path().join("ledger.db")).and_then(|ledger| ledger.replay()).expect("replays");
        assert_eq!(book.rig().map(|rig| rig.provider.0), Some(A));
    }
}
