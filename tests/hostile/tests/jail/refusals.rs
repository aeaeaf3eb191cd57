//! Who is heard, and what is understood.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use runner::client::{Client, ClientError};
use runner::protocol::{MESSAGE_BYTES_MAX, Refusal, Reply};
use runner::wire;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use hostile::rig::{MAIN, Rig, name, refusal, service, spec};

fn raw(rig: &Rig) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    connect(&socket, &SocketAddrUnix::new(rig.path("runner.sock")).expect("an address")).expect("connect");
    socket
}

fn answer_to(rig: &Rig, message: &[u8]) -> Refusal {
    let socket = raw(rig);
    rustix::net::send(&socket, message, SendFlags::NOSIGNAL).expect("send");
    match wire::receive(&socket).expect("a reply") {
        (Reply::Refused { refusal }, _) => refusal,
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_a_request_is_refused() {
    let rig = Rig::new();
    for (message, hint) in [
        (br#"{"op":"list","verbose":true}"#.to_vec(), "verbose"),
        (br#"{"op":"dance"}"#.to_vec(), "dance"),
        (br#"{"op":"logs","source":"../../etc","service":"a"}"#.to_vec(), "source name"),
        (br#"{"op":"prepare","source":"a","manifest":"latest"}"#.to_vec(), "digest"),
        (vec![b' '; MESSAGE_BYTES_MAX + 1], "65536"),
        (b"\xff\xfe".to_vec(), ""),
    ] {
        match answer_to(&rig, &message) {
            Refusal::BadRequest { detail } => assert!(detail.contains(hint), "{detail}"),
            other => panic!("{other}"),
        }
    }
    assert!(rig.client.list().expect("the runner lives on").is_empty());
}

#[test]
fn a_stranger_is_not_heard() {
    let rig = Rig::with(&["--allow-uid", "12345"]);
    let socket = rig.path("runner.sock");
    assert_eq!(std::fs::metadata(&socket).expect("stat").permissions().mode() & 0o7777, 0o660);
    // Uids belong to threads, as far as the kernel is concerned.
    let ask_as = |uid: u32| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            rustix::thread::set_thread_groups(&[]).expect("leave root's groups");
            let gid = rustix::process::Gid::from_raw(uid);
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("become another");
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("become another");
            // A connection belongs to whoever opened it.
            Client::new(socket).list()
        })
        .join()
        .expect("a thread")
    };
    // The way to the socket is open in this test, so that only the socket itself is in the way.
    std::fs::set_permissions(rig.path(""), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    assert!(matches!(ask_as(54321), Err(ClientError::Unreachable { .. })));
    assert!(ask_as(12345).is_ok());
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    assert_eq!(refusal(ask_as(54321)), Refusal::NotAllowed { uid: 54321 });
}

#[test]
fn a_source_that_nobody_started_is_named() {
    let rig = Rig::new();
    let source = name("a");
    assert!(matches!(refusal(rig.client.connect(&source, &service(MAIN), 1)), Refusal::NotOpen { .. }));
    assert!(matches!(refusal(rig.client.listener(&source)), Refusal::NotOpen { .. }));
    assert_eq!(rig.client.logs(&source, &service(MAIN)).expect("no log is an empty log"), "");
    let manifest = format!("sha256:{}", "1".repeat(64)).parse().expect("a digest");
    let start = || rig.client.start(&source, &service(MAIN), &manifest, spec(&["/x"]));
    assert!(matches!(refusal(start()), Refusal::NotOpen { .. }));
    rig.open(&source);
    assert!(matches!(refusal(start()), Refusal::BlobMissing { .. }));
    assert!(matches!(refusal(rig.client.connect(&source, &service(MAIN), 1)), Refusal::NotRunning { .. }));
    assert!(matches!(refusal(rig.client.connect(&source, &service("other"), 1)), Refusal::NoService { .. }));
}

#[test]
fn a_silent_crowd_is_bounded() {
    let rig = Rig::new();
    let crowd: Vec<OwnedFd> = (0..32).map(|_| raw(&rig)).collect();
    assert!(matches!(refusal(rig.client.list()), Refusal::Busy { limit: 32 }));
    drop(crowd);
    hostile::rig::wait_for("the crowd to leave", || rig.client.list().ok());
}
