//! What is done inside a jail: this very test binary is its `/probe`, and `RIG_PROBE` says what to do there.
//! Outside, the test below has nothing to do.

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};

/// The command that runs the probe.
pub(crate) const COMMAND: [&str; 4] = ["/probe", "--exact", "probe::acts_inside_a_jail", "--nocapture"];

#[test]
fn acts_inside_a_jail() {
    match std::env::var("RIG_PROBE").as_deref() {
        Ok("facts") => call_back(&facts()),
        Ok("serve") => serve(),
        Ok("dig") => dig(),
        Ok("call") => println!("answer={}", said(call(&std::env::var("RIG_TARGET").expect("a target")))),
        #[cfg(target_arch = "x86_64")]
        Ok(which @ ("int80" | "x32")) => println!("survived {}", crate::raw::call_of_another_table(which)),
        Ok(other) => panic!("no probe {other:?}"),
        Err(_) => {}
    }
}

fn call_back(text: &str) {
    let mut stream = TcpStream::connect("host.docker.internal:20000").expect("the callback listener");
    stream.write_all(text.as_bytes()).expect("send");
}

/// Goes down, directory by directory, beyond what one descriptor for each would reach.
fn dig() {
    for _ in 0..3000 {
        std::fs::create_dir("d").expect("mkdir");
        std::env::set_current_dir("d").expect("cd");
    }
    println!("dug");
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

/// Asks a `serve` of another service until it answers, or until it is clear that it will not.
fn call(target: &str) -> std::io::Result<()> {
    let mut tries = 0;
    let mut stream = loop {
        match TcpStream::connect(target) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && tries < 500 => tries += 1,
            other => break other?,
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(())
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
        ("control /dev/null", said(ask_for_a_terminal("/dev/null"))),
        ("connect out", said(TcpStream::connect("192.0.2.1:80"))),
    ]
}

/// Fails with `ENOTTY` wherever one may ask.
fn ask_for_a_terminal(device: &str) -> nix::Result<()> {
    let device = std::fs::File::open(device).map_err(|_| nix::errno::Errno::ENOENT)?;
    if device.is_terminal() { Ok(()) } else { Err(nix::errno::Errno::last()) }
}

fn said<T, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}
