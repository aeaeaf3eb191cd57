//! A market with the sources, words and looks that the claims share.
//!
//! Two sources are served: `tests/source/light.py`, which starts in no time, and the handler that runs on the network's
//! own service framework. Every function panics with a sentence when the stage itself fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::sol_types::SolEvent;
use alloy_primitives::{Address, U256};
use chain::abi::{Controller, Nexus, Response, Source, SourceParams, TaskParams, Vault};
use provisioning::devnet::Role;
use runner::client::Client;
use runner::protocol::{ServiceState, SourceName};
use serde_json::{Value, json};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions, binary};

/// Longest time from a rig's start until it serves its sources.
pub(crate) const UP: Duration = Duration::from_secs(90);

/// Longest wait for anything that the rig does with what it has.
pub(crate) const SOON: Duration = Duration::from_secs(45);

/// One coin, in wei.
pub(crate) const COIN: u64 = 1_000_000_000_000_000_000;

/// A jail that runs: its first process as the host numbers it, and since when (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jail {
    pub(crate) pid: i32,
    pub(crate) since: u64,
}

/// What a source asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) delivery: Delivery,
    pub(crate) lockup_wei: u64,
}

/// A rig with these lines of `[work]`.
pub(crate) fn works(lines: &str) -> RigOptions {
    RigOptions { work: lines.to_owned(), ..RigOptions::default() }
}

/// A rig that is paired and serves `count` sources.
pub(crate) async fn serving(market: &Market, options: &RigOptions, count: usize) -> Rig {
    let rig = Rig::start(&market.devnet.ready, options).expect("the rig starts");
    market.pair(&rig).await;
    rig.wait_serving(count, UP).expect("the rig serves");
    rig
}

// === the client ===

/// Metadata of the official handler: the light source's image with its own entry point.
pub(crate) async fn official(market: &Market) -> String {
    let light = read(market, &market.metadata().await).await;
    let compose = read(market, light["cpu"].as_str().expect("a link")).await;
    let service = json!({
        "image": compose["services"]["light"]["image"],
        "environment": { "CALLBACK_URL": "${CALLBACK_URL}" },
    });
    let compose = market.pin(json!({ "services": { "handler": service } }).to_string()).await;
    market.pin(json!({ "cpu": compose, "nvidia": "", "amd": "" }).to_string()).await
}

/// Publishes a source of `metadata` on `terms`.
pub(crate) async fn source(market: &Market, metadata: String, terms: Terms) -> Address {
    source_for(market, metadata, terms, 1).await
}

/// The same, for these environments: CPU 1, NVIDIA 2.
pub(crate) async fn source_for(market: &Market, metadata: String, terms: Terms, environments: u8) -> Address {
    let params = SourceParams {
        client: market.address(Role::Client),
        imageMetadataUrl: metadata,
        imageEnvironments: environments,
        minPayment: U256::ZERO,
        minAvailableLockup: U256::from(terms.lockup_wei),
        maxExpiryDuration: U256::from(86_400),
        privacyEnabled: false,
        optionalParamsUrl: String::new(),
        deliveryMethod: terms.delivery as u8,
        lastUpdateTime: U256::ZERO,
    };
    let call = Nexus::publishSourceCall { _sourceParams: params };
    let receipt = market.send(Role::Client, market.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
    let found = receipt.logs().iter().find_map(|log| Nexus::SourcePublished::decode_log(&log.inner).ok());
    found.expect("the receipt names the source").source
}

/// The link of a task's input.
pub(crate) async fn input(market: &Market, function: &str, data: Value) -> String {
    market.pin(json!({ "function_name": function, "data": data }).to_string()).await
}

/// Publishes a task with the input behind `config` that pays `payment_wei` and lives `seconds`.
pub(crate) async fn task(market: &Market, source: Address, config: String, payment_wei: u64, seconds: u64) -> Address {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let params =
        TaskParams { source, config, expiryTime: U256::from(now_s + seconds), payment: U256::from(payment_wei) };
    let call = Controller::publishTaskCall { _taskParams: params };
    let receipt = market.send(Role::Client, market.devnet.ready.contracts.controller, &call, U256::ZERO).await;
    let found = receipt.logs().iter().find_map(|log| Nexus::TaskPublished::decode_log(&log.inner).ok());
    found.expect("the receipt names the task").task
}

/// Confirms a task's only response; returns what that response asked for, in wei.
pub(crate) async fn confirm(market: &Market, task: Address) -> U256 {
    let responses = market.responses(task).await;
    let [response] = responses[..] else { panic!("task {task} has {} responses", responses.len()) };
    let call = Controller::confirmResponseCall { response };
    market.send(Role::Client, market.devnet.ready.contracts.controller, &call, U256::ZERO).await;
    let response = Response::new(response, market.node.provider.clone());
    response.getResponseParams().call().await.expect("the response answers").payment
}

/// The free vault balance of a role, in wei.
pub(crate) async fn vault_wei(market: &Market, role: Role) -> U256 {
    let vault = Vault::new(market.devnet.ready.contracts.vault, market.node.provider.clone());
    vault.balanceOf(market.address(role)).call().await.expect("the vault answers")
}

/// Whether a source's list holds a rig.
pub(crate) async fn is_registered(market: &Market, source: Address, rig: &Rig) -> bool {
    let source = Source::new(source, market.node.provider.clone());
    let id = source.getRegistrantId(rig.address()).call().await.expect("the source answers");
    !id.is_zero()
}

async fn read(market: &Market, link: &str) -> Value {
    let bytes = market.content.fetch(link, 1 << 20).await.expect("the document is there");
    serde_json::from_slice(&bytes).expect("the document is JSON")
}

// === the owner's terminal ===

/// What `rig … --json` answers about a running rig.
pub(crate) fn asked(rig: &Rig, words: &[&str]) -> Value {
    let mut command = Command::new(binary("rig").expect("rig is built"));
    command.args(words).arg("--json").arg("--rig").arg(rig.dir().join("provider.sock"));
    answer(command)
}

/// What the owner's wallet does with `rig … --json`.
pub(crate) fn ordered(market: &Market, words: &[&str]) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let (key, network) = (home.path().join("owner.key"), home.path().join("devnet.json"));
    private(&key, &market.devnet.account(Role::Master).key.to_string());
    std::fs::write(&network, serde_json::to_string(&market.devnet.ready).expect("JSON")).expect("a file");
    let mut command = Command::new(binary("rig").expect("rig is built"));
    command.args(words).arg("--json").arg("--key-file").arg(&key).arg("--devnet").arg(&network);
    command.env("HOME", home.path()).env("XDG_STATE_HOME", home.path());
    answer(command)
}

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("the file's mode");
}

fn answer(mut command: Command) -> Value {
    let output = command.output().expect("rig runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("rig answers JSON")
}

/// The rig's words about a source: its stage, and why.
pub(crate) fn words_of(status: &Value, source: Address) -> (String, String) {
    let name = source.to_string();
    let row = status["sources"].as_array().into_iter().flatten().find(|row| row["source"] == *name);
    let word = |key: &str| row.and_then(|row| row[key].as_str()).unwrap_or_default().to_owned();
    (word("stage"), word("why"))
}

/// Waits until the rig says `stage` of a source, with `why` among its words.
pub(crate) fn wait_source(rig: &Rig, source: Address, stage: &str, why: &str) {
    let what = format!("source {source} {stage} because \"{why}\"");
    let waited = rig.wait_status(&what, SOON, |status| {
        let (now, words) = words_of(status, source);
        now == stage && words.contains(why)
    });
    waited.expect("the rig says so of the source");
}

// === processes ===

/// The jail of a rig's source, if it runs: of a source with several services, the first by name that runs.
pub(crate) fn jail(rig: &Rig, source: Address) -> Option<Jail> {
    let mut listed = Client::new(rig.dir().join("runner.sock")).list().expect("the runner lists its sources");
    let name = SourceName::try_from(source.to_string()).expect("an address is a name");
    let services = listed.remove(&name)?.services;
    services.values().find_map(|state| match state {
        ServiceState::Running { pid, since_unix, .. } => Some(Jail { pid: *pid, since: *since_unix }),
        ServiceState::Exited { .. } => None,
    })
}

/// Each process of this machine with its parent.
pub(crate) fn parents() -> Vec<(i32, i32)> {
    let pids =
        std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

/// All that descends from `roots`, themselves included.
pub(crate) fn family(roots: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
    let parents = parents();
    let mut family: BTreeSet<i32> = roots.into_iter().collect();
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}
