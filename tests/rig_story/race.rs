//! Two rigs, one task.

use alloy_primitives::{Address, U256};
use chain::abi::Task;
use serde_json::json;
use testbed::market::{Delivery, Market};
use testbed::node::eventually;
use testbed::rig::{Rig, RigOptions};

use crate::town::{SOON, UP};

/// Long enough that both rigs attempt a task before either has its result, in seconds.
const RUN_S: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rigs_race_for_a_first_response_task_and_one_is_paid() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let start = || Rig::start(&market.devnet.ready, &RigOptions::default()).expect("a rig starts");
    let mut rigs = [start(), start()];
    for rig in &rigs {
        market.pair(rig).await;
    }
    for rig in &rigs {
        rig.wait_serving(1, UP).expect("both rigs serve the source");
    }
    let before_wei = market.earned_wei().await;
    let mut paid_wei = U256::ZERO;
    for round in 1..=2 {
        let raced = market.task(source, "echo", json!({ "seconds": RUN_S })).await;
        paid_wei += market.settle(&[raced]).await;
        let (winner, loser) = outcome(&rigs, raced.task);
        let won = rigs[winner].wait_task(raced.task, &["settled"], SOON).expect("the winner knows that it was paid");
        assert_eq!(won["paid_wei"], json!(U256::from(raced.payment_wei)), "round {round}: the whole payment");
        let lost = rigs[loser].wait_task(raced.task, &["lost"], SOON).expect("the loser knows that it lost");
        let why = lost["why"].as_str().unwrap_or_default();
        let is_said = why.contains(&rigs[winner].address().to_string()) || why.contains("AlreadyFinalized");
        assert!(is_said, "round {round}: the loser says who or what was faster: {lost}");
        assert_eq!(attempts(&market, raced.task).await, 2, "round {round}: both ran it");
        assert_eq!(market.responses(raced.task).await.len(), 1, "round {round}: one response");
        for rig in &rigs {
            eventually("no nonce is stuck", || async {
                let (mined, all) = market.node.counts(rig.address()).await;
                (mined == all).then_some(())
            })
            .await;
        }
    }
    // Whoever lost can still win: the other goes away.
    let last_loser = {
        let raced = market.task(source, "echo", json!({ "seconds": RUN_S })).await;
        paid_wei += market.settle(&[raced]).await;
        let (winner, loser) = outcome(&rigs, raced.task);
        assert!(rigs[winner].drain_provider().expect("it is told to stop"), "the winner drains well");
        loser
    };
    let alone = market.task(source, "echo", json!({})).await;
    paid_wei += market.settle(&[alone]).await;
    rigs[last_loser].wait_task(alone.task, &["settled"], SOON).expect("the loser of the last race wins this one");
    assert_eq!(market.earned_wei().await - before_wei, paid_wei, "each task is paid once");
}

/// Which rig won a task, and which lost.
fn outcome(rigs: &[Rig; 2], task: Address) -> (usize, usize) {
    let closed = rigs.each_ref().map(|rig| {
        let row = rig.wait_task(task, &["settled", "lost"], SOON).expect("the rig knows how the race ended");
        row["stage"] == "settled"
    });
    match closed {
        [true, false] => (0, 1),
        [false, true] => (1, 0),
        both => panic!("one rig is paid for {task}, the rigs say {both:?}"),
    }
}

async fn attempts(market: &Market, task: Address) -> u64 {
    let task = Task::new(task, market.node.provider.clone());
    task.getAttemptCount().call().await.expect("the task answers").to()
}
