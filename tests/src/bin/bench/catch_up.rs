//! How fast a rig that was away learns what happened meanwhile.

use std::collections::BTreeSet;
use std::time::Instant;

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256};
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::BatchRequest;
use anyhow::{Context, Result, ensure};
use appliance::ledger::Ledger;
use chain::content::{Content, Gateways};
use chain::rpc::Rpc;
use chain::watch::{Event, Watch, WatchLimits};
use provisioning::devnet::{Devnet, DevnetOptions, Ready, Role};
use work::{Book, Fact, News, ProviderId, TaskId};

use crate::Figure;
use crate::facts::rate;
use crate::publish::{publish_call, publish_source, request};

/// Blocks of the chain that is caught up with.
const BLOCKS: u64 = 100_000;

/// Tasks in them.
const TASKS: u64 = 10_000;

/// Tasks in one block.
const BATCH: u64 = 10;

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    let devnet = Devnet::up(DevnetOptions { forgets: true, ..DevnetOptions::default() }).await?;
    let ready = &devnet.ready;
    let chain = RootProvider::new_http(ready.rpc.clone());
    chain.anvil_auto_impersonate_account(true).await?;
    let mut gateways = Gateways::new(ready.ipfs_publish.clone());
    gateways.allow_private = true;
    let source = publish_source(ready, &chain, &Content::new(gateways)?, "127.0.0.1:1/none:1").await?;
    fill(ready, &chain, source).await?;

    let rpc = Rpc::connect(ready.network()).await?;
    let me = ProviderId(Address::repeat_byte(7));
    let (mut scans, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (blocks, tasks) = scan(&rpc).await?;
        ensure!(tasks.len() as u64 == TASKS, "the scan found {} tasks of {TASKS}", tasks.len());
        scans.push(blocks);
        let began = Instant::now();
        let dir = tempfile::tempdir()?;
        let mut ledger = Ledger::open(&dir.path().join("ledger.db"))?;
        let mut book = Book::default();
        for some in tasks.chunks(100) {
            let mut facts = Vec::new();
            for reading in chain::read::open_tasks(&rpc, me, some).await? {
                facts.push(Fact { at: 1, news: News::TaskRead { reading: Box::new(reading?) } });
            }
            ledger.append(&facts, Some(&1_u64))?;
            for fact in facts {
                book.enter(fact);
            }
        }
        ensure!(book.jobs().len() as u64 == TASKS, "every task is in the book");
        reads.push(rate(tasks.len(), began));
    }
    let what = |what: &str| format!("{what}, {BLOCKS} blocks with {TASKS} tasks");
    Ok(vec![
        Figure {
            what: what("catch-up: blocks scanned"),
            unit: "blocks/s",
            samples: scans,
            bound: "eth_getLogs of the node",
        },
        Figure {
            what: what("catch-up: tasks read and made durable"),
            unit: "tasks/s",
            samples: reads,
            bound: "eth_call of the node: 8 a task",
        },
    ])
}

/// Scans the whole chain. Returns blocks a second, and the tasks that it saw.
async fn scan(rpc: &Rpc) -> Result<(f64, Vec<TaskId>)> {
    let began = Instant::now();
    let mut watch = Watch::new(rpc.clone(), None, 0, WatchLimits::default());
    let mut tasks = BTreeSet::new();
    loop {
        let scan = watch.next().await?;
        tasks.extend(scan.events.iter().filter_map(|event| match event {
            Event::TaskPublished { task, .. } => Some(*task),
            _ => None,
        }));
        if scan.caught_up {
            return Ok((rate(usize::try_from(scan.head)?, began), tasks.into_iter().collect()));
        }
    }
}

/// Mines empty blocks up to [`BLOCKS`], the last of them with [`TASKS`] tasks, a [`BATCH`] in each. They come last because
/// anvil keeps the whole state for each block, and each task is a contract.
async fn fill(ready: &Ready, chain: &RootProvider, source: Address) -> Result<()> {
    let client = ready.account(Role::Client).context("a client")?.address;
    let call = publish_call(source, "http://127.0.0.1:1/ipfs/none", 1)?;
    chain.anvil_mine(Some(BLOCKS - TASKS / BATCH), None).await?;
    chain.anvil_set_auto_mine(false).await?;
    let mut nonce = chain.get_transaction_count(client).await?;
    for _ in 0..TASKS / BATCH {
        let mut batch = BatchRequest::new(chain.client());
        let mut sent = Vec::new();
        for _ in 0..BATCH {
            let task = request(client, ready.contracts.controller, call.clone(), 0).with_nonce(nonce);
            nonce += 1;
            sent.push(batch.add_call::<_, B256>("eth_sendTransaction", &(task,))?);
        }
        batch.send().await?;
        futures::future::try_join_all(sent).await?;
        chain.evm_mine(None).await?;
    }
    let head = chain.get_block_number().await?;
    ensure!(head >= BLOCKS, "the chain has {head} blocks");
    Ok(())
}
