//! Assertions 21 and 23 to 25: attempts, answers, and who is paid.

use alloy::primitives::{Address, U256};
use chain::abi::{Nexus, Task, Vault};
use provisioning::devnet::Role;
use serde_json::json;
use testbed::stage::{Answer, COIN, PAYMENT, Stage, Terms, address, events, shown};

/// A stage with a funded client, two paired providers (`spare1` of the master, `spare2` of `spare3`), and a source that
/// both are registered with.
async fn stage_with_two_providers(terms: Terms) -> (Stage, Address) {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    stage.pair(Role::Spare2, Role::Spare3, 0).await;
    let source = stage.source(terms).await;
    stage.register(Role::Spare1, source).await;
    stage.register(Role::Spare2, source).await;
    (stage, source)
}

#[tokio::test]
async fn a21_an_agents_attempt_is_the_providers_and_counts_once() {
    let (stage, source) = stage_with_two_providers(Terms::FIRST).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let provider = stage.address(Role::Spare1);
    let with = json!({ "task": shown(task), "bid": PAYMENT });
    stage.ask("Master(ADDRESS['master']).set_agent(ADDRESS['agent'], True, signer=KEY['master'])", json!({})).await;
    let attempt = "logs_of(agent.attempt(task, ADDRESS['spare1'], bid, private_key=KEY['agent']), 'NexusAbi')";
    let logs = stage.ask(attempt, with.clone()).await;
    assert_eq!(logs.as_array().map(Vec::len), Some(2));
    assert_eq!(logs[0]["event"], "Attempted");
    let expected = json!({ "task": shown(task), "provider": shown(provider), "suggestedPayment": PAYMENT });
    assert_eq!(logs[0]["args"], expected);
    assert_eq!(logs[1]["event"], "TaskStatusChanged");
    assert_eq!(logs[1]["args"], json!({ "task": shown(task), "status": 1 }));
    stage.refused("OGPUError", attempt, with.clone()).await;

    stage.attempt(Role::Spare2, task, PAYMENT).await;
    let told = stage
        .ask(
            "t = Task(task)\n[t.get_status(), t.get_attempters(), t.get_attempt_timestamps(), t.get_attempt_count()]",
            with,
        )
        .await;
    assert_eq!((&told[0], &told[3]), (&json!("ATTEMPTED"), &json!(2)));
    assert_eq!(told[1], json!([shown(provider), shown(stage.address(Role::Spare2))]));
    let times: Vec<u64> = told[2].as_array().into_iter().flatten().filter_map(|time| time.as_u64()).collect();
    assert_eq!(times.len(), 2);
    assert!(times[0] <= times[1] && times[1] == stage.now().await, "{times:?}");
}

#[tokio::test]
async fn a23_an_answer_needs_an_attempt_the_right_key_and_time_and_comes_once() {
    let (stage, source) = stage_with_two_providers(Terms::MANUAL).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let (one, two) = (stage.address(Role::Spare1), stage.address(Role::Spare2));
    let answer = Answer { task, provider: one, payload: "one", payment_wei: PAYMENT };
    let unasked = stage.respond(one, answer).await.expect_err("nothing was attempted");
    assert!(unasked.says("NotProvider"), "{unasked}");
    stage.attempt(Role::Spare1, task, PAYMENT).await;
    stage.attempt(Role::Spare2, task, PAYMENT).await;

    let forged = stage.respond(two, answer).await.expect_err("another provider's key");
    assert!(forged.says("NotProvider"), "{forged}");
    let dear = Answer { payment_wei: PAYMENT + 1, ..answer };
    stage.respond(one, dear).await.expect_err("more than was bid");
    stage.respond(one, answer).await.expect("all is in order");
    stage.respond(one, Answer { payload: "again", ..answer }).await.expect_err("a second answer");
    stage.respond(two, Answer { provider: two, ..answer }).await.expect_err("the same payload");

    let page = Task::getResponsesOfCall { lower: U256::ZERO, upper: U256::ONE };
    let filed = stage.response_of(task, one).await;
    assert_eq!(stage.read(task, page).await, [filed, Address::ZERO]);
    let told = stage.ask("Task(task).get_responses()", json!({ "task": shown(task) })).await;
    assert_eq!(told, json!([shown(filed)]));

    let late = stage.task(source, PAYMENT, 600).await;
    stage.attempt(Role::Spare1, late, PAYMENT).await;
    stage.warp(1200).await;
    let expired = stage.respond(one, Answer { task: late, payload: "late", ..answer }).await.expect_err("too late");
    assert!(expired.says("Expired"), "{expired}");
}

#[tokio::test]
async fn a24_the_first_answer_ends_the_task_and_pays_the_master() {
    let (stage, source) = stage_with_two_providers(Terms::FIRST).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let (one, two) = (stage.address(Role::Spare1), stage.address(Role::Spare2));
    stage.attempt(Role::Spare1, task, PAYMENT).await;
    stage.attempt(Role::Spare2, task, PAYMENT).await;
    let receipt = stage
        .respond(one, Answer { task, provider: one, payload: "first", payment_wei: PAYMENT })
        .await
        .expect("all is in order");
    let statuses: Vec<_> = events::<Nexus::TaskStatusChanged>(&receipt).iter().map(|event| event.status).collect();
    assert_eq!(statuses, [2, 5], "responded, then finalized, in one transaction");
    let told = stage
        .ask(
            "t = Task(task)
r = t.get_confirmed_response()
{'status': t.get_status(), 'winner': t.get_winning_provider(), 'confirmed': r.is_confirmed(),
 'kind': r.get_status(), 'response': r, 'balance': vault.get_balance_of(ADDRESS['master']),
 'earned': vault.get_total_earnings_of(ADDRESS['master'])}",
            json!({ "task": shown(task) }),
        )
        .await;
    assert_eq!(
        (&told["status"], &told["kind"], &told["confirmed"]),
        (&json!("FINALIZED"), &json!("CONFIRMED"), &json!(true))
    );
    assert_eq!(address(&told["winner"]), one);
    assert_eq!(address(&told["response"]), stage.response_of(task, one).await);
    assert_eq!((&told["balance"], &told["earned"]), (&json!(PAYMENT), &json!(PAYMENT)));
    assert_eq!(stage.frozen(task).await, U256::ZERO);
    let late = Answer { task, provider: two, payload: "second", payment_wei: PAYMENT };
    let refused = stage.respond(two, late).await.expect_err("the race is over");
    assert!(refused.says("AlreadyFinalized"), "{refused}");
}

#[tokio::test]
async fn a25_the_client_chooses_pays_the_bid_and_keeps_the_rest() {
    let (stage, source) = stage_with_two_providers(Terms::MANUAL).await;
    let task = stage.task(source, PAYMENT, 3600).await;
    let (one, two) = (stage.address(Role::Spare1), stage.address(Role::Spare2));
    let bid = PAYMENT / 4;
    stage.attempt(Role::Spare1, task, PAYMENT).await;
    stage.attempt(Role::Spare2, task, bid).await;
    stage.respond(one, Answer { task, provider: one, payload: "dear", payment_wei: PAYMENT }).await.expect("in order");
    stage.respond(two, Answer { task, provider: two, payload: "cheap", payment_wei: bid }).await.expect("in order");
    let status = stage.ask("Task(task).get_status()", json!({ "task": shown(task) })).await;
    assert_eq!(status, "RESPONDED");

    let (dear, cheap) = (stage.response_of(task, one).await, stage.response_of(task, two).await);
    let confirm = "logs_of(Response(response).confirm(signer=KEY[who]), 'NexusAbi')";
    let by = |response: Address, who: &str| json!({ "response": shown(response), "who": who });
    stage.refused("NotTaskOwnerError", confirm, by(cheap, "spare1")).await;
    let logs = stage.ask(confirm, by(cheap, "client")).await;
    assert_eq!(logs[0]["args"], json!({ "response": shown(cheap), "status": 1 }));
    assert_eq!(logs[1]["args"], json!({ "task": shown(task), "status": 5 }));
    stage.refused("ResponseAlreadyConfirmedError", confirm, by(cheap, "client")).await;
    stage.refused("TaskAlreadyFinalizedError", confirm, by(dear, "client")).await;

    let told = stage
        .ask("[Response(r).get_status() for r in (dear, cheap)]", json!({ "dear": shown(dear), "cheap": shown(cheap) }))
        .await;
    assert_eq!(told, json!(["SUBMITTED", "CONFIRMED"]));
    assert_eq!(stage.balance(stage.address(Role::Spare3)).await, U256::from(bid));
    assert_eq!(stage.balance(stage.address(Role::Master)).await, U256::ZERO);
    assert_eq!(stage.balance(stage.address(Role::Client)).await, U256::from(COIN - bid));
    let earned = Vault::totalEarningsOfCall(two);
    assert_eq!(stage.read(stage.contracts().vault, earned).await, U256::from(bid));
}
