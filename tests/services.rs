//! A source of several services in real jails, from the provider's side: its images from a registry, its services in
//! their order, what it keeps, and what an end of each of them means.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use appliance::board::Board;
use appliance::cache::Cache;
use appliance::compose::plan::{Condition, Health, Mount, Plan, Published, Restart, Service, Volume};
use appliance::container::{Containers, Given, Recipe};
use appliance::ledger::{Ledger, TagPins};
use appliance::provider::Parcel;
use appliance::registry::{Allowed, Registry as Puller, parse_digest};
use appliance::store::{Shelf, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::client::Client;
use runner::protocol::{Digest, NetworkPolicy, ServiceState};
use testbed::node::eventually;
use testbed::registry::Registry;
use testbed::rig::binary;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use work::{News, SourceId};

const WITHIN: Duration = Duration::from_secs(90);

/// Adds a letter to what the source keeps, and ends.
const LOADER: &str = "open('/data/model', 'a').write('x')";

/// Serves what the source keeps.
const STORE: &str = "import http.server, functools; \
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory='/data'); \
    http.server.ThreadingHTTPServer(('', 8000), handler).serve_forever()";

/// What the store's health test asks.
const IS_WELL: &str = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/')";

/// Says as its functions what the store serves, under its own name and under the host's.
const MAIN: &str = "
import http.server, json, urllib.request
read = lambda url: urllib.request.urlopen(url, timeout=10).read().decode()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = [read(f'http://{host}/model') for host in ('store:8000', 'host.docker.internal:9000')]
        body = json.dumps({'paths': {'/run/' + '-'.join(names): {}}}).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('', 5555), Handler).serve_forever()
";

/// The provider's half of a rig, over a runner of its own.
struct Rig {
    containers: Arc<Containers>,
    cache: Cache,
    store: Arc<Store>,
    puller: Puller,
    board: Arc<Board>,
    client: Client,
    runner: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}

fn source() -> SourceId {
    SourceId(Address::repeat_byte(7))
}

fn python(name: &str, image: &str, program: &str) -> Service {
    Service {
        name: name.into(),
        image: image.into(),
        entrypoint: Some(vec!["/usr/bin/python3".into(), "-c".into()]),
        command: Some(vec![program.into()]),
        ..Service::default()
    }
}

/// A loader, a store that awaits its end, and a main service that awaits the store's health.
fn plan(image: &str) -> Plan {
    let data = |read_only| vec![Mount { volume: 0, target: "/data".into(), read_only }];
    let test = ["/usr/bin/python3", "-c", IS_WELL].map(str::to_owned).to_vec();
    let health = Health { test, interval_ms: 200, timeout_ms: 5_000, retries: 50, start_period_ms: 0 };
    let loader = Service { mounts: data(false), ..python("loader", image, LOADER) };
    let store = Service {
        mounts: data(true),
        health: Some(health),
        depends_on: vec![(0, Condition::Completed)],
        restart: Restart::Always,
        ..python("store", image, STORE)
    };
    let main = Service { depends_on: vec![(1, Condition::Healthy)], ..python("main", image, MAIN) };
    Plan {
        cuda: None,
        services: vec![loader, store, main],
        main: 2,
        main_port: 5555,
        volumes: vec![Volume { name: "model".into(), bytes: None }],
        published: vec![Published { host_port: 9000, service: 1, port: 8000 }],
        notes: Vec::new(),
        exceptions: Vec::new(),
    }
}

// === impl Rig ===

impl Rig {
    async fn start() -> Rig {
        let dir = tempfile::TempDir::with_prefix("services-").expect("a folder");
        let (socket, content) = (dir.path().join("runner.sock"), dir.path().join("content"));
        let store = Arc::new(Store::open(&content).expect("a store"));
        let runner = runner(&socket, &content, &dir.path().join("runner"));
        eventually("the runner's socket", || async { socket.exists().then_some(()) }).await;
        let client = Client::new(&socket);
        let ledger = dir.path().join("ledger.db");
        Ledger::open(&ledger).expect("a ledger");
        let pins = TagPins::open(&ledger).expect("pins");
        let allowed = Allowed { loopback: true, ..Allowed::default() };
        let puller = Puller::new(store.clone(), pins, allowed, 1 << 30).expect("a puller");
        let board = Arc::new(Board::default());
        let containers = Containers::new(client.clone(), store.clone(), board.clone(), [1; 32], 1 << 20);
        let cache = Cache::new(client.clone(), store.clone());
        Rig { containers: Arc::new(containers), cache, store, puller, board, client, runner, _dir: dir }
    }

    /// Has an image sealed, and returns its manifest.
    async fn seal(&self, image: &str) -> Digest {
        let found = self.puller.find("0xsource", image).await.expect("it is found");
        let manifest: Digest = found.manifest.to_string().parse().expect("both write a digest the same way");
        let missing = self.containers.missing(&manifest).await.expect("the runner says what it lacks");
        let missing: BTreeSet<_> = missing.iter().filter_map(|layer| parse_digest(&layer.to_string())).collect();
        assert_eq!(missing.len(), found.layers.len(), "nothing of it is here");
        self.puller.fetch(&found, &missing, &|_| {}).await.expect("it is fetched");
        self.containers.prepare(source(), &manifest).await.expect("it is sealed");
        self.puller.discard_layers(&found).await.expect("its layers are dropped");
        for (layer, _) in &found.layers {
            assert!(!self.store.has(Shelf::Images, *layer).await, "what is sealed is kept once");
        }
        self.cache.uses(source(), [found.manifest, found.config].into());
        assert!(self.containers.missing(&manifest).await.expect("the runner answers").is_empty());
        manifest
    }

    /// Starts the source, and returns the one function that it says it has.
    async fn up(&self, recipe: &Recipe) -> String {
        let telling = self.board.begin(source());
        let functions = self.containers.start(source(), recipe.clone(), WITHIN, &telling).await.expect("it comes up");
        functions.expect("it describes itself").pop_first().expect("a function")
    }

    /// The process of a service, if it runs.
    fn pid(&self, service: &str) -> Option<i32> {
        let mut listed = self.client.list().expect("the runner lists");
        let mut state = listed.remove(&source().to_string().parse().expect("a name"))?;
        match state.services.remove(&service.parse().expect("a name"))? {
            ServiceState::Running { pid, .. } => Some(pid),
            ServiceState::Exited { .. } => None,
        }
    }

    fn kill(&self, service: &str) -> i32 {
        let pid = self.pid(service).expect("it runs");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is killed");
        pid
    }
}

fn runner(socket: &Path, content: &Path, state: &Path) -> Child {
    std::fs::create_dir(state).expect("a folder");
    let mut command = Command::new(binary("rig-runner").expect("the runner is built"));
    command.args(["run", "--rlimits-only", "--socket"]).arg(socket);
    command.arg("--content").arg(content).arg("--state").arg(state).stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the runner starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_of_several_services_comes_up_in_order_keeps_what_it_may_and_outlives_an_end_beside_it() {
    let registry = Registry::start().await.expect("docker-registry starts");
    let image = registry.push_handler().await.expect("skopeo pushes").reference;
    let rig = Rig::start().await;
    let manifest = rig.seal(&image).await;
    let plan = plan(&image);
    let given = Given { network: NetworkPolicy::Internal, volume_bytes: 64 << 20 };
    let manifests = vec![manifest; plan.services.len()];
    let recipe = Recipe::of(&plan, &manifests, given).expect("legal names");

    assert_eq!(rig.up(&recipe).await, "x-x", "both names lead to the store, which serves what the loader wrote");
    let (desk, mut parcels) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(rig.containers.clone().watch(desk, stop));

    let (before, main) = (rig.kill("store"), rig.pid("main"));
    eventually("the store runs again", || async { rig.pid("store").filter(|pid| *pid != before) }).await;
    assert_eq!(rig.pid("main"), main, "the main service goes on");
    assert!(parcels.try_recv().is_err(), "the source is not down");

    let shown = rig.cache.show().await;
    let layers = shown["layers"].as_array().expect("layers");
    assert!(!layers.is_empty() && layers.iter().all(|layer| layer["held"] == true), "{shown}");
    let cleaned = rig.cache.collect(true).await.expect("the cache is cleared");
    assert_eq!(cleaned.layers.count, 0, "what jails stand on is not removed");

    rig.kill("main");
    let Some(Parcel::Outcome(News::SourceDown { why, .. })) = parcels.recv().await else { panic!("an end is told") };
    assert!(why.starts_with("the container ended (Signal(9))"), "{why}");
    assert_eq!(rig.up(&recipe).await, "xx-xx", "the loader ran again, over what it had kept");

    rig.containers.stop(source()).await.expect("it stops");
    assert_eq!(rig.up(&recipe).await, "xxx-xxx", "a volume outlives a stop");
    rig.containers.stop(source()).await.expect("it stops");
    rig.containers.forget_volumes(source()).await.expect("it is forgotten");
    assert_eq!(rig.up(&recipe).await, "x-x", "and goes when the source is forgotten");

    rig.containers.stop(source()).await.expect("it stops");
    let cleaned = rig.cache.collect(true).await.expect("the cache is cleared");
    assert_eq!(cleaned.layers.count, layers.len() as u64, "now nothing stands on them");
    let telling = rig.board.begin(source());
    let error = rig.containers.start(source(), recipe, WITHIN, &telling).await.expect_err("its image is gone");
    assert!(error.is_cleared_away(), "{error:?}");
}
