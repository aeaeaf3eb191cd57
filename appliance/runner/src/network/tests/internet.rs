//! What a source with the internet reaches of it, and what of it reaches the source.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};
use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketFlags, SocketType, ipproto, sendto, socket_with};

use super::super::rtnetlink::{Route, Rtnetlink};
use super::super::{Hub, NetworkError, rules};
use super::world::*;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Enough for whatever is not about the limits.
const RATE: u64 = 100 << 20;
const TOTAL: u64 = 1 << 30;

/// How long a stream that is slowed down may pause.
const LULL: Duration = Duration::from_secs(2);

fn udp(netns: &OwnedFd, port: u16) -> UdpSocket {
    inside(netns, || UdpSocket::bind((ANY, port))).expect("a socket")
}

/// Sends a datagram from `netns` and says who `to` heard.
fn heard(netns: &OwnedFd, address: Ipv4Addr, to: &UdpSocket) -> SocketAddr {
    to.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    send(netns, address, to);
    to.recv_from(&mut [0; 8]).expect("a datagram").1
}

/// That a datagram from `netns` does not arrive.
#[track_caller]
fn unheard(netns: &OwnedFd, address: Ipv4Addr, to: &UdpSocket) {
    to.set_read_timeout(Some(SILENCE)).expect("a timeout");
    send(netns, address, to);
    assert_eq!(to.recv_from(&mut [0; 8]).expect_err("a datagram arrived").kind(), ErrorKind::WouldBlock);
}

fn send(netns: &OwnedFd, address: Ipv4Addr, to: &UdpSocket) {
    let port = to.local_addr().expect("an address").port();
    udp(netns, 0).send_to(b"x", (address, port)).expect("sent");
}

/// Sends an echo request from `netns` to [`PUBLIC`].
fn ping(netns: &OwnedFd) {
    let sent = inside(netns, || {
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))?;
        sendto(socket.as_fd(), &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], SendFlags::empty(), &SocketAddrV4::new(PUBLIC, 0))
    });
    sent.expect("an echo request");
}

#[test]
fn the_internet_can_be_reached_and_sees_only_the_gateway() {
    let world = World::new();
    let hub = world.open(&internet(7, RATE, TOTAL));
    let (first, second) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    let server = listen(&world.outside, ANY, 443);
    let mut client = connect(&first, PUBLIC, 443);
    let (mut served, peer) = server.accept().expect("a stream");
    assert_eq!(peer.ip(), GATEWAY);
    client.write_all(b"there").expect("write");
    client.shutdown(std::net::Shutdown::Write).expect("no more");
    let mut text = String::new();
    served.read_to_string(&mut text).expect("read");
    assert_eq!(text, "there");
    served.write_all(b"back").expect("write");
    drop(served);
    text.clear();
    client.read_to_string(&mut text).expect("read");
    assert_eq!(text, "back");
    let to = udp(&world.outside, 4433);
    assert_eq!(heard(&second, PUBLIC, &to).ip(), GATEWAY);
    let traffic = hub.traffic().expect("counters");
    assert!(traffic.sent_bytes > 200 && traffic.received_bytes > 100, "{traffic:?}");
    // And what every source has, it has too.
    let listener = listen(&second, ANY, 5555);
    connect(&first, Ipv4Addr::new(10, 88, 1, 2), 5555);
    listener.accept().expect("a stream");
    connect(&first, CALLBACK_ADDR, CALLBACK_PORT);
}

#[test]
fn a_source_learns_that_the_gateways_line_takes_smaller_packets() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    // As lines by telephone do.
    let smaller = ["link", "set", "wan", "mtu", "1300"];
    let set = inside(&world.gateway, || std::process::Command::new("/usr/sbin/ip").args(smaller).status());
    assert!(set.expect("ip").success());
    let (arrived, _) = pour(&hub, &world, 1 << 20, Flow::Up);
    assert_eq!(arrived, 1 << 20);
}

/// That each forbidden destination is silent, and that `wall` counted an attempt at each.
fn no_way_there(service: &OwnedFd, wall: &OwnedFd) {
    for address in FORBIDDEN {
        let before = packets(wall, "to_forbidden");
        assert_eq!(refused(service, address, 443).kind(), ErrorKind::TimedOut, "{address}");
        assert!(packets(wall, "to_forbidden") > before, "{address} was not counted");
    }
    // These cannot be an address of anybody; what is sent to them must still stop here.
    for address in [[0, 1, 2, 3], [240, 0, 0, 1]] {
        let before = packets(wall, "to_forbidden");
        let sent = udp(service, 0).send_to(b"x", (Ipv4Addr::from(address), 443));
        // The kernel may have refused it by itself.
        assert!(sent.is_err() || packets(wall, "to_forbidden") > before, "{address:?}");
    }
}

#[test]
fn private_shared_and_metadata_addresses_are_dropped_by_the_hub() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let _server = listen(&world.outside, ANY, 443);
    for address in FORBIDDEN {
        // They are there for the host, so what follows is not for want of them.
        connect(&world.gateway, address, 443);
    }
    no_way_there(&service, hub.netns());
    assert_eq!(packets(&world.gateway, "to_forbidden"), 0, "something got to the second wall");
    connect(&service, PUBLIC, 443);
}

#[test]
fn the_gateway_drops_them_again_if_the_hub_would_not() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let _server = listen(&world.outside, ANY, 443);
    let _host = listen(&world.gateway, ANY, 22);
    nft(hub.netns(), &["flush", "chain", "inet", "rig", "outbound"]);
    nft(hub.netns(), &["add", "rule", "inet", "rig", "outbound", "accept"]);
    no_way_there(&service, &world.gateway);
    ping(&service);
    assert_eq!(packets(&world.gateway, "other"), 1);
    for address in [GATEWAY, Ipv4Addr::new(10, 88, 128, 1)] {
        assert_eq!(refused(&service, address, 22).kind(), ErrorKind::TimedOut);
    }
    assert!(packets(&world.gateway, "to_gateway") >= 2);
}

#[test]
fn the_gateway_itself_is_not_on_the_internet() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let _host = listen(&world.gateway, ANY, 22);
    // By its public address, by the uplink's, by its loopback's.
    for address in [GATEWAY, Ipv4Addr::new(10, 88, 128, 1)] {
        let before = packets(hub.netns(), "to_forbidden");
        assert_eq!(refused(&service, address, 22).kind(), ErrorKind::TimedOut);
        assert!(packets(hub.netns(), "to_forbidden") > before);
    }
    assert_eq!(refused(&service, Ipv4Addr::LOCALHOST, 22).kind(), ErrorKind::ConnectionRefused);
    // An address that the host got later is behind the second wall only.
    let late = Ipv4Addr::new(6, 7, 8, 9);
    inside(&world.gateway, || Rtnetlink::open()?.add_address(1, late, 32)).expect("an address");
    assert_eq!(refused(&service, late, 22).kind(), ErrorKind::TimedOut);
    assert!(packets(&world.gateway, "to_gateway") > 0);
}

#[test]
fn names_are_asked_of_the_named_resolver_only() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let (resolver, _server) = (udp(&world.outside, 53), listen(&world.outside, ANY, 53));
    heard(&service, RESOLVER, &resolver);
    unheard(&service, OTHER_RESOLVER, &resolver);
    unheard(&service, PUBLIC, &resolver);
    connect(&service, RESOLVER, 53);
    assert_eq!(refused(&service, OTHER_RESOLVER, 53).kind(), ErrorKind::TimedOut);
    assert!(packets(hub.netns(), "other_dns") >= 3);

    let mut plan = internet(1, RATE, TOTAL);
    if let super::Policy::Internet(egress) = &mut plan.policy {
        egress.resolvers.clear();
    }
    let hub = world.open(&plan);
    let service = hub.attach_new(1).expect("a service");
    unheard(&service, RESOLVER, &resolver);
}

#[test]
fn mail_and_other_protocols_do_not_leave() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let _mail = listen(&world.outside, ANY, 25);
    connect(&world.gateway, PUBLIC, 25);
    assert_eq!(refused(&service, PUBLIC, 25).kind(), ErrorKind::TimedOut);
    assert!(packets(hub.netns(), "mail") > 0);
    ping(&service);
    assert_eq!(packets(hub.netns(), "other_protocol"), 1);
}

#[test]
fn nothing_comes_in_that_was_not_asked_for() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let _service = listen(&service, ANY, 5555);
    // Somebody outside who knows every address, and whose packets the gateway would forward.
    inside(&world.outside, || {
        let links = Rtnetlink::open()?;
        for octets in [[10, 88, 128, 2], [10, 88, 1, 1], [10, 88, 0, 1]] {
            let to = (Ipv4Addr::from(octets), 32);
            links.add_route(Route { to, via: Some(GATEWAY), index: 10, source: None })?;
        }
        Ok::<_, std::io::Error>(())
    })
    .expect("routes");
    let hub_outside = Ipv4Addr::new(10, 88, 128, 2);
    for port in [CALLBACK_PORT, 5555] {
        assert_eq!(refused(&world.outside, hub_outside, port).kind(), ErrorKind::TimedOut);
    }
    assert!(packets(&world.gateway, "unasked") >= 2);
    // The gateway itself has no business there either.
    let error = refused(&world.gateway, hub_outside, CALLBACK_PORT).kind();
    assert!(matches!(error, ErrorKind::TimedOut | ErrorKind::PermissionDenied), "{error:?}");
    assert_eq!(packets(hub.netns(), "unasked"), 0, "something got through the gateway");
    // And if the gateway let it through, the hub would not.
    nft(&world.gateway, &["flush", "chain", "inet", "rig", "forward"]);
    nft(&world.gateway, &["flush", "chain", "inet", "rig", "output"]);
    for (from, address) in [(&world.outside, hub_outside), (&world.gateway, hub_outside)] {
        let before = packets(hub.netns(), "unasked");
        assert_eq!(refused(from, address, CALLBACK_PORT).kind(), ErrorKind::TimedOut);
        assert!(packets(hub.netns(), "unasked") > before);
    }
    let to_service = Route { to: (Ipv4Addr::new(10, 88, 1, 1), 32), via: Some(hub_outside), index: 0, source: None };
    inside(&world.gateway, || {
        let links = Rtnetlink::open()?;
        let index = links.interface("rig-up0")?.index;
        links.add_route(Route { index, ..to_service })
    })
    .expect("a route");
    let before = packets(hub.netns(), "unasked");
    assert_eq!(refused(&world.outside, Ipv4Addr::new(10, 88, 1, 1), 5555).kind(), ErrorKind::TimedOut);
    assert!(packets(hub.netns(), "unasked") > before);
}

#[test]
fn one_source_does_not_reach_another_through_the_gateway() {
    let world = World::new();
    let (mine, other) = (world.open(&internet(0, RATE, TOTAL)), world.open(&internet(1, RATE, TOTAL)));
    let (service, _other_service) = (mine.attach_new(1).expect("a service"), other.attach_new(1).expect("a service"));
    let other_outside = Ipv4Addr::new(10, 88, 128, 6);
    assert_eq!(refused(&service, other_outside, CALLBACK_PORT).kind(), ErrorKind::TimedOut);
    assert!(packets(mine.netns(), "to_forbidden") > 0);
    nft(mine.netns(), &["flush", "chain", "inet", "rig", "outbound"]);
    nft(mine.netns(), &["add", "rule", "inet", "rig", "outbound", "accept"]);
    assert_eq!(refused(&service, other_outside, CALLBACK_PORT).kind(), ErrorKind::TimedOut);
    assert!(packets(&world.gateway, "to_forbidden") > 0);
}

/// Which way a stream flows.
#[derive(Clone, Copy, Debug)]
enum Flow {
    Up,
    Down,
}

/// Sends until nothing more is taken or `bytes` are sent; answers how much arrived, and how long it took.
fn pour(hub: &Hub, world: &World, bytes: usize, flow: Flow) -> (u64, Duration) {
    let service = hub.attach_new(1).expect("a service");
    let server = listen(&world.outside, ANY, 443);
    let client = connect(&service, PUBLIC, 443);
    let (served, _) = server.accept().expect("a stream");
    let (mut from, mut to) = match flow {
        Flow::Up => (client, served),
        Flow::Down => (served, client),
    };
    from.set_write_timeout(Some(LULL)).expect("a timeout");
    to.set_read_timeout(Some(LULL)).expect("a timeout");
    let began = Instant::now();
    let arrived: usize = std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = [0; 16 * 1024];
            let mut left = bytes;
            while let Ok(sent @ 1..) = from.write(&chunk[..left.min(chunk.len())]) {
                left -= sent;
            }
        });
        let mut chunk = [0; 64 * 1024];
        std::iter::from_fn(|| to.read(&mut chunk).ok().filter(|read| *read > 0)).sum()
    });
    (u64::try_from(arrived).expect("a few megabytes"), began.elapsed())
}

#[test]
fn after_its_total_a_source_has_no_internet() {
    for (number, flow) in [(0, Flow::Up), (1, Flow::Down)] {
        let world = World::new();
        let total = 4 << 20;
        let hub = world.open(&internet(number, RATE, total));
        let (arrived, _) = pour(&hub, &world, 16 << 20, flow);
        assert!((2 << 20..=4 << 20).contains(&arrived), "{flow:?}: {arrived} bytes arrived");
        let service = hub.attach_new(2).expect("a service");
        assert_eq!(refused(&service, PUBLIC, 443).kind(), ErrorKind::TimedOut);
        assert!(packets(hub.netns(), "over_total") > 0);
        // The callback does not count, and still works.
        connect(&service, CALLBACK_ADDR, CALLBACK_PORT);
        let traffic = hub.traffic().expect("counters");
        println!("{flow:?}: of 16 MiB with a total of 4 MiB, {arrived} bytes arrived; {traffic:?}");
    }
}

#[test]
fn a_source_sends_and_receives_no_faster_than_its_rate() {
    for (number, flow) in [(0, Flow::Up), (1, Flow::Down)] {
        let world = World::new();
        let rate = 2 << 20;
        let hub = world.open(&internet(number, rate, TOTAL));
        let (arrived, elapsed) = pour(&hub, &world, 8 << 20, flow);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).expect("a few seconds");
        // A second's worth and one packet more may pass at once.
        let allowed = rate * (elapsed_ms + 1000) / 1000 + (1 << 17);
        assert!(arrived <= allowed, "{flow:?}: {arrived} bytes in {elapsed:?}");
        assert!(arrived > rate, "{flow:?}: {arrived} bytes in {elapsed:?}");
        assert!(packets(hub.netns(), "over_rate") > 0);
        println!("{flow:?}: at 2 MiB/s, {arrived} bytes arrived in {elapsed:?}");
    }
}

#[test]
fn a_source_opens_only_so_many_connections_at_once() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let sender = udp(&service, 0);
    // Each port is a connection to the gateway's table.
    for port in 10_000..10_400 {
        sender.send_to(b"x", (PUBLIC, port)).expect("sent");
    }
    let dropped = packets(hub.netns(), "too_many");
    assert!((200..400).contains(&dropped), "{dropped} of 400 were dropped");
}

#[test]
fn a_source_holds_only_so_many_connections() {
    let world = World::new();
    let plan = internet(0, RATE, TOTAL);
    let hub = world.open(&plan);
    let service = hub.attach_new(1).expect("a service");
    // The same rules with another number, or it would take half a minute to get there.
    let rules = rules::of_hub(&plan, &[]).expect("rules");
    let fewer = rules.replace("ct count over 1024", "ct count over 16").replace("burst 128", "burst 1000");
    assert_ne!(rules, fewer);
    inside(hub.netns(), || rules::feed("hub", &format!("delete table inet rig\n{fewer}"))).expect("rules");
    let sender = udp(&service, 0);
    for port in 10_000..10_400 {
        sender.send_to(b"x", (PUBLIC, port)).expect("sent");
    }
    assert_eq!(packets(hub.netns(), "too_many"), 400 - 16);
}

#[test]
fn a_host_that_does_not_forward_is_told_what_to_set() {
    let world = World::new();
    inside(&world.gateway, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")).expect("a setting");
    let error = inside(&world.gateway, || Hub::open(&internet(0, RATE, TOTAL))).expect_err("no way out");
    assert!(matches!(error, NetworkError::NotForwarding));
    assert!(error.to_string().contains("net.ipv4.ip_forward = 1"), "{error}");
    assert_eq!((world.tables().as_str(), world.uplinks().len()), ("", 0));
}

#[test]
fn the_largest_and_the_smallest_limits_are_rules_that_nft_takes() {
    let world = World::new();
    let mut twice = internet(2, RATE, TOTAL);
    if let super::Policy::Internet(egress) = &mut twice.policy {
        egress.resolvers = vec![RESOLVER, RESOLVER, PUBLIC];
    }
    drop(world.open(&twice));
    for (number, rate, total) in [(0, super::RATE_BYTES_PER_S_MIN, 1), (1, u64::MAX, u64::MAX)] {
        drop(world.open(&internet(number, rate, total)));
    }
}

#[test]
fn what_nft_does_not_take_is_told_with_its_place() {
    let world = World::new();
    let fed = inside(&world.gateway, || rules::feed("hub", "table inet rig { nonsense }"));
    let said = fed.expect_err("nonsense").to_string();
    assert!(said.starts_with("nft refused the rules of the hub: ") && said.contains("nonsense"), "{said}");
}

#[test]
fn a_stream_in_use_ends_when_the_hub_is_dropped() {
    let world = World::new();
    let hub = world.open(&internet(0, RATE, TOTAL));
    let service = hub.attach_new(1).expect("a service");
    let server: TcpListener = listen(&world.outside, ANY, 443);
    let mut client: TcpStream = connect(&service, PUBLIC, 443);
    let (mut served, _) = server.accept().expect("a stream");
    drop(hub);
    client.write_all(b"still there?").expect("the kernel keeps it");
    served.set_read_timeout(Some(SILENCE)).expect("a timeout");
    assert_eq!(served.read(&mut [0; 16]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
}
