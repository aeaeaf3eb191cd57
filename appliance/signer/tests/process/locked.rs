//! What the process may do once it serves, seen from outside.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use signer::Client;
use signer::protocol::{Answer, Request};

use crate::rig::{Home, PATIENCE, Running, receive, send, socket_inodes};

/// Everything that is honestly asked of a signer.
async fn use_it_all(home: &Home, running: &Running, nonce: u64) {
    let client = Client::connect(home.socket()).await.expect("connect");
    client.identity().await.expect("an identity");
    client.sign(running.honest(nonce)).await.expect("a signature");
    let task = alloy::primitives::Address::left_padding_from(&nonce.to_be_bytes());
    client.sign(running.response(task, "answer", 3).into()).await.expect("a response");
    client.tls_identity().await.expect("a TLS identity");
    let message = [&[b' '; 64], &b"TLS 1.3, client CertificateVerify\0"[..], &[7; 32]].concat();
    let mut stream = home.dial();
    send(&mut stream, &serde_json::to_vec(&Request::TlsSign { message: message.into() }).expect("json"));
    assert!(matches!(receive(&mut stream), Some(Answer::TlsSignature { .. })));
    send(&mut stream, b"{}");
    assert!(matches!(receive(&mut stream), Some(Answer::Malformed { .. })));
}

fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned()
}

#[tokio::test]
async fn the_filter_is_on_and_everything_honest_passes_it() {
    let home = Home::new();
    let running = home.start();
    assert_eq!(status(running.pid(), "Seccomp:"), "2");
    assert_eq!(status(running.pid(), "NoNewPrivs:"), "1");
    assert_eq!(status(running.pid(), "Threads:"), "1");
    use_it_all(&home, &running, 1).await;
    assert_eq!(status(running.pid(), "Threads:"), "1");
    assert!(running.terminate().success(), "an orderly end passes it too");
    assert!(!home.socket().exists());
}

/// The inodes of the sockets of the internet that the process's network holds.
fn inet_inodes(pid: u32) -> Vec<String> {
    let tables = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"];
    let text = |table| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("net").join(table));
    let rows = tables.iter().filter_map(|table| text(table).ok()).collect::<Vec<_>>();
    let rows = rows.iter().flat_map(|text| text.lines().skip(1));
    rows.filter_map(|row| row.split_whitespace().nth(9).map(str::to_owned)).collect()
}

#[tokio::test]
async fn no_network_socket_is_ever_open() {
    let home = Home::new();
    let running = home.start();
    for nonce in 0..20 {
        use_it_all(&home, &running, nonce).await;
        let Some(before) = socket_inodes(running.pid()) else {
            return println!("not looked: the process is undumpable and this user is not root");
        };
        let inet = inet_inodes(running.pid());
        let unix = fs::read_to_string(format!("/proc/{}/net/unix", running.pid())).expect("unix sockets");
        // A connection may have ended between two looks; what was there before and after was there.
        let after = socket_inodes(running.pid()).expect("the process");
        let own: Vec<_> = before.into_iter().filter(|inode| after.contains(inode)).collect();
        assert!(!own.is_empty(), "it listens on its Unix socket");
        for inode in own {
            assert!(!inet.contains(&inode), "socket {inode} is one of the internet");
            let is_unix = unix.lines().any(|line| line.split_whitespace().nth(6) == Some(inode.as_str()));
            assert!(is_unix, "socket {inode} is no Unix socket");
        }
    }
}

/// The process that `tracer` traces.
fn traced(tracer: u32) -> u32 {
    let path = format!("/proc/{tracer}/task/{tracer}/children");
    let began = Instant::now();
    loop {
        let children = fs::read_to_string(&path).expect("the tracer's children");
        if let Some(pid) = children.split_whitespace().next() {
            return pid.parse().expect("a pid");
        }
        assert!(began.elapsed() < PATIENCE, "the tracer started nothing");
    }
}

#[tokio::test]
async fn no_network_socket_is_ever_made() {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !is_there {
        return println!("not traced: strace is not installed");
    }
    let home = Home::new();
    let trace = home.path("trace");
    let trace_arg = trace.to_str().expect("a path in UTF-8");
    let running = home.start_under("strace", &["-f", "-e", "trace=network,execve", "-o", trace_arg]);
    let signer = traced(running.pid());
    assert_eq!(status(signer, "Seccomp:"), "2");
    for nonce in 0..3 {
        use_it_all(&home, &running, nonce).await;
    }
    // The tracer ends when what it traces has ended, with the same code.
    let pid = nix::unistd::Pid::from_raw(signer.try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
    assert!(running.wait().success());
    let calls = fs::read_to_string(&trace).expect("the trace");
    assert!(calls.contains("accept4("), "the trace saw the signer serve: {calls}");
    assert_eq!(calls.matches("execve(").count(), 1, "it runs no other program");
    for line in calls.lines() {
        assert!(!line.contains("AF_INET") && !line.contains("PF_INET"), "{line}");
        let makes_one = line.contains(" socket(") || line.contains(" socketpair(");
        assert!(!makes_one || line.contains("AF_UNIX"), "{line}");
    }
}
