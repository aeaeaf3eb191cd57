//! What was bid for a task: the one thing that the chain tells in a log alone.
//!
//! `Task` keeps when a provider attempted it, not for how much; that stands in the event `Attempted`, which is not
//! indexed. So the block is found by its time, which narrows down geometrically, and its logs are read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use alloy::providers::Provider;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{BlockNumberOrTag, Filter};
use alloy::sol_types::SolEvent;
use alloy_primitives::U64;
use serde::Deserialize;
use work::{ProviderId, TaskId, Wei};

use super::{Moment, ReadError};
use crate::abi::Nexus;
use crate::rpc::Rpc;

/// Blocks whose logs are asked for at once. Source: public nodes commonly allow 1,000 to 10,000.
const RANGE_BLOCKS: u64 = 1_000;

/// Ranges at most, for chains on which very many blocks have one time.
const RANGES_MAX: usize = 32;

/// Blocks looked at in one round trip.
const PROBES: u64 = 32;

/// Round trips at most: the first one leaves half of the chain, each further one a 32nd of that, so eight reach 2⁴⁰ blocks.
const ROUNDS_MAX: usize = 8;

/// Bids that are remembered. Twice what a rig with thousands of receivables polls.
const KNOWN_MAX: usize = 10_000;

/// Bids that were found once, so that a task that is polled costs its search once. A re-org that moves an attempt gives
/// it another time, and with that another entry.
#[derive(Debug, Default)]
pub(crate) struct KnownBids(Mutex<BTreeMap<(TaskId, ProviderId, u64), Wei>>);

/// Where the blocks of one time can be, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: u64,
    to: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Block {
    number: U64,
    timestamp: U64,
}

// === impl KnownBids ===

impl KnownBids {
    fn get(&self, key: &(TaskId, ProviderId, u64)) -> Option<Wei> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn put(&self, key: (TaskId, ProviderId, u64), bid_wei: Wei) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.pop_first();
        }
        known.insert(key, bid_wei);
    }
}

/// Finds what `provider` asked for `task`, in wei, when it attempted it at `attempted_at` (Unix seconds).
///
/// Errors: [`ReadError::BidMissing`] when the node no longer has the log.
pub(super) async fn find(
    rpc: &Rpc,
    head: Moment,
    task: TaskId,
    provider: ProviderId,
    attempted_at: u64,
) -> Result<Wei, ReadError> {
    let key = (task, provider, attempted_at);
    if let Some(bid_wei) = rpc.known_bids().get(&key) {
        return Ok(bid_wei);
    }
    let bid_wei = search(rpc, head, task, provider, attempted_at).await?;
    rpc.known_bids().put(key, bid_wei);
    Ok(bid_wei)
}

async fn search(
    rpc: &Rpc,
    head: Moment,
    task: TaskId,
    provider: ProviderId,
    attempted_at: u64,
) -> Result<Wei, ReadError> {
    let mut span = Span { from: 0, to: head.block };
    let mut probes = span.probes_from_end();
    for _round in 0..ROUNDS_MAX {
        if span.to - span.from < RANGE_BLOCKS {
            break;
        }
        for (block, time) in times(rpc, &probes).await? {
            span.narrow(block, time, attempted_at);
        }
        probes = span.probes_within();
    }
    for range in span.ranges().take(RANGES_MAX) {
        if let Some(bid_wei) = find_in(rpc, range, task, provider).await? {
            return Ok(bid_wei);
        }
    }
    Err(ReadError::BidMissing { task, provider })
}

/// The bid in these blocks.
async fn find_in(rpc: &Rpc, range: Span, task: TaskId, provider: ProviderId) -> Result<Option<Wei>, ReadError> {
    let filter = Filter::new()
        .address(rpc.network().contracts.nexus)
        .event_signature(Nexus::Attempted::SIGNATURE_HASH)
        .from_block(range.from)
        .to_block(range.to);
    let logs = rpc.provider().get_logs(&filter).await;
    let logs = logs.map_err(|source| ReadError::NoAnswer { what: "logs of attempts", source })?;
    let attempts = logs.iter().rev().filter_map(|log| Nexus::Attempted::decode_log(&log.inner).ok());
    let mut ours = attempts.filter(|attempt| attempt.task == task.0 && attempt.provider == provider.0);
    Ok(ours.next().map(|attempt| attempt.suggestedPayment))
}

/// Number and time of each block; blocks that the node does not have are left out.
async fn times(rpc: &Rpc, blocks: &[u64]) -> Result<Vec<(u64, u64)>, ReadError> {
    let no_answer = |source| ReadError::NoAnswer { what: "times of blocks", source };
    let provider = rpc.provider();
    let mut batch = BatchRequest::new(provider.client());
    let mut waiting = Vec::with_capacity(blocks.len());
    for block in blocks {
        let params = (BlockNumberOrTag::Number(*block), false);
        waiting.push(batch.add_call::<_, Option<Block>>("eth_getBlockByNumber", &params).map_err(no_answer)?);
    }
    batch.send().await.map_err(no_answer)?;
    let mut times = Vec::with_capacity(blocks.len());
    for block in waiting {
        if let Some(block) = block.await.map_err(no_answer)? {
            times.push((block.number.to(), block.timestamp.to()));
        }
    }
    Ok(times)
}

// === impl Span ===

impl Span {
    /// Distances that double from the end: what is looked for is mostly young.
    fn probes_from_end(self) -> Vec<u64> {
        let distances = std::iter::successors(Some(RANGE_BLOCKS / 2), |distance| distance.checked_mul(2));
        distances.map_while(|distance| self.to.checked_sub(distance)).filter(|block| *block >= self.from).collect()
    }

    /// Points at equal distances.
    fn probes_within(self) -> Vec<u64> {
        let step = ((self.to - self.from) / (PROBES + 1)).max(1);
        (1..=PROBES).map(|i| self.from + i * step).filter(|block| *block < self.to).collect()
    }

    /// The span in pieces of [`RANGE_BLOCKS`], oldest first.
    fn ranges(self) -> impl Iterator<Item = Span> {
        let starts = (0..).map(move |i| self.from + i * RANGE_BLOCKS).take_while(move |from| *from <= self.to);
        starts.map(move |from| Span { from, to: self.to.min(from + RANGE_BLOCKS - 1) })
    }

    /// Takes in that `block` has the time `time`. Times never fall along a chain, and may repeat.
    fn narrow(&mut self, block: u64, time: u64, wanted: u64) {
        if time < wanted {
            self.from = self.from.max(block + 1).min(self.to);
        } else if time > wanted {
            self.to = self.to.min(block.saturating_sub(1)).max(self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_block_of_an_attempt_stays_in_the_span_and_the_span_gets_short(
            gaps in proptest::collection::vec(0u64..5, 1..2000),
            scale in 1u64..5000,
            pick in any::<prop::sample::Index>(),
        ) {
            // Every `gap` stands for `scale` blocks, of which the last one advances the time.
            let mut time = 1_000;
            let starts: Vec<u64> = gaps.iter().map(|gap| { time += gap; time }).collect();
            let time_of = |block: u64| starts[usize::try_from(block / scale).expect("small")] + (block % scale) / 4;
            let monotone = |block: u64| (0..=block / scale).map(|i| time_of((i * scale + scale - 1).min(block))).max();
            let head = starts.len() as u64 * scale - 1;
            let block = pick.index(usize::try_from(head + 1).expect("small")) as u64;
            let wanted = monotone(block).expect("not empty");

            let mut span = Span { from: 0, to: head };
            let mut probes = span.probes_from_end();
            for _round in 0..ROUNDS_MAX {
                if span.to - span.from < RANGE_BLOCKS {
                    break;
                }
                prop_assert!(probes.len() <= 64);
                for probe in probes {
                    span.narrow(probe, monotone(probe).expect("not empty"), wanted);
                }
                prop_assert!(span.from <= block && block <= span.to, "{span:?} lost {block}");
                probes = span.probes_within();
            }
        }
    }

    #[test]
    fn a_million_blocks_of_one_second_are_narrowed_in_three_rounds() {
        for wanted in [0, 1, 500_000, 999_000, 1_000_000] {
            let mut span = Span { from: 0, to: 1_000_000 };
            let mut probes = span.probes_from_end();
            let mut rounds = 0;
            while span.to - span.from >= RANGE_BLOCKS {
                rounds += 1;
                probes.iter().for_each(|block| span.narrow(*block, *block, wanted));
                probes = span.probes_within();
            }
            assert!(rounds <= 3, "{rounds} rounds for {wanted}");
            assert!((span.from..=span.to).contains(&wanted));
        }
    }
}
