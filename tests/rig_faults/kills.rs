//! `kill -9` of the provider after every kind of fact.

use alloy_primitives::U256;
use chain::abi::{Nexus, Terminal};
use provisioning::devnet::Role;
use serde_json::json;
use testbed::gateway::{Gateway, Mood};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions};

use crate::stand::{Stand, UP, await_fact, kill, kill_after, newest_fact, pid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_fact_of_its_enrolment_the_rig_still_serves() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let mut rig = Rig::start(&market.devnet.ready, &RigOptions::default()).expect("the rig starts");
    market.fund(&rig).await;
    kill_after(&mut rig, "began", 1);
    kill_after(&mut rig, "stood", 1);
    kill_after(&mut rig, "stood", 2);
    market.pair(&rig).await;
    kill_after(&mut rig, "stood", 3);
    kill_after(&mut rig, "source-read", 1);
    kill_after(&mut rig, "source-up", 1);
    rig.wait_serving(1, UP).expect("the rig serves");
    assert_eq!(market.registrants(source).await, U256::from(1));
    let before_wei = market.earned_wei().await;
    market.ends_well(&rig, source, &[], before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_fact_of_a_task_it_is_answered_once() {
    let Stand { market, mut rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let mut tasks = Vec::new();
    // Read: published, attempted, answered.
    let facts = [
        ("task-read", 1),
        ("looked", 1),
        ("task-read", 2),
        ("fetched", 1),
        ("finished", 1),
        ("pinned", 1),
        ("task-read", 3),
    ];
    for (kind, times) in facts {
        let from = newest_fact(&rig);
        let task = market.task(source, "echo", json!({ "seconds": 0.3 })).await;
        await_fact(&rig, from, kind, times);
        kill(&mut rig);
        market.settle(&[task]).await;
        rig.wait_task(task.task, &["settled"], UP).expect("the rig knows that it was paid");
        tasks.push(task);
    }
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_with_eight_tasks_in_flight_each_is_answered_once() {
    let Stand { market, mut rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let mut tasks = Vec::new();
    for number in 0..8 {
        tasks.push(market.task(source, "echo", json!({ "seconds": f64::from(number) / 4.0 })).await);
    }
    // At whatever it is doing after so many more facts.
    for facts in [3, 7, 2, 5, 9, 4] {
        let from = newest_fact(&rig);
        await_fact(&rig, from, "%", facts);
        kill(&mut rig);
    }
    market.settle(&tasks).await;
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_a_fall_a_container_s_end_or_a_drain_it_goes_on() {
    let Stand { market, mut rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let gateway = Gateway::start(&market.devnet.ready.ipfs_gateway).await;

    gateway.turn(Mood::Status(503));
    let config = market.pin(json!({ "function_name": "echo", "data": {} }).to_string()).await;
    let from = newest_fact(&rig);
    let fell = market.task_of(source, gateway.instead_of(&config), 120).await;
    for kind in ["fell", "ticked"] {
        await_fact(&rig, from, kind, 1);
        kill(&mut rig);
    }
    gateway.turn(Mood::Well);
    market.settle(&[fell]).await;

    // The handler ends its container; the next run finds it up again and answers.
    let from = newest_fact(&rig);
    let died = market.task_within(source, "die", json!({}), 20).await;
    await_fact(&rig, from, "source-down", 1);
    kill(&mut rig);
    rig.wait_task(died.task, &["failed"], UP).expect("a task that ends its container every time is given up");
    rig.wait_serving(1, UP).expect("the source is up again");

    let slow = market.task(source, "echo", json!({ "seconds": 1 })).await;
    market.reaches(slow.task, 1).await;
    let from = newest_fact(&rig);
    nix::sys::signal::kill(pid(&rig), nix::sys::signal::Signal::SIGTERM).expect("the provider runs");
    await_fact(&rig, from, "drain-asked", 1);
    kill(&mut rig);
    market.settle(&[slow]).await;

    // Taken down by the owner, with a task under way.
    let from = newest_fact(&rig);
    let call = Terminal::removeContainerCall { provider: rig.address(), source };
    let other = market.source(Delivery::First).await;
    rig.wait_serving(2, UP).expect("the rig serves both");
    market.send(Role::Master, market.devnet.ready.contracts.terminal, &call, U256::ZERO).await;
    await_fact(&rig, from, "source-removed", 1);
    kill(&mut rig);
    await_fact(&rig, from, "source-stopped", 1);
    kill(&mut rig);
    rig.wait_serving(1, UP).expect("the rig serves the other");

    // Listed by the owner once more.
    let from = newest_fact(&rig);
    let nexus = market.devnet.ready.contracts.nexus;
    let off = Nexus::unregisterCall { source, provider: rig.address() };
    market.send(Role::Master, nexus, &off, U256::ZERO).await;
    let on = Nexus::registerCall { source, provider: rig.address(), preferredEnvironment: 1 };
    market.send(Role::Master, nexus, &on, U256::ZERO).await;
    await_fact(&rig, from, "source-listed", 1);
    kill(&mut rig);
    rig.wait_serving(2, UP).expect("the rig serves both again");
    market.ends_well(&rig, other, &[fell, slow], before_wei).await;
}
