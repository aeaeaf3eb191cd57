//! Jobs that look for somebody to talk to. Whoever must not hear them listens, and hears nothing.

mod town;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use hostile::attacks::{armed, attack, attacked, attacker, over, rig};
use hostile::rig::{MAIN, Rig, Setup, name, plan, service};
use runner::protocol::{NetworkPolicy, ServiceSpec, SourcePlan};

use town::{Canaries, Town};

/// Runs an attack under a policy, and waits until it is over.
fn attacked_under(rig: &Rig, source: &str, network: NetworkPolicy, words: &[&str]) -> String {
    let source = name(source);
    let manifest = rig.prepared(&source);
    rig.client.open(&source, SourcePlan { network, ..plan(&[MAIN]) }).expect("open");
    // A resolver that is silent is not waited for.
    let environment = vec![("RES_OPTIONS".to_owned(), "timeout:1 attempts:1".to_owned())];
    let spec = ServiceSpec { environment, ..attack(words) };
    rig.client.start(&source, &service(MAIN), &manifest, spec).expect("start");
    over(rig, &source)
}

/// A runner in a town, whose sources may have the internet of that town.
fn rig_in(town: &Town) -> Rig {
    town.gateway.visit(|| armed(Setup::default().options(&["--egress", "--resolver", town::RESOLVER])))
}

const POLICIES: [(&str, NetworkPolicy); 3] =
    [("none", NetworkPolicy::None), ("internal", NetworkPolicy::Internal), ("internet", NetworkPolicy::Internet)];

/// Makes one attack under each policy; nobody of the town may hear anything.
fn nobody_hears(words: &[&str]) {
    let town = Town::new();
    let rig = rig_in(&town);
    for (source, network) in POLICIES {
        let said = attacked_under(&rig, source, network, words);
        assert!(said.ends_with("attacked\n"), "{said}");
        assert_eq!(town.heard(), [] as [String; 0], "{source}: {said}");
    }
    // The check is worth something: one of the three can be heard where it may.
    let heard = format!("{}:443", town::PUBLIC);
    attacked_under(&rig, "public", NetworkPolicy::Internet, &["reach", &heard]);
    let heard = town.heard();
    assert!(heard.iter().any(|who| who.contains("internet tcp 443")), "{heard:?}");
    assert!(heard.iter().all(|who| who.ends_with(town::GATEWAY)), "it is seen as the gateway: {heard:?}");
    rig.still_works();
}

#[test]
fn attack_27_only_sockets_for_talking_to_servers_exist() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["sockets"]);
    let allowed = ["netlink route: OK", "mptcp: OK"];
    let open: Vec<_> = said.lines().filter(|line| line.ends_with(": OK") && !allowed.contains(line)).collect();
    assert!(open.is_empty(), "{open:?}");
    // The tables of its network namespace say the same: a heading, and nobody below it.
    let pid = attacker(&rig, &source);
    for table in ["packet", "raw", "raw6", "icmp", "icmp6", "udplite"] {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        assert_eq!(text.lines().count(), 1, "{table}: {text}");
    }
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let said = attacked(&rig, &source, &["spoof"]);
    let done: Vec<_> = said.lines().filter(|line| line.ends_with(": OK")).collect();
    assert!(done.is_empty(), "{done:?}");
    rig.still_works();
}

#[test]
fn attack_28_the_owners_network_hears_nothing() {
    nobody_hears(&["sweep", "80", "443"]);
}

#[test]
fn attack_29_the_metadata_service_hears_nothing() {
    let metadata = [
        "169.254.169.254:80",
        "169.254.169.253:53",
        "169.254.170.2:80",
        "100.100.100.200:80",
        "168.63.129.16:80",
        "192.0.0.192:80",
        "[fd00:ec2::254]:80",
        "[fe80::a9fe:a9fe]:80",
    ];
    nobody_hears(&[&["reach"], &metadata[..]].concat());
}

#[test]
fn attack_30_the_machines_own_services_hear_nothing() {
    let gateway = format!("{}:443", town::GATEWAY);
    let own =
        ["127.0.0.1:80", "127.0.0.1:443", "10.88.128.1:80", "192.168.77.1:80", "0.0.0.0:80", "[::1]:80", &gateway];
    nobody_hears(&[&["reach"], &own[..]].concat());
    // And on the machine that the tests themselves run on, with what it is not told about.
    let rig = rig();
    let canaries = Canaries::listen("host", &[0]);
    let ports: Vec<String> = canaries.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let words: Vec<&str> = std::iter::once("reach").chain(ports.iter().map(String::as_str)).collect();
    let said = attacked(&rig, &name("a"), &words);
    assert_eq!(canaries.heard(), [] as [String; 0], "{said}");
    // What the job opens is not open on the host either.
    rig.run(&name("b"), attack(&["serve"]));
    rig.printed(&name("b"), "serving");
    drop(TcpListener::bind("0.0.0.0:5555").expect("the port is free on the host"));
}

#[test]
fn attack_31_names_are_asked_of_the_owners_resolver_only() {
    let town = Town::new();
    let rig = rig_in(&town);
    for (source, network) in POLICIES.iter().take(2) {
        let said = attacked_under(&rig, source, *network, &["tunnel", "secret.example"]);
        assert_eq!(town.heard(), [] as [String; 0], "{source}: {said}");
    }
    let said = attacked_under(&rig, "internet", NetworkPolicy::Internet, &["tunnel", "secret.example"]);
    let heard = town.heard();
    assert!(heard.iter().all(|who| who.contains("resolver udp 53")), "{heard:?}: {said}");
    rig.still_works();
}

#[test]
fn attack_32_the_hosts_unix_sockets_hear_nothing() {
    let rig = rig();
    let stream = format!("rig-hostile-stream-{}", std::process::id());
    let datagram = format!("rig-hostile-datagram-{}", std::process::id());
    let free = format!("rig-hostile-free-{}", std::process::id());
    let address = |name: &str| UnixAddr::from_abstract_name(name).expect("an address");
    let listener = UnixListener::bind_addr(&address(&stream)).expect("listen");
    let receiver = UnixDatagram::bind_addr(&address(&datagram)).expect("listen");
    listener.set_nonblocking(true).expect("do not wait");
    receiver.set_nonblocking(true).expect("do not wait");
    let said = attacked(&rig, &name("a"), &["unix", &stream, &datagram, &free]);
    assert!(listener.accept().is_err(), "{said}");
    assert!(receiver.recv(&mut [0; 8]).is_err(), "{said}");
    // What it binds is bound in its own namespace.
    let table = std::fs::read_to_string("/proc/net/unix").expect("a table");
    assert!(table.contains(&stream) && !table.contains(&free), "{free}");
    assert!(said.contains("NOTIFY_SOCKET None"), "{said}");
    let connected: Vec<_> = said.lines().filter(|line| line.starts_with('/') && line.ends_with(": OK")).collect();
    assert!(connected.is_empty(), "{connected:?}");
    rig.client.stop(&name("a"), Duration::ZERO).expect("stop");
    rig.still_works();
}
