//! The rigs that answered, and what speaks against them.
//!
//! Invariants: an answer adds a row or makes its own row worse, and never takes another away; two rows that claim one
//! address, and a row whose claims changed to another address, stay in the list and are not to be paired; there are at
//! most [`ROWS_MAX`] rows.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::Address;

use super::record::{Record, RecordError, harmless};

/// More rigs than one network segment has.
pub(crate) const ROWS_MAX: usize = 1024;

/// One answer that is a rig's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The host's name on the network, safe to show.
    pub(crate) host: String,
    pub(crate) record: Record,
    /// What speaks against it.
    pub(crate) doubt: Option<Doubt>,
}

/// Why the network's word is not enough to pair a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Another answer claims the same address.
    SameAddress,
    /// This answer claimed another address before.
    Changed,
}

/// All answers so far.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// By the name of the service's instance.
    rows: BTreeMap<String, Row>,
    unreadable: BTreeMap<String, RecordError>,
    left_out: BTreeSet<u64>,
}

// === impl Doubt ===

impl Doubt {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Doubt::SameAddress => "two answers claim this address",
            Doubt::Changed => "its answer changed to another address",
        }
    }
}

// === impl List ===

impl List {
    /// Enters what `instance` on `host` says.
    pub(crate) fn enter(&mut self, instance: &str, host: &str, said: Result<Record, RecordError>) {
        let record = match said {
            Ok(record) => record,
            Err(error) => {
                if self.unreadable.len() < ROWS_MAX {
                    self.unreadable.insert(instance.to_owned(), error);
                }
                return;
            }
        };
        if let Some(row) = self.rows.get_mut(instance) {
            if row.record.address == record.address {
                row.record = record;
            } else {
                row.doubt = Some(Doubt::Changed);
            }
        } else if self.rows.len() < ROWS_MAX {
            let host = harmless(host.trim_end_matches('.'));
            self.rows.insert(instance.to_owned(), Row { host, record, doubt: None });
        } else if self.left_out.len() < ROWS_MAX {
            self.left_out.insert(fingerprint(instance));
        }
    }

    /// The rows by name and address, with their doubts.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut claims: BTreeMap<Address, usize> = BTreeMap::new();
        self.rows.values().for_each(|row| *claims.entry(row.record.address).or_default() += 1);
        let mut rows: Vec<Row> = self.rows.values().cloned().collect();
        for row in &mut rows {
            if claims.get(&row.record.address).is_some_and(|count| *count > 1) {
                row.doubt = row.doubt.or(Some(Doubt::SameAddress));
            }
        }
        rows.sort_by(|a, b| {
            (&a.record.name, a.record.address, &a.host).cmp(&(&b.record.name, b.record.address, &b.host))
        });
        rows
    }

    /// Answers that are no rig's, up to [`ROWS_MAX`] of them, and why the first is not.
    pub(crate) fn unreadable(&self) -> (usize, Option<&RecordError>) {
        (self.unreadable.len(), self.unreadable.values().next())
    }

    /// Rigs for which there was no row, up to [`ROWS_MAX`] of them.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out.len()
    }
}

/// Enough to count instances without keeping their names.
fn fingerprint(instance: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use signer::{KeyState, Tier};

    use super::*;

    fn record(number: u16, name: &str) -> Record {
        let mut address = [0; 20];
        address[..2].copy_from_slice(&number.to_be_bytes());
        let (tier, state) = (Tier::B, KeyState::Open);
        Record { address: address.into(), tier, state, name: name.to_owned(), owner: None, is_paired: false }
    }

    fn doubts(list: &List) -> Vec<(String, Option<Doubt>)> {
        list.rows().into_iter().map(|row| (row.host, row.doubt)).collect()
    }

    #[test]
    fn one_address_on_two_hosts_is_shown_twice_and_trusted_never() {
        let mut list = List::default();
        list.enter("one", "alpha.local.", Ok(record(1, "a")));
        list.enter("two", "beta.local.", Ok(record(2, "b")));
        list.enter("three", "gamma.local.", Ok(record(1, "c")));
        let doubt = Some(Doubt::SameAddress);
        let expected = [("alpha.local", doubt), ("beta.local", None), ("gamma.local", doubt)];
        assert_eq!(doubts(&list), expected.map(|(host, doubt)| (host.to_owned(), doubt)));
    }

    #[test]
    fn an_answer_that_comes_again_is_one_row_and_one_that_changes_its_address_is_doubted() {
        let mut list = List::default();
        list.enter("one", "alpha", Ok(record(1, "a")));
        list.enter("one", "alpha", Ok(Record { is_paired: true, ..record(1, "a") }));
        assert!(matches!(list.rows().as_slice(), [Row { doubt: None, record, .. }] if record.is_paired));
        list.enter("one", "alpha", Ok(record(2, "a")));
        list.enter("one", "alpha", Ok(record(1, "a")));
        assert_eq!(doubts(&list), [("alpha".to_owned(), Some(Doubt::Changed))]);
        assert_eq!(list.rows()[0].record.address, record(1, "a").address, "the first claim stays");
    }

    #[test]
    fn a_flood_adds_rows_up_to_the_bound_and_takes_none_away() {
        let mut list = List::default();
        list.enter("mine", "mine", Ok(record(u16::MAX, "mine")));
        for number in 0..5_000 {
            list.enter(&format!("flood {number}"), "h\x1b[2J", Ok(record(number, "flood")));
            list.enter(&format!("noise {number}"), "h", Err(RecordError::Code));
        }
        assert_eq!((list.rows().len(), list.unreadable().0, list.left_out()), (ROWS_MAX, ROWS_MAX, ROWS_MAX));
        let rows = list.rows();
        assert!(rows.iter().any(|row| row.record.name == "mine" && row.doubt.is_none()));
        assert!(rows.iter().all(|row| !row.host.contains('\x1b')));
    }
}
