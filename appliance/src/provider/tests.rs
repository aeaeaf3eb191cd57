//! The loop, with a performer that does as it is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy_primitives::{Address, B256, U256};
use chain::rpc::{Contracts, Network};
use work::enrolment::Standing;
use work::source::{Environments, SourceReading};
use work::task::{Delivery, TaskReading, TaskStatus};
use work::{Digest, ProviderId, ResponseId, RunId};

use super::*;
use crate::store::Shelf;

type Answer = Box<dyn Fn(&Step) -> Option<News> + Send + Sync>;

/// A performer that answers as it is told; what it is told nothing of stays in hand for ever.
struct Script {
    answer: Answer,
    began: Mutex<Vec<&'static str>>,
    dropped: Arc<AtomicUsize>,
    store: Arc<Store>,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Perform for Script {
    async fn perform(&self, step: Step) -> News {
        self.began.lock().expect("no holder panics").push(step.name());
        if let Step::Fetch { attempt } = &step {
            self.store.put(Shelf::Task(attempt.bid.task.id), b"{}").await.expect("stores");
        }
        if let Some(news) = (self.answer)(&step) {
            return news;
        }
        let _dropped = Dropped(self.dropped.clone());
        std::future::pending().await
    }
}

/// A running loop.
struct Loop {
    desk: mpsc::Sender<Parcel>,
    stop: CancellationToken,
    script: Arc<Script>,
    dir: Arc<tempfile::TempDir>,
    ended: tokio::task::JoinHandle<Result<(), ProviderError>>,
}

impl Loop {
    async fn start(answer: Answer, grace: Duration) -> Loop {
        Loop::start_in(Arc::new(tempfile::tempdir().expect("a temporary directory")), answer, grace).await
    }

    async fn start_in(dir: Arc<tempfile::TempDir>, answer: Answer, grace: Duration) -> Loop {
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let ledger = Ledger::open(&dir.path().join("ledger.db")).expect("a ledger");
        let script =
            Arc::new(Script { answer, began: Mutex::default(), dropped: Arc::default(), store: store.clone() });
        let (desk, parcels) = mpsc::channel(DESK_MAX);
        let provider =
            Provider::open(ledger, script.clone(), store, Arc::default(), nobody().await, parcels).expect("opens");
        let stop = CancellationToken::new();
        let ended = tokio::spawn(provider.run(rig(), stop.clone(), grace));
        Loop { desk, stop, script, dir, ended }
    }

    /// Hands readings over, and returns when they are durable.
    async fn see(&self, news: Vec<News>) {
        let (done, durable) = oneshot::channel();
        self.desk.send(Parcel::Seen { news, cursor: None, done }).await.expect("the loop runs");
        durable.await.expect("the loop runs");
    }

    async fn tasks(&self) -> serde_json::Value {
        let (reply, answer) = oneshot::channel();
        let question = Question::Tasks { limit: 10, refused: false };
        self.desk.send(Parcel::Asked(question, reply)).await.expect("the loop runs");
        answer.await.expect("an answer")
    }

    /// Asks until the first task is at `stage`, and returns its row.
    async fn until(&self, stage: &str) -> serde_json::Value {
        loop {
            let tasks = self.tasks().await;
            if tasks["tasks"][0]["stage"] == stage {
                return tasks["tasks"][0].clone();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns when a step that was in hand has been dropped.
    async fn drops(&self) {
        while self.script.dropped.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    fn facts(&self) -> u64 {
        Ledger::open(&self.dir.path().join("ledger.db")).expect("opens").facts().expect("counts")
    }

    fn began(&self) -> Vec<&'static str> {
        self.script.began.lock().expect("no holder panics").clone()
    }

    fn shelf(&self) -> std::path::PathBuf {
        self.dir.path().join("content/tasks").join(task_id().to_string())
    }

    /// Everything up to an attempt that an agent made for us.
    async fn attempted(&self) {
        self.see(vec![stood(), source_read()]).await;
        while !self.began().contains(&"prepare") {
            tokio::task::yield_now().await;
        }
        self.see(vec![task_read(TaskStatus::Attempted)]).await;
    }
}

/// A network where nobody answers.
async fn nobody() -> Rpc {
    let contracts =
        Contracts { nexus: Address::ZERO, controller: Address::ZERO, terminal: Address::ZERO, vault: Address::ZERO };
    let network = Network {
        chain_id: 31337,
        contracts,
        rpc_urls: vec!["http://127.0.0.1:1".parse().expect("a URL")],
        ws_url: None,
        confirmations: 1,
        head_lag_max_s: 60,
        request_timeout_ms: 1000,
    };
    Rpc::connect(network).await.expect("starting needs nobody to answer")
}

fn me() -> ProviderId {
    ProviderId(Address::repeat_byte(1))
}

fn source_id() -> SourceId {
    SourceId(Address::repeat_byte(3))
}

fn task_id() -> TaskId {
    TaskId(Address::repeat_byte(4))
}

fn rig() -> Rig {
    Rig {
        provider: me(),
        owner: ProviderId(Address::repeat_byte(2)),
        base_data_cid: "base".into(),
        environments: Environments(1),
        sources: Sources::Any,
        attempts_itself: false,
        max_runs: 1,
        max_runs_per_source: 1,
        max_waiting: 1,
        min_payment_wei: U256::ZERO,
        min_profit_wei: U256::ZERO,
        ask_percent: 100,
        max_rivals: 0,
        expected_run_s: 10,
        respond_margin_s: 5,
    }
}

fn stood() -> News {
    let standing = Standing {
        gas_wei: U256::from(1_000_000),
        vault_wei: U256::ZERO,
        lockup_wei: U256::ZERO,
        master: Some(ProviderId(Address::repeat_byte(2))),
        is_announced: true,
        base_data_url: "ipfs://base".into(),
        unbonding_wei: U256::ZERO,
        unbonds_at: 0,
        is_newest: true,
    };
    News::Stood { standing }
}

fn source_read() -> News {
    let reading = SourceReading {
        id: source_id(),
        client: me(),
        is_active: true,
        metadata_url: "ipfs://metadata".into(),
        environments: Environments(1),
        min_payment_wei: U256::ZERO,
        min_lockup_wei: U256::ZERO,
        max_expiry_s: 600,
        delivery: Delivery::FirstResponse,
        updated_at: 7,
        is_registered: true,
    };
    News::SourceRead { reading: Box::new(reading) }
}

fn task_read(status: TaskStatus) -> News {
    let task = work::task::Task {
        id: task_id(),
        source: source_id(),
        config_url: "ipfs://config".into(),
        expires_at: unix_now() / 1000 * 1000 + 5000,
        payment_wei: U256::from(1000),
        delivery: Delivery::FirstResponse,
    };
    let winner = (status == TaskStatus::Finalized).then(me);
    let my_response = winner.map(|_| ResponseId(Address::repeat_byte(6)));
    let my_attempt = Some((U256::from(1000), 1));
    let began_at = unix_now();
    let my_attempt = my_attempt.map(|(wei, _)| (wei, began_at / 1000 * 1000));
    let reading = TaskReading { task, status, attempts: 1, my_attempt, my_response, winner };
    News::TaskRead { reading: Box::new(reading) }
}

/// Answers steps as an honest performer does, as far as `last`; the next stays in hand.
fn as_far_as(last: &'static str) -> Answer {
    let order = ["none", "prepare", "fetch", "run", "publish", "respond"];
    let rank = move |name: &str| order.iter().position(|known| *known == name);
    Box::new(move |step| {
        if rank(step.name()) > rank(last) {
            return None;
        }
        let digest = Digest(B256::repeat_byte(5));
        match step {
            Step::Prepare { source, updated_at, .. } => Some(News::SourceUp {
                source: *source,
                prepared_from: *updated_at,
                functions: None,
                conditions: None,
                notes: Vec::new(),
            }),
            Step::Fetch { attempt } => {
                Some(News::Fetched { task: attempt.bid.task.id, function: "answer".into(), digest })
            }
            Step::Run { run } => {
                let RunId(_) = run.id;
                Some(News::Finished { task: task_id(), run: run.id, digest, bytes: 2, elapsed_ms: 1, descriptor: None })
            }
            Step::Publish { .. } => Some(News::Pinned { task: task_id(), link: "ipfs://result".into() }),
            Step::Respond { .. } => Some(task_read(TaskStatus::Finalized)),
            _ => None,
        }
    })
}

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_through_to_its_settlement_and_leaves_nothing_in_the_store() {
    let run = Loop::start(as_far_as("respond"), GRACE).await;
    run.attempted().await;
    assert_eq!(run.until("settled").await["paid_wei"], "0x3e8");
    assert_eq!(run.began(), ["prepare", "fetch", "run", "publish", "respond"]);
    assert!(!run.shelf().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_say_nothing_new_do_not_grow_the_ledger() {
    let run = Loop::start(as_far_as("fetch"), GRACE).await;
    run.attempted().await;
    run.until("running").await;
    let before = run.facts();
    for _ in 0..50 {
        run.see(vec![stood(), source_read(), task_read(TaskStatus::Attempted)]).await;
    }
    assert_eq!(run.facts(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_panics_ends_in_words_for_the_owner() {
    let answer = as_far_as("prepare");
    let run = Loop::start(
        Box::new(move |step| match step {
            Step::Fetch { .. } => panic!("this is the bug of the test"),
            step => answer(step),
        }),
        GRACE,
    )
    .await;
    run.attempted().await;
    let row = run.until("failed").await;
    assert!(row["why"].as_str().is_some_and(|why| why.contains("the rig's own software failed here")), "{row}");
    assert!(!run.shelf().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_task_that_closed_is_dropped_and_its_bytes_with_it() {
    let run = Loop::start(as_far_as("fetch"), GRACE).await;
    run.attempted().await;
    run.until("running").await;
    assert!(run.shelf().exists());
    run.see(vec![task_read(TaskStatus::Canceled)]).await;
    run.until("lost").await;
    run.drops().await;
    assert!(!run.shelf().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_clears_the_store_of_what_is_over_and_keeps_what_is_needed() {
    let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let run = Loop::start_in(dir.clone(), as_far_as("fetch"), Duration::ZERO).await;
    run.attempted().await;
    run.until("running").await;
    let other = dir.path().join("content/tasks").join(TaskId(Address::repeat_byte(9)).to_string());
    std::fs::create_dir(&other).expect("makes");
    run.stop.cancel();
    run.ended.await.expect("no panic").expect("ends well");

    let again = Loop::start_in(dir, as_far_as("respond"), GRACE).await;
    assert!(again.shelf().exists() && !other.exists());
    again.until("settled").await;
    assert!(!again.shelf().exists());
    assert!(!again.began().contains(&"fetch"), "what was done is not done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_when_nothing_is_begun() {
    let run = Loop::start(as_far_as("none"), Duration::from_secs(3600)).await;
    run.see(vec![stood(), source_read()]).await;
    run.stop.cancel();
    tokio::time::timeout(GRACE, run.ended).await.expect("at once").expect("no panic").expect("ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_what_was_begun_finish() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (released, answer) = (Mutex::new(released), as_far_as("respond"));
    let run = Loop::start(
        Box::new(move |step| {
            if let Step::Run { .. } = step {
                released.lock().expect("no holder panics").recv().expect("the test lives");
            }
            answer(step)
        }),
        Duration::from_secs(3600),
    )
    .await;
    run.attempted().await;
    run.until("running").await;
    run.stop.cancel();
    release.send(()).expect("the step waits");
    tokio::time::timeout(GRACE, run.ended).await.expect("in time").expect("no panic").expect("ends well");
    assert!(run.script.began.lock().expect("no holder panics").contains(&"respond"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_within_its_grace_when_something_hangs() {
    let mut run = Loop::start(as_far_as("fetch"), Duration::from_millis(200)).await;
    run.attempted().await;
    run.until("running").await;
    run.stop.cancel();
    tokio::time::timeout(GRACE, &mut run.ended).await.expect("in time").expect("no panic").expect("ends well");
    run.drops().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_folded_while_the_loop_runs() {
    let run = Loop::start(as_far_as("none"), GRACE).await;
    run.see(vec![stood(), source_read()]).await;
    let many = |_| News::SourceRemoved { source: source_id() };
    run.see((0..=FACTS_KEPT).map(many).collect()).await;
    run.see(vec![News::SourceRemoved { source: source_id() }]).await;
    assert!(run.facts() < 10, "{} facts", run.facts());
    run.stop.cancel();
    run.ended.await.expect("no panic").expect("ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn parcels_that_were_sent_before_the_last_sender_went_are_taken() {
    let run = Loop::start(as_far_as("none"), GRACE).await;
    let (done, durable) = oneshot::channel();
    let Loop { desk, stop, dir, ended, .. } = run;
    desk.send(Parcel::Seen { news: vec![stood()], cursor: None, done }).await.expect("the loop runs");
    drop(desk);
    durable.await.expect("it is taken");
    stop.cancel();
    ended.await.expect("no panic").expect("ends well");
    drop(dir);
}
