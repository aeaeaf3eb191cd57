//! How the rig ends, and what an end leaves: for the task under way, and on the machine.

use std::fs;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testbed::market::{Delivery, Market};
use testbed::node::eventually;
use testbed::rig::{Rig, RigOptions};

use crate::town::{COIN, SOON, Terms, UP, family, input, jail, official, serving, source, task, works};

/// What begun work has to finish in, in seconds.
const GRACE_S: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_begun_work_finish_and_what_a_short_one_leaves_is_taken_up_by_the_next_start() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let options = RigOptions { drain_s: GRACE_S, ..RigOptions::default() };
    let mut rig = serving(&market, &options, 1).await;
    let before_wei = market.earned_wei().await;

    let fits = market.task(source, "echo", json!({ "seconds": 3 })).await;
    rig.wait_task(fits.task, &["running"], SOON).expect("it runs");
    assert!(rig.drain_provider().expect("it is told to stop"), "the provider ends well");
    assert_eq!(market.responses(fits.task).await.len(), 1, "the response is on chain before the provider ends");

    rig.start_provider().expect("the provider starts");
    rig.wait_serving(1, UP).expect("it serves again");
    let exceeds = market.task_within(source, "echo", json!({ "seconds": 2 * GRACE_S }), 120).await;
    rig.wait_task(exceeds.task, &["running"], SOON).expect("it runs");
    let began = Instant::now();
    assert!(rig.drain_provider().expect("it is told to stop"), "the provider ends well, with work unfinished");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2 * GRACE_S - 2), "the grace ends the drain, not the task: {took:?}");
    assert!(market.responses(exceeds.task).await.is_empty(), "the work is unfinished");

    rig.start_provider().expect("the provider starts");
    let paid_wei = market.settle(&[fits, exceeds]).await;
    assert_eq!(market.responses(exceeds.task).await.len(), 1, "the next start takes it up, once");
    assert_eq!(market.earned_wei().await - before_wei, paid_wei, "each is paid once");
    rig.wait_task(exceeds.task, &["settled"], SOON).expect("the rig sees that it was paid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_provider_finds_its_containers_running() {
    let market = Market::open().await;
    let terms = Terms { delivery: Delivery::First, lockup_wei: 0 };
    let handler = source(&market, official(&market).await, terms).await;
    let light = market.source(Delivery::First).await;
    let mut rig = serving(&market, &works("sources = \"any\""), 2).await;
    let before = [handler, light].map(|source| jail(&rig, source).expect("the source runs"));
    let first = tally(&market, &rig, handler).await;

    let in_flight = market.task_within(light, "echo", json!({ "seconds": 6 }), 120).await;
    rig.wait_task(in_flight.task, &["running"], SOON).expect("it runs");
    rig.kill_provider().expect("the provider is killed");
    rig.start_provider().expect("the provider starts");
    market.settle(&[in_flight]).await;
    // The new provider asks for a second run, whose callback changes nothing.
    let payload = market.payload(in_flight.task).await;
    assert_eq!(payload["posts"], 1, "the callback of the run before the kill is what is answered: {payload}");
    assert_eq!(market.responses(in_flight.task).await.len(), 1, "exactly one response");

    rig.wait_serving(2, UP).expect("it serves again");
    let after = [handler, light].map(|source| jail(&rig, source).expect("the source runs"));
    assert_eq!(after, before, "no container was started again");
    let second = tally(&market, &rig, handler).await;
    let uptime = |said: &Value| said["uptime_seconds"].as_f64().expect("seconds");
    assert_eq!((&first["calls"], &second["calls"]), (&json!(1), &json!(2)), "the same process counts on");
    assert!(uptime(&second) > uptime(&first), "the same process grows older");
    eventually("no nonce is stuck", || async {
        let (mined, all) = market.node.counts(rig.address()).await;
        (mined == all).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_dies_is_started_again_and_its_task_rerun() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let rig = serving(&market, &works("sources = \"any\""), 1).await;
    let before = jail(&rig, source).expect("the source runs");
    let under_it = market.task_within(source, "echo", json!({ "seconds": 3 }), 120).await;
    rig.wait_task(under_it.task, &["running"], SOON).expect("it runs");
    let service = family([before.pid]).into_iter().find(|pid| *pid != before.pid).expect("the jail has a service");
    kill(Pid::from_raw(service), Signal::SIGKILL).expect("the service is killed");

    let is_told = |_: &Value| rig.log().contains("the container ended (Signal(9))");
    rig.wait_status("words about the end", SOON, is_told).expect("the rig says how the container ended");
    market.settle(&[under_it]).await;
    assert_eq!(market.responses(under_it.task).await.len(), 1, "its task is answered, once");
    assert_eq!(market.payload(under_it.task).await["posts"], 1, "a new process was asked once");
    let after = jail(&rig, source).expect("the source runs again");
    assert_ne!(after.pid, before.pid, "in a new jail");
    rig.wait_serving(1, UP).expect("and is served");
    let next = market.task(source, "echo", json!({})).await;
    market.settle(&[next]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let mut rig = serving(&market, &works("sources = \"any\""), 1).await;
    let done = market.task(source, "echo", json!({})).await;
    market.settle(&[done]).await;
    let jail = jail(&rig, source).expect("the source runs");
    let netns = format!("/proc/{}/ns/net", jail.pid);
    // Held open, because the kernel gives the name of a network that is gone to the next one.
    let _kept = fs::File::open(&netns).expect("the jail has a network");
    let netns = fs::read_link(netns).expect("the network has a name").to_str().expect("text").to_owned();
    let me = i32::try_from(std::process::id()).expect("a process id");
    let ours = family(rig.pids().into_iter().map(|pid| i32::try_from(pid).expect("a process id")));
    assert!(ours.contains(&jail.pid), "the jail descends from the runner");
    assert!(holders(&netns).iter().any(|pid| ours.contains(pid)), "the rig holds the jail's network");

    assert!(rig.stop().expect("the rig is told to stop"), "signer, runner and provider end well");
    // The kernel ends the runner's spawner with the runner, which is just after it.
    eventually("the end of every process", || async { ours.iter().all(|pid| !is_alive(*pid)).then_some(()) }).await;
    // A child that a neighbouring test makes has our descriptors until it executes.
    eventually("nobody but this test holds the jail's network", || async { (holders(&netns) == [me]).then_some(()) })
        .await;
    let folder = rig.dir().to_str().expect("text");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts of this machine");
    assert!(!mounts.contains(folder) && !mounts.contains(&netns), "no mount is left: {mounts}");
    let runs = fs::read_dir(rig.dir().join("runner/runs")).expect("the runner's folder").count();
    assert_eq!(runs, 0, "no run's files are left");
}

/// Has the official handler tell how old it is.
async fn tally(market: &Market, rig: &Rig, source: Address) -> Value {
    let asked = task(market, source, input(market, "tally", json!({})).await, COIN, 60).await;
    rig.wait_task(asked, &["settled"], SOON).expect("the handler tells");
    market.payload(asked).await
}

fn is_alive(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).expect("/proc answers")
}

/// Processes that live in a network namespace or hold it open.
fn holders(netns: &str) -> Vec<i32> {
    let points_there = |path: &str| fs::read_link(path).is_ok_and(|target| target.to_str() == Some(netns));
    let holds = |pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        points_there(&format!("/proc/{pid}/ns/net"))
            || open.into_iter().any(|entry| entry.path().to_str().is_some_and(points_there))
    };
    crate::town::parents().into_iter().map(|(pid, _)| pid).filter(holds).collect()
}
