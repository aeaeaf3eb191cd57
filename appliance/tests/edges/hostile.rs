//! The attacks that meet the provider before any jail does: 50, on the way from a registry, and 52, in a compose file.
//!
//! The tables of `registry` and `compose` show most of them: a manifest that is another, an index in its place, sizes
//! that lie, bodies without end, tags that move; every key that would open the box. Here is what those leave out.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use appliance::compose::{ComposeError, Exceptions, Offer, Plan, SERVICE_PORT};
use appliance::ledger::{Ledger, TagPins};
use appliance::registry::{Allowed, PullError, Registry};
use appliance::store::Store;
use tokio::net::TcpListener;

use crate::lying::{Answer, Image, Lying};

/// An address that is this machine to the kernel, and neither loopback nor public: it stands for the owner's network.
const LAN: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A puller with a store of its own.
struct Rig {
    registry: Registry,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let ledger = dir.path().join("ledger.db");
        Ledger::open(&ledger).expect("a ledger");
        let pins = TagPins::open(&ledger).expect("pins");
        // As on the local network, where a registry may be this machine: all the rest stays forbidden.
        let allowed = Allowed { loopback: true, ..Allowed::default() };
        let registry = Registry::new(store, pins, allowed, 1 << 20).expect("a client");
        Rig { registry, _dir: dir }
    }

    /// Manifest, configuration and every layer.
    async fn pull(&self, image: &str) -> Result<(), PullError> {
        let found = self.registry.find("0xsource", image).await?;
        let all = found.layers.iter().map(|(digest, _)| *digest).collect();
        self.registry.fetch(&found, &all, &|_| {}).await.map(drop)
    }
}

/// Somebody of the owner's network, who hangs up on whoever comes by, and counts them.
struct Neighbour {
    port: u16,
    visits: Arc<AtomicU32>,
}

impl Neighbour {
    async fn new() -> Neighbour {
        let listener = TcpListener::bind(SocketAddr::from((LAN, 0))).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let visits = Arc::new(AtomicU32::new(0));
        let count = visits.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Neighbour { port, visits }
    }

    fn was_left_alone(&self) -> bool {
        self.visits.load(Ordering::Relaxed) == 0
    }
}

#[tokio::test]
async fn attack_50_a_registry_cannot_send_the_rig_into_its_owners_network() {
    for scheme in ["http", "https"] {
        let neighbour = Neighbour::new().await;
        let to = format!("{scheme}://{LAN}:{}/status", neighbour.port);
        let registry = Lying::serve(Image::honest()).await;
        registry.change(|image| image.blobs[1].answer = Answer::Elsewhere(to.clone()));
        Rig::new().pull(&registry.name("a/b:1")).await.expect_err("it goes nowhere");
        assert!(neighbour.was_left_alone(), "a layer was asked for at {to}");
        registry.change(|image| image.index_answer = Answer::Elsewhere(to.clone()));
        Rig::new().pull(&registry.name("a/b:1")).await.expect_err("it goes nowhere");
        assert!(neighbour.was_left_alone(), "a manifest was asked for at {to}");
        registry.change(|image| (image.token, image.realm) = (Some("{}".into()), Some(to.clone())));
        Rig::new().pull(&registry.name("a/b:1")).await.expect_err("no token comes from there");
        assert!(neighbour.was_left_alone(), "a token was asked for at {to}");
    }
}

#[tokio::test]
async fn attack_50_an_image_name_cannot_send_the_rig_into_its_owners_network() {
    let neighbour = Neighbour::new().await;
    let port = neighbour.port;
    for host in
        [format!("{LAN}:{port}"), format!("0:{port}"), format!("[::]:{port}"), format!("[::ffff:0.0.0.0]:{port}")]
    {
        Rig::new().pull(&format!("{host}/a/b:1")).await.expect_err("nobody listed it");
        assert!(neighbour.was_left_alone(), "{host} was connected to");
    }
}

#[tokio::test]
async fn attack_50_a_reference_that_is_a_path_or_a_header_is_refused_before_anything_is_asked() {
    let registry = Lying::serve(Image::honest()).await;
    let host = format!("127.0.0.1:{}", registry.port());
    for rest in [
        "../../etc/passwd:1",
        "a/../b:1",
        "a/b:1\r\nHost: x",
        "a/b:1 HTTP/1.1",
        "a/b:1?x=y",
        "a/b:1#x",
        "a/%2e%2e/b:1",
        "a//b:1",
        "a/b@sha256:../../../etc/passwd",
        "a/b@sha256:",
        "user:password@evil/a:1",
        "",
    ] {
        let error = Rig::new().pull(&format!("{host}/{rest}")).await.expect_err("refused");
        assert!(error.is_final(), "{rest:?}: {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{rest:?}");
    }
    assert_eq!(registry.asked(), 0);
}

/// A file with one service of these lines, and whatever stands beside the services.
fn parsed(lines: &str, beside: &str) -> Result<Plan, ComposeError> {
    let service: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("services:\n  a:\n    image: i\n{service}{beside}");
    let offer = Offer {
        port: SERVICE_PORT,
        callback_url: "http://host.docker.internal:20000/t/task".into(),
        source_address: "0xS".into(),
        provider_address: "0xP".into(),
    };
    Plan::parse(&text, &offer, &Exceptions::default())
}

#[test]
fn attack_52_the_host_is_not_to_be_had_in_a_roundabout_way() {
    let mut accepted = Vec::new();
    for (lines, beside) in [
        ("volumes: [{type: bind, source: /, target: /host}]", ""),
        ("volumes: [{type: bind, source: ., target: /host}]", ""),
        ("volumes: ['~/x:/host']", ""),
        ("volumes: ['./x:/host']", ""),
        ("volumes: ['../x:/host']", ""),
        ("volumes: ['${PROVIDER_ADDRESS:-/}:/host']", ""),
        ("volumes: [{type: npipe, source: x, target: /host}]", ""),
        ("volumes: [{type: cluster, source: x, target: /host}]", ""),
        ("volumes: ['v:/host']", "volumes: {v: {driver: local, driver_opts: {type: none, o: bind, device: /}}}\n"),
        ("volumes: ['v:/host']", "volumes: {v: {external: true}}\n"),
        ("volumes: ['v:/host']", "volumes: {v: {driver: nfs}}\n"),
        ("volumes: ['v:/proc']", "volumes: {v: {}}\n"),
        ("volumes: ['v:/proc/sys']", "volumes: {v: {}}\n"),
        ("volumes: ['v:/dev']", "volumes: {v: {}}\n"),
        ("volumes: ['v:/sys/fs/cgroup']", "volumes: {v: {}}\n"),
        ("volumes: ['v:/a/../../proc']", "volumes: {v: {}}\n"),
        ("volumes: ['v:relative']", "volumes: {v: {}}\n"),
        ("tmpfs: /proc", ""),
        ("tmpfs: /dev", ""),
        ("network_mode: 'none:host'", ""),
        ("network_mode: container:rig", ""),
        ("networks: [n]", "networks: {n: {external: true}}\n"),
        ("networks: [n]", "networks: {n: {driver: host}}\n"),
        ("networks: [n]", "networks: {n: {driver: macvlan, driver_opts: {parent: eth0}}}\n"),
        ("ports: ['0.0.0.0:22:22/tcp']\nprivileged: true", ""),
        ("security_opt: ['label:disable', 'seccomp:unconfined']", ""),
        ("security_opt: ['no-new-privileges:false']", ""),
        ("pid: 'container:rig'", ""),
        ("ipc: 'container:rig'", ""),
        ("cgroup: host", ""),
        ("deploy: {resources: {reservations: {devices: [{driver: vfio, capabilities: [gpu]}]}}}", ""),
        ("gpus: [{driver: other}]", ""),
        ("shm_size: -1", ""),
        ("env_file: /etc/rig/secrets", ""),
        ("environment: {K: '${PROVIDER_PRIVATE_KEY}'}", ""),
        ("", "secrets: {s: {file: /etc/shadow}}\n"),
        ("", "configs: {c: {file: /etc/shadow}}\n"),
        ("", "include: [/etc/passwd]\n"),
    ] {
        match parsed(lines, beside).map_err(|error| error.to_string()) {
            Err(message) => assert!(!message.chars().any(char::is_control), "{lines} {beside}: {message}"),
            Ok(_) => accepted.push((lines, beside)),
        }
    }
    assert!(accepted.is_empty(), "not refused: {accepted:#?}");
}

#[test]
fn attack_52_a_host_name_for_an_address_of_the_owners_network_is_not_made() {
    for lines in [
        "extra_hosts: ['metadata:169.254.169.254']",
        "extra_hosts: ['router:192.168.1.1']",
        "extra_hosts: {host.docker.internal: 127.0.0.1}",
    ] {
        let plan = parsed(lines, "").expect("it is harmless without them");
        let said = plan.notes.iter().any(|note| note.contains("`services.a.extra_hosts"));
        assert!(said, "{lines}: what is left out is said: {:?}", plan.notes);
        let address = lines.trim_end_matches(|c: char| !c.is_ascii_digit()).rsplit([':', ' ']).next().expect("one");
        assert!(!format!("{:?} {:?}", plan.services, plan.published).contains(address), "{lines}");
    }
}
