//! A source's container from the provider's side: dispatch, callback, busy services, deaths, and fresh jails.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, U256};
use appliance::board::Board;
use appliance::compose::plan::Restart;
use appliance::container::{ContainerError, Containers, Part, Recipe, Returned, RunError};
use appliance::provider::Parcel;
use appliance::store::{Shelf, Store};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use runner::client::ClientError;
use runner::protocol::{NetworkPolicy, Refusal, ServiceSpec, SourcePlan};
use runner::wire::WireError;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use work::task::{Attempt, Bid, Delivery, Input, Run, Task};
use work::{Digest, News, RunId, SourceId, TaskId};

use crate::fake_runner::FakeRunner;

const WITHIN: Duration = Duration::from_secs(20);

/// A rig's containers over a runner without jails.
pub(crate) struct Rig {
    pub(crate) containers: Arc<Containers>,
    pub(crate) runner: FakeRunner,
    pub(crate) board: Arc<Board>,
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

/// A main service that answers dispatches from a script, then with 202, and remembers what it was sent.
#[derive(Clone, Default)]
pub(crate) struct Service {
    script: Arc<Mutex<VecDeque<(u16, String)>>>,
    got: Arc<Mutex<Vec<String>>>,
    /// Called back before a dispatch is answered, if there is one.
    callback: Arc<Mutex<Option<String>>>,
}

pub(crate) fn source() -> SourceId {
    SourceId(Address::repeat_byte(3))
}

/// A source of one service.
fn recipe_of(spec: ServiceSpec) -> Recipe {
    recipe(vec![part("main", spec, Restart::Always)])
}

pub(crate) fn part(name: &str, spec: ServiceSpec, restart: Restart) -> Part {
    let manifest = format!("sha256:{}", "1".repeat(64)).parse().expect("a digest");
    Part { name: name.parse().expect("a name"), manifest, spec, awaits: Vec::new(), restart }
}

/// A source of these services, the last of which is the main one.
pub(crate) fn recipe(parts: Vec<Part>) -> Recipe {
    let plan = SourcePlan {
        network: NetworkPolicy::Internal,
        services: parts.iter().map(|part| part.name.clone()).collect(),
        aliases: Vec::new(),
        published: Vec::new(),
        volumes: Vec::new(),
    };
    Recipe { plan, main: parts.len() - 1, parts, main_port: 5555, grace: Duration::from_secs(1) }
}

fn run_of(task: u8, seconds: u64) -> Run {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let task = Task {
        id: TaskId(Address::repeat_byte(task)),
        source: source(),
        config_url: "ipfs://config".into(),
        expires_at: now + 1000,
        payment_wei: U256::from(1),
        delivery: Delivery::Manual,
    };
    let attempt = Attempt { bid: Bid { task, payment_wei: U256::from(1) }, began_at: now };
    let input = Input { attempt, function: "answer".into(), digest: Digest(B256::ZERO) };
    Run { input, id: RunId(0), deadline: now + seconds, conditions: None }
}

// === impl Rig ===

impl Rig {
    pub(crate) fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let runner = FakeRunner::serve(dir.path());
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let board = Arc::new(Board::default());
        let containers = Arc::new(Containers::new(runner.client(), store.clone(), board.clone(), [7; 32], 1 << 20));
        Rig { containers, runner, board, store, _dir: dir }
    }

    async fn start(&self, spec: ServiceSpec) -> Result<Option<BTreeSet<String>>, ContainerError> {
        self.start_within(recipe_of(spec), WITHIN).await
    }

    pub(crate) async fn start_within(
        &self,
        recipe: Recipe,
        within: Duration,
    ) -> Result<Option<BTreeSet<String>>, ContainerError> {
        let telling = self.board.begin(source());
        self.containers.start(source(), recipe, within, &telling).await
    }

    /// A rig whose source is up.
    async fn with(service: &Service) -> Rig {
        let rig = Rig::new();
        rig.runner.open_port(service.serve().await);
        rig.start(ServiceSpec::default()).await.expect("the source is up");
        rig
    }

    /// Where a task of the source is called back, from outside a jail.
    fn callback_url(&self, run: &Run) -> String {
        let url = self.containers.callback_url(source());
        format!("{}/{}", self.runner.reachable(&source().to_string(), &url), run.input.attempt.bid.task.id)
    }

    fn run(&self, run: &Run) -> tokio::task::JoinHandle<Result<Returned, RunError>> {
        let (containers, run) = (self.containers.clone(), run.clone());
        tokio::spawn(async move { containers.run(&run, b"{\"n\":1}".to_vec()).await })
    }
}

async fn call_back(url: &str, body: &'static str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    client.post(url).body(body).send().await.expect("an answer").status().as_u16()
}

// === impl Service ===

impl Service {
    fn saying(script: &[(u16, &str)]) -> Service {
        let service = Service::default();
        let script = script.iter().map(|(status, words)| (*status, (*words).to_owned()));
        service.script.lock().expect("no holder panics").extend(script);
        service
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().expect("no holder panics").clone()
    }

    /// Returns when it was sent so many dispatches.
    async fn takes(&self, dispatches: usize) {
        while self.got().len() < dispatches {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let description = json!({ "paths": { "/run/answer/{task_address}": {}, "/run/sum/{x}": {}, "/docs": {} } });
        let routes = Router::new()
            .route("/openapi.json", get(async move || Json(description)))
            .route("/run/{function}/{task}", post(Service::take))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        at
    }

    async fn take(State(service): State<Service>, body: String) -> (StatusCode, String) {
        service.got.lock().expect("no holder panics").push(body);
        let callback = service.callback.lock().expect("no holder panics").clone();
        if let Some(url) = callback {
            assert_eq!(call_back(&url, "\"early\"").await, 200);
        }
        let scripted = service.script.lock().expect("no holder panics").pop_front();
        let (status, words) = scripted.unwrap_or((202, "{}".into()));
        (StatusCode::from_u16(status).expect("a status"), words)
    }
}

#[tokio::test]
async fn a_task_goes_into_the_container_and_its_result_comes_out() {
    let service = Service::default();
    let rig = Rig::with(&service).await;
    let run = run_of(1, 60);
    let running = rig.run(&run);
    assert_eq!(call_back(&rig.callback_url(&run), "{\"n\":2}").await, 200);
    let returned = running.await.expect("no panic").expect("a result");
    let shelf = Shelf::Task(run.input.attempt.bid.task.id);
    assert_eq!(rig.store.read(shelf, returned.digest, 100).await.expect("is stored"), b"{\"n\":2}");
}

#[tokio::test]
async fn the_functions_of_a_service_are_those_of_its_description() {
    let rig = Rig::new();
    rig.runner.open_port(Service::default().serve().await);
    let functions = rig.start(ServiceSpec::default()).await.expect("it is up");
    assert_eq!(functions, Some(BTreeSet::from(["answer".to_owned(), "sum".to_owned()])));
}

#[tokio::test]
async fn a_busy_service_is_asked_again_until_it_takes_the_task_once() {
    let service = Service::saying(&[(409, "busy"), (503, "starting")]);
    let rig = Rig::with(&service).await;
    let run = run_of(1, 60);
    let running = rig.run(&run);
    service.takes(3).await;
    assert_eq!(call_back(&rig.callback_url(&run), "1").await, 200);
    running.await.expect("no panic").expect("a result");
    assert_eq!(service.got(), ["{\"n\":1}"; 3], "what was taken is not sent again");
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_words_that_fit_a_screen() {
    for status in [400, 403, 404, 422] {
        let words = format!("\u{1b}[2J{}\0the field `n` is missing\r\n", "x".repeat(5000));
        let rig = Rig::with(&Service::saying(&[(status, &words)])).await;
        let error = rig.run(&run_of(1, 60)).await.expect("no panic").expect_err("it is refused");
        let RunError::Rejected { status: got, words } = &error else { panic!("{error}") };
        assert_eq!(*got, status);
        assert!(words.ends_with("the field `n` is missing") && words.chars().count() <= 300, "{words}");
        assert!(!error.to_string().chars().any(char::is_control), "{words:?}");
    }
}

#[tokio::test]
async fn a_result_that_comes_before_the_dispatch_is_answered_is_enough() {
    let service = Service::saying(&[(500, "after calling back"), (500, "again")]);
    let rig = Rig::with(&service).await;
    let run = run_of(1, 60);
    *service.callback.lock().expect("no holder panics") = Some(rig.callback_url(&run));
    rig.run(&run).await.expect("no panic").expect("a result");
    assert_eq!(service.got().len(), 1, "it is not run twice");
}

#[tokio::test]
async fn a_service_that_never_calls_back_is_given_up_at_the_deadline() {
    let rig = Rig::with(&Service::default()).await;
    let run = run_of(1, 1);
    let error = rig.run(&run).await.expect("no panic").expect_err("no result");
    assert!(matches!(error, RunError::Deadline), "{error}");
}

#[tokio::test]
async fn a_container_that_dies_tells_who_waits_and_the_desk() {
    let service = Service::default();
    let rig = Rig::with(&service).await;
    let (desk, mut parcels) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(rig.containers.clone().watch(desk, stop));
    let running = rig.run(&run_of(1, 60));
    service.takes(1).await;
    rig.runner.kill();
    let error = running.await.expect("no panic").expect_err("no result");
    assert!(matches!(&error, RunError::Gone(why) if why.contains("Signal(9)") && why.contains("by a test")), "{error}");
    let Some(Parcel::Outcome(News::SourceDown { source: down, why })) = parcels.recv().await else {
        panic!("the desk is told")
    };
    assert_eq!(down, source());
    assert!(!why.contains('\u{1b}'), "{why:?}");
    let error = rig.run(&run_of(2, 60)).await.expect("no panic").expect_err("nobody is up");
    assert!(matches!(error, RunError::Gone(_)), "{error}");
}

/// The end of the old jail may not have been noticed when the new one starts.
#[tokio::test]
async fn a_jail_that_is_started_anew_has_its_callbacks_heard() {
    let service = Service::default();
    let rig = Rig::with(&service).await;
    let lost = rig.run(&run_of(1, 60));
    service.takes(1).await;
    rig.runner.kill();
    rig.start(ServiceSpec::default()).await.expect("it is up again");
    let error = lost.await.expect("no panic").expect_err("the old jail is gone");
    assert!(matches!(error, RunError::Gone(_)), "{error}");
    let run = run_of(2, 60);
    let running = rig.run(&run);
    assert_eq!(call_back(&rig.callback_url(&run), "2").await, 200);
    running.await.expect("no panic").expect("a result");
}

#[tokio::test]
async fn a_source_that_changed_is_stopped_before_it_starts_as_it_is_now() {
    let service = Service::default();
    let rig = Rig::with(&service).await;
    let lost = rig.run(&run_of(1, 60));
    service.takes(1).await;
    let changed = ServiceSpec { read_only: true, ..ServiceSpec::default() };
    rig.start(changed).await.expect("it is up again");
    assert!(matches!(lost.await.expect("no panic"), Err(RunError::Gone(_))));
    rig.containers.stop(source()).await.expect("stops");
    rig.containers.stop(source()).await.expect("stopping again is fine");
}

#[tokio::test]
async fn a_container_whose_port_never_opens_is_too_slow_or_ended() {
    let rig = Rig::new();
    let slow = rig.start_within(recipe_of(ServiceSpec::default()), Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(ContainerError::TooSlow { .. })), "{slow:?}");

    let rig = Arc::new(Rig::new());
    let starting = tokio::spawn({
        let rig = rig.clone();
        async move { rig.start(ServiceSpec::default()).await }
    });
    while rig.runner.started().is_empty() {
        tokio::task::yield_now().await;
    }
    rig.runner.kill();
    let ended = starting.await.expect("no panic").expect_err("it ended");
    assert!(matches!(&ended, ContainerError::Ended { why } if why.contains("by a test")), "{ended}");
}

#[test]
fn an_image_that_is_not_what_it_says_is_final_and_a_busy_runner_is_not() {
    let digest: runner::protocol::Digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
    let mismatch =
        || Refusal::DigestMismatch { object: "layer 1".into(), expected: digest.clone(), found: digest.clone() };
    for (refusal, is_final, is_damaged) in [
        (mismatch(), true, true),
        (Refusal::BlobMissing { digest: digest.clone() }, false, false),
        (Refusal::BadImage { detail: "x".into() }, true, false),
        (Refusal::BadService { detail: "x".into() }, true, false),
        (Refusal::Busy { limit: 1 }, false, false),
        (Refusal::TooManySources { limit: "32 sources".into() }, false, false),
    ] {
        let error = ContainerError::Runner(ClientError::Refused(refusal));
        assert_eq!((error.is_final(), error.is_damaged()), (is_final, is_damaged), "{error:?}");
    }
    assert!(ContainerError::Runner(ClientError::Wire(WireError::TooLarge)).is_final(), "its spec never fits");
    assert!(!ContainerError::Runner(ClientError::Wire(WireError::Closed)).is_final());
}

#[tokio::test]
async fn a_runner_that_is_not_there_is_weather() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(Store::open(dir.path()).expect("a store"));
    let runner = runner::client::Client::new(dir.path().join("none.sock"));
    let board = Arc::new(Board::default());
    let containers = Arc::new(Containers::new(runner, store, board.clone(), [7; 32], 1));
    let telling = board.begin(source());
    let error = containers.start(source(), recipe_of(ServiceSpec::default()), WITHIN, &telling).await;
    assert!(!error.expect_err("nobody is there").is_final());
}
