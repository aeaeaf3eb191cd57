//! The local network as a rig in a virtual machine sees it: chain, content, registry and client, beside nobody else.
//!
//! Invariants: the thread that builds it is on an island of its own (see [`crate::island`]); every link and address that
//! it hands out names this machine as the guest does, so both sides use the same texts.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use anyhow::{Context, Result, bail, ensure};
use chain::rpc::Rpc;
use provisioning::devnet::{Devnet, DevnetOptions, Ready, Role};
use serde_json::{Value, json};
use tempfile::TempDir;
use work::{ProviderId, TaskId};

use crate::client::{Client, Offer};
use crate::island;
use crate::registry::{Pushed, Registry};
use crate::rig::binary;

/// One coin, in wei.
pub const COIN: u128 = 1_000_000_000_000_000_000;

/// The time that a task published here has: an emulated processor answers in its own time.
const TASK_S: u64 = 3600;

/// Between two looks at the chain.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a rig needs around it.
#[derive(Debug)]
pub struct Town {
    /// The client's SDK.
    pub client: Client,
    ready: Ready,
    rpc: Rpc,
    registry: Registry,
    pushed: Pushed,
    dir: TempDir,
    _devnet: Devnet,
}

/// One task and what became of it.
#[derive(Clone, Debug)]
pub struct Done {
    /// The task.
    pub task: Address,
    /// From its publication to its response on the chain.
    pub took: Duration,
    /// What the client read.
    pub payload: Value,
}

// === impl Town ===

impl Town {
    /// Builds it. The calling thread must be on an island, and the runtime built there.
    pub async fn build() -> Result<Town> {
        let devnet = Devnet::up(DevnetOptions::default()).await.context("the local network")?;
        let ready: Ready = serde_json::from_str(&island::as_seen(&serde_json::to_string(&devnet.ready)?))?;
        let registry = Registry::start().await?;
        let mut pushed = registry.push_handler().await?;
        pushed.reference = island::as_seen(&pushed.reference);
        let client = Client::start(&ready, 100 * COIN).await?;
        let rpc = Rpc::connect(ready.network()).await?;
        let dir = TempDir::with_prefix("town-")?;
        std::fs::write(dir.path().join("devnet.json"), serde_json::to_string(&ready)?)?;
        Ok(Town { client, ready, rpc, registry, pushed, dir, _devnet: devnet })
    }

    /// `rig.toml` as an owner writes it for this network.
    pub fn settings(&self) -> Result<String> {
        let (ready, at) = (&self.ready, &self.ready.contracts);
        Ok(format!(
            "[owner]\naddress = \"{owner}\"\nname = \"stick\"\n\n\
             [network]\nchain_id = {chain_id}\nrpc_urls = [\"{rpc}\"]\nws_url = \"{ws}\"\nconfirmations = 1\n\
             head_lag_max_s = {head_lag}\nrequest_timeout_ms = 20000\n\n\
             [network.contracts]\nnexus = \"{}\"\ncontroller = \"{}\"\nterminal = \"{}\"\nvault = \"{}\"\n\n\
             [content]\npublish = \"{publish}\"\nallow_private = true\n\n\
             [work]\nsources = \"any\"\nfrom_block = 0\n\n\
             [limits]\nstart_s = 600\nplain_registries = [\"{registry}\"]\n",
            at.nexus,
            at.controller,
            at.terminal,
            at.vault,
            owner = self.owner()?,
            chain_id = ready.chain_id,
            rpc = ready.rpc,
            ws = ready.ws,
            // A chain that mines only when it is asked to has a head of any age.
            head_lag = u32::MAX,
            publish = ready.ipfs_publish,
            registry = island::as_seen(&self.registry.host),
        ))
    }

    /// The owner's account.
    pub fn owner(&self) -> Result<Address> {
        Ok(self.ready.account(Role::Master).context("the network has a master")?.address)
    }

    /// Publishes the source image as a source. Returns its address.
    pub async fn publish_source(&self, delivery: &str) -> Result<Address> {
        let offer = Offer { image: &self.pushed.reference, service: "", delivery, min_payment_wei: COIN / 1000 };
        self.client.publish_source(&offer).await
    }

    /// Pairs the rig whose page says `face`, as its owner does: with the address and the code that it shows.
    pub fn pair(&self, face: &Value, within: Duration) -> Result<()> {
        let text = |name: &str| face[name].as_str().with_context(|| format!("the page shows no {name}: {face}"));
        let paired = Command::new(binary("rig")?)
            .args(["pair", text("address")?, "--code", text("code")?, "--gas", "1"])
            .args(["--wait", &format!("{}s", within.as_secs()), "--devnet"])
            .arg(self.dir.path().join("devnet.json"))
            .arg("--key-file")
            .arg(self.owner_key()?)
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path())
            .output()?;
        ensure!(paired.status.success(), "rig pair: {}", String::from_utf8_lossy(&paired.stderr));
        Ok(())
    }

    /// Publishes a task, waits for the answer of `rig`, and reads it as the client does.
    pub async fn task(
        &self,
        rig: Address,
        source: Address,
        job: (&str, Value),
        wei: u128,
        within: Duration,
    ) -> Result<Done> {
        let (function, data) = job;
        let task = self.publish(source, function, &data, wei).await?;
        let took = self.answered(rig, task, within).await?;
        let responses = self.client.responses(task).await?;
        let [(payload, _)] = responses.as_slice() else { bail!("task {task} has responses {responses:?}") };
        Ok(Done { task, took, payload: payload.clone() })
    }

    /// Publishes a task and returns at once.
    pub async fn publish(&self, source: Address, function: &str, data: &Value, wei: u128) -> Result<Address> {
        self.client.publish_task(source, function, data, wei, TASK_S).await
    }

    /// Waits for the response of `rig` to a task. Returns how long that took.
    pub async fn answered(&self, rig: Address, task: Address, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            // The node may show half of a block that it is just making; the next look shows all of it.
            let look = chain::read::task(&self.rpc, ProviderId(rig), TaskId(task)).await;
            if look.as_ref().is_ok_and(|reading| reading.my_response.is_some()) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < within, "no response to {task} within {within:?}; the newest look: {look:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What the owner has earned so far, in wei.
    pub async fn earned_wei(&self) -> Result<u128> {
        self.client.vault_wei("master").await
    }

    /// A job whose answer is known: the function and its input, and the answer. Equal payloads are refused by the
    /// network, so each `number` gives another one.
    pub fn sum(number: u64) -> ((&'static str, Value), Value) {
        (("add", json!({ "a": number, "b": 40 })), json!({ "sum": number + 40 }))
    }

    fn owner_key(&self) -> Result<PathBuf> {
        let key = self.ready.account(Role::Master).context("the network has a master")?.key;
        let path = self.dir.path().join("owner.key");
        std::fs::write(&path, format!("{key}\n"))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Rig, RigOptions};

    /// A rig that runs here takes the part of the one in the machine: every link and name must lead somewhere for it.
    #[test]
    fn a_rig_that_knows_this_machine_by_the_guests_name_for_it_is_paid() {
        island::enter().expect("root");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let town = Town::build().await.expect("a town");
            let source = town.publish_source("FIRST_RESPONSE").await.expect("a source");
            let registry = island::as_seen(&town.registry.host);
            let limits = format!("plain_registries = [\"{registry}\"]");
            let rig = Rig::start(&town.ready, &RigOptions { limits, ..RigOptions::default() }).expect("a rig");
            let face =
                json!({ "address": rig.address().to_string(), "code": signer::identity::pairing_code(rig.address()) });
            town.pair(&face, Duration::from_secs(60)).expect("it is paired");
            rig.wait_serving(1, Duration::from_secs(120)).expect("it serves");
            let before = town.earned_wei().await.expect("a balance");
            let (job, wanted) = Town::sum(2);
            let done = town.task(rig.address(), source, job, COIN, Duration::from_secs(60)).await.expect("an answer");
            assert_eq!(done.payload, wanted);
            assert_eq!(town.earned_wei().await.expect("a balance") - before, COIN);
        });
    }
}
