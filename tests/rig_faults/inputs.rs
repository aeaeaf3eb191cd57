//! What comes from outside is bad: it costs the task or the source that brought it, and is told in words.

use std::time::Duration;

use provisioning::devnet::{Devnet, DevnetOptions};
use serde_json::json;
use testbed::gateway::{Gateway, Mood};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions, binary};

use crate::stand::{Stand, UP, peak_memory_kib};

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
    assert!(peak_kib < 100 * 1024, "a gigabyte streamed through {peak_kib} KiB");
    market.ends_well(&rig, source, &tasks, before_wei).await;
    let half = std::fs::read_dir(rig.dir().join("content/incoming")).expect("the store's folder").count();
    assert_eq!(half, 0, "what was too large left nothing behind");
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
