//! The outbox against a real node: each intent is mined exactly once.

mod anvil;

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::{Revert, SolError},
};
use anvil::{Anvil, ME, eventually};
use chain::{
    outbox::{Intent, Outbox, OutboxLimits, OutboxTask, SendError, Sent, Standing, Trouble},
    rpc::Rpc,
};
use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const VALUE_WEI: U256 = U256::from_limbs([1_000, 0, 0, 0]);

/// A node, a file, and an outbox that can be killed and opened again.
struct Rig {
    anvil: Anvil,
    folder: TempDir,
    limits: OutboxLimits,
}

impl Rig {
    fn start(arguments: &[&str]) -> Self {
        let limits = OutboxLimits {
            poll_ms: 20,
            rebroadcast_after_ms: 100,
            replace_after_ms: 60_000,
            ..OutboxLimits::default()
        };
        Self { anvil: Anvil::start(arguments), folder: tempfile::tempdir().expect("a folder"), limits }
    }

    async fn open(&self) -> (Outbox, OutboxTask) {
        let rpc = Rpc::connect(self.anvil.network()).await.expect("connects");
        let path = self.folder.path().join("outbox.sqlite");
        Outbox::open(&path, rpc, Arc::new(self.anvil.seal()), self.limits).expect("opens")
    }

    async fn run(&self) -> (Outbox, JoinHandle<()>) {
        let (outbox, task) = self.open().await;
        let task = tokio::spawn(async move { task.run(CancellationToken::new()).await.expect("stores") });
        (outbox, task)
    }

    /// A transaction of `intent` in the node's pool.
    async fn pooled(&self) -> (B256, U256) {
        eventually("a pooled transaction", || async { self.anvil.pool().await.first().copied() }).await
    }
}

fn payment(number: u8) -> Intent {
    let to = Address::with_last_byte(0xA0 ^ number);
    Intent { key: format!("pay {number}"), to, data: Bytes::new(), value_wei: VALUE_WEI }
}

fn send(outbox: &Outbox, intent: Intent) -> JoinHandle<Result<Sent, SendError>> {
    let outbox = outbox.clone();
    tokio::spawn(async move { outbox.send(intent).await })
}

async fn mined(sending: JoinHandle<Result<Sent, SendError>>) -> B256 {
    match sending.await.expect("no panic").expect("is sent") {
        Sent::Mined { tx, .. } => tx,
        Sent::Reverted { reason, .. } => panic!("reverted: {reason}"),
    }
}

async fn stop(outbox: Outbox, task: JoinHandle<()>) {
    drop(outbox);
    task.abort();
    task.await.expect_err("was aborted");
}

async fn becomes(outbox: &Outbox, is_so: impl Fn(&Standing) -> bool) {
    let mut standing = outbox.standing();
    let waiting = tokio::time::timeout(Duration::from_secs(30), standing.wait_for(|standing| is_so(standing)));
    waiting.await.expect("in time").expect("the task lives");
}

#[tokio::test]
async fn twenty_intents_at_once_are_each_mined_once() {
    let rig = Rig::start(&[]);
    let (outbox, _task) = rig.run().await;
    let sent: Vec<_> = (0..20).map(|number| send(&outbox, payment(number))).collect();
    join_all(sent.into_iter().map(mined)).await;
    for number in 0..20 {
        assert_eq!(rig.anvil.balance(payment(number).to).await, VALUE_WEI);
    }
    assert_eq!(rig.anvil.count().await, 20);
}

#[tokio::test]
async fn the_same_key_sent_twice_is_one_transaction() {
    let rig = Rig::start(&["--no-mining"]);
    let (outbox, _task) = rig.run().await;
    let (first, second) = (send(&outbox, payment(1)), send(&outbox, payment(1)));
    rig.pooled().await;
    rig.anvil.mine(1).await;
    let (first, second) = (mined(first).await, mined(second).await);
    assert_eq!((first, rig.anvil.count().await), (second, 1));
    assert_eq!(mined(send(&outbox, payment(1))).await, first, "a mined row is still joined while it is looked at");
    let other = Intent { value_wei: U256::ZERO, ..payment(1) };
    assert!(matches!(outbox.send(other).await, Err(SendError::Refused { .. })));
}

#[tokio::test]
async fn a_dropped_transaction_is_offered_again_with_the_same_bytes() {
    let rig = Rig::start(&["--no-mining"]);
    let (outbox, _task) = rig.run().await;
    let sending = send(&outbox, payment(1));
    let (hash, _) = rig.pooled().await;
    for _ in 0..3 {
        rig.anvil.drop_from_pool(hash).await;
        assert_eq!(rig.pooled().await.0, hash);
    }
    rig.anvil.mine(1).await;
    assert_eq!(mined(sending).await, hash);
    assert_eq!((rig.anvil.count().await, rig.anvil.balance(payment(1).to).await), (1, VALUE_WEI));
}

#[tokio::test]
async fn a_stuck_transaction_is_bid_up_under_its_nonce() {
    let mut rig = Rig::start(&["--no-mining"]);
    rig.limits.replace_after_ms = 200;
    let (outbox, _task) = rig.run().await;
    let sending = send(&outbox, payment(1));
    let (hash, fee) = rig.pooled().await;
    let raised =
        eventually("a higher bid", || async { rig.anvil.pool().await.into_iter().find(|(other, _)| *other != hash) });
    let (_, raised) = raised.await;
    assert!(raised * U256::from(8) >= fee * U256::from(9), "{raised} is less than an eighth above {fee}");
    assert_eq!(rig.anvil.pool().await.len(), 1, "one nonce, one transaction");
    rig.anvil.mine(1).await;
    mined(sending).await;
    assert_eq!((rig.anvil.count().await, rig.anvil.balance(payment(1).to).await), (1, VALUE_WEI));
}

#[tokio::test]
async fn after_a_reorg_of_any_depth_the_same_bytes_are_mined_again() {
    for depth in 1..=5 {
        let rig = Rig::start(&["--no-mining"]);
        rig.anvil.mine(10).await;
        let (outbox, task) = rig.run().await;
        let sending = send(&outbox, payment(1));
        let (hash, _) = rig.pooled().await;
        rig.anvil.mine(depth).await;
        assert_eq!(mined(sending).await, hash);
        rig.anvil.ask("anvil_reorg", json!([depth, []])).await;
        assert_eq!(rig.anvil.count().await, 0, "the re-org of {depth} took the transaction away");
        // A restart looks at once; else it is looked at every few seconds.
        stop(outbox, task).await;
        let (_outbox, _task) = rig.run().await;
        assert_eq!(rig.pooled().await.0, hash);
        rig.anvil.mine(1).await;
        assert_eq!((rig.anvil.count().await, rig.anvil.balance(payment(1).to).await), (1, VALUE_WEI));
    }
}

/// A process that dies is a future that is dropped. Each round lets it be polled once more than the round before, so it
/// dies at every await there is; then it is opened again, and the caller, who knows nothing, sends the same key.
#[tokio::test]
async fn dropped_at_every_await_an_intent_is_mined_once() {
    let rig = Rig::start(&[]);
    let mut is_through = false;
    let mut number = 0;
    while !is_through {
        number += 1;
        let (outbox, task) = rig.open().await;
        let sending = send(&outbox, payment(number));
        tokio::task::yield_now().await;
        {
            let mut running = pin!(task.run(CancellationToken::new()));
            let mut polls = 0;
            std::future::poll_fn(|context| {
                polls += 1;
                let ended = running.as_mut().poll(context);
                if ended.is_ready() || polls > number { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        drop(outbox);
        // The caller was answered before the end: nothing is left to interrupt.
        is_through = sending.await.expect("no panic").is_ok();
        let (outbox, task) = rig.run().await;
        mined(send(&outbox, payment(number))).await;
        stop(outbox, task).await;
        assert_eq!(rig.anvil.balance(payment(number).to).await, VALUE_WEI, "killed at poll {number}");
        assert_eq!(rig.anvil.count().await, u64::from(number), "killed at poll {number}");
    }
    assert!(number > 8, "a way of {number} polls is too short to have met every step");
}

#[tokio::test]
async fn a_call_that_would_revert_uses_no_nonce() {
    let rig = Rig::start(&[]);
    // codecopy(0, 12, 100) revert(0, 100), then the data.
    let code = [&alloy::hex!("6064600c60003960646000fd")[..], &Revert::from("Expired").abi_encode()].concat();
    let to = Address::repeat_byte(9);
    rig.anvil.ask("anvil_setCode", json!([to, Bytes::from(code)])).await;
    let (outbox, _task) = rig.run().await;
    let error = outbox.send(Intent { to, value_wei: U256::ZERO, ..payment(1) }).await.expect_err("reverts");
    assert!(matches!(&error, SendError::WouldRevert { reason } if reason == "Expired"), "{error:?}");
    mined(send(&outbox, payment(2))).await;
    assert_eq!(rig.anvil.count().await, 1);
}

#[tokio::test]
async fn a_race_lost_in_the_block_is_told_with_its_reason() {
    let rig = Rig::start(&["--no-mining"]);
    let (outbox, _task) = rig.run().await;
    let to = Address::repeat_byte(9);
    let sending = send(&outbox, Intent { to, value_wei: U256::ZERO, ..payment(1) });
    let (hash, _) = rig.pooled().await;
    let code = [&alloy::hex!("6064600c60003960646000fd")[..], &Revert::from("AlreadyFinalized").abi_encode()].concat();
    rig.anvil.ask("anvil_setCode", json!([to, Bytes::from(code)])).await;
    rig.anvil.mine(1).await;
    let sent = sending.await.expect("no panic").expect("is sent");
    assert_eq!(sent, Sent::Reverted { tx: hash, reason: "AlreadyFinalized".to_owned() });
}

#[tokio::test]
async fn an_account_without_coins_is_told_what_it_needs() {
    let rig = Rig::start(&[]);
    rig.anvil.ask("anvil_setBalance", json!([ME, U256::from(5)])).await;
    let (outbox, _task) = rig.run().await;
    match outbox.send(payment(1)).await {
        Err(SendError::Unfunded { have_wei, need_wei }) => {
            assert_eq!(have_wei, U256::from(5));
            assert!(need_wei > VALUE_WEI);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_nonce_spent_by_a_stranger_is_loud_and_replaced_when_that_is_final() {
    let rig = Rig::start(&["--no-mining"]);
    let (outbox, task) = rig.run().await;
    let sending = send(&outbox, payment(1));
    let (hash, _) = rig.pooled().await;
    stop(outbox, task).await;
    assert!(matches!(sending.await.expect("no panic"), Err(SendError::Stopped)));
    rig.anvil.drop_from_pool(hash).await;
    let stranger = json!([{ "from": ME, "to": Address::with_last_byte(1), "value": "0x1", "nonce": "0x0" }]);
    rig.anvil.ask("eth_sendTransaction", stranger).await;
    rig.anvil.mine(1).await;

    let (outbox, _task) = rig.run().await;
    let sending = send(&outbox, payment(1));
    becomes(&outbox, |standing| standing.troubles.contains(&Trouble::NonceTaken { nonce: 0 })).await;
    rig.anvil.mine(63).await;
    assert_eq!(rig.anvil.pool().await.len(), 0);
    rig.anvil.mine(1).await;
    rig.pooled().await;
    rig.anvil.mine(1).await;
    mined(sending).await;
    assert_eq!((rig.anvil.count().await, rig.anvil.balance(payment(1).to).await), (2, VALUE_WEI));
}

#[tokio::test]
async fn a_chain_without_a_base_fee_gets_legacy_transactions() {
    let rig = Rig::start(&["--hardfork", "berlin"]);
    let (outbox, _task) = rig.run().await;
    let hash = mined(send(&outbox, payment(1))).await;
    let transaction = rig.anvil.ask("eth_getTransactionByHash", json!([hash])).await;
    assert_eq!(transaction["type"], "0x0");
}

#[tokio::test]
async fn a_file_is_used_by_one_process_at_a_time() {
    let rig = Rig::start(&[]);
    let (_outbox, _task) = rig.open().await;
    let rpc = Rpc::connect(rig.anvil.network()).await.expect("connects");
    let path = rig.folder.path().join("outbox.sqlite");
    let second = tokio::task::spawn_blocking(move || {
        Outbox::open(&path, rpc, Arc::new(rig.anvil.seal()), OutboxLimits::default()).map(|_| ())
    });
    second.await.expect("no panic").expect_err("the file is taken");
}
