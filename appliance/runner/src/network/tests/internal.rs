//! What the services of a source reach without the internet: one another, the callback, what is published.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::super::rtnetlink::Rtnetlink;
use super::super::{Hub, NetworkPlan, Policy, isolated};
use super::world::*;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 2);

fn callbacks(hub: &Hub) -> TcpListener {
    hub.listener().try_clone().expect("a duplicate").into()
}

#[track_caller]
fn carries(mut from: TcpStream, to: &TcpListener) -> SocketAddr {
    from.write_all(b"hello").expect("write");
    drop(from);
    to.set_nonblocking(false).expect("a waiting listener");
    let (mut stream, peer) = to.accept().expect("a stream");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    peer
}

#[test]
fn services_reach_each_other_and_the_callback() {
    let hub = Hub::open(&internal(2, &[])).expect("a hub");
    let (first, second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    let listener = listen(&second, ANY, 5555);
    assert_eq!(carries(connect(&first, SECOND, 5555), &listener).ip(), FIRST);
    let callbacks = callbacks(&hub);
    assert_eq!(carries(connect(&first, CALLBACK_ADDR, CALLBACK_PORT), &callbacks).ip(), FIRST);
    assert_eq!(carries(connect(&second, CALLBACK_ADDR, CALLBACK_PORT), &callbacks).ip(), SECOND);
}

#[test]
fn a_service_reaches_nothing_that_is_not_its_sources() {
    let world = World::new();
    let _outside = listen(&world.outside, ANY, 80);
    let _host = listen(&world.gateway, ANY, 80);
    // They are there for the host, so what follows is not for want of them.
    connect(&world.gateway, Ipv4Addr::new(192, 168, 7, 1), 80);
    let hub = world.open(&internal(2, &[]));
    let service = hub.attach_new(1).expect("a service");
    for address in FORBIDDEN.iter().chain(&[PUBLIC, GATEWAY]) {
        let error = refused(&service, *address, 80);
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{address}: {error}");
    }
    assert_eq!(refused(&service, Ipv4Addr::LOCALHOST, 80).kind(), ErrorKind::ConnectionRefused);
    assert_eq!(refused(&service, CALLBACK_ADDR, 80).kind(), ErrorKind::ConnectionRefused);
    assert_eq!(world.uplinks(), Vec::<String>::new());
    assert_eq!(world.tables(), "");
}

#[test]
fn a_callback_arrives_at_the_hub_of_its_own_source_only() {
    let (mine, other) = (Hub::open(&internal(1, &[])).expect("a hub"), Hub::open(&internal(1, &[])).expect("a hub"));
    let (service, _other_service) = (mine.attach_new(1).expect("a service"), other.attach_new(1).expect("a service"));
    let _stream = connect(&service, CALLBACK_ADDR, CALLBACK_PORT);
    assert_eq!(callbacks(&other).accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
    assert!(callbacks(&mine).accept().is_ok());
}

#[test]
fn a_service_cannot_speak_from_the_address_of_another() {
    let hub = Hub::open(&internal(2, &[])).expect("a hub");
    let (first, _second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    // Not even with the capabilities over its namespace that no job has.
    inside(&first, || Rtnetlink::open()?.add_address(1, SECOND, 32)).expect("an address");
    let hears = inside(hub.netns(), || UdpSocket::bind((CALLBACK_ADDR, CALLBACK_PORT))).expect("a socket");
    let speak = |from: Ipv4Addr, patience| {
        hears.set_read_timeout(Some(patience)).expect("a timeout");
        inside(&first, || UdpSocket::bind((from, 0))?.send_to(b"x", (CALLBACK_ADDR, CALLBACK_PORT))).expect("sent");
        hears.recv_from(&mut [0; 8]).map(|(_, peer)| peer.ip())
    };
    assert_eq!(speak(FIRST, PATIENCE).expect("its own address"), FIRST);
    assert_eq!(speak(SECOND, SILENCE).expect_err("a forged address").kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_first_packet_of_a_fresh_service_is_not_lost() {
    let hub = Hub::open(&internal(1, &[])).expect("a hub");
    let callbacks = callbacks(&hub);
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let service = hub.attach_new(1).expect("a service");
        let began = Instant::now();
        connect(&service, CALLBACK_ADDR, CALLBACK_PORT);
        slowest = slowest.max(began.elapsed());
        callbacks.accept().expect("a callback");
    }
    // What is lost is sent again after a second.
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    println!("the slowest first connection of 100 took {slowest:?}");
}

#[test]
fn a_published_port_leads_to_its_service_from_every_service() {
    let hub = Hub::open(&internal(2, &[(12_436, 2, 11_434), (80, 1, 8080)])).expect("a hub");
    let (first, second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    let listener = listen(&second, ANY, 11_434);
    // From another service, and from itself.
    assert_eq!(carries(connect(&first, CALLBACK_ADDR, 12_436), &listener).ip(), CALLBACK_ADDR);
    assert_eq!(carries(connect(&second, CALLBACK_ADDR, 12_436), &listener).ip(), CALLBACK_ADDR);
    let listener = listen(&first, ANY, 8080);
    carries(connect(&first, CALLBACK_ADDR, 80), &listener);
    // The rules leave everything else as it is.
    let listener = listen(&second, ANY, 5555);
    assert_eq!(carries(connect(&first, SECOND, 5555), &listener).ip(), FIRST);
    carries(connect(&second, CALLBACK_ADDR, CALLBACK_PORT), &callbacks(&hub));
    hub.connect(1, 8080, PATIENCE).expect("the runner reaches a service");
}

#[test]
fn whatever_else_listens_in_a_hub_with_rules_is_out_of_reach() {
    let hub = Hub::open(&internal(1, &[(80, 1, 80)])).expect("a hub");
    let service = hub.attach_new(1).expect("a service");
    let _exposed = listen(hub.netns(), ANY, 9999);
    assert_eq!(refused(&service, CALLBACK_ADDR, 9999).kind(), ErrorKind::TimedOut);
    assert!(packets(hub.netns(), "to_hub") > 0);
}

#[test]
fn a_service_may_listen_on_port_80_without_a_capability() {
    let hub = Hub::open(&internal(1, &[])).expect("a hub");
    let service = hub.attach_new(1).expect("a service");
    let bind = || {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).expect("fewer capabilities");
        TcpListener::bind((ANY, 80)).map(drop)
    };
    inside(&service, bind).expect("port 80");
    inside(&isolated().expect("a namespace"), bind).expect("port 80");
    let world = World::new();
    assert_eq!(inside(&world.gateway, bind).expect_err("not a service").kind(), ErrorKind::PermissionDenied);
}

#[test]
fn there_is_no_ipv6_and_a_server_that_listens_on_it_is_reached_by_ipv4() {
    let hub = Hub::open(&internal(2, &[])).expect("a hub");
    let (first, second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    for netns in [&first, &second, hub.netns()] {
        let addresses = inside(netns, || std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
        assert_eq!(addresses.unwrap_or_default(), "");
    }
    let listener = inside(&second, || TcpListener::bind("[::]:5555")).expect("a listener");
    carries(connect(&first, SECOND, 5555), &listener);
}

#[test]
fn the_runner_reaches_a_service_and_is_told_when_nothing_answers() {
    let hub = Hub::open(&internal(1, &[])).expect("a hub");
    let service = hub.attach_new(1).expect("a service");
    let listener = listen(&service, ANY, 5555);
    let stream = hub.connect(1, 5555, PATIENCE).expect("a stream");
    assert!(stream.nodelay().expect("an option"));
    assert_eq!(carries(stream, &listener).ip(), CALLBACK_ADDR);
    assert_eq!(hub.connect(1, 5556, PATIENCE).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
    let unknown = hub.connect(2, 5555, PATIENCE).expect_err("unknown").to_string();
    assert_eq!(unknown, "there is no service 2: the source has 1");
}

#[test]
fn without_a_network_a_service_meets_nobody_but_the_runner() {
    let plan = NetworkPlan { policy: Policy::None, ..internal(2, &[]) };
    let hub = Hub::open(&plan).expect("a hub");
    assert_eq!(hub.connect(1, 5555, PATIENCE).expect_err("none yet").kind(), ErrorKind::NotConnected);
    let (first, second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    let listener = listen(&second, ANY, 5555);
    for address in [SECOND, CALLBACK_ADDR, PUBLIC] {
        assert_eq!(refused(&first, address, 5555).kind(), ErrorKind::NetworkUnreachable);
    }
    let names = inside(&first, || Rtnetlink::open()?.interfaces()).expect("interfaces");
    assert!(names.iter().all(|interface| interface.name != "eth0"), "{names:?}");
    carries(hub.connect(2, 5555, PATIENCE).expect("its loopback"), &listener);
}
