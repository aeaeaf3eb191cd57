//! What is done inside a jail: this very test binary is its `/probe`, and `RIG_PROBE` says what to do there.
//! Outside, the test below has nothing to do.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};

/// The command that runs the probe.
pub(crate) const COMMAND: [&str; 4] = ["/probe", "--exact", "probe::acts_inside_a_jail", "--nocapture"];

#[test]
fn acts_inside_a_jail() {
    match std::env::var("RIG_PROBE").as_deref() {
        Ok("facts") => call_back(&facts()),
        Ok("serve") => serve(),
        Ok(other) => panic!("no probe {other:?}"),
        Err(_) => {}
    }
}

fn call_back(text: &str) {
    let mut stream = TcpStream::connect("host.docker.internal:20000").expect("the callback listener");
    stream.write_all(text.as_bytes()).expect("send");
}

fn serve() {
    let listener = TcpListener::bind("0.0.0.0:5555").expect("bind");
    for stream in listener.incoming() {
        let mut stream = stream.expect("accept");
        let mut word = [0; 5];
        stream.read_exact(&mut word).expect("read");
        stream.write_all(&word).expect("write");
    }
}

/// `key=value` lines, of what can be seen and what can be done.
fn facts() -> String {
    let mut facts = String::new();
    for path in [
        "/proc/self/status",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/net/dev",
        "/etc/hosts",
        "/etc/resolv.conf",
    ] {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| format!("{error}"));
        for line in text.lines() {
            let _ = writeln!(facts, "{path}: {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    for dir in ["/", "/dev", "/sys", "/proc/sys", "/proc/self/fd", "/home"] {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort();
        let _ = writeln!(facts, "list {dir}={}", names.join(" "));
    }
    for (name, value) in std::env::vars() {
        let _ = writeln!(facts, "env {name}={value}");
    }
    let _ = writeln!(facts, "existing={}", crate::raw::existing().join(", "));
    for (name, outcome) in attempts() {
        let _ = writeln!(facts, "try {name}={outcome}");
    }
    facts
}

fn attempts() -> Vec<(&'static str, String)> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};
    let none = None::<&str>;
    let open_socket = |family, kind, protocol: Option<SockProtocol>| {
        nix::sys::socket::socket(family, kind, SockFlag::empty(), protocol).map(drop)
    };
    let write = |path| std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop);
    vec![
        ("mount", said(mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), none))),
        ("remount", said(mount(none, "/", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, none))),
        ("umount", said(umount2("/proc", MntFlags::MNT_DETACH))),
        ("unshare user", said(unshare(CloneFlags::CLONE_NEWUSER))),
        ("unshare net", said(unshare(CloneFlags::CLONE_NEWNET))),
        ("ptrace", said(nix::sys::ptrace::traceme())),
        ("chroot", said(nix::unistd::chroot("/tmp"))),
        ("setuid 1", said(nix::unistd::setuid(nix::unistd::Uid::from_raw(1)))),
        ("packet socket", said(open_socket(AddressFamily::Packet, SockType::Raw, None))),
        ("vsock", said(open_socket(AddressFamily::Vsock, SockType::Stream, None))),
        ("raw socket", said(open_socket(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp)))),
        ("netfilter", said(open_socket(AddressFamily::Netlink, SockType::Raw, Some(SockProtocol::NetlinkNetFilter)))),
        ("route", said(open_socket(AddressFamily::Netlink, SockType::Raw, Some(SockProtocol::NetlinkRoute)))),
        ("write /etc/hosts", said(write("/etc/hosts"))),
        ("write /dev/x", said(write("/dev/x"))),
        ("write /tmp/x", said(write("/tmp/x"))),
        ("write /dev/shm/x", said(write("/dev/shm/x"))),
        ("write /x", said(write("/x"))),
        ("read /proc/1/environ", said(std::fs::read("/proc/1/environ"))),
        ("read /proc/1/exe", said(std::fs::read_link("/proc/1/exe"))),
        ("connect out", said(TcpStream::connect("192.0.2.1:80"))),
    ]
}

fn said<T, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}
