//! Faults between the rig and the chain, while tasks of both delivery methods flow.

use serde_json::json;
use testbed::market::{Delivery, Market};
use testbed::node::eventually;
use testbed::proxy::{Calls, Fault, Proxy, Times, dead_url};
use testbed::rig::{Rig, RigOptions};

use crate::stand::UP;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_between_rig_and_chain_lose_no_task_and_double_none() {
    let market = Market::open().await;
    let proxy = Proxy::start(&market.devnet.ready.rpc).await;
    let sources = [market.source(Delivery::First).await, market.source(Delivery::Manual).await];
    // The first is dead, the second another chain: the rig has the third alone.
    let elsewhere = Proxy::start(&market.devnet.ready.rpc).await;
    elsewhere.inject(Calls::Of("eth_chainId"), Fault::ChainId(1), Times::UntilLifted);
    let rpc_urls = [dead_url(), elsewhere.url.clone(), proxy.url.clone()].map(|url| url.to_string()).to_vec();
    let options = RigOptions { rpc_urls, ..RigOptions::default() };
    let rig = Rig::start(&market.devnet.ready, &options).expect("the rig starts");
    market.pair(&rig).await;
    rig.wait_serving(2, UP).expect("the rig serves both");
    let before_wei = market.earned_wei().await;
    let send = Calls::Of("eth_sendRawTransaction");
    let faults = [
        (send, Fault::Swallow, 2),
        (send, Fault::SayFailed, 2),
        (send, Fault::Twice, 4),
        (send, Fault::DoneInSilence, 1),
        (send, Fault::Silence, 1),
        (Calls::Any, Fault::Status(500), 6),
        (Calls::Any, Fault::Status(429), 6),
        (Calls::Any, Fault::Garbage, 6),
        (Calls::Any, Fault::BreakOff, 6),
        (Calls::Of("eth_getTransactionReceipt"), Fault::Null, 6),
        (Calls::Of("eth_call"), Fault::Null, 4),
        (Calls::Any, Fault::Lag(2), 60),
        (Calls::Any, Fault::Refuse { code: -32005, message: "limit exceeded" }, 6),
    ];
    let mut tasks = Vec::new();
    for (calls, fault, times) in faults {
        let injected = proxy.inject(calls, fault.clone(), Times::Next(times));
        let pair = [market.task(sources[0], "echo", json!({})).await, market.task(sources[1], "echo", json!({})).await];
        injected.hit(1).await;
        market.node.mine(2).await;
        market.settle(&pair).await;
        injected.lift();
        tasks.extend(pair);
    }
    // All endpoints are gone while a handler runs and while a task is published.
    let running = market.task(sources[0], "echo", json!({ "seconds": 1 })).await;
    market.reaches(running.task, 1).await;
    proxy.close().await;
    let unseen = market.task(sources[1], "echo", json!({})).await;
    let looks = |rig: &Rig| rig.log().matches("chain was not scanned").count();
    let before = looks(&rig);
    eventually("the rig misses the chain", || async { (looks(&rig) > before).then_some(()) }).await;
    proxy.reopen().await;
    market.settle(&[running, unseen]).await;
    tasks.extend([running, unseen]);
    assert_eq!(
        elsewhere.count("eth_sendRawTransaction") + elsewhere.count("eth_getLogs"),
        0,
        "another chain is not asked"
    );
    market.ends_well(&rig, sources[0], &tasks, before_wei).await;
}
