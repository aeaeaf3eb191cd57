//! Assertions 26 and 27: how lists are paged, faults of the real network included.

use alloy::primitives::{Address, U256};
use chain::abi::{Controller, Nexus, Source, Task, TaskParams, Terminal};
use provisioning::devnet::{DevnetOptions, Role};
use serde_json::{Value, json};
use testbed::sdk::Abis;
use testbed::stage::{COIN, PAYMENT, Stage, Terms, shown};

/// Solidity's code for an index beyond the end of an array.
const OUT_OF_BOUNDS: &str = "0x32";

fn tasks_page(lower: u64, upper: u64) -> Source::getTasksCall {
    Source::getTasksCall { lower: U256::from(lower), upper: U256::from(upper) }
}

fn registrants_page(lower: u64, upper: u64) -> Source::getRegistrantsCall {
    Source::getRegistrantsCall { lower: U256::from(lower), upper: U256::from(upper) }
}

fn attempters_page(lower: u64, upper: u64) -> Task::getAttemptersCall {
    Task::getAttemptersCall { lower: U256::from(lower), upper: U256::from(upper) }
}

/// Two tasks of a source with two registrants, who both attempted the first.
async fn stage_with_two_of_each(options: DevnetOptions) -> (Stage, Address, [Address; 2]) {
    let stage = Stage::up_with(options, Abis::Mainnet).await;
    stage.deposit(COIN).await;
    stage.pair(Role::Spare1, Role::Master, 0).await;
    stage.pair(Role::Spare2, Role::Spare3, 0).await;
    let source = stage.source(Terms::FIRST).await;
    stage.register(Role::Spare1, source).await;
    stage.register(Role::Spare2, source).await;
    let tasks = [stage.task(source, PAYMENT, 3600).await, stage.task(source, PAYMENT, 3600).await];
    stage.attempt(Role::Spare1, tasks[0], PAYMENT).await;
    stage.attempt(Role::Spare2, tasks[0], PAYMENT).await;
    (stage, source, tasks)
}

#[tokio::test]
async fn a26_the_lists_of_a_source_panic_off_the_first_page_and_those_of_a_task_do_not() {
    let (stage, source, tasks) = stage_with_two_of_each(DevnetOptions::default()).await;
    let providers = [stage.address(Role::Spare1), stage.address(Role::Spare2)];
    assert_eq!(stage.read(source, tasks_page(0, 1)).await, tasks);
    assert_eq!(stage.read(source, registrants_page(0, 1)).await, providers);
    for (lower, upper) in [(1, 1), (0, 2)] {
        let refused = stage.try_read(source, tasks_page(lower, upper)).await.expect_err("the fault is kept");
        assert!(refused.says(OUT_OF_BOUNDS), "{refused}");
        let refused = stage.try_read(source, registrants_page(lower, upper)).await.expect_err("the fault is kept");
        assert!(refused.says(OUT_OF_BOUNDS), "{refused}");
    }
    assert_eq!(stage.read(tasks[0], attempters_page(1, 1)).await, [providers[1]]);
    let refused = stage.try_read(tasks[0], attempters_page(0, 2)).await.expect_err("past the end");
    assert!(refused.says(OUT_OF_BOUNDS), "{refused}");
    let by_sdk = "s = Source(source)\n[s.get_tasks(1), s.get_registrants(1, 2)]";
    let told = stage.ask(by_sdk, json!({ "source": shown(source) })).await;
    assert_eq!(told, json!([[shown(tasks[1])], [shown(providers[1])]]));
}

#[tokio::test]
async fn a26_the_fault_can_be_switched_off() {
    let mut options = DevnetOptions::default();
    options.contracts.are_pages_repaired = true;
    let (stage, source, tasks) = stage_with_two_of_each(options).await;
    assert_eq!(stage.read(source, tasks_page(1, 1)).await, [tasks[1]]);
    assert_eq!(stage.read(source, tasks_page(0, 2)).await, tasks);
    assert_eq!(stage.read(source, registrants_page(5, 9)).await, [Address::ZERO; 0]);
    assert_eq!(stage.read(tasks[0], attempters_page(1, 7)).await, [stage.address(Role::Spare2)]);
}

/// More than one chunk of the SDK, which asks for a hundred at a time.
const TASKS: u64 = 150;
const ATTEMPTERS: u64 = 120;

#[tokio::test]
async fn a27_150_tasks_and_120_attempters_are_listed_completely() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let source = stage.source(Terms::FIRST).await;
    for _ in 0..TASKS {
        publish(&stage, source).await;
    }
    let tasks = stage.read(source, tasks_page(0, TASKS - 1)).await;
    let mut attempters = Vec::new();
    for number in 0..ATTEMPTERS {
        attempters.push(attempt_as_new_provider(&stage, number, source, tasks[0]).await);
    }

    let lists = "s, t = Source(source), Task(task)
{'tasks': s.get_tasks(), 'registrants': s.get_registrants(), 'attempters': t.get_attempters(),
 'times': len(t.get_attempt_timestamps()), 'responses': t.get_responses()}";
    let told = stage.ask(lists, json!({ "source": shown(source), "task": shown(tasks[0]) })).await;
    assert_eq!(told["tasks"], all(&tasks));
    assert_eq!(told["registrants"], all(&attempters));
    assert_eq!(told["attempters"], all(&attempters));
    assert_eq!((&told["times"], &told["responses"]), (&json!(ATTEMPTERS), &json!([])));
}

async fn publish(stage: &Stage, source: Address) {
    let task = TaskParams {
        source,
        config: "http://127.0.0.1/config.json".to_owned(),
        expiryTime: U256::from(stage.now().await + Terms::FIRST.expiry_s),
        payment: U256::from(PAYMENT),
    };
    let call = Controller::publishTaskCall { _taskParams: task };
    stage.send(stage.address(Role::Client), stage.contracts().controller, call).await.expect("the client may publish");
}

/// A provider of the master's, which registers it and attempts for it.
async fn attempt_as_new_provider(stage: &Stage, number: u64, source: Address, task: Address) -> Address {
    let (provider, master) = (stage.stranger(number).await, stage.address(Role::Master));
    let (terminal, nexus) = (stage.contracts().terminal, stage.contracts().nexus);
    let announce = Terminal::announceProviderCall { provider, amount: U256::ZERO };
    stage.send(master, terminal, announce).await.expect("a master announces");
    stage.send(provider, terminal, Terminal::announceMasterCall { master }).await.expect("a provider agrees");
    let register = Nexus::registerCall { source, provider, preferredEnvironment: 1 };
    stage.send(master, nexus, register).await.expect("a master registers");
    let attempt = Nexus::attemptCall { task, provider, suggestedPayment: U256::from(PAYMENT) };
    stage.send(master, nexus, attempt).await.expect("a master attempts");
    provider
}

fn all(addresses: &[Address]) -> Value {
    addresses.iter().copied().map(shown).collect()
}
