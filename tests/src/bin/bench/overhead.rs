//! What the rig adds to a task: from the block that publishes it to the block that holds the response, less the time
//! that the handler takes; and what the provider uses meanwhile.

use std::time::{Duration, Instant};

use alloy::network::TransactionBuilder;
use alloy::primitives::Address;
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use anyhow::{Context, Result, ensure};
use chain::abi::Task as TaskContract;
use chain::content::{Content, Gateways};
use provisioning::devnet::{Devnet, DevnetOptions, Ready};
use serde_json::json;
use testbed::registry::Registry;
use testbed::rig::{Rig, RigOptions};

use crate::Figure;
use crate::publish::{pair, publish_source, publish_task};

/// What the handler sleeps, in seconds: subtracted from each figure.
const HANDLER_S: f64 = 0.2;

/// A devnet with a source that a paired rig serves.
struct Scene {
    ready: Ready,
    chain: RootProvider,
    content: Content,
    source: Address,
    rig: Rig,
    _devnet: Devnet,
    _registry: Registry,
}

impl Scene {
    async fn up(block_time: Option<u64>) -> Result<Scene> {
        let devnet =
            Devnet::up(DevnetOptions { block_time: block_time.map(Duration::from_secs), ..DevnetOptions::default() })
                .await?;
        let ready = devnet.ready.clone();
        let chain = RootProvider::new_http(ready.rpc.clone());
        chain.anvil_auto_impersonate_account(true).await?;
        // The clock starts when the receipt is seen; alloy would look for it four times a second.
        chain.client().set_poll_interval(Duration::from_millis(5));
        let registry = Registry::start().await?;
        let image = registry.push_handler().await?.reference;
        let mut gateways = Gateways::new(ready.ipfs_publish.clone());
        gateways.allow_private = true;
        let content = Content::new(gateways)?;
        let source = publish_source(&ready, &chain, &content, &image).await?;
        let rig = Rig::start(&ready, &RigOptions::default())?;
        pair(&ready, &chain, rig.address()).await?;
        let wait = rig.wait_serving(1, Duration::from_secs(120));
        wait?;
        Ok(Scene { ready, chain, content, source, rig, _devnet: devnet, _registry: registry })
    }

    /// Publishes one task and waits for its response. Returns our share of the time in between, in seconds.
    async fn one_task(&self, tag: &str) -> Result<f64> {
        let input = json!({ "function_name": "slow", "data": { "seconds": HANDLER_S, "tag": tag } });
        let link = self.content.pin("taskConfig.json", "application/json", input.to_string().into_bytes()).await?.url;
        let task = publish_task(&self.ready, &self.chain, self.source, link.as_str()).await?;
        let mined = Instant::now();
        let call = TaskContract::responseOfCall(self.rig.address()).abi_encode();
        loop {
            let asked = TransactionRequest::default().with_to(task).with_input(call.clone());
            let answer = self.chain.call(asked).await?;
            if answer.iter().any(|byte| *byte != 0) {
                return Ok(mined.elapsed().as_secs_f64() - HANDLER_S);
            }
            ensure!(mined.elapsed() < Duration::from_secs(60), "no response: {:?}", self.rig.task(task)?);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) async fn measure(block_time: Option<u64>, bound: &'static str) -> Result<Vec<Figure>> {
    let scene = Scene::up(block_time).await?;
    let name = block_time.map_or("a block per transaction".to_owned(), |s| format!("{s} s blocks"));
    scene.one_task("warm-up").await?;
    let (rss_idle, cpu_idle) = usage(&scene.rig, Duration::from_secs(5)).await?;
    let (mut alone, mut eight) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let cpu_before = cpu_s(&scene.rig)?;
    for round in 0..4 {
        for number in 0..5 {
            alone.push(scene.one_task(&format!("a{round}-{number}")).await? * 1000.0);
        }
        for wave in 0..2 {
            let tags: Vec<String> = (0..8).map(|number| format!("b{round}-{wave}-{number}")).collect();
            let all = futures::future::try_join_all(tags.iter().map(|tag| scene.one_task(tag))).await?;
            eight.extend(all.into_iter().map(|seconds| seconds * 1000.0));
        }
    }
    let cpu_load = (cpu_s(&scene.rig)? - cpu_before) / began.elapsed().as_secs_f64() * 100.0;
    let rss_load = rss_mib(&scene.rig)?;
    let figure = |what: &str, unit, samples, bound| Figure { what: format!("{what}, {name}"), unit, samples, bound };
    Ok(vec![
        figure("overhead per task, 1 in flight", "ms", alone, bound),
        figure("overhead per task, 8 in flight", "ms", eight, bound),
        figure("rig-provider: memory, idle", "MiB", vec![rss_idle], "resident set"),
        figure("rig-provider: memory, at load", "MiB", vec![rss_load], "resident set"),
        figure("rig-provider: CPU, idle", "% of a core", vec![cpu_idle], "polls of the chain and of containers"),
        figure("rig-provider: CPU, at load", "% of a core", vec![cpu_load], "JSON-RPC and TLS-free HTTP"),
    ])
}

async fn usage(rig: &Rig, over: Duration) -> Result<(f64, f64)> {
    let before = cpu_s(rig)?;
    tokio::time::sleep(over).await;
    Ok((rss_mib(rig)?, (cpu_s(rig)? - before) / over.as_secs_f64() * 100.0))
}

/// Processor time of the provider so far, in seconds. Source: proc_pid_stat(5), fields 14 and 15, in ticks of 1/100 s.
fn cpu_s(rig: &Rig) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.provider_pid()?))?;
    let after_name = stat.rsplit(')').next().context("stat has a name")?;
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn rss_mib(rig: &Rig) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.provider_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("status has VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("VmRSS has a value")?.parse()?;
    Ok(kib / 1024.0)
}
