//! Which blocks are scanned next: the pure half of the watch.
//!
//! Invariants:
//! * Every block of the chain that stays is scanned at least once, whatever the order of heads, failures and re-orgs, as
//!   long as no re-org reaches deeper than [`REORG_DEPTH`] below the highest head.
//! * The cursor names the last scanned block by number *and* hash, and each question carries the cursor along: blocks
//!   above it are only taken from an endpoint whose chain still holds it.
//! * An endpoint that does not know a block says nothing about that block.
//!
//! ```text
//!   first ……… cursor-15 ……… cursor │ cursor+1 ……… head
//!                  └── overlap ────┘└── not scanned ──┘     one pass, in ranges of `span`
//! ```

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// Blocks below the cursor that every pass scans again: a replica may have served a block before all of its logs, or
/// switched chains between two answers.
pub const OVERLAP: u64 = 16;

/// How far a pass goes back when the cursor's block has left the chain. Source: our own bound; the network claims
/// finality after about a second (protocol.md §1), and 64 is Ethereum's two epochs.
pub const REORG_DEPTH: u64 = 64;

/// The last block whose logs were delivered, as the chain was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Its number.
    pub block: u64,
    /// Its hash.
    pub hash: B256,
}

/// What has been scanned and what comes next.
#[derive(Debug)]
pub(crate) struct Course {
    first: u64,
    /// `None` before the first range, and after a re-org until the first range of the new chain.
    cursor: Option<Cursor>,
    /// The next block of the pass under way; `None` between passes.
    next: Option<u64>,
    span: u64,
    span_max: u64,
}

/// What to do at a given head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// All is scanned.
    Rest,
    /// The head is below what was scanned already: this endpoint lags.
    Behind,
    /// Scan this range.
    Ask(Range),
}

/// A question to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First block, inclusive.
    pub(crate) from: u64,
    /// Last block, inclusive.
    pub(crate) to: u64,
    /// The cursor that the answering chain must hold.
    pub(crate) known: Option<Cursor>,
}

/// What an endpoint says of the blocks that bound a range. `None`: it does not know the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    /// The hash of block `to` when its logs were read.
    pub(crate) to: Option<B256>,
    /// The hash at the height of the cursor; without meaning when the range has no cursor.
    pub(crate) known: Option<B256>,
}

/// Whether the logs of a range count.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They do; the cursor stands here now.
    Scanned(Cursor),
    /// The endpoint does not know the blocks that it was asked about.
    Behind,
    /// The cursor's block has left the chain; the next range begins below it.
    Reorganised,
}

// === impl Course ===

impl Course {
    /// Begins after `cursor`, or at block `first`. Ranges have at most `span_max` blocks.
    pub(crate) fn new(first: u64, cursor: Option<Cursor>, span_max: u64) -> Course {
        let span_max = span_max.max(1);
        Course { first, cursor, next: None, span: span_max, span_max }
    }

    /// The last scanned block.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// What to do when the newest block is `head`.
    pub(crate) fn plan(&mut self, head: Cursor) -> Plan {
        if let Some(cursor) = self.cursor {
            if head.block < cursor.block {
                return Plan::Behind;
            }
            if head == cursor && self.next.is_none() {
                return Plan::Rest;
            }
            if head.block == cursor.block && head.hash != cursor.hash {
                self.go_back(cursor);
            }
        }
        let from = self.next.unwrap_or_else(|| match self.cursor {
            Some(cursor) => self.first.max((cursor.block + 1).saturating_sub(OVERLAP)),
            None => self.first,
        });
        if head.block < from {
            // Either the network is younger than the block to begin at, or a re-org went below what was scanned.
            return if from == self.first { Plan::Rest } else { Plan::Behind };
        }
        self.next = Some(from);
        let to = head.block.min(from.saturating_add(self.span - 1));
        Plan::Ask(Range { from, to, known: self.cursor })
    }

    /// Takes the answer to `range`.
    pub(crate) fn enter(&mut self, range: Range, witness: Witness) -> Verdict {
        if let Some(known) = range.known {
            match witness.known {
                None => return Verdict::Behind,
                Some(hash) if hash != known.hash => {
                    self.go_back(known);
                    return Verdict::Reorganised;
                }
                Some(_) => {}
            }
        }
        let Some(hash) = witness.to else { return Verdict::Behind };
        let end = Cursor { block: range.to, hash };
        let cursor = match self.cursor {
            Some(cursor) if cursor.block >= end.block => cursor,
            _ => end,
        };
        self.cursor = Some(cursor);
        self.next = Some(range.to + 1);
        self.span = self.span.saturating_mul(2).min(self.span_max);
        Verdict::Scanned(cursor)
    }

    /// A range that was not answered: too many results, too slow, or weather. The next one is half as long.
    pub(crate) fn enter_failure(&mut self) {
        self.span = (self.span / 2).max(1);
    }

    /// Ends the pass that reached `head`. The next one begins with the overlap.
    pub(crate) fn end_pass(&mut self) {
        self.next = None;
    }

    fn go_back(&mut self, lost: Cursor) {
        self.cursor = None;
        self.next = Some(self.first.max((lost.block + 1).saturating_sub(REORG_DEPTH)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A chain as some replica sees it: one name per block. A block's name is also its one event.
    type Chain = Vec<u64>;

    fn hash(name: u64) -> B256 {
        B256::left_padding_from(&name.to_be_bytes())
    }

    fn at(chain: &[u64], block: u64) -> Option<u64> {
        chain.get(usize::try_from(block).expect("small")).copied()
    }

    fn head(chain: &[u64]) -> Cursor {
        let block = chain.len() as u64 - 1;
        Cursor { block, hash: hash(chain[chain.len() - 1]) }
    }

    /// One thing that happens while the watch runs.
    #[derive(Clone, Debug)]
    enum Happens {
        Grow(usize),
        /// Drop this many blocks below the highest head, then grow.
        Reorg {
            depth: usize,
            grow: usize,
        },
        /// The watch asks; the head and the range may come from replicas that lag by this many events of history.
        Ask {
            head_lag: usize,
            range_lag: usize,
        },
        /// The range is not answered.
        Fail,
        /// The rig is killed and begins from the cursor that it stored.
        Restart,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            3 => (1usize..40).prop_map(Happens::Grow),
            1 => (1usize..=64, 0usize..70).prop_map(|(depth, grow)| Happens::Reorg { depth, grow }),
            8 => (0usize..4, 0usize..4).prop_map(|(head_lag, range_lag)| Happens::Ask { head_lag, range_lag }),
            2 => Just(Happens::Fail),
            1 => Just(Happens::Restart),
        ]
    }

    struct World {
        /// Every version of the chain that ever was; replicas may still show an old one.
        versions: Vec<Chain>,
        highest: usize,
        names: u64,
        course: Course,
        span_max: u64,
        stored: Option<Cursor>,
        seen: BTreeSet<u64>,
    }

    impl World {
        fn new(span_max: u64) -> World {
            let course = Course::new(0, None, span_max);
            World {
                versions: vec![vec![0]],
                highest: 1,
                names: 1,
                course,
                span_max,
                stored: None,
                seen: BTreeSet::new(),
            }
        }

        fn version(&self, lag: usize) -> &Chain {
            &self.versions[self.versions.len().saturating_sub(1 + lag)]
        }

        fn grow(&mut self, keep: usize, by: usize) {
            let mut chain = self.version(0)[..keep].to_vec();
            chain.extend(self.names..self.names + by as u64);
            self.names += by as u64;
            self.highest = self.highest.max(chain.len());
            self.versions.push(chain);
        }

        /// Returns whether the watch is at rest at the head it saw.
        fn ask(&mut self, head_lag: usize, range_lag: usize, is_answered: bool) -> bool {
            let head = head(self.version(head_lag));
            let range = match self.course.plan(head) {
                Plan::Rest => return true,
                Plan::Behind => return false,
                Plan::Ask(range) => range,
            };
            assert!(range.from <= range.to && range.to - range.from < self.span_max);
            if !is_answered {
                self.course.enter_failure();
                return false;
            }
            let chain = self.version(range_lag).clone();
            let witness = Witness {
                to: at(&chain, range.to).map(hash),
                known: range.known.and_then(|known| at(&chain, known.block)).map(hash),
            };
            if let Verdict::Scanned(cursor) = self.course.enter(range, witness) {
                self.seen.extend((range.from..=range.to).filter_map(|block| at(&chain, block)));
                self.stored = Some(cursor);
                if range.to == head.block {
                    self.course.end_pass();
                }
            }
            false
        }

        fn live(&mut self, what: &Happens) {
            let len = self.version(0).len();
            match *what {
                Happens::Grow(by) => self.grow(len, by),
                Happens::Reorg { depth, grow } => {
                    let keep = self.highest.saturating_sub(depth).clamp(1, len);
                    self.grow(keep, grow);
                }
                Happens::Ask { head_lag, range_lag } => {
                    self.ask(head_lag, range_lag, true);
                }
                Happens::Fail => {
                    self.ask(0, 0, false);
                }
                Happens::Restart => self.course = Course::new(0, self.stored, self.span_max),
            }
        }

        /// The weather clears: the chain outgrows its old height and everybody answers for it.
        fn settle(&mut self) {
            let (len, highest) = (self.version(0).len(), self.highest);
            self.grow(len, highest - len + 1);
            let rounds = 1000;
            assert!((0..rounds).any(|_| self.ask(0, 0, true)), "the watch comes to rest");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_block_of_the_chain_that_stays_is_ever_missed(
            span_max in 1u64..100,
            history in proptest::collection::vec(happens(), 1..120),
        ) {
            let mut world = World::new(span_max);
            history.iter().for_each(|what| world.live(what));
            world.settle();
            let missed: Vec<u64> = world.version(0).iter().filter(|block| !world.seen.contains(block)).copied().collect();
            prop_assert!(missed.is_empty(), "missed {missed:?}");
        }
    }

    #[test]
    fn a_range_shrinks_to_one_block_and_grows_again() {
        let mut course = Course::new(0, None, 1000);
        let head = Cursor { block: 5000, hash: hash(5000) };
        let len = |course: &mut Course| match course.plan(head) {
            Plan::Ask(range) => range.to - range.from + 1,
            other => panic!("{other:?}"),
        };
        assert_eq!(len(&mut course), 1000);
        (0..20).for_each(|_| course.enter_failure());
        assert_eq!(len(&mut course), 1);
        for expected in [2, 4, 8, 16] {
            let Plan::Ask(range) = course.plan(head) else { panic!("there is more to scan") };
            let known = range.known.map(|cursor| cursor.hash);
            course.enter(range, Witness { to: Some(hash(range.to)), known });
            assert_eq!(len(&mut course), expected);
        }
    }

    #[test]
    fn a_head_below_the_cursor_is_not_silence() {
        let cursor = Cursor { block: 100, hash: hash(100) };
        let mut course = Course::new(0, Some(cursor), 1000);
        assert_eq!(course.plan(Cursor { block: 99, hash: hash(99) }), Plan::Behind);
        assert_eq!(course.plan(cursor), Plan::Rest);
    }

    #[test]
    fn another_block_at_the_cursors_height_is_a_reorg() {
        let mut course = Course::new(0, Some(Cursor { block: 100, hash: hash(100) }), 1000);
        let plan = course.plan(Cursor { block: 100, hash: hash(7) });
        assert_eq!(plan, Plan::Ask(Range { from: 37, to: 100, known: None }));
    }
}
