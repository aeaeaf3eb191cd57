//! The client and the owner, without the SDK: a bench must not wait for Python.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, U256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::{SolCall, SolEvent};
use anyhow::{Context, Result, ensure};
use chain::abi::{Controller, Nexus, SourceParams, TaskParams, Terminal, Vault};
use chain::content::Content;
use provisioning::devnet::{Ready, Role};
use serde_json::json;

/// One coin, in wei.
const COIN: u64 = 1_000_000_000_000_000_000;

/// What a task pays, in wei: several times its gas, or the rig would refuse it.
const PAYMENT_WEI: u64 = COIN / 50;

pub(crate) fn request(from: Address, to: Address, data: Vec<u8>, value_wei: u64) -> TransactionRequest {
    TransactionRequest::default()
        .with_from(from)
        .with_to(to)
        .with_input(data)
        .with_value(U256::from(value_wei))
        .with_gas_limit(8_000_000)
}

async fn send(chain: &RootProvider, request: TransactionRequest) -> Result<TransactionReceipt> {
    // Tasks are published side by side; each takes the next nonce, and only then the next may ask.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    let from = request.from.context("every request of a bench has a sender")?;
    let nonce = chain.get_transaction_count(from).pending().await?;
    let pending = chain.send_transaction(request.with_nonce(nonce)).await?;
    drop(turn);
    let receipt = pending.with_required_confirmations(1).get_receipt().await?;
    ensure!(receipt.status(), "transaction {} reverted", receipt.transaction_hash);
    Ok(receipt)
}

pub(crate) async fn publish_source(
    ready: &Ready,
    chain: &RootProvider,
    content: &Content,
    image: &str,
) -> Result<Address> {
    let client = ready.account(Role::Client).context("a client")?.address;
    let deposit = Vault::depositCall { account: client }.abi_encode();
    send(chain, request(client, ready.contracts.vault, deposit, 18 * COIN)).await?;
    let compose =
        format!("services: {{handler: {{image: {image}, environment: {{CALLBACK_URL: '${{CALLBACK_URL}}'}}}}}}");
    let compose = content.pin("docker-compose.yml", "text/yaml", compose.into_bytes()).await?.url;
    let metadata =
        json!({ "cpu": compose, "nvidia": "", "amd": "", "name": "bench", "description": "", "logoUrl": "" });
    let metadata = content.pin("imageMetadata.json", "application/json", metadata.to_string().into_bytes()).await?.url;
    let params = SourceParams {
        client,
        imageMetadataUrl: metadata.to_string(),
        imageEnvironments: 1,
        minPayment: U256::ZERO,
        minAvailableLockup: U256::ZERO,
        maxExpiryDuration: U256::from(86_400 * 365),
        privacyEnabled: false,
        optionalParamsUrl: String::new(),
        deliveryMethod: 1,
        lastUpdateTime: U256::ZERO,
    };
    let call = Nexus::publishSourceCall { _sourceParams: params }.abi_encode();
    let receipt = send(chain, request(client, ready.contracts.nexus, call, 0)).await?;
    let found = receipt.logs().iter().find_map(|log| Nexus::SourcePublished::decode_log(&log.inner).ok());
    Ok(found.context("the receipt names the source")?.source)
}

pub(crate) fn publish_call(source: Address, config: &str, payment_wei: u64) -> Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let params = TaskParams {
        source,
        config: config.to_owned(),
        expiryTime: U256::from(now + 86_400 * 300),
        payment: U256::from(payment_wei),
    };
    Ok(Controller::publishTaskCall { _taskParams: params }.abi_encode())
}

pub(crate) async fn publish_task(
    ready: &Ready,
    chain: &RootProvider,
    source: Address,
    config: &str,
) -> Result<Address> {
    let client = ready.account(Role::Client).context("a client")?.address;
    let receipt =
        send(chain, request(client, ready.contracts.controller, publish_call(source, config, PAYMENT_WEI)?, 0)).await?;
    let found = receipt.logs().iter().find_map(|log| Nexus::TaskPublished::decode_log(&log.inner).ok());
    Ok(found.context("the receipt names the task")?.task)
}

/// The owner's half of pairing, and gas money.
pub(crate) async fn pair(ready: &Ready, chain: &RootProvider, rig: Address) -> Result<()> {
    let master = ready.account(Role::Master).context("a master")?.address;
    let announce = Terminal::announceProviderCall { provider: rig, amount: U256::ZERO }.abi_encode();
    send(chain, request(master, ready.contracts.terminal, announce, 0)).await?;
    send(chain, request(master, rig, Vec::new(), 10 * COIN)).await?;
    Ok(())
}
