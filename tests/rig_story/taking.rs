//! Which tasks are taken, by whose word, and what is said of the others.

use alloy_primitives::{Address, U256};
use chain::abi::Terminal;
use provisioning::devnet::Role;
use serde_json::{Value, json};
use testbed::market::{Delivery, Market};
use testbed::rig::Rig;
use testbed::sdk::Sdk;

use crate::town::{
    COIN, SOON, Terms, asked, confirm, input, official, serving, source, task, vault_wei, wait_source, works,
};

const MANUAL: Terms = Terms { delivery: Delivery::Manual, lockup_wei: 0 };
const FIRST: Terms = Terms { delivery: Delivery::First, lockup_wei: 0 };

/// What an agent asks for in these tests, in wei: less than the client offers.
const BID_WEI: u64 = COIN / 5 * 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_attempts_and_the_rig_runs_it() {
    let market = Market::open().await;
    let source = source(&market, official(&market).await, MANUAL).await;
    let rig = serving(&market, &works("sources = \"any\"\nattempts = \"agent\""), 1).await;
    let call = Terminal::setAgentCall { agent: market.address(Role::Agent), value: true };
    market.send(Role::Master, market.devnet.ready.contracts.terminal, &call, U256::ZERO).await;
    let agent = Sdk::start(&market.devnet.ready, "agent").await.expect("the SDK starts");

    let left = task(&market, source, input(&market, "add", json!({ "a": 1, "b": 1 })).await, COIN, 120).await;
    rig.wait_task(left, &["refused"], SOON).expect("the rig leaves it to the agent");
    let words = "this rig waits for an agent to attempt in its name (attempts = \"agent\" in rig.toml)";
    assert_eq!(refusal(&rig, left), words, "the reason says who has to act");

    let (client_wei, owner_wei) = (vault_wei(&market, Role::Client).await, market.earned_wei().await);
    let wanted = task(&market, source, input(&market, "add", json!({ "a": 20, "b": 22 })).await, COIN, 120).await;
    attempt(&agent, wanted, &rig, BID_WEI).await;
    rig.wait_task(wanted, &["responded"], SOON).expect("the rig runs what its agent attempted");
    assert_eq!(market.payload(wanted).await, json!({ "sum": 42 }));
    assert_eq!(confirm(&market, wanted).await, U256::from(BID_WEI), "the response asks for what the agent bid");
    let row = rig.wait_task(wanted, &["settled"], SOON).expect("the rig sees that it was paid");
    assert_eq!(row["paid_wei"], json!(U256::from(BID_WEI)), "the rig knows what it was paid");
    assert_eq!(market.earned_wei().await - owner_wei, U256::from(BID_WEI), "the owner gets the bid");
    assert_eq!(
        client_wei - vault_wei(&market, Role::Client).await,
        U256::from(BID_WEI),
        "the rest of the escrow is refunded"
    );

    attempt(&agent, left, &rig, COIN).await;
    rig.wait_task(left, &["responded"], SOON).expect("an attempt makes a refused task the rig's to do");
    assert_eq!(market.payload(left).await, json!({ "sum": 2 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_task_that_was_seen_and_not_taken_has_a_reason() {
    let market = Market::open().await;
    let source = source(&market, official(&market).await, FIRST).await;
    let one_place = "sources = \"any\"\nmin_payment = \"0.5\"\nmax_runs = 1\nmax_runs_per_source = 1\nmax_waiting = 1";
    let rig = serving(&market, &works(one_place), 1).await;
    let add = input(&market, "add", json!({ "a": 1, "b": 2 })).await;
    let slow = |seconds: u64| json!({ "seconds": seconds, "tag": seconds.to_string() });

    let cheap = task(&market, source, add.clone(), COIN / 10, 60).await;
    let brief = task(&market, source, add.clone(), COIN, 12).await;
    let strange = task(&market, source, input(&market, "dance", json!({})).await, COIN, 60).await;
    let torn = task(&market, source, market.pin("{ \"function_name\": ").await, COIN, 60).await;
    let nameless = task(&market, source, input(&market, "../add", json!({})).await, COIN, 60).await;
    for task in [cheap, brief, strange, torn, nameless] {
        rig.wait_task(task, &["refused"], SOON).expect("it is refused for good");
    }
    expect(&rig, cheap, "it pays 0.100000000000000000 and the owner's floor is 0.500000000000000000");
    expect(&rig, brief, " s and needs 15 s here");
    expect(&rig, strange, "its source has no function `dance`");
    expect(&rig, torn, "is not a task input");
    expect(&rig, nameless, "`../add` is no function name");

    market.node.set_balance(rig.address(), U256::from(1000)).await;
    let poor = task(&market, source, add, COIN, 60).await;
    rig.wait_task(poor, &["held"], SOON).expect("it is held until there is gas");
    expect(&rig, poor, "send gas to the rig's address");
    market.fund(&rig).await;

    let runs = task(&market, source, input(&market, "slow", slow(8)).await, COIN, 120).await;
    rig.wait_task(runs, &["running"], SOON).expect("the first takes the only place");
    let waits = task(&market, source, input(&market, "slow", slow(1)).await, COIN, 120).await;
    rig.wait_task(waits, &["ready"], SOON).expect("the second waits for it");
    let crowded = task(&market, source, input(&market, "slow", slow(2)).await, COIN, 120).await;
    rig.wait_task(crowded, &["held"], SOON).expect("the third finds no place");
    expect(&rig, crowded, "1 attempted tasks are waiting already, the bound is 1");
    market.inactivate(source).await;
    wait_source(&rig, source, "stopping", "");
    for task in [runs, waits] {
        rig.wait_task(task, &["settled"], SOON).expect("what was begun on a paused source is finished");
    }
    expect(&rig, crowded, "its source is not served here: it is being stopped");
    wait_source(&rig, source, "refused", "its client has inactivated it");
    assert!(market.responses(crowded).await.is_empty(), "what was refused is not answered");
}

/// `agent` attempts in the rig's name, through the SDK.
async fn attempt(agent: &Sdk, task: Address, rig: &Rig, bid_wei: u64) {
    let snippet = "agent.attempt(task, rig, int(bid)).status";
    let with =
        json!({ "task": task.to_checksum(None), "rig": rig.address().to_checksum(None), "bid": bid_wei.to_string() });
    agent.run(snippet, with).await.expect("the agent may attempt for the rig");
}

/// What `rig tasks --refused` says of a task.
fn refusal(rig: &Rig, task: Address) -> String {
    let answer = asked(rig, &["tasks", "--refused"]);
    let rows = answer["tasks"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["task"] == *task.to_string());
    let why = row.and_then(|row| row["why"].as_str());
    why.unwrap_or_else(|| panic!("`rig tasks --refused` gives no reason for {task}: {}", Value::from(rows.clone())))
        .to_owned()
}

/// Waits until the reason for a task has `words` in it: a held task is looked at again, with a new reason.
fn expect(rig: &Rig, task: Address, words: &str) {
    let said = rig.wait_status(&format!("\"{words}\" of {task}"), SOON, |_| {
        let row = rig.task(task).ok().flatten().unwrap_or_default();
        row["why"].as_str().is_some_and(|why| why.contains(words))
    });
    said.unwrap_or_else(|error| panic!("{error:#}; the rig says {:?}", rig.task(task)));
    assert!(refusal(rig, task).contains(words), "the owner reads the same");
}
