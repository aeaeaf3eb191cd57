//! Rows against a model of a chain: blocks, a pool, re-orgs, a stranger with the same key, replicas that lag.

use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules { confirmations: 2, rebroadcast_after_ms: 5, replace_after_ms: 20 };
/// Re-orgs are up to this deep, replicas lag up to this far.
const DEPTH: usize = 5;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// A block with everything executable from the pool; of several versions the one at this index wins.
    Mine(usize),
    /// Blocks in which nothing of ours is, like a pool that censors.
    Skip(usize),
    /// The pool forgets.
    Drop,
    /// The newest blocks vanish; their transactions return to the pool, or not.
    Reorg(usize, bool),
    /// Somebody else spends the next nonce.
    Stranger,
    /// The outbox looks at a chain as it was so many blocks ago.
    Look(usize),
    /// The process dies and comes back.
    Restart,
    /// Milliseconds pass.
    Wait(u64),
    /// A new intent.
    Intend,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3usize).prop_map(Op::Mine),
        1 => (1..40usize).prop_map(Op::Skip),
        1 => Just(Op::Drop),
        2 => (1..=DEPTH, any::<bool>()).prop_map(|(depth, is_kept)| Op::Reorg(depth, is_kept)),
        1 => Just(Op::Stranger),
        8 => prop_oneof![3 => Just(0), 1 => 0..=DEPTH].prop_map(Op::Look),
        1 => Just(Op::Restart),
        3 => (1..30u64).prop_map(Op::Wait),
        2 => Just(Op::Intend),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tx {
    hash: B256,
    nonce: u64,
    /// `None`: the stranger's.
    row: Option<i64>,
}

#[derive(Debug, Default)]
struct World {
    blocks: Vec<(u64, Vec<Tx>)>,
    pool: Vec<Tx>,
    strangers: Vec<Tx>,
    rows: Vec<Row>,
    settled: Vec<i64>,
    now_ms: u64,
    serial: u64,
}

impl World {
    fn fresh_hash(&mut self) -> B256 {
        self.serial += 1;
        B256::from(U256::from(self.serial))
    }

    fn count(&self, height: usize) -> u64 {
        self.blocks[..height].iter().map(|(_, txs)| txs.len() as u64).sum()
    }

    fn append(&mut self, txs: Vec<Tx>) {
        self.serial += 1;
        self.blocks.push((self.serial, txs));
    }

    fn happen(&mut self, op: Op) {
        match op {
            Op::Mine(choice) => self.mine(choice),
            Op::Skip(blocks) => (0..blocks).for_each(|_| self.append(Vec::new())),
            Op::Drop => self.pool.clear(),
            Op::Reorg(depth, is_kept) => {
                let height = self.blocks.len().saturating_sub(depth);
                let gone: Vec<Tx> = self.blocks.drain(height..).flat_map(|(_, txs)| txs).collect();
                self.pool.extend(gone.into_iter().filter(|_| is_kept));
            }
            Op::Stranger => {
                let tx = Tx { hash: self.fresh_hash(), nonce: self.count(self.blocks.len()), row: None };
                self.strangers.push(tx);
                self.append(vec![tx]);
            }
            Op::Look(lag) => self.look(self.blocks.len().saturating_sub(lag)),
            Op::Restart => self.rows.iter_mut().for_each(|row| row.timers = Timers::default()),
            Op::Wait(ms) => self.now_ms += ms,
            Op::Intend => self.intend(),
        }
    }

    fn mine(&mut self, choice: usize) {
        let mut txs: Vec<Tx> = Vec::new();
        let mut nonce = self.count(self.blocks.len());
        loop {
            let candidates: Vec<Tx> = self.pool.iter().filter(|tx| tx.nonce == nonce).copied().collect();
            let Some(tx) = candidates.get(choice % candidates.len().max(1)) else { break };
            txs.push(*tx);
            nonce += 1;
        }
        self.pool.retain(|tx| tx.nonce >= nonce);
        self.append(txs);
    }

    fn intend(&mut self) {
        let id = i64::try_from(self.rows.len() + self.settled.len()).expect("few rows");
        let intent = Intent { key: id.to_string(), to: Address::ZERO, data: Bytes::new(), value_wei: U256::ZERO };
        let state = State::Queued;
        self.rows.push(Row { id, intent, state, versions: Vec::new(), timers: Timers::default() });
    }

    /// What `OutboxTask` does in one turn, without the wire.
    fn look(&mut self, height: usize) {
        let count = self.count(height);
        for index in 0..self.rows.len() {
            let inclusion = self.inclusion(&self.rows[index], height);
            let seen = Seen { head: height as u64, count, inclusion, now_ms: self.now_ms };
            for _ in 0..4 {
                if !self.turn(index, &seen) {
                    break;
                }
            }
        }
        let settled = &self.settled;
        self.rows.retain(|row| !settled.contains(&row.id));
        for index in 0..self.rows.len() {
            if self.rows[index].state == State::Queued {
                let nonce = choose_nonce(count, self.rows.iter().filter_map(Row::nonce));
                self.sign(index, nonce);
            }
        }
    }

    fn inclusion(&self, row: &Row, height: usize) -> Option<Inclusion> {
        self.blocks[..height].iter().enumerate().find_map(|(index, (serial, txs))| {
            let tx = txs.iter().find(|tx| tx.row == Some(row.id))?;
            Some(Inclusion {
                hash: tx.hash,
                block: index as u64 + 1,
                block_hash: B256::from(U256::from(*serial)),
                is_success: true,
                fee_wei: U256::ZERO,
            })
        })
    }

    fn turn(&mut self, index: usize, seen: &Seen) -> bool {
        let now_ms = self.now_ms;
        let row = &mut self.rows[index];
        match row.next(seen, &RULES) {
            Turn::Stay => return false,
            Turn::Become(state) => {
                row.state = state;
                row.timers = Timers::default();
            }
            Turn::Broadcast => {
                row.timers.sent_at_ms = Some(now_ms);
                row.timers.bid_at_ms.get_or_insert(now_ms);
                self.offer(index);
                return false;
            }
            Turn::Replace => {
                let nonce = row.versions.last().expect("a version is replaced").nonce;
                self.sign(index, nonce);
                return false;
            }
            Turn::Answer(inclusion) => {
                let nonce = row.nonce().expect("a mined row has a nonce");
                row.state = State::Mined { nonce, inclusion, is_answered: true };
            }
            Turn::Settle => {
                self.settled.push(row.id);
                return false;
            }
            Turn::Renew => row.state = State::Queued,
        }
        true
    }

    fn sign(&mut self, index: usize, nonce: u64) {
        let hash = self.fresh_hash();
        let row = &mut self.rows[index];
        row.versions.push(Version { hash, nonce, gas: 0, bid: Bid::Legacy { gas_price_wei: 0 }, raw: Bytes::new() });
        row.state = State::InFlight { nonce, overtaken_at: None };
        row.timers = Timers { sent_at_ms: Some(self.now_ms), bid_at_ms: Some(self.now_ms), ..Timers::default() };
        self.offer(index);
    }

    fn offer(&mut self, index: usize) {
        let row = &self.rows[index];
        let version = row.versions.last().expect("what is offered was signed");
        let tx = Tx { hash: version.hash, nonce: version.nonce, row: Some(row.id) };
        if tx.nonce >= self.count(self.blocks.len()) && !self.pool.contains(&tx) {
            self.pool.push(tx);
        }
    }

    fn times_mined(&self, id: i64) -> usize {
        self.blocks.iter().flat_map(|(_, txs)| txs).filter(|tx| tx.row == Some(id)).count()
    }

    /// Fair weather, until nothing moves any more. The stranger insists too: a nonce below ours that nobody fills again
    /// is `Trouble::NonceMissing`, and for people.
    fn calm_down(&mut self) {
        for _ in 0..4 * FINAL_DEPTH {
            let count = self.count(self.blocks.len());
            self.pool.extend(self.strangers.iter().filter(|tx| tx.nonce >= count));
            self.now_ms += RULES.rebroadcast_after_ms;
            self.happen(Op::Look(0));
            self.happen(Op::Mine(0));
            if self.rows.is_empty() {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_intent_is_mined_exactly_once_whatever_happens(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        world.happen(Op::Intend);
        let mut intents = 1;
        for op in ops {
            world.happen(op);
            intents += i64::from(matches!(op, Op::Intend));
            for id in 0..intents {
                prop_assert!(world.times_mined(id) <= 1, "intent {id} was mined twice after {op:?}");
            }
        }
        world.calm_down();
        for id in 0..intents {
            prop_assert_eq!(world.times_mined(id), 1, "intent {}", id);
        }
        prop_assert!(world.rows.is_empty(), "left over: {:?}", world.rows);
    }

    #[test]
    fn two_rows_never_hold_one_nonce(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        for op in ops {
            world.happen(op);
            let mut nonces: Vec<u64> = world.rows.iter().filter_map(Row::nonce).collect();
            nonces.sort_unstable();
            prop_assert!(nonces.windows(2).all(|pair| pair[0] < pair[1]), "{nonces:?} after {op:?}");
        }
    }
}

#[test]
fn the_nonce_is_what_the_chain_expects_unless_we_hold_more() {
    for (count, held, nonce) in [(0, vec![], 0), (7, vec![], 7), (7, vec![3], 7), (7, vec![7, 8], 9), (2, vec![7], 8)] {
        assert_eq!(choose_nonce(count, held.iter().copied()), nonce, "count {count}, held {held:?}");
    }
}

fn row(state: State) -> Row {
    let intent = Intent { key: "k".to_owned(), to: Address::ZERO, data: Bytes::new(), value_wei: U256::ZERO };
    let bid = Bid::Legacy { gas_price_wei: 1 };
    let versions = vec![Version { hash: B256::repeat_byte(1), nonce: 4, gas: 1, bid, raw: Bytes::new() }];
    Row { id: 1, intent, state, versions, timers: Timers::default() }
}

const INCLUSION: Inclusion = Inclusion {
    hash: B256::repeat_byte(1),
    block: 10,
    block_hash: B256::repeat_byte(2),
    is_success: true,
    fee_wei: U256::ZERO,
};

fn seen(head: u64, count: u64, inclusion: Option<Inclusion>) -> Seen {
    Seen { head, count, inclusion, now_ms: 1_000 }
}

#[test]
fn a_replica_that_has_not_reached_the_block_proves_nothing() {
    let mined = row(State::Mined { nonce: 4, inclusion: INCLUSION, is_answered: true });
    assert_eq!(mined.next(&seen(9, 4, None), &RULES), Turn::Stay);
    let again = Turn::Become(State::InFlight { nonce: 4, overtaken_at: None });
    assert_eq!(mined.next(&seen(10, 4, None), &RULES), again);
}

#[test]
fn a_transaction_is_answered_at_the_depth_that_the_network_names() {
    let mined = row(State::Mined { nonce: 4, inclusion: INCLUSION, is_answered: false });
    assert_eq!(mined.next(&seen(10, 5, Some(INCLUSION)), &RULES), Turn::Stay);
    assert_eq!(mined.next(&seen(11, 5, Some(INCLUSION)), &RULES), Turn::Answer(INCLUSION));
}

#[test]
fn a_nonce_spent_by_a_stranger_is_given_up_only_when_that_is_final() {
    let stuck = row(State::InFlight { nonce: 4, overtaken_at: None });
    let noted = State::InFlight { nonce: 4, overtaken_at: Some(100) };
    assert_eq!(stuck.next(&seen(100, 5, None), &RULES), Turn::Become(noted));
    assert_eq!(row(noted).next(&seen(163, 5, None), &RULES), Turn::Stay);
    assert_eq!(row(noted).next(&seen(164, 5, None), &RULES), Turn::Renew);
    assert_eq!(row(noted).next(&seen(164, 4, None), &RULES), Turn::Become(stuck.state));
}

#[test]
fn only_the_transaction_that_the_chain_waits_for_is_bid_up() {
    let mut waiting = row(State::InFlight { nonce: 4, overtaken_at: None });
    waiting.timers = Timers { sent_at_ms: Some(999), bid_at_ms: Some(1), ..Timers::default() };
    assert_eq!(waiting.next(&seen(9, 4, None), &RULES), Turn::Replace);
    assert_eq!(waiting.next(&seen(9, 3, None), &RULES), Turn::Stay);
    waiting.timers.sent_at_ms = Some(1);
    assert_eq!(waiting.next(&seen(9, 3, None), &RULES), Turn::Broadcast);
}
