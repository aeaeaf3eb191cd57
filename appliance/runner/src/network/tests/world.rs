//! A gateway and everything beyond it, in two network namespaces that lead nowhere else.
//!
//! The kernel completes a TCP handshake by itself, so what is to be found outside is a listener without a thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::rtnetlink::{End, Route, Rtnetlink};
use super::super::{Egress, Hub, NetworkError, NetworkPlan, Policy, Published, isolated, namespace};

/// How long something that must happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long to watch that something does not happen. Every path here is microseconds long.
pub(super) const SILENCE: Duration = Duration::from_millis(250);

/// The gateway's address on its own, public network.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(5, 6, 7, 1);
/// The router outside.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(5, 6, 7, 2);
/// A host on the internet.
pub(super) const PUBLIC: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
/// The resolver that plans here name.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
/// Another resolver.
pub(super) const OTHER_RESOLVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

/// What is outside, answers, and must not be reached.
pub(super) const FORBIDDEN: [Ipv4Addr; 14] = [
    Ipv4Addr::new(10, 1, 2, 3),
    Ipv4Addr::new(100, 64, 0, 1),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 16, 0, 1),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(192, 88, 99, 1),
    Ipv4Addr::new(192, 168, 7, 1),
    Ipv4Addr::new(198, 18, 0, 1),
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(203, 0, 113, 1),
    // On the gateway's own network, though public.
    ROUTER,
];

#[derive(Debug)]
pub(super) struct World {
    pub(super) gateway: OwnedFd,
    pub(super) outside: OwnedFd,
}

impl World {
    pub(super) fn new() -> Self {
        let (outside, outside_links) = namespace::create(|_| {
            namespace::set("ipv4/ip_unprivileged_port_start", "0")?;
            let links = Rtnetlink::open().expect("rtnetlink");
            links.up(1).expect("loopback");
            for address in FORBIDDEN[..13].iter().chain(&[PUBLIC, RESOLVER, OTHER_RESOLVER]) {
                links.add_address(1, *address, 32).expect("an address outside");
            }
            Ok(links)
        })
        .expect("an outside");
        let (gateway, ()) = namespace::create(|_| {
            namespace::set("ipv4/ip_forward", "1")?;
            let links = Rtnetlink::open().expect("rtnetlink");
            links.up(1).expect("loopback");
            let (near, far) = (End { name: "wan", index: 10 }, End { name: "isp", index: 10 });
            links.add_veth(near, far, outside.as_fd()).expect("a line");
            links.add_address(10, GATEWAY, 24).expect("an address");
            outside_links.up(10).expect("a line that is up");
            links.await_up(10).expect("a line that is used");
            outside_links.add_address(10, ROUTER, 24).expect("an address");
            let out = Route { to: (Ipv4Addr::UNSPECIFIED, 0), via: Some(ROUTER), index: 10, source: None };
            links.add_route(out).expect("a default route");
            Ok(())
        })
        .expect("a gateway");
        Self { gateway, outside }
    }

    pub(super) fn open(&self, plan: &NetworkPlan) -> Hub {
        inside(&self.gateway, || Hub::open(plan)).expect("a hub")
    }

    /// The names of the gateway's interfaces other than its own two.
    pub(super) fn uplinks(&self) -> Vec<String> {
        let interfaces = inside(&self.gateway, || Rtnetlink::open().and_then(|links| links.interfaces()));
        let names = interfaces.expect("interfaces").into_iter().map(|interface| interface.name);
        names.filter(|name| name.starts_with("rig")).collect()
    }

    /// What `nft` knows of in the gateway.
    pub(super) fn tables(&self) -> String {
        nft(&self.gateway, &["list", "tables"])
    }
}

pub(super) fn internal(services: u8, published: &[(u16, u8, u16)]) -> NetworkPlan {
    let published = published.iter().map(|&(port, service, target)| Published { port, service, target });
    NetworkPlan { policy: Policy::Internal, services, published: published.collect(), number: 0 }
}

pub(super) fn internet(number: u16, rate_bytes_per_s: u64, total_bytes: u64) -> NetworkPlan {
    let egress = Egress { rate_bytes_per_s, total_bytes, resolvers: vec![RESOLVER] };
    NetworkPlan { policy: Policy::Internet(egress), number, ..internal(2, &[]) }
}

pub(super) fn inside<T: Send>(netns: &OwnedFd, visit: impl FnOnce() -> T + Send) -> T {
    namespace::inside(netns, || Ok(visit())).expect("a visit")
}

pub(super) fn listen(netns: &OwnedFd, address: Ipv4Addr, port: u16) -> TcpListener {
    inside(netns, || TcpListener::bind((address, port))).expect("a listener")
}

/// A stream from `netns` that must come about.
pub(super) fn connect(netns: &OwnedFd, address: Ipv4Addr, port: u16) -> TcpStream {
    let address = SocketAddr::from((address, port));
    let stream = inside(netns, || TcpStream::connect_timeout(&address, PATIENCE));
    stream.unwrap_or_else(|error| panic!("{address} cannot be reached: {error}"))
}

/// Why a stream from `netns` does not come about.
#[track_caller]
pub(super) fn refused(netns: &OwnedFd, address: Ipv4Addr, port: u16) -> io::Error {
    let address = SocketAddr::from((address, port));
    match inside(netns, || TcpStream::connect_timeout(&address, SILENCE)) {
        Ok(_) => panic!("{address} can be reached"),
        Err(error) => error,
    }
}

/// How many packets a named counter has seen.
pub(super) fn packets(netns: &OwnedFd, counter: &str) -> u64 {
    let said = nft(netns, &["list", "counter", "inet", "rig", counter]);
    let mut words = said.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no packets in {said}"))
}

pub(super) fn nft(netns: &OwnedFd, arguments: &[&str]) -> String {
    let output = inside(netns, || Command::new("/usr/sbin/nft").args(arguments).output()).expect("nft");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Hub {
    /// As a start does it: a namespace that leads nowhere, then its link.
    pub(super) fn attach_new(&self, index: u8) -> Result<OwnedFd, NetworkError> {
        let netns = isolated()?;
        self.attach(index, &netns)?;
        Ok(netns)
    }
}
