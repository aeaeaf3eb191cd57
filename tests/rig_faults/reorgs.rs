//! Blocks that are replaced by others: what was in them is gone, moved, or something else.

use alloy_primitives::U256;
use chain::abi::Terminal;
use provisioning::devnet::Role;
use serde_json::json;
use testbed::market::{Delivery, Market, Published};
use testbed::rig::{Rig, RigOptions};

use crate::stand::{Stand, UP};

/// For each depth: one task whose attempt a re-org takes away while its handler runs, one whose response it takes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorg_of_depth_1_to_5_that_takes_an_attempt_or_a_response_is_made_good() {
    let Stand { market, rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let mut tasks = Vec::new();
    for depth in 1..=5_u64 {
        let attempted = market.task(source, "echo", json!({ "seconds": 1 })).await;
        market.reaches(attempted.task, 1).await;
        market.node.mine(depth - 1).await;
        market.node.reorg(depth).await;
        assert_eq!(market.status(attempted.task).await, 0, "depth {depth} takes the attempt away");
        market.settle(&[attempted]).await;

        let answered = market.task(source, "echo", json!({})).await;
        market.reaches(answered.task, 5).await;
        market.node.mine(depth - 1).await;
        market.node.reorg(depth).await;
        assert_eq!(market.status(answered.task).await, 1, "depth {depth} takes the response away");
        market.settle(&[answered]).await;
        tasks.extend([attempted, answered]);
    }
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorg_under_six_confirmations_is_made_good_too() {
    let options = RigOptions { confirmations: 6, ..RigOptions::default() };
    let market = Market::open().await;
    // Blocks come by themselves, else nothing gets deep.
    market.node.mine_every(1).await;
    let source = market.source(Delivery::First).await;
    let rig = Rig::start(&market.devnet.ready, &options).expect("the rig starts");
    market.pair(&rig).await;
    rig.wait_serving(1, UP).expect("the rig serves");
    let before_wei = market.earned_wei().await;
    let task = market.task(source, "echo", json!({ "seconds": 1 })).await;
    market.reaches(task.task, 1).await;
    market.node.reorg(1).await;
    market.settle(&[task]).await;
    market.ends_well(&rig, source, &[task], before_wei).await;
}

/// A task's address follows from the number of tasks before it, so another order gives two tasks each other's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorg_that_swaps_two_tasks_gets_each_its_own_answer() {
    let Stand { market, rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let agent = Terminal::setAgentCall { agent: market.address(Role::Agent), value: true };
    market.send(Role::Client, market.devnet.ready.contracts.terminal, &agent, U256::ZERO).await;
    let first = market.task(source, "echo", json!({ "seconds": 2, "tag": "first" })).await;
    let second = market.task_by(Role::Agent, source, "echo", json!({ "seconds": 2, "tag": "second" })).await;
    for task in [first, second] {
        market.reaches(task.task, 1).await;
    }
    let clients = [market.address(Role::Client), market.address(Role::Agent)];
    market.node.reorg_reversed(4, &clients).await;
    assert_eq!(market.input(first.task).await["tag"], "second", "they have each other's address");
    market.settle(&[first, second]).await;
    for task in [first, second] {
        assert_eq!(market.payload(task.task).await["data"], market.input(task.task).await, "the right answer");
    }
    // One is worth what the other was; the other's attempt is mined again as it was signed, and a bid is what is paid.
    let paid = [first, second].map(|task| Published { payment_wei: first.payment_wei, ..task });
    market.ends_paid(&rig, source, &paid, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorg_that_takes_the_task_itself_leaves_the_rig_well() {
    let Stand { market, rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let gone = market.task(source, "echo", json!({ "seconds": 1 })).await;
    market.reaches(gone.task, 1).await;
    market.node.reorg(2).await;
    let other = market.source(Delivery::First).await;
    rig.wait_serving(2, UP).expect("the rig serves both");
    // It has the lost one's address.
    let task = market.task(other, "echo", json!({})).await;
    market.settle(&[task]).await;
    assert_eq!(market.payload(task.task).await["data"], json!({}), "not the lost one's answer");
    market.ends_paid(&rig, source, &[task], before_wei).await;
}
