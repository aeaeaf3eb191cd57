//! Sources that are kernel bundles, from the provider's side: served, bound, launched, answered, and refused.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, U256};
use appliance::board::Board;
use appliance::compose::Cuda;
use appliance::direct::{Direct, DirectError, Returned, Started};
use appliance::gpus::Gpus;
use appliance::provider::Parcel;
use appliance::store::{Shelf, Store};
use axum::extract::{Multipart, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chain::content::{Content, Gateways};
use cuda::class::Class;
use cuda::messages::{Done, Failure};
use gpu::health::{Remedy, State as GpuState};
use runner::protocol::{End, Exit, Refusal};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use work::task::{Attempt, Bid, Delivery, Input, Run, Task};
use work::{Digest, News, RunId, SourceId, TaskId};

use crate::fake_gpus::{FakeGpus, gpus};
use crate::fake_runner::FakeRunner;

const WITHIN: Duration = Duration::from_secs(20);

const RESULT_BYTES_MAX: u64 = 1 << 12;

const PTX: &str = ".version 8.4
.target sm_75
.address_size 64
.visible .entry twice(.param .u64 twice_param_0, .param .u64 twice_param_1)
{
	ret;
}
";

/// Two functions that double numbers: `double` from and to JSON, `pass` from and to links.
const TOML: &str = r#"
format = 1
name = "twice"

[[module]]
name = "twice"
file = "twice.ptx"
kind = "ptx"
ptx_isa = "8.4"
target = "sm_75"
min_driver = "12.4"

[function.double]
determinism = { tolerance = 1e-4, metric = "relative" }
seconds = 20
[function.double.parameters.count]
type = "u32"
min = 1
max = 4294967295
[function.double.buffers.a]
type = "f32"
elements = "count"
input = { from = "/a", as = "json" }
[function.double.buffers.b]
type = "f32"
elements = "count"
output = { to = "/b", as = "json" }
[[function.double.steps]]
launch = "twice"
grid = ["1"]
block = ["32"]
arguments = [{ buffer = "a", access = "read" }, { buffer = "b", access = "write" }]

[function.pass]
determinism = "bitwise-any"
seconds = 3600
[function.pass.buffers.a]
type = "f32"
elements = "2"
input = { from = "/a", as = "content" }
[function.pass.buffers.b]
type = "f32"
elements = "2"
output = { to = "/out/b", as = "content" }
[[function.pass.steps]]
launch = "twice"
grid = ["1"]
block = ["32"]
arguments = [{ buffer = "a", access = "read" }, { buffer = "b", access = "write" }]
"#;

/// Documents by their path, and what was published.
#[derive(Clone, Default)]
struct Web {
    documents: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    address: Arc<Mutex<String>>,
}

/// A rig with GPUs that are not there.
struct Rig {
    direct: Arc<Direct>,
    runner: FakeRunner,
    store: Arc<Store>,
    board: Board,
    web: Web,
    _dir: tempfile::TempDir,
}

fn source() -> SourceId {
    SourceId(Address::repeat_byte(3))
}

fn archive() -> Vec<u8> {
    bundle::pack(&[("bundle.toml", TOML.as_bytes()), ("twice.ptx", PTX.as_bytes())]).expect("a bundle")
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    Digest(B256::from(hash))
}

// === impl Web ===

impl Web {
    async fn serve() -> Web {
        let web = Web::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        *web.address.lock().expect("no holder panics") = listener.local_addr().expect("an address").to_string();
        let routes = Router::new().route("/{name}", get(Web::read)).route("/publish", post(Web::publish));
        let routes = routes.with_state(web.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        web
    }

    async fn read(State(web): State<Web>, Path(name): Path<String>) -> Result<Vec<u8>, StatusCode> {
        web.documents.lock().expect("no holder panics").get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
    }

    async fn publish(State(web): State<Web>, mut form: Multipart) -> Json<Value> {
        let part = form.next_field().await.expect("a form").expect("a part");
        let bytes = part.bytes().await.expect("bytes").to_vec();
        let name = hex::encode(Sha256::digest(&bytes));
        let link = web.put(&name, bytes);
        Json(json!({ "link": link }))
    }

    /// Puts a document, and gives its link.
    fn put(&self, name: &str, bytes: Vec<u8>) -> String {
        self.documents.lock().expect("no holder panics").insert(name.to_owned(), bytes);
        self.link(name)
    }

    fn link(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address.lock().expect("no holder panics"))
    }

    fn get(&self, link: &str) -> Vec<u8> {
        let name = link.rsplit('/').next().expect("a name");
        self.documents.lock().expect("no holder panics")[name].clone()
    }
}

// === impl Rig ===

impl Rig {
    /// A rig with GPUs of these compute capabilities.
    async fn with(capabilities: &[(u32, u32)]) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let runner = FakeRunner::serve(dir.path());
        runner.gpus(|fake| fake.report = Some(gpus(capabilities)));
        let web = Web::serve().await;
        let mut gateways = Gateways::new(web.link("publish").parse().expect("a URL"));
        gateways.allow_private = true;
        let content = Content::new(gateways).expect("a client");
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let direct = Direct::new(Gpus::new(runner.client(), true), content, store.clone(), RESULT_BYTES_MAX);
        web.put("bundle", archive());
        Rig { direct: Arc::new(direct), runner, store, board: Board::default(), web, _dir: dir }
    }

    /// A rig whose source is up.
    async fn serving(capabilities: &[(u32, u32)]) -> Rig {
        let rig = Rig::with(capabilities).await;
        rig.start("bundle", None).await.expect("the source is up");
        rig
    }

    async fn start(&self, name: &str, function: Option<&str>) -> Result<Started, DirectError> {
        let cuda = Cuda { bundle: self.web.link(name), function: function.map(str::to_owned) };
        let telling = self.board.begin(source());
        self.direct.start(source(), &cuda, WITHIN, &telling).await
    }

    async fn run(&self, function: &str, data: &Value) -> Result<Returned, DirectError> {
        self.run_for(function, data, 60).await
    }

    async fn run_for(&self, function: &str, data: &Value, seconds: u64) -> Result<Returned, DirectError> {
        self.direct.run(&run_of(function, seconds), data.to_string().into_bytes()).await
    }

    /// A run that gives no result; its words, and whether trying again helps.
    async fn fails(&self, function: &str, data: &Value) -> (bool, String) {
        said(&self.run(function, data).await.expect_err("no result"))
    }

    async fn response(&self, returned: &Returned) -> Value {
        let shelf = Shelf::Task(TaskId(Address::repeat_byte(9)));
        let bytes = self.store.read(shelf, returned.digest, RESULT_BYTES_MAX).await.expect("it is in the store");
        assert_eq!(u64::try_from(bytes.len()), Ok(returned.bytes));
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn fake<T>(&self, look: impl FnOnce(&mut FakeGpus) -> T) -> T {
        self.runner.gpus(look)
    }
}

fn run_of(function: &str, seconds: u64) -> Run {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let task = Task {
        id: TaskId(Address::repeat_byte(9)),
        source: source(),
        config_url: "ipfs://config".into(),
        expires_at: now + 1000,
        payment_wei: U256::from(1),
        delivery: Delivery::Manual,
    };
    let attempt = Attempt { bid: Bid { task, payment_wei: U256::from(1) }, began_at: now };
    let input = Input { attempt, function: function.into(), digest: Digest(B256::ZERO) };
    Run { input, id: RunId(0), deadline: now + seconds, conditions: None }
}

fn said(error: &DirectError) -> (bool, String) {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    (error.is_final(), causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
}

fn sound() -> Value {
    json!({ "count": 3, "a": [1, 2.5, -4] })
}

#[tokio::test]
async fn a_task_of_a_bundle_is_answered_and_its_receipt_says_where_and_what() {
    let rig = Rig::with(&[(8, 9)]).await;
    let started = rig.start("bundle", None).await.expect("the source is up");
    assert_eq!(started.functions, ["double".to_owned(), "pass".to_owned()].into());
    assert_eq!((started.bundle, started.notes), (sha256(&archive()), Vec::new()));

    let returned = rig.run("double", &sound()).await.expect("a result");
    assert_eq!(rig.response(&returned).await, json!({ "b": [2.0, 5.0, -8.0] }));
    let told = &returned.descriptor;
    assert_eq!((told.bundle, told.determinism.as_str()), (sha256(&archive()), "tolerance 0.0001 relative"));
    assert_eq!(
        (told.gpu.as_str(), told.model.as_deref(), told.arch.as_deref()),
        ("GPU-0", Some("A GPU"), Some("sm_89"))
    );
    let versions = [&told.driver, &told.cuda, &told.compiler].map(|version| version.as_deref());
    assert_eq!(versions, [Some("570.1"), Some("12.8"), Some("12.8")]);
    assert_eq!(told.outputs, [("b".to_owned(), sha256(&floats(&[2.0, 5.0, -8.0])))].into());

    let (launch, descriptors) = rig.fake(|fake| (fake.launches[0].clone(), fake.descriptors));
    assert_eq!((launch.output_bytes, launch.seconds, launch.gpu), (12, 20, None));
    assert!((30_000..=40_000).contains(&launch.wait_ms), "{}", launch.wait_ms);
    assert_eq!((launch.job, descriptors), (TaskId(Address::repeat_byte(9)).to_string(), 3));
}

#[tokio::test]
async fn inputs_and_outputs_go_by_link_where_the_function_says_so() {
    let rig = Rig::serving(&[(8, 9)]).await;
    let link = rig.web.put("weights", floats(&[1.5, -2.0]));
    let returned = rig.run("pass", &json!({ "a": link })).await.expect("a result");
    let response = rig.response(&returned).await;
    let published = response["out"]["b"].as_str().expect("a link");
    assert_eq!(rig.web.get(published), floats(&[3.0, -4.0]));

    for (name, bytes, says) in
        [("short", 7, "input `a` has 7 bytes, the plan takes 8"), ("long", 9, "more than 8 bytes")]
    {
        let link = rig.web.put(name, vec![0; bytes]);
        let (is_final, words) = rig.fails("pass", &json!({ "a": link })).await;
        assert!(is_final && words.contains(says), "{words}");
    }
    let (is_final, words) = rig.fails("pass", &json!({ "a": rig.web.link("nowhere") })).await;
    assert!(!is_final && words.contains("fetch input `a`"), "{words}");
    assert_eq!(rig.fake(|fake| fake.launches.len()), 1);
}

#[tokio::test]
async fn data_that_does_not_fit_is_refused_before_anything_is_launched() {
    let rig = Rig::serving(&[(8, 9)]).await;
    for (function, data, says) in [
        ("double", json!({}), "data at \"/count\": parameter `count` is missing"),
        ("double", json!(null), "parameter `count` is missing"),
        ("double", json!({ "count": 0, "a": [] }), "below the least"),
        ("double", json!({ "count": 2, "a": [1] }), "`a` has 2 elements"),
        ("double", json!({ "count": 1, "a": ["x"] }), "no f32"),
        ("double", json!({ "count": 4_294_967_295_u32, "a": [1] }), "elements"),
        ("pass", json!({ "a": "two words" }), "a link has"),
        ("triple", json!({}), "the bundle serves no function `triple`, but double, pass"),
    ] {
        let (is_final, words) = rig.fails(function, &data).await;
        assert!(is_final && words.contains(says), "{data}: {words}");
    }
    let error = rig.direct.run(&run_of("double", 60), b"{".to_vec()).await.expect_err("not JSON");
    assert!(matches!(error, DirectError::NotJson(_)) && error.is_final());
    let data = json!({ "count": 2049, "a": vec![1; 2049] });
    let error = rig.run("double", &data).await.expect_err("its response is too long");
    assert!(matches!(error, DirectError::ResultTooBig { bytes: 4098, max: RESULT_BYTES_MAX }), "{error}");
    let data = json!({ "count": 2048, "a": vec![1.25; 2048] });
    let error = rig.run("double", &data).await.expect_err("its response turns out too long");
    assert!(matches!(error, DirectError::ResultTooBig { .. }) && error.is_final(), "{error}");
    assert_eq!(rig.fake(|fake| fake.launches.len()), 1);
}

#[tokio::test]
async fn how_a_launch_ends_says_whether_the_task_is_over() {
    let rig = Rig::serving(&[(8, 9)]).await;
    let failed = |class, name: &str| {
        let (name, during) = (name.to_owned(), "run operation 0 (launch twice)".to_owned());
        Ok(End::Answered { done: Done::Failed(Failure { class, code: 700, name, during, detail: String::new() }) })
    };
    for (end, is_final, says) in [
        (
            failed(Class::IllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"),
            true,
            "illegal address (CUDA_ERROR_ILLEGAL_ADDRESS, 700) at run operation 0 (launch twice)",
        ),
        (failed(Class::OutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"), true, "out of memory"),
        (failed(Class::DeviceLost, "CUDA_ERROR_DEVICE_UNAVAILABLE"), false, "device lost"),
        (Ok(End::Deadline { seconds: 20 }), true, "after 20 s"),
        (Ok(End::GpuLost { why: "Xid 79".into() }), false, "Xid 79"),
        (Ok(End::Died { exit: Exit::Signal(9) }), false, "signal 9"),
        (Ok(End::Answered { done: Done::Ran(cuda::messages::Ran::default()) }), false, "its outputs did not come"),
        (Err(Refusal::BadLaunch { detail: "the inputs".into() }), true, "the inputs"),
    ] {
        rig.fake(|fake| fake.ends.push_back(end));
        let (found, words) = rig.fails("double", &sound()).await;
        assert!(found == is_final && words.contains(says), "{words}");
    }
    rig.run("double", &sound()).await.expect("the next one runs");
}

#[tokio::test]
async fn a_launch_that_nobody_takes_waits_while_there_is_time() {
    let rig = Rig::serving(&[(8, 9)]).await;
    for refusal in [Refusal::GpuBusy { waited_ms: 7 }, Refusal::NoGpu { why: "it is reset".into() }] {
        let words = refusal.to_string();
        rig.fake(|fake| fake.ends.push_back(Err(refusal.clone())));
        rig.run("double", &sound()).await.expect("the second time it is taken");
        rig.fake(|fake| fake.ends.push_back(Err(refusal)));
        let (is_final, said) = said(&rig.run_for("double", &sound(), 1).await.expect_err("no time for another"));
        assert!(!is_final && said.contains(&words), "{said}");
    }
}

#[tokio::test]
async fn a_run_whose_time_is_over_is_not_launched() {
    let rig = Rig::serving(&[(8, 9)]).await;
    let error = rig.run_for("double", &sound(), 0).await.expect_err("no time");
    assert!(matches!(error, DirectError::TooLate) && error.is_final());
    rig.run_for("pass", &json!({ "a": rig.web.put("weights", floats(&[1.0, 2.0])) }), 40).await.expect("a result");
    let launches = rig.fake(|fake| fake.launches.clone());
    assert_eq!(launches.len(), 1);
    assert!((38..=40).contains(&launches[0].seconds) && launches[0].wait_ms <= 10_000, "{launches:?}");
}

#[tokio::test]
async fn gpus_that_differ_each_get_their_own_code_in_turn() {
    let rig = Rig::serving(&[(8, 9), (9, 0)]).await;
    assert_eq!(rig.fake(|fake| fake.compiled.clone()), ["sm_89", "sm_90"]);
    for _ in 0..3 {
        rig.run("double", &sound()).await.expect("a result");
    }
    rig.fake(|fake| {
        let gone = GpuState::Withdrawn { why: "Xid 79".into(), remedy: Remedy::PowerCycle };
        fake.report.as_mut().expect("GPUs").gpus[0].state = gone;
    });
    let last = rig.run("double", &sound()).await.expect("a result");
    let named: Vec<String> =
        rig.fake(|fake| fake.launches.iter().flat_map(|l| &l.gpu).map(ToString::to_string).collect());
    assert_eq!(named, ["GPU-0", "GPU-1", "GPU-0", "GPU-1"]);
    assert_eq!(last.descriptor.arch.as_deref(), Some("sm_90"));
    // The same again makes no code anew, and only what the source names is served.
    rig.fake(|fake| fake.report = Some(gpus(&[(8, 9), (9, 0)])));
    let started = rig.start("bundle", Some("pass")).await.expect("the source is up");
    assert_eq!(started.functions, ["pass".to_owned()].into());
    assert_eq!(rig.fake(|fake| fake.compiled.len()), 2);
    let (is_final, words) = rig.fails("double", &sound()).await;
    assert!(is_final && words.ends_with("but pass"), "{words}");
}

#[tokio::test]
async fn a_bundle_that_cannot_be_served_is_refused_with_what_is_missing() {
    let rig = Rig::serving(&[(8, 9)]).await;
    rig.web.put("junk", b"junk".to_vec());
    let refused = async |name: &str, function: Option<&str>| {
        let (is_final, words) = said(&rig.start(name, function).await.expect_err("refused"));
        assert!(!rig.direct.serves(source()), "what was served before is not any more");
        (is_final, words)
    };
    let check = |(is_final, words): (bool, String), expected: bool, says: &str| {
        assert!(is_final == expected && words.contains(says), "{is_final} {words}");
    };
    check(refused("junk", None).await, true, "is no bundle");
    check(refused("nowhere", None).await, false, "fetch its bundle");
    check(refused("bundle", Some("triple")).await, true, "no function `triple`, but double, pass");
    rig.fake(|fake| fake.bad_ptx = Some("line 3: no such instruction".into()));
    check(
        refused("bundle", None).await,
        true,
        "for sm_89 from module `twice`: the runner refused: the PTX is refused: line 3",
    );
    rig.fake(|fake| fake.report.as_mut().expect("GPUs").compiler = None);
    check(refused("bundle", None).await, true, "this machine has no PTX compiler");
    rig.fake(|fake| fake.report = Some(gpus(&[(7, 0)])));
    check(refused("bundle", None).await, true, "not on sm_70: module `twice` is PTX for sm_75 and later");
    rig.fake(|fake| fake.report.as_mut().expect("GPUs").cuda = Some(bundle::Version::new(12, 2)));
    check(refused("bundle", None).await, true, "needs a driver for CUDA 12.4, this machine's is for 12.2");
    rig.fake(|fake| fake.report = None);
    check(refused("bundle", None).await, false, "no driver");
    let (is_final, words) = rig.fails("double", &sound()).await;
    assert!(!is_final && words.contains("not loaded"), "{words}");
}

#[tokio::test]
async fn a_source_whose_last_gpu_is_gone_is_told_down() {
    let rig = Rig::serving(&[(8, 9)]).await;
    rig.fake(|fake| {
        let gave_up = GpuState::GaveUp { why: "its canary failed".into() };
        fake.report.as_mut().expect("GPUs").gpus[0].state = gave_up;
    });
    let (desk, mut parcels) = mpsc::channel(4);
    let stop = CancellationToken::new();
    tokio::spawn(rig.direct.clone().watch(desk, stop.clone()));
    let parcel = tokio::time::timeout(WITHIN, parcels.recv()).await.expect("in time");
    let Some(Parcel::Outcome(News::SourceDown { source: down, why })) = parcel else { panic!("{parcel:?}") };
    assert!(down == source() && why.contains("its canary failed"), "{why}");
    assert!(!rig.direct.serves(source()) && !rig.direct.stop(source()));
    stop.cancel();
}
