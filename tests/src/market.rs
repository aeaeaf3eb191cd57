//! A client and an owner who speak to the contracts themselves, for tests in which the rig is what matters.
//!
//! The source is `tests/source/light.py` inside the usual image. Their transactions go to the node directly, so faults
//! between the rig and the chain do not touch them. Every function panics with a sentence when the stage itself fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::{SolCall, SolEvent};
use alloy_primitives::{Address, B256, U256};
use chain::abi::{Controller, Nexus, Response, Source, SourceParams, Task, TaskParams, Terminal, Vault};
use chain::content::{Content, Gateways};
use provisioning::devnet::{Devnet, DevnetOptions, Role};
use serde_json::{Value, json};
use work::policy::{ATTEMPT_GAS, RESPOND_GAS};

use crate::node::{Node, eventually};
use crate::registry::Registry;
use crate::rig::Rig;

/// What the first task pays, in wei: twenty times its gas on a fresh chain. Each pays a little more than the one before,
/// so that sums tell.
const PAYMENT_WEI: u64 = 50_000_000_000_000_000;

/// What the client has in the vault: a thousand coins.
const DEPOSIT_WEI: U256 = U256::from_limbs([3_875_820_019_684_212_736, 54, 0, 0]);

/// Gas money of a rig: ten coins.
const GAS_WEI: u64 = 10_000_000_000_000_000_000;

/// More than any call uses: an estimate would be of a moment in which others had not sent yet.
const GAS_MAX: u64 = 8_000_000;

/// What the light source does; it asks for `$CALLBACK_URL` in its environment.
const LIGHT: &str = include_str!("../source/light.py");

/// When a response is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// By the client.
    Manual = 0,
    /// By the contract, at once.
    First = 1,
}

/// A task that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its address.
    pub task: Address,
    /// What it pays.
    pub payment_wei: u64,
}

/// A devnet, an image registry, a client and an owner.
#[derive(Debug)]
pub struct Market {
    /// The chain and the content service.
    pub devnet: Devnet,
    /// The chain, asked directly.
    pub node: Node,
    /// The pin API, as the client uses it.
    pub content: Content,
    image: String,
    published: AtomicU64,
    _registry: Registry,
}

// === impl Market ===

impl Market {
    /// A fresh network that mines each transaction at once, and a client with money.
    pub async fn open() -> Market {
        let up = Devnet::up(DevnetOptions::default());
        let devnet = up.await.expect("the devnet starts; tests/setup.sh installs what it needs");
        let registry = Registry::start().await.expect("the registry starts; tests/setup.sh installs it");
        let image = registry.push_handler().await.expect("the image is pushed").reference;
        let mut gateways = Gateways::new(devnet.ready.ipfs_publish.clone());
        gateways.allow_private = true;
        let content = Content::new(gateways).expect("an HTTP client");
        let node = Node::new(&devnet.ready.rpc);
        let market = Market { devnet, node, content, image, published: AtomicU64::new(0), _registry: registry };
        let deposit = Vault::depositCall { account: market.address(Role::Client) };
        market.send(Role::Client, market.devnet.ready.contracts.vault, &deposit, DEPOSIT_WEI).await;
        market
    }

    /// The address of the account that has `role`.
    pub fn address(&self, role: Role) -> Address {
        self.devnet.account(role).address
    }

    /// Sends a call and waits for its receipt. Panics if it reverts.
    pub async fn send(&self, from: Role, to: Address, call: &impl SolCall, value: U256) -> TransactionReceipt {
        let data = alloy_primitives::Bytes::from(call.abi_encode());
        let tx =
            json!([{ "from": self.address(from), "to": to, "data": data, "value": value, "gas": U256::from(GAS_MAX) }]);
        let hash = self.node.ask("eth_sendTransaction", tx).await;
        let hash: B256 = serde_json::from_value(hash).expect("a hash");
        let receipt = eventually("a receipt", || async {
            self.node.provider.get_transaction_receipt(hash).await.expect("anvil answers")
        });
        let receipt = receipt.await;
        assert!(receipt.status(), "{from} sent a call that reverted");
        receipt
    }

    /// Publishes bytes; returns the link.
    pub async fn pin(&self, bytes: impl Into<Vec<u8>>) -> String {
        self.content.pin("document", "application/json", bytes.into()).await.expect("it is pinned").url.to_string()
    }

    /// The link of the light source's metadata.
    pub async fn metadata(&self) -> String {
        let service = json!({
            "image": self.image,
            "entrypoint": ["/usr/bin/python3", "-c", LIGHT],
            "environment": { "CALLBACK_URL": "${CALLBACK_URL}" },
        });
        let compose = json!({ "services": { "light": service } });
        let compose = self.pin(compose.to_string()).await;
        self.pin(json!({ "cpu": compose, "nvidia": "", "amd": "" }).to_string()).await
    }

    /// Publishes the light source.
    pub async fn source(&self, delivery: Delivery) -> Address {
        self.source_of(self.metadata().await, delivery).await
    }

    /// Publishes a source with this metadata.
    pub async fn source_of(&self, metadata: String, delivery: Delivery) -> Address {
        let call = Nexus::publishSourceCall { _sourceParams: self.terms(metadata, delivery) };
        let receipt = self.send(Role::Client, self.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
        event::<Nexus::SourcePublished>(&receipt).source
    }

    /// Gives a source new metadata.
    pub async fn update(&self, source: Address, metadata: String, delivery: Delivery) {
        let call = Nexus::updateSourceCall { source, _sourceParams: self.terms(metadata, delivery) };
        self.send(Role::Client, self.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
    }

    /// Closes a source.
    pub async fn inactivate(&self, source: Address) {
        let call = Nexus::inactivateSourceCall { source };
        self.send(Role::Client, self.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
    }

    /// Publishes a task with a minute to live.
    pub async fn task(&self, source: Address, function: &str, data: Value) -> Published {
        self.task_within(source, function, data, 60).await
    }

    /// Publishes a task that lives so many seconds.
    pub async fn task_within(&self, source: Address, function: &str, data: Value, seconds: u64) -> Published {
        let config = json!({ "function_name": function, "data": data }).to_string();
        self.task_of(source, self.pin(config).await, seconds).await
    }

    /// Publishes a task as somebody who may act for the client.
    pub async fn task_by(&self, from: Role, source: Address, function: &str, data: Value) -> Published {
        let config = json!({ "function_name": function, "data": data }).to_string();
        self.publish(from, source, self.pin(config).await, 60).await
    }

    /// Publishes a task whose input stands behind `config`.
    pub async fn task_of(&self, source: Address, config: String, seconds: u64) -> Published {
        self.publish(Role::Client, source, config, seconds).await
    }

    async fn publish(&self, from: Role, source: Address, config: String, seconds: u64) -> Published {
        let payment_wei = PAYMENT_WEI + self.published.fetch_add(1, Ordering::Relaxed);
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let params =
            TaskParams { source, config, expiryTime: U256::from(now_s + seconds), payment: U256::from(payment_wei) };
        let call = Controller::publishTaskCall { _taskParams: params };
        let receipt = self.send(from, self.devnet.ready.contracts.controller, &call, U256::ZERO).await;
        Published { task: event::<Nexus::TaskPublished>(&receipt).task, payment_wei }
    }

    /// Pairs a rig: gas money, and the owner's half.
    pub async fn pair(&self, rig: &Rig) {
        self.fund(rig).await;
        let call = Terminal::announceProviderCall { provider: rig.address(), amount: U256::ZERO };
        self.send(Role::Master, self.devnet.ready.contracts.terminal, &call, U256::ZERO).await;
    }

    /// Gives a rig gas money.
    pub async fn fund(&self, rig: &Rig) {
        self.node.set_balance(rig.address(), U256::from(GAS_WEI)).await;
    }

    /// The owner's free vault balance, in wei.
    pub async fn earned_wei(&self) -> U256 {
        let vault = Vault::new(self.devnet.ready.contracts.vault, self.node.provider.clone());
        vault.balanceOf(self.address(Role::Master)).call().await.expect("the vault answers")
    }

    /// A task's status number: 1 attempted, 2 responded, 5 finalized.
    pub async fn status(&self, task: Address) -> u8 {
        let task = Task::new(task, self.node.provider.clone());
        task.getStatus().call().await.expect("the task answers")
    }

    /// Waits until a task's status is at least `status`.
    pub async fn reaches(&self, task: Address, status: u8) {
        let what = format!("status {status} of {task}");
        eventually(&what, || async { (self.status(task).await >= status).then_some(()) }).await;
    }

    /// The responses that a task has.
    pub async fn responses(&self, task: Address) -> Vec<Address> {
        let task = Task::new(task, self.node.provider.clone());
        let count = task.getAttemptCount().call().await.expect("the task answers");
        if count.is_zero() {
            return Vec::new();
        }
        let all = task.getResponsesOf(U256::ZERO, count - U256::from(1)).call().await.expect("the task answers");
        all.into_iter().filter(|response| !response.is_zero()).collect()
    }

    /// The payload of a task's only response.
    pub async fn payload(&self, task: Address) -> Value {
        let responses = self.responses(task).await;
        let [response] = responses[..] else { panic!("task {task} has {} responses", responses.len()) };
        let response = Response::new(response, self.node.provider.clone());
        let link = response.getResponseParams().call().await.expect("the response answers").data;
        let bytes = self.content.fetch(&link, 1 << 24).await.expect("the payload is there");
        serde_json::from_slice(&bytes).expect("the payload is JSON")
    }

    /// Waits until each of `tasks` is answered, confirms what wants confirming, and returns what they pay together.
    pub async fn settle(&self, tasks: &[Published]) -> U256 {
        let mut paid_wei = U256::ZERO;
        for Published { task, payment_wei } in tasks {
            self.reaches(*task, 2).await;
            let is_manual = Task::new(*task, self.node.provider.clone()).getDeliveryMethod().call().await;
            if is_manual.expect("the task answers") == Delivery::Manual as u8 && self.status(*task).await == 2 {
                let response = self.responses(*task).await[0];
                let call = Controller::confirmResponseCall { response };
                self.send(Role::Client, self.devnet.ready.contracts.controller, &call, U256::ZERO).await;
            }
            self.reaches(*task, 5).await;
            assert_eq!(self.payload(*task).await["task"], json!(task.to_string()), "the right answer");
            paid_wei += U256::from(*payment_wei);
        }
        paid_wei
    }

    /// The end of every scenario: a further task goes through, the rig's account has no stuck nonce, and since the owner
    /// had `before_wei`, the balance rose by exactly what `tasks` and that further one pay.
    /// Nothing that the rig sent was refused by the contracts.
    pub async fn ends_well(&self, rig: &Rig, source: Address, tasks: &[Published], before_wei: U256) {
        self.ends_paid(rig, source, tasks, before_wei).await;
        let wasted = self.node.reverted_of(rig.address()).await;
        assert!(wasted.is_empty(), "nothing was sent that the contracts refused: {wasted:?}");
        let attempt = self.node.most_gas_of(rig.address(), Nexus::Attempted::SIGNATURE_HASH).await;
        assert!(attempt <= ATTEMPT_GAS, "an attempt used {attempt} gas, the policy keeps {ATTEMPT_GAS}");
        let response = self.node.most_gas_of(rig.address(), Nexus::ResponseSubmitted::SIGNATURE_HASH).await;
        assert!(
            (1..=RESPOND_GAS).contains(&response),
            "a response used {response} gas, the policy keeps {RESPOND_GAS}"
        );
    }

    /// [`Market::ends_well`] where a transaction may have been overtaken by what the chain became.
    pub async fn ends_paid(&self, rig: &Rig, source: Address, tasks: &[Published], before_wei: U256) {
        let last = self.task(source, "echo", json!({})).await;
        let paid_wei = self.settle(tasks).await + self.settle(&[last]).await;
        assert_eq!(self.earned_wei().await - before_wei, paid_wei, "paid exactly once for each task");
        let settled = rig.wait_task(last.task, &["settled"], Duration::from_secs(30));
        settled.expect("the rig sees that it was paid");
        eventually("every transaction is mined", || async {
            let (mined, all) = self.node.counts(rig.address()).await;
            (mined == all).then_some(())
        })
        .await;
    }

    /// What a task's input document holds for the handler, by what the chain says of the task now.
    pub async fn input(&self, task: Address) -> Value {
        let task = Task::new(task, self.node.provider.clone());
        let config = task.taskParams().call().await.expect("the task answers").config;
        let bytes = self.content.fetch(&config, 1 << 24).await.expect("the input is there");
        let document: Value = serde_json::from_slice(&bytes).expect("the input is JSON");
        document["data"].clone()
    }

    fn terms(&self, metadata: String, delivery: Delivery) -> SourceParams {
        SourceParams {
            client: self.address(Role::Client),
            imageMetadataUrl: metadata,
            imageEnvironments: 1,
            minPayment: U256::from(PAYMENT_WEI),
            minAvailableLockup: U256::ZERO,
            maxExpiryDuration: U256::from(86_400),
            privacyEnabled: false,
            optionalParamsUrl: String::new(),
            deliveryMethod: delivery as u8,
            lastUpdateTime: U256::ZERO,
        }
    }

    /// How many providers a source has.
    pub async fn registrants(&self, source: Address) -> U256 {
        let source = Source::new(source, self.node.provider.clone());
        source.getRegistrantCount().call().await.expect("the source answers")
    }
}

fn event<E: SolEvent>(receipt: &TransactionReceipt) -> E {
    let found = receipt.logs().iter().find_map(|log| E::decode_log(&log.inner).ok());
    found.expect("the receipt holds the event").data
}
