//! Assertions 3 to 8 and 22: the life of a task on the client's side.

use alloy::primitives::{Address, U256};
use chain::abi::Nexus;
use provisioning::devnet::Role;
use serde_json::{Value, json};
use testbed::stage::{COIN, PAYMENT, Stage, Terms, address, events, shown};

const PUBLISH: &str = "
expiry = int(time.time()) + expires_in
task = client.publish_task(
    TaskInfo(source=source, config=TaskInput(function_name='add', data={'a': 1, 'b': 2}), expiryTime=expiry,
             payment=payment),
    private_key=KEY[who],
)
";

fn publication(source: Address, payment_wei: u64) -> Value {
    json!({ "source": shown(source), "payment": payment_wei, "expires_in": 3600, "who": "client" })
}

async fn status(stage: &Stage, task: Address) -> Value {
    stage.ask("Task(task).get_status()", json!({ "task": shown(task) })).await
}

#[tokio::test]
async fn a03_a_task_needs_its_payment_in_the_vault() {
    let stage = Stage::up().await;
    let source = stage.source(Terms::FIRST).await;
    stage.deposit(PAYMENT - 1).await;
    stage.refused("InsufficientBalanceError", PUBLISH, publication(source, PAYMENT)).await;
    stage.deposit(1).await;
    stage.task(source, PAYMENT, 3600).await;
}

#[tokio::test]
async fn a04_a_published_task_is_told_by_nexus_and_knows_its_source() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let source = stage.source(Terms::FIRST).await;
    let by_hand = "
from ogpu.client import _build_task_params
info = TaskInfo(source=source, config=TaskInput(function_name='add', data={}),
                expiryTime=int(time.time()) + expires_in, payment=payment)
receipt = controller.publish_task(_build_task_params(info), signer=KEY[who])
logs = logs_of(receipt, 'NexusAbi')
{'logs': logs, 'source': Task(logs[0]['args']['task']).get_source().address}";
    let told = stage.ask(by_hand, publication(source, PAYMENT)).await;
    assert_eq!(told["logs"].as_array().map(Vec::len), Some(1));
    assert_eq!(told["logs"][0]["event"], "TaskPublished");
    assert_eq!(address(&told["logs"][0]["address"]), stage.contracts().nexus);
    assert_eq!(address(&told["source"]), source);
}

#[tokio::test]
async fn a05_a_new_task_is_new_unattempted_and_as_published() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let source = stage.source(Terms::MANUAL).await;
    let snippet = format!(
        "{PUBLISH}
{{'status': task.get_status(), 'payment': task.get_payment(), 'expiry': task.get_expiry_time() - expiry,
  'method': task.get_delivery_method(), 'count': task.get_attempt_count(), 'winner': task.get_winning_provider(),
  'attempters': task.get_attempters(), 'responses': task.get_responses(), 'config': task.get_metadata()}}"
    );
    let told = stage.ask(&snippet, publication(source, PAYMENT + 5)).await;
    let expected = json!({
        "status": "NEW", "payment": PAYMENT + 5, "expiry": 0, "method": "MANUAL_CONFIRMATION", "count": 0,
        "winner": null, "attempters": [], "responses": [],
        "config": { "function_name": "add", "data": { "a": 1, "b": 2 } },
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a06_publishing_moves_the_payment_from_balance_to_escrow() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let source = stage.source(Terms::FIRST).await;
    let first = stage.task(source, PAYMENT, 3600).await;
    let second = stage.task(source, 2 * PAYMENT, 3600).await;
    let client = stage.address(Role::Client);
    assert_eq!(stage.balance(client).await, U256::from(COIN - 3 * PAYMENT));
    assert_eq!(stage.frozen(first).await, U256::from(PAYMENT));
    assert_eq!(stage.frozen(second).await, U256::from(2 * PAYMENT));
    let by_sdk = "vault.get_frozen_payment(ADDRESS['client'])";
    assert_eq!(stage.ask_wei(by_sdk, json!({})).await, U256::from(3 * PAYMENT));
}

#[tokio::test]
async fn a07_a_task_outside_the_sources_terms_or_from_a_stranger_is_refused() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let source = stage.source(Terms { expiry_s: 7200, ..Terms::FIRST }).await;
    stage.refused("OGPUError", PUBLISH, publication(source, PAYMENT - 1)).await;
    let mut too_long = publication(source, PAYMENT);
    // The chain's clock runs ahead of the client's by a second per block, at most.
    too_long["expires_in"] = json!(2 * 7200);
    stage.refused("OGPUError", PUBLISH, too_long).await;
    let mut by_stranger = publication(source, PAYMENT);
    by_stranger["who"] = json!("spare1");
    stage.refused("OGPUError", PUBLISH, by_stranger).await;
    stage.task(source, PAYMENT, 3600).await;
}

#[tokio::test]
async fn a08_a_new_task_can_be_cancelled_once_by_its_client_and_only_before_an_attempt() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    let source = stage.source(Terms::FIRST).await;
    stage.register(Role::Spare1, source).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let cancel = "logs_of(Task(task).cancel(signer=KEY[who]), 'NexusAbi')";
    let by = |task: Address, who: &str| json!({ "task": shown(task), "who": who });

    stage.refused("NotTaskOwnerError", cancel, by(task, "spare2")).await;
    let logs = stage.ask(cancel, by(task, "client")).await;
    assert_eq!(logs[0]["args"], json!({ "task": shown(task), "status": 3 }));
    assert_eq!(status(&stage, task).await, "CANCELED");
    assert_eq!(stage.balance(stage.address(Role::Client)).await, U256::from(COIN));
    assert_eq!(stage.frozen(task).await, U256::ZERO);
    stage.refused("TaskAlreadyFinalizedError", cancel, by(task, "client")).await;

    let attempted = stage.task(source, PAYMENT, 3600).await;
    stage.attempt(Role::Spare1, attempted, PAYMENT).await;
    stage.refused("TaskAlreadyFinalizedError", cancel, by(attempted, "client")).await;
}

#[tokio::test]
async fn a22_the_first_attempt_after_expiry_expires_the_task_and_the_next_is_refused() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    let source = stage.source(Terms::FIRST).await;
    stage.register(Role::Spare1, source).await;
    let task = stage.task(source, PAYMENT, 600).await;
    stage.warp(1200).await;

    let provider = stage.address(Role::Spare1);
    let call = Nexus::attemptCall { task, provider, suggestedPayment: U256::from(PAYMENT) };
    let receipt = stage.send(provider, stage.contracts().nexus, call).await.expect("the call itself succeeds");
    assert!(events::<Nexus::Attempted>(&receipt).is_empty());
    let told: Vec<_> = events::<Nexus::TaskStatusChanged>(&receipt).iter().map(|event| event.status).collect();
    assert_eq!(told, [4]);
    assert_eq!(status(&stage, task).await, "EXPIRED");
    assert_eq!(stage.frozen(task).await, U256::ZERO);
    assert_eq!(stage.balance(stage.address(Role::Client)).await, U256::from(COIN));

    let again = "Provider(ADDRESS['spare1']).attempt(task, 1, signer=KEY['spare1'])";
    stage.refused("TaskExpiredError", again, json!({ "task": shown(task) })).await;
}
