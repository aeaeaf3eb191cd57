//! What a fact costs: folding it, and making it durable.

use std::collections::BTreeSet;
use std::time::Instant;

use alloy::primitives::{Address, B256, U256};
use anyhow::{Result, ensure};
use appliance::ledger::Ledger;
use work::enrolment::Standing;
use work::fact::Look;
use work::policy::{Rig, Sources};
use work::source::{Environments, SourceReading};
use work::task::{Delivery, Task, TaskReading, TaskStatus};
use work::{Book, Digest, Fact, News, ProviderId, ResponseId, RunId, SourceId, TaskId};

use crate::Figure;

/// Lives of tasks that one sample folds.
const LIVES: u64 = 20_000;

/// `count` whole lives, one after the other: read, looked at, attempted, fetched, finished, published, answered and paid.
fn lives(count: u64) -> Vec<Fact> {
    let me = ProviderId(Address::repeat_byte(1));
    let source = SourceId(Address::repeat_byte(2));
    let mut facts: Vec<Fact> = opening(me, source).into_iter().map(|news| Fact { at: 1, news }).collect();
    for number in 0..count {
        let task = TaskId(Address::left_padding_from(&(number + 1).to_be_bytes()));
        let reading = |status, attempt: bool, response: bool| News::TaskRead {
            reading: Box::new(TaskReading {
                task: Task {
                    id: task,
                    source,
                    config_url: "http://127.0.0.1/ipfs/QmZ".into(),
                    expires_at: 1_000_000,
                    payment_wei: U256::from(1_000_000_000_u64),
                    delivery: Delivery::FirstResponse,
                },
                status,
                attempts: attempt.into(),
                my_attempt: attempt.then_some((U256::from(1_000_000_000_u64), 1)),
                my_response: response.then_some(ResponseId(Address::repeat_byte(4))),
                winner: response.then_some(me),
            }),
        };
        let digest = Digest(B256::repeat_byte(5));
        let look = Look {
            function: Ok("add".into()),
            gas_wei: U256::from(1_000_000_000_000_u64),
            gas_price_wei: U256::ONE,
            lockup_wei: U256::ZERO,
        };
        let life = [
            reading(TaskStatus::New, false, false),
            News::Looked { task, look },
            reading(TaskStatus::Attempted, true, false),
            News::Fetched { task, function: "add".into(), digest },
            News::Finished { task, run: RunId(number), digest, bytes: 10, elapsed_ms: 20, descriptor: None },
            News::Pinned { task, link: "http://127.0.0.1/ipfs/QmY".into() },
            reading(TaskStatus::Finalized, true, true),
        ];
        facts.extend(life.into_iter().map(|news| Fact { at: 1, news }));
    }
    facts
}

/// A rig that is paired and serves one source.
fn opening(me: ProviderId, source: SourceId) -> [News; 4] {
    let owner = ProviderId(Address::repeat_byte(3));
    let rig = Rig {
        provider: me,
        owner,
        base_data_cid: "QmX".into(),
        environments: Environments(1),
        sources: Sources::Any,
        attempts_itself: true,
        max_runs: 4,
        max_runs_per_source: 4,
        max_waiting: 8,
        min_payment_wei: U256::ZERO,
        min_profit_wei: U256::ZERO,
        ask_percent: 100,
        max_rivals: 2,
        expected_run_s: 1,
        respond_margin_s: 1,
    };
    let standing = Standing {
        gas_wei: U256::from(1_000_000_000_000_u64),
        vault_wei: U256::ZERO,
        lockup_wei: U256::ZERO,
        master: Some(owner),
        is_announced: true,
        base_data_url: "http://127.0.0.1/ipfs/QmX".into(),
        unbonding_wei: U256::ZERO,
        unbonds_at: 0,
        is_newest: true,
    };
    let reading = SourceReading {
        id: source,
        client: owner,
        is_active: true,
        metadata_url: "http://127.0.0.1/ipfs/QmW".into(),
        environments: Environments(1),
        min_payment_wei: U256::ZERO,
        min_lockup_wei: U256::ZERO,
        max_expiry_s: 1_000_000,
        delivery: Delivery::FirstResponse,
        updated_at: 1,
        is_registered: true,
    };
    [
        News::Began { rig: Box::new(rig) },
        News::Stood { standing },
        News::SourceRead { reading: Box::new(reading) },
        News::SourceUp {
            source,
            prepared_from: 1,
            functions: Some(BTreeSet::from(["add".to_owned()])),
            conditions: None,
            notes: Vec::new(),
        },
    ]
}

pub(crate) fn fold() -> Result<Vec<Figure>> {
    let facts = lives(LIVES);
    let mut samples = Vec::new();
    for _ in 0..5 {
        let mut book = Book::default();
        let began = Instant::now();
        for fact in facts.clone() {
            book.enter(fact);
        }
        samples.push(rate(facts.len(), began));
        ensure!(book.jobs().values().all(work::book::Job::is_closed), "every life of the bench ends");
    }
    let figure = Figure { what: "book: facts folded".into(), unit: "facts/s", samples, bound: "one core" };
    Ok(vec![figure])
}

pub(crate) fn append() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for together in [1_usize, 128] {
        let mut samples = Vec::new();
        for _ in 0..5 {
            let dir = tempfile::tempdir()?;
            let mut ledger = Ledger::open(&dir.path().join("ledger.db"))?;
            let facts: Vec<Fact> = (0..2_000).map(|at| Fact { at, news: News::Ticked }).collect();
            let facts = &facts[..if together == 1 { 300 } else { 2_000 }];
            let began = Instant::now();
            for some in facts.chunks(together) {
                ledger.append(some, None::<&u64>)?;
            }
            samples.push(rate(facts.len(), began));
        }
        let what = format!("ledger: facts made durable, {together} at a time");
        figures.push(Figure { what, unit: "facts/s", samples, bound: "fsync of this disk" });
    }
    Ok(figures)
}

/// Things a second since `began`.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
pub(crate) fn rate(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}
