//! The handful of rtnetlink requests that a source's network takes, spoken by hand: each has a fixed layout, and
//! a netlink library is many times their size.
//!
//! A socket speaks for the network namespace in which it was made, whoever uses it later and from wherever, and
//! keeps that namespace alive. Requests are answered before the kernel returns from the call that sends them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// The loopback is the first interface of every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// `VETH_INFO_PEER` of `linux/veth.h`, which libc does not have.
const VETH_INFO_PEER: u16 = 1;

/// `IF_OPER_UP` of `linux/if.h`, which libc does not have either.
const IF_OPER_UP: u8 = 6;

/// How long the kernel's work queue may take, and how often it is looked at.
const UP_TIMEOUT: Duration = Duration::from_secs(5);
const UP_PAUSE: Duration = Duration::from_millis(1);

/// The flags of a request: asks for one thing, for all of a kind, for a change, for something new.
const GET: i32 = libc::NLM_F_REQUEST;
const LIST: i32 = GET | libc::NLM_F_DUMP;
const CHANGE: i32 = GET | libc::NLM_F_ACK;
const CREATE: i32 = CHANGE | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// `struct nlmsghdr`: length, type (u16), flags (u16), sequence, port.
const HEADER_BYTES: usize = 16;
/// `struct nlattr`: length (u16), type (u16).
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `struct ifinfomsg`: family, pad, type (u16), index, flags, change mask.
const LINK_BYTES: usize = 16;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS_BYTES: usize = 8;

/// The kernel fills at most this much of one answer (`NLMSG_GOODSIZE` is 8 KiB; a dump may take 32 KiB).
const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// A socket to the rtnetlink of one network namespace.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: OwnedFd,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    /// The number that the interface is to have; 0 lets the kernel choose, which it does for both if it does for the
    /// near one.
    pub(super) index: u32,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// A network and the length of its prefix; 0.0.0.0/0 is the default route.
    pub(super) to: (Ipv4Addr, u8),
    /// The next hop; `None` means that the destination is on the link.
    pub(super) via: Option<Ipv4Addr>,
    /// The interface.
    pub(super) index: u32,
    /// The source address of what this namespace itself sends along it.
    pub(super) source: Option<Ipv4Addr>,
}

/// An interface, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

/// A request that is being put together.
#[derive(Debug)]
struct Request(Vec<u8>);

// === impl Rtnetlink ===

impl Rtnetlink {
    /// To the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// Brings an interface up.
    pub(super) fn up(&self, index: u32) -> io::Result<()> {
        self.acknowledged(Request::new(libc::RTM_NEWLINK, CHANGE, &link(index, true)))
    }

    /// Makes a pair of interfaces: `near` here, born up, and `far` in another namespace, born down because the kernel
    /// opens no end before it has both.
    pub(super) fn add_veth(&self, near: End<'_>, far: End<'_>, far_netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, CREATE, &link(near.index, true));
        request.text(libc::IFLA_IFNAME, near.name);
        request.nest(libc::IFLA_LINKINFO, |request| {
            request.text(libc::IFLA_INFO_KIND, "veth");
            request.nest(libc::IFLA_INFO_DATA, |request| {
                request.nest(VETH_INFO_PEER, |request| {
                    request.0.extend(link(far.index, false));
                    request.text(libc::IFLA_IFNAME, far.name);
                    request.attribute(libc::IFLA_NET_NS_FD, &far_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.acknowledged(request)
    }

    /// Waits until an interface sends. Since `add_veth` brings the near end up first, the kernel leaves it to a work
    /// queue to take note of the far end coming up; what is sent before that, such as the answer to a first question
    /// for an address, is lost, and the next is asked a second later.
    pub(super) fn await_up(&self, index: u32) -> io::Result<()> {
        let deadline = Instant::now() + UP_TIMEOUT;
        loop {
            self.send(Request::new(libc::RTM_GETLINK, GET, &link(index, false)))?;
            let answer = self.receive()?;
            let (kind, body) = messages(&answer).next().ok_or_else(garbled)?;
            if i32::from(kind) == libc::NLMSG_ERROR {
                return error_in(body).and(Err(garbled()));
            }
            let mut found = attributes(body.get(LINK_BYTES..).ok_or_else(garbled)?);
            if found.any(|(kind, value)| kind == libc::IFLA_OPERSTATE && value == [IF_OPER_UP]) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Newer kernels take note when they are asked, and do not come here.
            std::thread::sleep(UP_PAUSE);
        }
    }

    /// Removes an interface, by its number or if that is 0 by its name, and with it its peer; says whether there was
    /// one.
    pub(super) fn remove(&self, end: End<'_>) -> io::Result<bool> {
        let mut request = Request::new(libc::RTM_DELLINK, CHANGE, &link(end.index, false));
        if end.index == 0 {
            request.text(libc::IFLA_IFNAME, end.name);
        }
        match self.acknowledged(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Gives an interface an address that is valid everywhere.
    pub(super) fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut body = vec![INET, prefix, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        let mut request = Request::new(libc::RTM_NEWADDR, CREATE, &body);
        request.attribute(libc::IFA_LOCAL, &address.octets());
        self.acknowledged(request)
    }

    pub(super) fn add_route(&self, route: Route) -> io::Result<()> {
        let (network, prefix) = route.to;
        let network = (prefix > 0).then_some(network);
        let scope = if route.via.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        // `struct rtmsg`: family, two prefix lengths, tos, table, protocol, scope, type, flags.
        let mut body = vec![INET, prefix, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST];
        body.extend([0; 4]);
        let mut request = Request::new(libc::RTM_NEWROUTE, CREATE, &body);
        let addresses = [(libc::RTA_DST, network), (libc::RTA_GATEWAY, route.via), (libc::RTA_PREFSRC, route.source)];
        for (kind, address) in addresses {
            if let Some(address) = address {
                request.attribute(kind, &address.octets());
            }
        }
        request.attribute(libc::RTA_OIF, &route.index.to_ne_bytes());
        self.acknowledged(request)
    }

    /// Every interface of the namespace.
    pub(super) fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let answers = self.dump(Request::new(libc::RTM_GETLINK, LIST, &link(0, false)))?;
        let interfaces = answers.iter().filter_map(|body| {
            let mut interface = Interface { index: word(body, 4)?, ..Interface::default() };
            for (kind, value) in attributes(body.get(LINK_BYTES..)?) {
                match kind {
                    libc::IFLA_IFNAME => {
                        let name = value.strip_suffix(&[0]).unwrap_or(value);
                        interface.name = String::from_utf8_lossy(name).into_owned();
                    }
                    // `struct rtnl_link_stats64`: packets received and sent, then bytes received and sent.
                    libc::IFLA_STATS64 => {
                        interface.received_bytes = long(value, 16)?;
                        interface.sent_bytes = long(value, 24)?;
                    }
                    _ => {}
                }
            }
            Some(interface)
        });
        Ok(interfaces.collect())
    }

    /// The interface of this name.
    pub(super) fn interface(&self, name: &str) -> io::Result<Interface> {
        let found = self.interfaces()?.into_iter().find(|interface| interface.name == name);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Every IPv4 address of the namespace with the length of its network's prefix.
    pub(super) fn addresses(&self) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let answers = self.dump(Request::new(libc::RTM_GETADDR, LIST, &[INET, 0, 0, 0, 0, 0, 0, 0]))?;
        let addresses = answers.iter().filter_map(|body| {
            // The address of the other end, where there is one: its network is what this interface leads to.
            let of = |wanted| attributes(body.get(ADDRESS_BYTES..)?).find(|(kind, _)| *kind == wanted);
            let (_, value) = of(libc::IFA_ADDRESS).or_else(|| of(libc::IFA_LOCAL))?;
            let octets: [u8; 4] = value.try_into().ok()?;
            Some((Ipv4Addr::from(octets), *body.get(1)?))
        });
        Ok(addresses.collect())
    }

    /// Sends a request and reads its acknowledgement.
    fn acknowledged(&self, request: Request) -> io::Result<()> {
        self.send(request)?;
        let answer = self.receive()?;
        match messages(&answer).next() {
            Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => error_in(body),
            _ => Err(garbled()),
        }
    }

    /// Sends a request and reads its answers to the last; the bodies of them.
    fn dump(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        self.send(request)?;
        let mut bodies = Vec::new();
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(bodies),
                    libc::NLMSG_ERROR => return error_in(body).and(Err(garbled())),
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }

    fn send(&self, request: Request) -> io::Result<()> {
        let mut message = request.0;
        let length = u32::try_from(message.len()).map_err(|_| garbled())?;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        sendto(self.socket.as_fd(), &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let (_, received) = recv(self.socket.as_fd(), &mut answer[..], RecvFlags::TRUNC)?;
        if received > ANSWER_BYTES_MAX {
            return Err(garbled());
        }
        answer.truncate(received);
        Ok(answer)
    }
}

// === impl Request ===

impl Request {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = u16::try_from(flags).expect("the flags of a netlink header have 16 bits");
        let mut message = vec![0; HEADER_BYTES];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.extend(body);
        Self(message)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |request| request.0.extend(value));
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.nest(kind, |request| {
            request.0.extend(value.as_bytes());
            request.0.push(0);
        });
    }

    /// An attribute whose value is whatever `fill` appends. The next one begins at a multiple of four.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).expect("an attribute of these requests is short");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

const INET: u8 = 2;

fn link(index: u32, up: bool) -> Vec<u8> {
    let up = if up { libc::IFF_UP.cast_unsigned() } else { 0 };
    [0, index, up, up].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The messages of one answer: type and body.
fn messages(answer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = answer;
    std::iter::from_fn(move || {
        let length = usize::try_from(word(rest, 0)?).ok()?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of one message: type without its flag bits, and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// An acknowledgement is a negated errno; 0 means done.
fn error_in(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(errno) if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(garbled()),
    }
}

fn garbled() -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let mut request = Request::new(libc::RTM_NEWLINK, CHANGE, &[]);
        request.nest(libc::IFLA_LINKINFO, |request| request.text(libc::IFLA_INFO_KIND, "veth"));
        let body = &request.0[HEADER_BYTES..];
        assert_eq!(body, [&[16, 0, 18, 0, 9, 0, 1, 0][..], b"veth\0\0\0\0"].concat());
        let (kind, inner) = attributes(body).next().expect("an attribute");
        assert_eq!((kind, attributes(inner).collect::<Vec<_>>()), (libc::IFLA_LINKINFO, vec![(1, &b"veth\0"[..])]));
    }

    #[test]
    fn an_answer_that_lies_about_its_length_ends_there() {
        for length in [0, 1, 15, 17, 1000] {
            let mut answer = vec![0; HEADER_BYTES];
            answer[..4].copy_from_slice(&u32::to_ne_bytes(length));
            assert_eq!(messages(&answer).count(), 0, "{length}");
            assert_eq!(attributes(&[u8::try_from(length % 256).expect("a byte"), 0, 1]).count(), 0);
        }
        for length in [0, 3, 5, 200] {
            assert_eq!(attributes(&[length, 0, 1, 0]).count(), 0, "{length}");
        }
        assert!(error_in(&[]).is_err() && error_in(&1i32.to_ne_bytes()).is_err());
        assert_eq!(error_in(&(-17i32).to_ne_bytes()).expect_err("an errno").raw_os_error(), Some(17));
    }

    #[test]
    fn what_is_told_to_the_kernel_can_be_read_back() {
        let (far, ()) = super::super::namespace::create(|_| Ok(())).expect("a namespace");
        let (_, (interfaces, addresses, missing)) = super::super::namespace::create(|_| {
            let links = Rtnetlink::open().expect("a socket");
            links.up(LOOPBACK).expect("loopback");
            let (near, far_end) = (End { name: "near", index: 7 }, End { name: "far", index: 9 });
            links.add_veth(near, far_end, far.as_fd()).expect("a pair");
            links.add_address(7, Ipv4Addr::new(10, 1, 2, 3), 24).expect("an address");
            let twice = links.add_address(7, Ipv4Addr::new(10, 1, 2, 3), 24).expect_err("twice");
            assert_eq!(twice.raw_os_error(), Some(libc::EEXIST));
            let interfaces = links.interfaces().expect("interfaces");
            let addresses = links.addresses().expect("addresses");
            assert!(links.remove(near).expect("removed"));
            Ok((interfaces, addresses, links.remove(near).expect("looked for")))
        })
        .expect("a namespace");
        let near = interfaces.iter().find(|interface| interface.name == "near").expect("the near end");
        assert_eq!((near.index, near.received_bytes), (7, 0));
        assert!(addresses.contains(&(Ipv4Addr::new(10, 1, 2, 3), 24)), "{addresses:?}");
        assert!(!missing);
    }
}
