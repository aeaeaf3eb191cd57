//! Assertions 28 and 31: what the SDK shows of the network, and what it makes of a refusal.

use alloy::primitives::Address;
use provisioning::devnet::Role;
use serde_json::{Value, json};
use testbed::stage::{Answer, COIN, PAYMENT, Stage, Terms, shown};

/// A stage on which one task has been answered and paid, so that every view has something to show.
async fn stage_after_a_task() -> (Stage, Address, Address) {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 500).await;
    let source = stage.source(Terms::FIRST).await;
    stage.register(Role::Spare1, source).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    stage.attempt(Role::Spare1, task, PAYMENT).await;
    let provider = stage.address(Role::Spare1);
    let answer = Answer { task, provider, payload: "answer", payment_wei: PAYMENT };
    stage.respond(provider, answer).await.expect("all is in order");
    (stage, source, task)
}

fn check_fields(snapshot: &Value, expected: &[(&str, Value)]) {
    for (field, value) in expected {
        assert_eq!(&snapshot[field], value, "{field} in {snapshot}");
    }
    let absent: Vec<_> = snapshot.as_object().into_iter().flatten().filter(|(_, value)| value.is_null()).collect();
    assert!(absent.is_empty(), "nothing is left out: {absent:?}");
}

#[tokio::test]
async fn a28_a_snapshot_of_each_kind_fills_every_field() {
    let (stage, source, task) = stage_after_a_task().await;
    let (provider, master) = (stage.address(Role::Spare1), stage.address(Role::Master));
    let told = stage
        .ask(
            "t = Task(task)
{'source': Source(source).snapshot(), 'task': t.snapshot(), 'response': t.get_confirmed_response().snapshot(),
 'provider': Provider(ADDRESS['spare1']).snapshot(), 'master': Master(ADDRESS['master']).snapshot()}",
            json!({ "source": shown(source), "task": shown(task) }),
        )
        .await;
    check_fields(
        &told["source"],
        &[
            ("address", json!(shown(source))),
            ("client", json!(shown(stage.address(Role::Client)))),
            ("status", json!("ACTIVE")),
            ("task_count", json!(1)),
            ("registrant_count", json!(1)),
        ],
    );
    check_fields(
        &told["task"],
        &[
            ("source", json!(shown(source))),
            ("status", json!("FINALIZED")),
            ("payment", json!(PAYMENT)),
            ("delivery_method", json!("FIRST_RESPONSE")),
            ("attempt_count", json!(1)),
            ("winning_provider", json!(shown(provider))),
        ],
    );
    check_fields(
        &told["response"],
        &[("task", json!(shown(task))), ("status", json!("CONFIRMED")), ("confirmed", json!(true))],
    );
    check_fields(
        &told["provider"],
        &[("master", json!(shown(master))), ("is_provider", json!(true)), ("lockup", json!(500))],
    );
    check_fields(
        &told["master"],
        &[("provider", json!(shown(provider))), ("balance", json!(PAYMENT)), ("total_earnings", json!(PAYMENT))],
    );
}

#[tokio::test]
async fn a28_all_six_watchers_tell_what_happened() {
    let (stage, source, task) = stage_after_a_task().await;
    let watch = "
response = Task(task).get_confirmed_response().address
watch = dict(from_block=0, poll_interval=0.05)
{
    'published': first_of(watch_task_published(source, **watch), 1),
    'registered': first_of(watch_registered(source, **watch), 1),
    'attempted': first_of(watch_attempted(task, **watch), 1),
    'statuses': first_of(watch_task_status_changed(task, **watch), 3),
    'submitted': first_of(watch_response_submitted(task, **watch), 1),
    'confirmed': first_of(watch_response_status_changed(response, **watch), 1),
    'response': response,
}";
    let told = stage.ask(watch, json!({ "source": shown(source), "task": shown(task) })).await;
    let provider = json!(shown(stage.address(Role::Spare1)));
    assert_eq!(told["published"][0]["task"], shown(task));
    assert_eq!((&told["registered"][0]["provider"], &told["registered"][0]["registrant_id"]), (&provider, &json!(1)));
    let attempted = &told["attempted"][0];
    assert_eq!((&attempted["provider"], &attempted["suggested_payment"]), (&provider, &json!(PAYMENT)));
    let statuses: Vec<_> = told["statuses"].as_array().into_iter().flatten().map(|event| &event["status"]).collect();
    assert_eq!(statuses, ["ATTEMPTED", "RESPONDED", "FINALIZED"]);
    assert_eq!(told["submitted"][0]["response"], told["response"]);
    assert_eq!(told["confirmed"][0]["status"], "CONFIRMED");
}

#[tokio::test]
async fn a31_a_refusal_carries_its_reason_already_in_the_estimate() {
    let (stage, source, task) = stage_after_a_task().await;
    let probe = "
from ogpu.protocol import load_contract
from web3.exceptions import ContractLogicError

def reason(abi, function, arguments, who):
    call = getattr(load_contract(abi).functions, function)(*arguments)
    try:
        call.estimate_gas({'from': ADDRESS[who]})
    except ContractLogicError as error:
        return str(error)
    return 'no refusal'

me = ADDRESS['spare2']
late = (source, 'http://127.0.0.1/', int(time.time()) + 60, 10**30)
[
    ['NotOwner', reason('ControllerAbi', 'cancelTask', (task,), 'spare2')],
    ['NotOwner', reason('NexusAbi', 'inactivateSource', (source,), 'spare2')],
    ['NotMaster', reason('TerminalAbi', 'removeProvider', (ADDRESS['spare1'],), 'spare2')],
    ['NotProvider', reason('NexusAbi', 'register', (source, ADDRESS['spare1'], 1), 'spare2')],
    ['AlreadyFinalized', reason('ControllerAbi', 'cancelTask', (task,), 'client')],
    ['AlreadyConfirmed', reason('ControllerAbi', 'confirmResponse',
                                (Task(task).get_confirmed_response().address,), 'client')],
    ['InsufficientBalance', reason('VaultAbi', 'withdraw', (1,), 'spare2')],
    ['InsufficientBalance', reason('ControllerAbi', 'publishTask', (late,), 'client')],
    ['InsufficientLockup', reason('VaultAbi', 'unbond', (1,), 'spare2')],
]";
    let told = stage.ask(probe, json!({ "source": shown(source), "task": shown(task) })).await;
    for pair in told.as_array().expect("the snippet answers a list") {
        let [expected, reason] = [0, 1].map(|place| pair[place].as_str().expect("two strings"));
        assert!(reason.contains(expected), "expected {expected}, was told {reason}");
    }
}
