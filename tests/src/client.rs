//! The client of the story: the official SDK, publishing sources and tasks and reading answers.

use alloy_primitives::Address;
use anyhow::{Context, Result};
use chain::content::{Content, Gateways};
use provisioning::devnet::Ready;
use serde_json::{Value, json};

use crate::sdk::Sdk;

/// How a source is published.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// The image reference in its compose file.
    pub image: &'a str,
    /// More lines of its service, each indented by four spaces.
    pub service: &'a str,
    /// `FIRST_RESPONSE` or `MANUAL_CONFIRMATION`.
    pub delivery: &'a str,
    /// The least payment, in wei.
    pub min_payment_wei: u128,
}

/// The client: an SDK, and the pin API for what the SDK leaves to its users.
#[derive(Debug)]
pub struct Client {
    /// The SDK, as the account `client`.
    pub sdk: Sdk,
    content: Content,
}

// === impl Client ===

impl Client {
    /// Starts the SDK, and gives the client's vault account `deposit_wei`.
    pub async fn start(ready: &Ready, deposit_wei: u128) -> Result<Client> {
        let sdk = Sdk::start(ready, "client").await?;
        let mut gateways = Gateways::new(ready.ipfs_publish.clone());
        gateways.allow_private = true;
        let deposit = "from ogpu.protocol import vault\nvault.deposit(ADDRESS['client'], amount=int(wei), signer=KEY['client']).status";
        sdk.run(deposit, json!({ "wei": deposit_wei.to_string() })).await.context("deposit")?;
        Ok(Client { sdk, content: Content::new(gateways)? })
    }

    /// Publishes a source as its developer would: a compose file, then the SDK. Returns its address.
    pub async fn publish_source(&self, offer: &Offer<'_>) -> Result<Address> {
        let compose = format!(
            "services:\n  handler:\n    image: {}\n    pull_policy: always\n    ports: [\"${{PORT}}:5555\"]\n    \
             environment:\n      - CALLBACK_URL=${{CALLBACK_URL}}\n    extra_hosts: [\"host.docker.internal:host-gateway\"]\n{}",
            offer.image, offer.service
        );
        self.publish_compose(compose, offer.delivery, offer.min_payment_wei).await
    }

    /// Publishes a source with this compose file, to be run without an accelerator. Returns its address.
    pub async fn publish_compose(&self, compose: String, delivery: &str, min_payment_wei: u128) -> Result<Address> {
        self.publish_for("cpu", compose, delivery, min_payment_wei).await
    }

    /// Publishes a source that is a CUDA bundle, all of whose functions are served. Returns its address.
    pub async fn publish_bundle(&self, bundle: Vec<u8>, delivery: &str, min_payment_wei: u128) -> Result<Address> {
        let link = self.content.pin("a.bundle", "application/octet-stream", bundle).await?.url;
        let compose = format!("services: {{}}\nx-cuda:\n  bundle: {link}\n");
        self.publish_for("nvidia", compose, delivery, min_payment_wei).await
    }

    /// A link to `bytes`, as a client gives them to a task.
    pub async fn pin(&self, bytes: Vec<u8>) -> Result<String> {
        Ok(self.content.pin("input", "application/octet-stream", bytes).await?.url.to_string())
    }

    async fn publish_for(
        &self,
        environment: &str,
        compose: String,
        delivery: &str,
        min_payment_wei: u128,
    ) -> Result<Address> {
        let link = self.content.pin("docker-compose.yml", "text/yaml", compose.into_bytes()).await?.url;
        let snippet = "
info = SourceInfo(name='handler', description='answers', logoUrl='', imageEnvs=ImageEnvironments(**{environment: compose}),
    minPayment=int(min_payment), minAvailableLockup=0, maxExpiryDuration=86400,
    deliveryMethod=DeliveryMethod[delivery])
client.publish_source(info).address";
        let with = json!({
            "compose": link.as_str(),
            "environment": environment,
            "min_payment": min_payment_wei.to_string(),
            "delivery": delivery,
        });
        address(&self.sdk.run(snippet, with).await.context("publish a source")?)
    }

    /// Publishes a task that expires in `seconds`. Returns its address.
    pub async fn publish_task(
        &self,
        source: Address,
        function: &str,
        data: &Value,
        payment_wei: u128,
        seconds: u64,
    ) -> Result<Address> {
        let snippet = "
info = TaskInfo(source=source, config=TaskInput(function_name=function, data=data),
    expiryTime=int(time.time()) + seconds, payment=int(payment))
client.publish_task(info).address";
        let with = json!({
            "source": source.to_checksum(None),
            "function": function,
            "data": data,
            "payment": payment_wei.to_string(),
            "seconds": seconds,
        });
        address(&self.sdk.run(snippet, with).await.context("publish a task")?)
    }

    /// The payloads of all responses to a task, as the SDK reads them, and whether each is confirmed.
    pub async fn responses(&self, task: Address) -> Result<Vec<(Value, bool)>> {
        let snippet = "[[r.fetch_data(), r.is_confirmed()] for r in Task(task).get_responses()]";
        let all = self.sdk.run(snippet, json!({ "task": task.to_checksum(None) })).await?;
        Ok(serde_json::from_value(all)?)
    }

    /// Confirms the only response to a task.
    pub async fn confirm(&self, task: Address) -> Result<()> {
        let snippet = "Task(task).get_responses()[0].confirm(signer=KEY['client']).status";
        self.sdk.run(snippet, json!({ "task": task.to_checksum(None) })).await?;
        Ok(())
    }

    /// A task's status by the SDK's name.
    pub async fn status(&self, task: Address) -> Result<String> {
        let status = self.sdk.run("Task(task).get_status().name", json!({ "task": task.to_checksum(None) })).await?;
        Ok(status.as_str().context("a status is a name")?.to_owned())
    }

    /// The free vault balance of a role, in wei.
    pub async fn vault_wei(&self, role: &str) -> Result<u128> {
        let snippet = "from ogpu.protocol import vault\nstr(vault.get_balance_of(ADDRESS[role]))";
        let wei = self.sdk.run(snippet, json!({ "role": role })).await?;
        Ok(wei.as_str().context("a balance is a number")?.parse()?)
    }
}

/// An address in an answer of the SDK.
pub fn address(value: &Value) -> Result<Address> {
    Ok(value.as_str().with_context(|| format!("{value} is no address"))?.parse()?)
}
