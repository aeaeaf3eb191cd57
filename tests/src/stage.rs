//! A local network with the published SDK beside it: where the assertions about the contracts are played.
//!
//! Two voices speak to the same chain. The SDK is asked wherever it has the call ([`Stage::ask`], [`Stage::refused`]);
//! for the rest, such as a provider's answer, alloy sends from any address without its key ([`Stage::send`]), which
//! anvil allows.
//!
//! Every function here panics with a sentence when the stage itself fails. What a test is about, a refusal by a
//! contract, is returned.

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::{SolCall, SolEvent};
use alloy::transports::TransportError;
use chain::abi::{Nexus, ResponseParams, Source, Task, Vault};
use provisioning::devnet::{Devnet, DevnetContracts, DevnetOptions, Role};
use serde_json::{Value, json};
use thiserror::Error;

use crate::sdk::{Abis, Sdk, SdkError};

/// One coin.
pub const COIN: u64 = 1_000_000_000_000_000_000;

/// A thousandth of a coin: what a task in these tests is worth.
pub const PAYMENT: u64 = COIN / 1000;

/// More than any call of the contracts uses, so that a call that must fail is mined and not refused by an estimate.
pub const GAS_MAX: u64 = 8_000_000;

/// What a source asks for, where a test cares.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `FIRST_RESPONSE` or `MANUAL_CONFIRMATION`, as the SDK spells them.
    pub method: &'static str,
    /// Wei of lockup that a provider needs.
    pub lockup_wei: u64,
    /// The longest life of a task, in seconds.
    pub expiry_s: u64,
}

/// A devnet, the SDK, and alloy.
#[derive(Debug)]
pub struct Stage {
    /// The chain and the content service.
    pub devnet: Devnet,
    /// Alloy's view of the chain; every address is impersonated.
    pub chain: RootProvider,
    sdk: Sdk,
}

/// A contract refused a call, for the reason that the node repeats.
#[derive(Debug, Error)]
#[error("refused: {0}")]
pub struct Refused(String);

// === impl Stage ===

impl Stage {
    /// A fresh network with the contracts' defaults, and the SDK with mainnet's ABIs.
    pub async fn up() -> Stage {
        Stage::up_with(DevnetOptions::default(), Abis::Mainnet).await
    }

    /// A fresh network as asked for.
    pub async fn up_with(options: DevnetOptions, abis: Abis) -> Stage {
        let devnet = Devnet::up(options).await.expect("the devnet starts; tests/setup.sh installs what it needs");
        let chain = RootProvider::new_http(devnet.ready.rpc.clone());
        chain.anvil_auto_impersonate_account(true).await.expect("anvil impersonates");
        let sdk = Sdk::start_with(&devnet.ready, "client", abis).await.expect("the SDK starts");
        Stage { devnet, chain, sdk }
    }

    /// The address of the account that has `role`.
    pub fn address(&self, role: Role) -> Address {
        self.devnet.account(role).address
    }

    /// Where the contracts stand.
    pub fn contracts(&self) -> DevnetContracts {
        self.devnet.ready.contracts
    }

    // === through the SDK ===

    /// What the SDK answers to a snippet (see `tests/sdk/driver.py`). Panics if it raises.
    pub async fn ask(&self, snippet: &str, with: Value) -> Value {
        match self.sdk.run(snippet, with).await {
            Ok(value) => value,
            Err(error) => panic!("the SDK raised {error} at: {snippet}"),
        }
    }

    /// [`Stage::ask`] for an amount of wei.
    pub async fn ask_wei(&self, snippet: &str, with: Value) -> U256 {
        wei(&self.ask(snippet, with).await)
    }

    /// Checks that a snippet raises `name` or a class derived from it, and returns what was raised.
    pub async fn refused(&self, name: &str, snippet: &str, with: Value) -> SdkError {
        match self.sdk.run(snippet, with).await {
            Err(error) if error.is(name) => error,
            Err(error) => panic!("expected {name}, the SDK raised {error:?} at: {snippet}"),
            Ok(value) => panic!("expected {name}, the SDK answered {value} to: {snippet}"),
        }
    }

    /// The client deposits into its own vault balance.
    pub async fn deposit(&self, wei: u64) {
        self.ask("vault.deposit(ADDRESS['client'], wei, signer=KEY['client'])", json!({ "wei": wei })).await;
    }

    /// The client publishes a source that pays at least [`PAYMENT`] for CPU work.
    pub async fn source(&self, terms: Terms) -> Address {
        address(&self.ask(PUBLISH_SOURCE, terms.names()).await)
    }

    /// The client publishes a task that expires `expires_in_s` from now.
    pub async fn task(&self, source: Address, payment_wei: u64, expires_in_s: u64) -> Address {
        let with = json!({ "source": shown(source), "payment": payment_wei, "expires_in": expires_in_s });
        address(&self.ask(PUBLISH_TASK, with).await)
    }

    /// `provider` and `master` name each other, with `lockup_wei` for the provider.
    pub async fn pair(&self, provider: Role, master: Role, lockup_wei: u64) {
        let with = json!({ "p": provider.as_str(), "m": master.as_str(), "wei": lockup_wei });
        self.ask(PAIR, with).await;
    }

    /// `provider` registers itself with a source, for the CPU.
    pub async fn register(&self, provider: Role, source: Address) {
        let with = json!({ "p": provider.as_str(), "source": shown(source) });
        self.ask("Provider(ADDRESS[p]).register_to(source, 1, signer=KEY[p])", with).await;
    }

    /// `provider` attempts a task for `bid_wei`.
    pub async fn attempt(&self, provider: Role, task: Address, bid_wei: u64) {
        let with = json!({ "p": provider.as_str(), "task": shown(task), "bid": bid_wei });
        self.ask("Provider(ADDRESS[p]).attempt(task, bid, signer=KEY[p])", with).await;
    }

    // === through alloy ===

    /// Sends `call` from `from` and waits until it is mined.
    ///
    /// Errors: the contract refuses it. It is asked before, since a receipt does not carry the reason.
    pub async fn send<C: SolCall>(&self, from: Address, to: Address, call: C) -> Result<TransactionReceipt, Refused> {
        let request = TransactionRequest::default().with_from(from).with_to(to).with_input(call.abi_encode());
        self.chain.call(request.clone()).await.map_err(Refused::from_transport)?;
        let receipt = self.chain.eth_send_transaction_sync(request).await.map_err(Refused::from_transport)?;
        if receipt.status() { Ok(receipt) } else { Err(Refused("mined and reverted".to_owned())) }
    }

    /// Asks a contract without a transaction.
    ///
    /// Errors: the contract refuses, with its reason.
    pub async fn try_read<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, Refused> {
        let request = TransactionRequest::default().with_to(to).with_input(call.abi_encode());
        let bytes: Bytes = self.chain.call(request).await.map_err(Refused::from_transport)?;
        C::abi_decode_returns(&bytes).map_err(|error| Refused(error.to_string()))
    }

    /// [`Stage::try_read`] where the contract has no reason to refuse.
    pub async fn read<C: SolCall>(&self, to: Address, call: C) -> C::Return {
        self.try_read(to, call).await.expect("a contract answers a question")
    }

    /// `from` files an answer of `provider` to `task`; the answer's link is made from `payload`.
    pub async fn respond(&self, from: Address, answer: Answer<'_>) -> Result<TransactionReceipt, Refused> {
        let params = ResponseParams {
            task: answer.task,
            provider: answer.provider,
            data: format!("{}/{}", self.devnet.ready.ipfs_gateway, answer.payload),
            payment: U256::from(answer.payment_wei),
        };
        self.send(from, self.contracts().nexus, Nexus::submitResponseCall { _responseParams: params }).await
    }

    /// The response contract of `provider` to `task`; zero if there is none.
    pub async fn response_of(&self, task: Address, provider: Address) -> Address {
        self.read(task, Task::responseOfCall(provider)).await
    }

    /// The vault balance of `account`.
    pub async fn balance(&self, account: Address) -> U256 {
        self.read(self.contracts().vault, Vault::balanceOfCall(account)).await
    }

    /// What is in escrow for a task, or in all for a client.
    pub async fn frozen(&self, account: Address) -> U256 {
        self.read(self.contracts().vault, Vault::frozenPaymentCall(account)).await
    }

    /// The number under which a source knows `provider`; zero if it is not registered.
    pub async fn registrant_id(&self, source: Address, provider: Address) -> U256 {
        self.read(source, Source::getRegistrantIdCall { provider }).await
    }

    /// Moves the chain's clock `seconds` ahead and mines a block there.
    pub async fn warp(&self, seconds: u64) {
        self.chain.anvil_increase_time(seconds).await.expect("anvil moves its clock");
        self.chain.evm_mine(None).await.expect("anvil mines a block");
    }

    /// The time of the newest block, in Unix seconds.
    pub async fn now(&self) -> u64 {
        let block = self.chain.get_block(alloy::eips::BlockId::latest()).await.expect("the chain answers");
        block.expect("there is a newest block").header.timestamp
    }

    /// An address without a key, with coins for gas.
    pub async fn stranger(&self, number: u64) -> Address {
        let address = Address::from_word(B256::from(U256::from(0xace0_0000_0000_u64 + number)));
        self.chain.anvil_set_balance(address, U256::from(10 * COIN)).await.expect("anvil gives coins away");
        address
    }
}

/// An answer to file.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// To which task.
    pub task: Address,
    /// Whose it is.
    pub provider: Address,
    /// What its link ends in; equal payloads are refused by the network.
    pub payload: &'a str,
    /// What it costs.
    pub payment_wei: u64,
}

// === impl Terms ===

impl Terms {
    /// The first answer wins and is paid at once.
    pub const FIRST: Terms = Terms { method: "FIRST_RESPONSE", lockup_wei: 0, expiry_s: 86_400 };

    /// The client chooses an answer.
    pub const MANUAL: Terms = Terms { method: "MANUAL_CONFIRMATION", lockup_wei: 0, expiry_s: 86_400 };

    /// As names for a snippet.
    pub fn names(self) -> Value {
        json!({ "method": self.method, "lockup": self.lockup_wei, "longest": self.expiry_s, "least": PAYMENT })
    }
}

// === impl Refused ===

impl Refused {
    fn from_transport(error: TransportError) -> Refused {
        Refused(error.as_error_resp().map_or_else(|| error.to_string(), |payload| payload.to_string()))
    }

    /// Whether the reason contains `word`.
    pub fn says(&self, word: &str) -> bool {
        self.0.contains(word)
    }
}

/// A source as a client describes it. Uses `method`, `lockup`, `longest` and `least`; leaves `info` behind.
pub const SOURCE_INFO: &str = "
info = SourceInfo(
    name='adder', description='adds', logoUrl='http://127.0.0.1/logo.png',
    imageEnvs=ImageEnvironments(cpu='http://127.0.0.1/compose.yml'),
    minPayment=least, minAvailableLockup=lockup, maxExpiryDuration=longest, deliveryMethod=DeliveryMethod[method],
)
";

const PUBLISH_SOURCE: &str = "
client.publish_source(SourceInfo(
    name='adder', description='adds', logoUrl='http://127.0.0.1/logo.png',
    imageEnvs=ImageEnvironments(cpu='http://127.0.0.1/compose.yml'),
    minPayment=least, minAvailableLockup=lockup, maxExpiryDuration=longest, deliveryMethod=DeliveryMethod[method],
))
";

const PUBLISH_TASK: &str = "
client.publish_task(TaskInfo(
    source=source, config=TaskInput(function_name='add', data={'a': 1, 'b': 2}),
    expiryTime=int(time.time()) + expires_in, payment=payment,
))
";

const PAIR: &str = "
Master(ADDRESS[m]).announce_provider(ADDRESS[p], wei, signer=KEY[m])
Provider(ADDRESS[p]).announce_master(ADDRESS[m], signer=KEY[p])
";

/// The events of one kind in a receipt, in order.
pub fn events<E: SolEvent>(receipt: &TransactionReceipt) -> Vec<E> {
    receipt.logs().iter().filter_map(|log| E::decode_log(&log.inner).ok()).map(|log| log.data).collect()
}

/// An address as the SDK insists on it: with its checksum.
pub fn shown(address: Address) -> String {
    address.to_checksum(None)
}

/// An address that a snippet answered.
pub fn address(value: &Value) -> Address {
    value.as_str().and_then(|text| text.parse().ok()).expect("the SDK answers an address")
}

/// An amount that a snippet answered: a number, or a string if it is large.
pub fn wei(value: &Value) -> U256 {
    match value {
        Value::Number(number) => U256::from(number.as_u64().expect("an amount is not negative")),
        Value::String(text) => text.parse().expect("a large amount is a decimal string"),
        other => panic!("the SDK answered {other}, which is no amount"),
    }
}
