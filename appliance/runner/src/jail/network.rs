//! The jail's network: its own loopback, one more address on it, one listener. No route leads anywhere else.
//!
//! Spoken in rtnetlink by hand: two messages, each with a fixed layout, are less than any netlink library.

use std::net::TcpListener;

use nix::errno::Errno;
use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use nix::libc;

use crate::orders::{Step, StepFailed};

/// The loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Brings the loopback up, gives it [`CALLBACK_ADDR`], and listens there.
pub(super) fn bring_up() -> Result<TcpListener, StepFailed> {
    request(libc::RTM_NEWLINK, 0, &link_up()).step("bring the loopback up")?;
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    request(libc::RTM_NEWADDR, create, &address()).step("add the callback address")?;
    let listener = TcpListener::bind((CALLBACK_ADDR, CALLBACK_PORT)).step("listen for callbacks")?;
    listener.set_nonblocking(true).step("listen for callbacks")?;
    Ok(listener)
}

/// `struct ifinfomsg`: family, pad, type (u16), index, flags, change mask.
fn link_up() -> Vec<u8> {
    let up = libc::IFF_UP.cast_unsigned();
    let mut body = vec![0; 4];
    for word in [LOOPBACK, up, up] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index; then the attribute `IFA_LOCAL`.
fn address() -> Vec<u8> {
    let octets = CALLBACK_ADDR.octets();
    let mut body = vec![INET, 32, 0, HOST_SCOPE];
    body.extend(LOOPBACK.to_ne_bytes());
    body.extend(ATTRIBUTE_BYTES.to_ne_bytes());
    body.extend(libc::IFA_LOCAL.to_ne_bytes());
    body.extend(octets);
    body
}

const INET: u8 = 2;
/// `RT_SCOPE_HOST`: the address is not valid beyond this network namespace.
const HOST_SCOPE: u8 = 254;
/// Length and type, then the four octets of an address.
const ATTRIBUTE_BYTES: u16 = 8;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// Sends one request and reads its acknowledgement: a header, then a negated errno.
fn request(kind: u16, flags: i32, body: &[u8]) -> rustix::io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).map_err(|_| rustix::io::Errno::INVAL)?;
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (_, received) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let errno = answer[..received].get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|word| word.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(rustix::io::Errno::from_raw_os_error(-errno)),
        None => Err(rustix::io::Errno::from_raw_os_error(Errno::EPROTO as i32)),
    }
}
