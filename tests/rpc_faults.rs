//! A network that fails, and an account that must not: each scenario ends with every intent mined exactly once, no stuck
//! nonce, a further transaction through, and every event told.

use std::time::Duration;

use alloy_primitives::U256;
use chain::abi::Vault;
use chain::outbox::{SendError, Sent, Trouble};
use chain::rpc::EndpointState;
use futures::future::join_all;
use serde_json::json;
use testbed::node::eventually;
use testbed::proxy::{Calls, Fault, Proxy, Times, dead_url};
use testbed::teller::{DEPOSIT_WEI, Desk, Teller, TellerOptions, mined, outcome};

const SEND: Calls = Calls::Of("eth_sendRawTransaction");
const RECEIPT: Calls = Calls::Of("eth_getTransactionReceipt");

async fn usual() -> (Teller, Desk) {
    open(&TellerOptions::default()).await
}

async fn open(options: &TellerOptions) -> (Teller, Desk) {
    let teller = Teller::start(options).await;
    let desk = teller.open().await;
    (teller, desk)
}

// === broadcasts that go wrong ===

#[tokio::test]
async fn dropped_raw_transaction_is_sent_again() {
    let (teller, desk) = usual().await;
    let dropped = teller.proxy.inject(SEND, Fault::Swallow, Times::Next(3));
    let hash = mined(desk.send(teller.deposit(1))).await;
    dropped.hit(3).await;
    assert!(teller.proxy.offered().iter().all(|offered| *offered == hash), "the same bytes each time");
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn sent_but_reported_failed_is_not_sent_twice() {
    let (teller, desk) = usual().await;
    teller.node.automine(false).await;
    let failed = teller.proxy.inject(SEND, Fault::SayFailed, Times::Next(3));
    let sending = desk.send(teller.deposit(1));
    failed.hit(3).await;
    assert_eq!(teller.node.pool().await.len(), 1, "one transaction, however often it was offered");
    teller.node.mine(1).await;
    mined(sending).await;
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn time_out_on_broadcast_is_waited_out_whether_it_arrived_or_not() {
    let (teller, desk) = usual().await;
    for (number, fault) in [(1, Fault::DoneInSilence), (2, Fault::Silence)] {
        let silent = teller.proxy.inject(SEND, fault, Times::Next(2));
        mined(desk.send(teller.deposit(number))).await;
        assert!(silent.hits() >= 1);
        silent.lift();
    }
    teller.ends_well(&desk, &[1, 2], 0).await;
}

#[tokio::test]
async fn raw_transaction_delivered_twice_is_mined_once() {
    let (teller, desk) = usual().await;
    let twice = teller.proxy.inject(SEND, Fault::Twice, Times::UntilLifted);
    for number in 1..=3 {
        mined(desk.send(teller.deposit(number))).await;
    }
    assert!(twice.hits() >= 3);
    teller.ends_well(&desk, &[1, 2, 3], 0).await;
}

#[tokio::test]
async fn http_errors_half_answers_and_broken_connections_are_weather() {
    let (teller, desk) = usual().await;
    let faults = [Fault::Status(500), Fault::Status(429), Fault::Status(502), Fault::Garbage, Fault::BreakOff];
    let mut numbers = Vec::new();
    for (number, fault) in (1..).zip(faults) {
        let spoilt = teller.proxy.inject(Calls::Any, fault.clone(), Times::Next(4));
        let lost = teller.proxy.inject(SEND, fault, Times::Next(2));
        mined(desk.send(teller.deposit(number))).await;
        spoilt.hit(4).await;
        lost.hit(2).await;
        numbers.push(number);
    }
    teller.ends_well(&desk, &numbers, 0).await;
}

#[tokio::test]
async fn receipts_that_are_missing_for_a_while_do_not_send_anything_else() {
    let (teller, desk) = usual().await;
    let missing = teller.proxy.inject(RECEIPT, Fault::Null, Times::Next(12));
    let hash = mined(desk.send(teller.deposit(1))).await;
    missing.hit(12).await;
    assert!(teller.proxy.offered().iter().all(|offered| *offered == hash));
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn rate_limit_within_an_answer_is_weather() {
    let (teller, desk) = usual().await;
    let fault = Fault::Refuse { code: -32005, message: "limit exceeded" };
    let limited = teller.proxy.inject(Calls::Any, fault, Times::Next(20));
    mined(desk.send(teller.deposit(1))).await;
    limited.hit(20).await;
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn storm_of_every_fault_loses_nothing_and_doubles_nothing() {
    let (teller, desk) = usual().await;
    let numbers: Vec<u64> = (1..=20).collect();
    let sendings: Vec<_> = numbers.iter().map(|number| desk.send(teller.deposit(*number))).collect();
    let storm = [
        (SEND, Fault::Swallow),
        (SEND, Fault::SayFailed),
        (Calls::Any, Fault::Lag(2)),
        (SEND, Fault::DoneInSilence),
        (RECEIPT, Fault::Null),
        (Calls::Any, Fault::Status(503)),
        (SEND, Fault::Twice),
        (Calls::Any, Fault::BreakOff),
        (Calls::Of("eth_getTransactionCount"), Fault::Lag(5)),
        (Calls::Any, Fault::Garbage),
    ];
    for (calls, fault) in storm {
        let injected = teller.proxy.inject(calls, fault, Times::Next(6));
        // The storm may be over before its last faults find a call.
        let _ = tokio::time::timeout(Duration::from_secs(2), injected.hit(6)).await;
        teller.node.mine(1).await;
    }
    teller.proxy.lift_all();
    join_all(sendings.into_iter().map(mined)).await;
    teller.ends_well(&desk, &numbers, 0).await;
}

// === endpoints ===

#[tokio::test]
async fn lagging_replica_delays_but_neither_doubles_nor_loses() {
    let (teller, desk) = usual().await;
    teller.node.mine(10).await;
    let behind = teller.proxy.inject(Calls::Any, Fault::Lag(3), Times::UntilLifted);
    // Each sees a count that does not hold the one before.
    let sendings = [1, 2, 3].map(|number| desk.send(teller.deposit(number)));
    eventually("three transactions", || async { (teller.node.counts(teller.me).await.0 == 3).then_some(()) }).await;
    assert!(sendings.iter().all(|sending| !sending.is_finished()), "nobody is told before the replica shows it");
    teller.node.mine(3).await;
    join_all(sendings.map(mined)).await;
    assert!(behind.hits() > 0);
    teller.ends_well(&desk, &[1, 2, 3], 0).await;
}

#[tokio::test]
async fn refusal_by_a_replica_that_lags_is_not_believed_at_once() {
    // No other node: on a busy machine the replica is slow too, and then the other one would be asked.
    let (teller, desk) = usual().await;
    let deposit = Vault::depositCall { account: teller.me };
    let deposit = chain::outbox::Intent { value_wei: DEPOSIT_WEI, ..teller.call("own deposit", &deposit) };
    mined(desk.send(deposit)).await;
    // Before its deposit the account has nothing to withdraw, and that is where this replica stands.
    let behind = teller.proxy.inject(Calls::Any, Fault::Lag(1), Times::UntilLifted);
    let estimates = teller.proxy.count("eth_estimateGas");
    let sending = desk.send(teller.call("withdraw", &Vault::withdrawCall { amount: DEPOSIT_WEI }));
    eventually("two refusals", || async { (teller.proxy.count("eth_estimateGas") >= estimates + 2).then_some(()) })
        .await;
    behind.lift();
    mined(sending).await;
    teller.ends_well(&desk, &[], 2).await;
}

#[tokio::test]
async fn replica_that_flaps_hides_no_event_for_good() {
    let (teller, desk) = open(&TellerOptions { has_node_behind: true, ..TellerOptions::default() }).await;
    let numbers: Vec<u64> = (1..=8).collect();
    for number in &numbers {
        let calls = if number % 2 == 0 { Calls::Any } else { Calls::Of("eth_getLogs") };
        let behind = teller.proxy.inject(calls, Fault::Lag(number % 5 + 1), Times::Next(7));
        mined(desk.send(teller.deposit(*number))).await;
        teller.node.mine(2).await;
        behind.hit(1).await;
        behind.lift();
    }
    teller.ends_well(&desk, &numbers, 0).await;
}

#[tokio::test]
async fn too_many_results_for_one_range_are_asked_for_in_parts() {
    let (teller, desk) = usual().await;
    teller.node.mine(50).await;
    let fault = Fault::Refuse { code: -32602, message: "query returned more than 10000 results" };
    let refused = teller.proxy.inject(Calls::Of("eth_getLogs"), fault, Times::Next(3));
    mined(desk.send(teller.deposit(1))).await;
    refused.hit(3).await;
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn wrong_chain_id_endpoint_is_never_used() {
    let behind = Teller::start(&TellerOptions::default()).await;
    let elsewhere = Proxy::start(&behind.devnet.as_ref().expect("it runs").ready.rpc).await;
    elsewhere.inject(Calls::Of("eth_chainId"), Fault::ChainId(1), Times::UntilLifted);
    let options = TellerOptions { before: vec![elsewhere.url.clone()], ..TellerOptions::default() };
    let (teller, desk) = open(&options).await;
    mined(desk.send(teller.deposit(1))).await;
    let states: Vec<_> = teller.rpc().await.endpoints().into_iter().map(|report| report.state).collect();
    assert!(matches!(states[..], [EndpointState::WrongChain { got: 1 }, EndpointState::Healthy]), "{states:?}");
    for method in ["eth_sendRawTransaction", "eth_estimateGas", "eth_getLogs", "eth_getTransactionReceipt"] {
        assert_eq!(elsewhere.count(method), 0, "{method} was asked of another chain");
    }
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn dead_endpoint_falls_over_to_the_next() {
    let options = TellerOptions { before: vec![dead_url()], has_node_behind: true, ..TellerOptions::default() };
    let (teller, desk) = open(&options).await;
    mined(desk.send(teller.deposit(1))).await;
    // The second dies under way; the third is the node.
    teller.node.automine(false).await;
    let sending = desk.send(teller.deposit(2));
    teller.node.pooled_of(teller.me).await;
    teller.proxy.close().await;
    teller.node.mine(1).await;
    mined(sending).await;
    teller.proxy.reopen().await;
    teller.ends_well(&desk, &[1, 2], 0).await;
}

#[tokio::test]
async fn endpoints_that_are_all_gone_are_waited_for() {
    let (teller, desk) = usual().await;
    mined(desk.send(teller.deposit(1))).await;
    teller.proxy.close().await;
    let sending = desk.send(teller.deposit(2));
    let is_loud = |trouble: &Trouble| matches!(trouble, Trouble::NoEndpoint { .. });
    desk.becomes(|standing| standing.troubles.iter().any(is_loud)).await;
    teller.proxy.reopen().await;
    mined(sending).await;
    teller.ends_well(&desk, &[1, 2], 0).await;
}

#[tokio::test]
async fn node_restart_that_empties_the_pool_loses_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let options = TellerOptions { state: Some(state.path().to_owned()), ..TellerOptions::default() };
    let (mut teller, desk) = open(&options).await;
    mined(desk.send(teller.deposit(1))).await;
    teller.node.automine(false).await;
    let sending = desk.send(teller.deposit(2));
    teller.node.pooled_of(teller.me).await;
    teller.restart_node(state.path().to_owned()).await;
    mined(sending).await;
    teller.ends_well(&desk, &[1, 2], 0).await;
}

// === re-orgs ===

#[tokio::test]
async fn reorg_of_depth_1_to_5_that_drops_a_transaction_sends_it_again() {
    join_all((1..=5_u64).map(async |depth| {
        let (teller, desk) = usual().await;
        teller.node.mine(10).await;
        let before = mined(desk.send(teller.deposit(1))).await;
        teller.node.mine(depth - 1).await;
        teller.forget_events();
        teller.node.reorg(depth).await;
        assert_eq!(teller.node.counts(teller.me).await.0, 0, "depth {depth} takes it away");
        let after = eventually("the same transaction again", || async { teller.proxy.offered().get(1).copied() }).await;
        assert_eq!(after, before, "depth {depth}");
        teller.ends_well(&desk, &[1], 0).await;
    }))
    .await;
}

#[tokio::test]
async fn reorg_of_depth_1_to_5_that_moves_a_transaction_changes_nothing() {
    join_all((1..=5_u64).map(async |depth| {
        let (teller, desk) = usual().await;
        teller.node.mine(10).await;
        mined(desk.send(teller.deposit(1))).await;
        mined(desk.send(teller.deposit(2))).await;
        teller.node.mine(depth.saturating_sub(2)).await;
        teller.forget_events();
        teller.node.reorg_shuffled(depth.max(2)).await;
        teller.ends_well(&desk, &[1, 2], 0).await;
    }))
    .await;
}

#[tokio::test]
async fn reorg_of_depth_1_to_5_below_the_confirmations_is_not_reported_as_done() {
    join_all((1..=5_u64).map(async |depth| {
        let (teller, desk) = open(&TellerOptions { confirmations: 6, ..TellerOptions::default() }).await;
        teller.node.mine(10).await;
        let sending = desk.send(teller.deposit(1));
        eventually("its block", || async { (teller.node.counts(teller.me).await.0 == 1).then_some(()) }).await;
        teller.node.mine(depth - 1).await;
        teller.node.reorg(depth).await;
        assert!(!sending.is_finished(), "depth {depth} is not six");
        eventually("it again", || async { (teller.node.counts(teller.me).await.0 == 1).then_some(()) }).await;
        teller.node.mine(5).await;
        mined(sending).await;
        let last = teller.node.clone();
        let ticking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                last.mine(1).await;
            }
        });
        teller.ends_well(&desk, &[1], 0).await;
        ticking.abort();
    }))
    .await;
}

#[tokio::test]
async fn reorg_while_the_outbox_is_down_is_noticed_at_its_start() {
    let (teller, desk) = usual().await;
    teller.node.mine(10).await;
    mined(desk.send(teller.deposit(1))).await;
    desk.kill().await;
    teller.node.reorg(1).await;
    let desk = teller.open().await;
    eventually("it again", || async { (teller.node.counts(teller.me).await.0 == 1).then_some(()) }).await;
    teller.ends_well(&desk, &[1], 0).await;
}

// === fees, funds, nonces ===

#[tokio::test]
async fn stuck_transaction_is_replaced_with_the_same_nonce() {
    let (teller, desk) = open(&TellerOptions { replace_after_ms: 500, ..TellerOptions::default() }).await;
    teller.node.automine(false).await;
    let sending = desk.send(teller.deposit(1));
    let first = teller.node.pooled_of(teller.me).await;
    teller.node.ask("anvil_setNextBlockBaseFeePerGas", json!([U256::from(first.max_fee_wei * 20)])).await;
    teller.node.mine(1).await;
    assert_eq!(teller.node.counts(teller.me).await.0, 0, "its bid is below the base fee");
    let raised = eventually("a bid above the base fee", || async {
        teller.node.pool().await.into_iter().find(|pooled| pooled.max_fee_wei > first.max_fee_wei * 20)
    });
    let raised = raised.await;
    assert_eq!((raised.nonce, teller.node.pool().await.len()), (first.nonce, 1));
    teller.node.mine(1).await;
    mined(sending).await;
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn underpriced_transaction_is_bid_up_at_once() {
    let (teller, desk) = usual().await;
    let fault = Fault::Refuse { code: -32000, message: "transaction underpriced" };
    let refused = teller.proxy.inject(SEND, fault, Times::Next(2));
    mined(desk.send(teller.deposit(1))).await;
    refused.hit(2).await;
    let mut offered = teller.proxy.offered();
    offered.dedup();
    assert_eq!(offered.len(), 3, "two raises");
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn account_without_gas_is_told_so_and_sends_once_funded() {
    let (teller, desk) = usual().await;
    let coins = teller.node.balance(teller.me).await;
    teller.node.set_balance(teller.me, U256::from(5)).await;
    let unfunded = outcome(desk.send(teller.deposit(1))).await;
    assert!(matches!(unfunded, Err(SendError::Unfunded { have_wei, .. }) if have_wei == U256::from(5)), "{unfunded:?}");
    teller.node.set_balance(teller.me, coins).await;
    mined(desk.send(teller.deposit(1))).await;
    teller.ends_well(&desk, &[1], 0).await;
}

#[tokio::test]
async fn nonce_taken_by_a_stranger_with_our_key_is_loud_and_costs_no_intent() {
    let (teller, desk) = usual().await;
    teller.node.automine(false).await;
    let dropped = teller.proxy.inject(SEND, Fault::Swallow, Times::UntilLifted);
    let sending = desk.send(teller.deposit(1));
    dropped.hit(1).await;
    teller.spend_nonce(0).await;
    teller.node.mine(1).await;
    dropped.lift();
    desk.becomes(|standing| standing.troubles.contains(&Trouble::NonceTaken { nonce: 0 })).await;
    teller.node.automine(true).await;
    // Only when no re-org can bring the first version back does it get another nonce.
    teller.node.mine(64).await;
    mined(sending).await;
    teller.ends_well(&desk, &[1], 1).await;
}

#[tokio::test]
async fn nonce_spent_elsewhere_while_idle_is_adopted() {
    let (teller, desk) = usual().await;
    mined(desk.send(teller.deposit(1))).await;
    teller.spend_nonce(1).await;
    mined(desk.send(teller.deposit(2))).await;
    teller.ends_well(&desk, &[1, 2], 1).await;
}

#[tokio::test]
async fn revert_at_estimation_uses_no_nonce() {
    let (teller, desk) = usual().await;
    let refused = outcome(desk.send(teller.call("withdraw", &Vault::withdrawCall { amount: U256::from(1) }))).await;
    let is_so = matches!(&refused, Err(SendError::WouldRevert { reason }) if reason.contains("InsufficientBalance"));
    assert!(is_so, "{refused:?}");
    assert!(teller.proxy.offered().is_empty());
    teller.ends_well(&desk, &[], 0).await;
}

#[tokio::test]
async fn revert_on_chain_is_an_outcome_with_its_reason() {
    let (teller, desk) = usual().await;
    let deposit = Vault::depositCall { account: teller.me };
    let deposit = chain::outbox::Intent { value_wei: DEPOSIT_WEI, ..teller.call("own deposit", &deposit) };
    mined(desk.send(deposit)).await;
    teller.node.automine(false).await;
    // Each alone is fine; in one block the second finds nothing.
    let withdraw = Vault::withdrawCall { amount: DEPOSIT_WEI };
    let sendings = ["first", "second"].map(|key| desk.send(teller.call(key, &withdraw)));
    eventually("both", || async { (teller.node.pool().await.len() == 2).then_some(()) }).await;
    teller.node.mine(1).await;
    let sent = join_all(sendings.map(outcome)).await;
    let reverted: Vec<_> = sent
        .iter()
        .filter_map(|sent| match sent {
            Ok(Sent::Reverted { reason, .. }) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(reverted, ["InsufficientBalance"], "{sent:?}");
    teller.ends_well(&desk, &[], 3).await;
}

// === crashes ===

/// At each arrow of an intent's way the outbox is held by the network, killed there, and opened again.
#[tokio::test]
async fn killed_at_each_arrow_an_intent_is_mined_once() {
    let arrows = [
        ("before the estimate", Calls::Of("eth_estimateGas"), Fault::Silence),
        ("signed, not offered", SEND, Fault::Silence),
        ("offered, not answered", SEND, Fault::DoneInSilence),
        ("offered and lost", SEND, Fault::Swallow),
        ("mined, receipt not read", RECEIPT, Fault::Silence),
        ("mined, receipt on its way", RECEIPT, Fault::DoneInSilence),
    ];
    let (teller, mut desk) = usual().await;
    let mut numbers = Vec::new();
    for (number, (arrow, calls, fault)) in (1..).zip(arrows) {
        let held = teller.proxy.inject(calls, fault, Times::UntilLifted);
        let sending = desk.send(teller.deposit(number));
        held.hit(1).await;
        desk.kill().await;
        let told = outcome(sending).await;
        assert!(matches!(told, Err(SendError::Stopped)), "{arrow}: {told:?}");
        held.lift();
        desk = teller.open().await;
        mined(desk.send(teller.deposit(number))).await;
        numbers.push(number);
    }
    teller.ends_well(&desk, &numbers, 0).await;
}
