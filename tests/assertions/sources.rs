//! Assertions 1, 2, 9 and 10: what a client offers.

use alloy::primitives::{Address, U256};
use chain::abi::Nexus;
use provisioning::devnet::Role;
use serde_json::json;
use testbed::stage::{COIN, PAYMENT, SOURCE_INFO, Stage, Terms, address, shown};

const PUBLISH_BY_HAND: &str = "
from ogpu.client import _build_source_params
params = _build_source_params(info, ADDRESS['client'])
receipt = nexus.publish_source(params, signer=KEY['client'])
";

#[tokio::test]
async fn a01_publishing_a_source_tells_it_once_and_it_is_active_and_the_clients() {
    let stage = Stage::up().await;
    let snippet = format!(
        "{SOURCE_INFO}{PUBLISH_BY_HAND}
logs = logs_of(receipt, 'NexusAbi')
source = Source.load(logs[0]['args']['source'])
{{'logs': logs, 'status': source.get_status(), 'client': source.get_client()}}"
    );
    let told = stage.ask(&snippet, Terms::FIRST.names()).await;
    assert_eq!(told["logs"].as_array().map(Vec::len), Some(1), "nexus tells this and no more");
    assert_eq!(told["logs"][0]["event"], "SourcePublished");
    assert_eq!(address(&told["logs"][0]["address"]), stage.contracts().nexus);
    assert_eq!(told["status"], "ACTIVE");
    assert_eq!(address(&told["client"]), stage.address(Role::Client));
}

#[tokio::test]
async fn a02_the_terms_of_a_source_come_back_in_all_ten_fields() {
    let stage = Stage::up().await;
    let terms = Terms { method: "MANUAL_CONFIRMATION", lockup_wei: 7, expiry_s: 4321 };
    let snippet = format!(
        "{SOURCE_INFO}{PUBLISH_BY_HAND}
stored = Source(nexus.extract_source_address(receipt)).get_params()
{{'sent': params, 'stored': stored, 'metadata': Source(nexus.extract_source_address(receipt)).get_metadata(),
  'method': DeliveryMethod[method].value}}"
    );
    let told = stage.ask(&snippet, terms.names()).await;
    let (sent, stored) = (&told["sent"], &told["stored"]);
    for field in [
        "client",
        "imageMetadataUrl",
        "imageEnvironments",
        "minPayment",
        "minAvailableLockup",
        "maxExpiryDuration",
        "privacyEnabled",
        "optionalParamsUrl",
        "deliveryMethod",
    ] {
        assert_eq!(sent[field], stored[field], "{field}");
    }
    assert_eq!(stored["deliveryMethod"], told["method"]);
    assert_eq!((&stored["imageEnvironments"], &stored["minPayment"]), (&json!(1), &json!(PAYMENT)));
    assert_eq!(told["metadata"]["cpu"], "http://127.0.0.1/compose.yml");
    // The tenth is the chain's to say: the time of the block, not what the client sent.
    assert_eq!(stored["lastUpdateTime"], json!(stage.now().await));
}

#[tokio::test]
async fn a09_only_its_owner_may_change_the_terms_of_a_source() {
    let stage = Stage::up().await;
    let source = stage.source(Terms::FIRST).await;
    // An update changes the time of the last one, unless that was in the same second; gas that is estimated in that
    // second does not last in the next.
    stage.warp(1).await;
    let change = "
source = Source(address)
params = source.get_params().model_copy(update={'minPayment': 5})
receipt = source.set_params(params, signer=KEY[who])
{'logs': logs_of(receipt, 'NexusAbi'), 'least': source.get_params().minPayment}";
    let told = stage.ask(change, json!({ "address": shown(source), "who": "client" })).await;
    assert_eq!(told["least"], 5);
    assert_eq!(told["logs"][0]["event"], "SourceUpdated");
    assert_eq!(address(&told["logs"][0]["args"]["source"]), source);
    stage.refused("NotSourceOwnerError", change, json!({ "address": shown(source), "who": "spare1" })).await;
}

#[tokio::test]
async fn a10_an_inactive_source_takes_nothing_new_and_finishes_what_it_has() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    stage.pair(Role::Spare2, Role::Spare3, 0).await;
    let source = stage.source(Terms::FIRST).await;
    stage.register(Role::Spare1, source).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let before = active_sources(&stage).await;

    let with = json!({ "source": shown(source) });
    let told = stage
        .ask(
            "receipt = client.inactivate_source(source)
{'logs': logs_of(receipt, 'NexusAbi'), 'status': Source(source).get_status()}",
            with.clone(),
        )
        .await;
    assert_eq!(told["status"], "INACTIVE");
    assert_eq!(told["logs"][0]["event"], "SourceStatusChanged");
    assert_eq!(told["logs"][0]["args"], json!({ "source": shown(source), "status": 1 }));
    assert_eq!(active_sources(&stage).await, before - U256::ONE);

    let publish = "client.publish_task(TaskInfo(source=source, config=TaskInput(function_name='add', data={}),
        expiryTime=int(time.time()) + 3600, payment=10**15))";
    stage.refused("SourceInactiveError", publish, with.clone()).await;
    let register = "Provider(ADDRESS['spare2']).register_to(source, 1, signer=KEY['spare2'])";
    stage.refused("SourceInactiveError", register, with).await;

    stage.attempt(Role::Spare1, task, PAYMENT).await;
    let provider = stage.address(Role::Spare1);
    let answer = testbed::stage::Answer { task, provider, payload: "late", payment_wei: PAYMENT };
    stage.respond(provider, answer).await.expect("a task that was published before goes on");
    let status = stage.ask("Task(task).get_status()", json!({ "task": shown(task) })).await;
    assert_eq!(status, "FINALIZED");
    assert_ne!(stage.response_of(task, provider).await, Address::ZERO);
}

async fn active_sources(stage: &Stage) -> U256 {
    let client = stage.address(Role::Client);
    stage.read(stage.contracts().nexus, Nexus::getActiveSourceCountCall { client }).await
}
