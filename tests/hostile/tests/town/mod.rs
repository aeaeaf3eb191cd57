//! A machine's surroundings in two network namespaces of their own: the gateway, in which a runner can be started, and
//! everything beyond it. In both, somebody listens at every door that a job must not knock at.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

/// The gateway's own address on the internet.
pub(crate) const GATEWAY: &str = "5.6.7.1";

/// A host on the internet.
pub(crate) const PUBLIC: &str = "1.2.3.4";

/// Whom the owner lets jobs ask for names.
pub(crate) const RESOLVER: &str = "9.9.9.10";

/// Addresses beyond the gateway that are nobody's on the internet, and one of its neighbour's.
const PRIVATE: [&str; 15] = [
    "10.0.0.1",
    "10.255.255.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.1.1",
    "169.254.169.253",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.168.0.1",
    "192.168.1.1",
    "198.18.0.1",
];

const PORTS: [u16; 4] = [22, 53, 80, 443];

/// A network namespace, which lives as long as this.
pub(crate) struct Namespace {
    holder: Child,
    entrance: File,
}

/// A runner's surroundings.
pub(crate) struct Town {
    pub(crate) gateway: Namespace,
    _outside: Namespace,
    canaries: Vec<Canaries>,
}

/// Those who listen in one place.
pub(crate) struct Canaries {
    place: &'static str,
    streams: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
}

// === impl Namespace ===

impl Namespace {
    fn new() -> Self {
        let holder = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
                Command::new("/bin/sleep").arg("1000").spawn().expect("somebody to live there")
            });
            made.join().expect("no panic")
        });
        let entrance = File::open(format!("/proc/{}/ns/net", holder.id())).expect("its namespace");
        Self { holder, entrance }
    }

    /// Does something there.
    pub(crate) fn visit<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                setns(&self.entrance, CloneFlags::CLONE_NEWNET).expect("enter");
                act()
            });
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, commands: &str) {
        self.visit(|| {
            let mut ip = Command::new("ip");
            let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip of iproute2");
            ip.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("write");
            assert!(ip.wait().expect("reap").success(), "{commands}");
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

// === impl Town ===

impl Town {
    pub(crate) fn new() -> Self {
        let (gateway, outside) = (Namespace::new(), Namespace::new());
        gateway.visit(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router"));
        gateway.ip(&format!(
            "link set lo up\nlink add wan type veth peer name isp netns {}\nlink set wan up\n\
             addr add {GATEWAY}/24 dev wan\naddr add 192.168.77.1/32 dev lo\naddr add fd00:ec2::254/128 dev lo nodad\n",
            outside.holder.id()
        ));
        let mut commands = "link set lo up\nlink set isp up\naddr add 5.6.7.2/24 dev isp\n".to_owned();
        for address in PRIVATE.iter().chain(&[PUBLIC, RESOLVER]) {
            commands.push_str(&format!("addr add {address}/32 dev lo\n"));
        }
        outside.ip(&commands);
        gateway.ip("route add default via 5.6.7.2\n");
        let public = PUBLIC.parse().expect("an address");
        let resolver = RESOLVER.parse().expect("an address");
        let mut canaries = vec![gateway.visit(|| Canaries::listen("gateway", &PORTS))];
        canaries.extend(outside.visit(|| {
            // The more precise address is served first.
            [Canaries::listen_at("internet", public, &PORTS), Canaries::listen_at("resolver", resolver, &PORTS)]
        }));
        canaries.push(outside.visit(|| Canaries::listen_each("outside", &PRIVATE, &PORTS)));
        let town = Self { gateway, _outside: outside, canaries };
        town.can_be_heard();
        town
    }

    /// Who has heard anything since the last time: place, kind and port, and from whom.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.canaries.iter().flat_map(Canaries::heard).collect()
    }

    /// From the gateway itself every canary can be heard, so silence means something.
    fn can_be_heard(&self) {
        self.gateway.visit(|| {
            for address in PRIVATE {
                let address: Ipv4Addr = address.parse().expect("an address");
                std::net::TcpStream::connect((address, 80)).unwrap_or_else(|error| panic!("{address}: {error}"));
            }
        });
        assert_eq!(self.heard().len(), PRIVATE.len());
    }
}

// === impl Canaries ===

impl Canaries {
    /// At every address of this place, of both families.
    pub(crate) fn listen(place: &'static str, ports: &[u16]) -> Self {
        let mut canaries = Self { place, streams: Vec::new(), datagrams: Vec::new() };
        for port in ports {
            // An IPv6 socket hears IPv4 as well.
            canaries.add(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)));
        }
        canaries
    }

    fn listen_at(place: &'static str, address: IpAddr, ports: &[u16]) -> Self {
        let mut canaries = Self { place, streams: Vec::new(), datagrams: Vec::new() };
        ports.iter().for_each(|port| canaries.add((address, *port).into()));
        canaries
    }

    fn listen_each(place: &'static str, addresses: &[&str], ports: &[u16]) -> Self {
        let mut canaries = Self { place, streams: Vec::new(), datagrams: Vec::new() };
        for address in addresses {
            let address: IpAddr = address.parse().expect("an address");
            ports.iter().for_each(|port| canaries.add((address, *port).into()));
        }
        canaries
    }

    fn add(&mut self, address: SocketAddr) {
        let stream = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen at {address}: {error}"));
        let datagram = UdpSocket::bind(stream.local_addr().expect("an address")).expect("listen");
        stream.set_nonblocking(true).expect("do not wait");
        datagram.set_nonblocking(true).expect("do not wait");
        self.streams.push(stream);
        self.datagrams.push(datagram);
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.streams.iter().map(|stream| stream.local_addr().expect("an address").port()).collect()
    }

    /// See [`Town::heard`].
    pub(crate) fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        for stream in &self.streams {
            let port = stream.local_addr().expect("an address").port();
            while let Ok((_, peer)) = stream.accept() {
                heard.push(format!("{} tcp {port} from {}", self.place, peer.ip()));
            }
        }
        for datagram in &self.datagrams {
            let port = datagram.local_addr().expect("an address").port();
            while let Ok((_, peer)) = datagram.recv_from(&mut [0; 64]) {
                heard.push(format!("{} udp {port} from {}", self.place, peer.ip()));
            }
        }
        heard
    }
}
