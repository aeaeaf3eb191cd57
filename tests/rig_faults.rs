//! A whole rig on a network that fails: every task ends with exactly one response, the owner is paid exactly once for
//! each, and no nonce is stuck.

use std::time::Duration;

use alloy_primitives::{Address, U256};
use chain::abi::Terminal;
use provisioning::devnet::{Devnet, DevnetOptions, Role};
use serde_json::json;
use testbed::gateway::{Gateway, Mood};
use testbed::market::{Delivery, Market};
use testbed::proxy::{Calls, Fault, Proxy, Times};
use testbed::rig::{Rig, RigOptions, binary};

/// Longest time from a rig's start until it serves its sources.
const UP: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_between_rig_and_chain_lose_no_task_and_double_none() {
    let market = Market::open().await;
    let proxy = Proxy::start(&market.devnet.ready.rpc).await;
    let sources = [market.source(Delivery::First).await, market.source(Delivery::Manual).await];
    let options = RigOptions { rpc_urls: vec![proxy.url.to_string()], ..RigOptions::default() };
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
        let began = std::time::Instant::now();
        let injected = proxy.inject(calls, fault.clone(), Times::Next(times));
        let pair = [market.task(sources[0], "echo", json!({})).await, market.task(sources[1], "echo", json!({})).await];
        injected.hit(1).await;
        market.node.mine(2).await;
        market.settle(&pair).await;
        injected.lift();
        tasks.extend(pair);
        eprintln!("{fault:?} {:?}", began.elapsed());
    }
    market.ends_well(&rig, sources[0], &tasks, before_wei).await;
}

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

// === kill -9 ===

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
        let began = std::time::Instant::now();
        let from = newest_fact(&rig);
        let task = market.task(source, "echo", json!({ "seconds": 0.3 })).await;
        await_fact(&rig, from, kind, times);
        kill(&mut rig);
        market.settle(&[task]).await;
        rig.wait_task(task.task, &["settled"], UP).expect("the rig knows that it was paid");
        tasks.push(task);
        eprintln!("{kind} {times} {:?}", began.elapsed());
    }
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_a_fall_a_container_s_end_or_a_drain_it_goes_on() {
    let gateway_options = RigOptions::default();
    let Stand { market, mut rig, source, before_wei } = Stand::up(gateway_options).await;
    let gateway = Gateway::start(&market.devnet.ready.ipfs_gateway).await;

    gateway.turn(Mood::Status(503));
    let config = market.pin(json!({ "function_name": "echo", "data": {} }).to_string()).await;
    let from = newest_fact(&rig);
    let fell = market.task_of(source, gateway.instead_of(&config), 120).await;
    await_fact(&rig, from, "fell", 1);
    kill(&mut rig);
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
    market.ends_well(&rig, other, &[fell, slow], before_wei).await;
}

// === bad input ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_answer_badly_cost_their_own_task_only() {
    let options = RigOptions { limits: "result_bytes = 1000000".to_owned(), ..RigOptions::default() };
    let Stand { market, rig, source, before_wei } = Stand::up(options).await;
    let fails = [
        ("status", json!({ "code": 404 }), "answered 404"),
        ("status", json!({ "code": 422 }), "answered 422"),
        ("never", json!({}), "deadline"),
        ("big", json!({ "bytes": 1_000_000_000 }), "more than 1000000 bytes"),
        ("notjson", json!({}), "not JSON"),
    ];
    let mut failing = Vec::new();
    for (function, data, why) in fails {
        failing.push((market.task_within(source, function, data, 20).await, why));
    }
    let busy = [(409, 1), (503, 2), (429, 1)];
    let mut tasks = Vec::new();
    for (code, times) in busy {
        tasks.push(market.task(source, "busy", json!({ "code": code, "times": times })).await);
    }
    tasks.push(market.task(source, "forge", json!({})).await);
    tasks.push(market.task(source, "twice", json!({})).await);
    let [.., forge, twice] = tasks[..] else { panic!("five tasks") };
    market.settle(&tasks).await;
    assert_eq!(market.payload(forge.task).await["forged"], 404, "a task that nobody dispatched is nobody's");
    let report = market.task(source, "report", json!({ "task": twice.task.to_string() })).await;
    market.settle(&[report]).await;
    assert_eq!(market.payload(report.task).await["told"], json!([200, 409]), "a second callback is refused");
    tasks.push(report);
    for (task, why) in failing {
        let row = rig.wait_task(task.task, &["failed"], Duration::from_secs(40)).expect("it is given up");
        assert!(row["why"].as_str().is_some_and(|said| said.contains(why)), "{why}: {row}");
        assert!(market.responses(task.task).await.is_empty());
    }
    let peak_kib = peak_memory_kib(&rig);
    assert!(peak_kib < 300 * 1024, "a gigabyte streamed through {peak_kib} KiB");
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_away_or_lie_delay_or_cost_one_task() {
    let market = Market::open().await;
    let gateway = Gateway::start(&market.devnet.ready.ipfs_gateway).await;
    let options = RigOptions { publish: gateway.publish().to_string(), ..RigOptions::default() };
    let source = market.source(Delivery::First).await;
    let rig = Rig::start(&market.devnet.ready, &options).expect("the rig starts");
    market.pair(&rig).await;
    rig.wait_serving(1, UP).expect("the rig serves");
    let before_wei = market.earned_wei().await;
    let mut tasks = Vec::new();
    for mood in [Mood::Gone, Mood::Status(503), Mood::Lying("{\"function_name\": \"echo\", \"data\": {\"lie\": 1}}")] {
        gateway.turn(mood);
        let config = json!({ "function_name": "echo", "data": { "mood": format!("{mood:?}") } }).to_string();
        let config = gateway.instead_of(&market.pin(config).await);
        let task = market.task_of(source, config, 120).await;
        gateway.asked(1).await;
        gateway.turn(Mood::Well);
        market.settle(&[task]).await;
        assert_eq!(market.payload(task.task).await["data"], json!({ "mood": format!("{mood:?}") }));
        tasks.push(task);
    }
    // The answer cannot be published for a while.
    for mood in [Mood::Gone, Mood::Status(500), Mood::Lying("{\"link\": 7}")] {
        gateway.turn(mood);
        let task = market.task(source, "echo", json!({ "mood": format!("{mood:?}") })).await;
        gateway.asked(1).await;
        gateway.turn(Mood::Well);
        market.settle(&[task]).await;
        tasks.push(task);
    }
    for (config, why) in [("<html>", "not a task input"), ("{\"function_name\": \"../x\"}", "no function name")] {
        let config = market.pin(config).await;
        let task = market.task_of(source, config, 60).await;
        let row = rig.wait_task(task.task, &["refused"], UP).expect("it is refused");
        assert!(row["why"].as_str().is_some_and(|said| said.contains(why)), "{why}: {row}");
    }
    for (metadata, why) in [
        ("this is no JSON".to_owned(), "not a metadata document"),
        (json!({ "cpu": market.pin("services: {a: {image: x, privileged: true}}").await }).to_string(), "privileged"),
        (json!({ "nvidia": "x" }).to_string(), "no compose file for cpu"),
    ] {
        let bad = market.source_of(market.pin(metadata).await, Delivery::First).await;
        let name = bad.to_string().to_lowercase();
        let said = rig.wait_status("the source's refusal", UP, |status| {
            let sources = status["sources"].as_array().map_or(&[][..], Vec::as_slice);
            let row =
                sources.iter().find(|row| row["source"].as_str().map(str::to_lowercase).as_deref() == Some(&name));
            row.is_some_and(|row| row["why"].as_str().is_some_and(|said| said.contains(why)))
        });
        said.expect(why);
    }
    market.ends_well(&rig, source, &tasks, before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_changed_or_closed_under_a_running_task_loses_no_task() {
    let Stand { market, rig, source, before_wei } = Stand::up(RigOptions::default()).await;
    let running = market.task(source, "echo", json!({ "seconds": 3 })).await;
    market.reaches(running.task, 1).await;
    market.update(source, market.metadata().await, Delivery::First).await;
    let after = market.task(source, "echo", json!({})).await;
    market.settle(&[running, after]).await;

    let closing = market.task(source, "echo", json!({ "seconds": 3 })).await;
    market.reaches(closing.task, 1).await;
    market.inactivate(source).await;
    market.settle(&[closing]).await;
    let other = market.source(Delivery::First).await;
    rig.wait_serving(1, UP).expect("the rig serves the other");
    market.ends_well(&rig, other, &[running, after, closing], before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rig_without_gas_says_so_and_works_once_funded() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let rig = Rig::start(&market.devnet.ready, &RigOptions::default()).expect("the rig starts");
    let said = rig.wait_status("words about gas", UP, |status| {
        status["phase_text"].as_str().is_some_and(|said| said.contains("waiting for gas"))
    });
    said.expect("it says what it lacks");
    market.pair(&rig).await;
    rig.wait_serving(1, UP).expect("the rig serves");
    let before_wei = market.earned_wei().await;
    market.ends_well(&rig, source, &[], before_wei).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_wrong_are_refused_in_words() {
    let devnet = Devnet::up(DevnetOptions::default()).await.expect("the devnet starts");
    let mut rig = Rig::start(&devnet.ready, &RigOptions::default()).expect("the rig starts");
    rig.kill_provider().expect("it is killed");
    let file = rig.dir().join("rig.toml");
    let right = std::fs::read_to_string(&file).expect("its settings");
    let said = |text: String, arguments: &[&str]| {
        std::fs::write(&file, text).expect("its settings");
        let told = std::process::Command::new(binary("rig-provider").expect("it is built"))
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .expect("it runs");
        (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let (code, words) = said(right.replace("max_waiting", "max_wating"), &["--check"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("unknown key `max_wating`, did you mean `max_waiting`?"), "{words}");
    let (code, words) = said(right.replace("chain_id = 31337", "chain_id = 1071"), &[]);
    assert_eq!(code, Some(1));
    assert!(words.contains("31337") && words.contains("1071"), "{words}");
    assert_eq!(said(right, &["--check"]).0, Some(0));
}

/// A market with one source, served by a paired rig.
struct Stand {
    market: Market,
    rig: Rig,
    source: Address,
    before_wei: U256,
}

impl Stand {
    async fn up(options: RigOptions) -> Stand {
        let market = Market::open().await;
        let source = market.source(Delivery::First).await;
        let rig = Rig::start(&market.devnet.ready, &options).expect("the rig starts");
        market.pair(&rig).await;
        rig.wait_serving(1, UP).expect("the rig serves");
        let before_wei = market.earned_wei().await;
        Stand { market, rig, source, before_wei }
    }
}

/// Waits for the `times`-th fact of a kind since the ledger began, kills the provider at once, and starts it again.
fn kill_after(rig: &mut Rig, kind: &str, times: u32) {
    await_fact(rig, 0, kind, times);
    kill(rig);
}

fn kill(rig: &mut Rig) {
    rig.kill_provider().expect("it is killed");
    rig.start_provider().expect("it starts again");
}

fn pid(rig: &Rig) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(rig.provider_pid().expect("it runs")).expect("a process id"))
}

/// The number of the newest fact.
fn newest_fact(rig: &Rig) -> i64 {
    let ledger = open_ledger(rig).expect("the ledger");
    ledger.query_row("SELECT coalesce(max(seq), 0) FROM fact", [], |row| row.get(0)).expect("facts")
}

/// The ledger beside its owner, for reading.
fn open_ledger(rig: &Rig) -> rusqlite::Result<rusqlite::Connection> {
    rusqlite::Connection::open_with_flags(rig.ledger(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Waits for the `times`-th fact of a kind after the fact `from`.
fn await_fact(rig: &Rig, from: i64, kind: &str, times: u32) {
    let began = std::time::Instant::now();
    let mut last = String::new();
    while began.elapsed() < UP {
        // The provider may not have made its ledger yet.
        let count = open_ledger(rig).and_then(|ledger| {
            let count = "SELECT count(*) FROM fact WHERE seq > ?1 AND json_extract(news, '$.news') = ?2";
            ledger.query_row(count, rusqlite::params![from, kind], |row| row.get::<_, u32>(0))
        });
        match count {
            Ok(count) if count >= times => return,
            other => last = format!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no {times} facts of kind {kind} in {UP:?}: {last}");
}

/// The most memory that the provider has held, in KiB.
fn peak_memory_kib(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(rig))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
