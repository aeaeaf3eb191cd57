//! 68: results that were never computed. What the runner says of a service is what the kernel says, and what arrives
//! at a source's callback listener came from that source while it was open.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use hostile::attacks::{armed, over};
use hostile::guard::stranger;
use hostile::observed::{children, descriptors};
use hostile::rig::{MAIN, Rig, Setup, binary, callback, name, service, spec};
use runner::protocol::{Exit, Health, HealthTest, ServiceSpec, ServiceState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn rig() -> Rig {
    armed(Setup::default().program("/stranger", binary("stranger", "RIG_STRANGER")))
}

/// Panics if anybody calls within a second.
fn nobody_calls(listener: &TcpListener, who: &str) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&second));
    assert_eq!(ready.expect("poll"), 0, "{who}: {:?}", listener.accept());
}

/// Sockets that a process has open.
fn sockets(pid: u32) -> BTreeSet<PathBuf> {
    descriptors(pid).into_iter().filter(|to| to.to_string_lossy().starts_with("socket:")).collect()
}

#[test]
fn attack_68_the_runners_lines_are_not_among_the_services_descriptors() {
    let rig = rig();
    rig.run(&stranger(), spec(&["/stranger", "call"]));
    over(&rig, &stranger());
    let init = rig.jail_pid(&stranger());
    let job = *children(init).first().expect("the service");
    let open = descriptors(job);
    assert_eq!(open.len(), 3, "{open:?}");
    assert!(open[0].ends_with("dev/null") || open[0].ends_with("null"), "{open:?}");
    assert!(open[1..].iter().all(|to| to.to_string_lossy().starts_with("pipe:")), "{open:?}");
    assert!(!sockets(init).is_empty(), "the first process has its lifeline");
    assert!(sockets(job).is_empty(), "{:?}", sockets(job));
    // And nobody may open them through procfs: the first process is not to be traced by the service.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{init}/fd")).expect("stat"));
    assert_eq!(owner, 0, "what cannot be dumped belongs to root, in procfs");
    rig.still_works();
}

#[test]
fn attack_68_a_service_cannot_say_how_it_ended() {
    let rig = rig();
    let health = HealthTest {
        command: vec!["/stranger".to_owned(), "forge".to_owned()],
        interval_ms: 50,
        timeout_ms: 5_000,
        retries: 1,
        start_period_ms: 0,
    };
    rig.run(&stranger(), spec(&["/stranger", "forge"]));
    let ended = rig.ended(&stranger());
    assert_eq!(ended.exit, Exit::Code(7));
    let log = rig.log(&stranger());
    for line in log.lines().filter(|line| line.starts_with("opened")) {
        let own = ["opened 0 of self", "opened 1 of self", "opened 2 of self"];
        let own = own.iter().any(|own| line == *own || line == own.replace("self", "thread-self"));
        assert!(own, "{log}");
    }
    assert!(!log.contains("has "), "{log}");
    rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    // The same from a health test, which the runner's own process starts.
    rig.run(&stranger(), ServiceSpec { health: Some(health), ..spec(&["/stranger", "call"]) });
    let state = hostile::rig::wait_for("a health test", || match rig.service_state(&stranger(), &service(MAIN)) {
        ServiceState::Running { health: Health::Starting, .. } => None,
        other => Some(other),
    });
    assert!(matches!(state, ServiceState::Running { health: Health::Unhealthy, .. }), "{state:?}");
    rig.still_works();
}

#[test]
fn attack_68_a_grandchild_that_ends_well_does_not_end_well_for_the_service() {
    let rig = rig();
    for (script, expected) in [
        ("(exit 0) & (exit 0) & sleep 0.1; exit 7", Exit::Code(7)),
        ("(sleep 0.1; exit 0) & exit 7", Exit::Code(7)),
        ("kill -9 $$; exit 0", Exit::Signal(9)),
        ("exit 137", Exit::Code(137)),
        ("kill -9 1; kill -11 1; kill -19 1; kill -6 1; exit 9", Exit::Code(9)),
        ("exec /attack exit 5", Exit::Code(5)),
        ("trap '' TERM; sh -c 'kill -TERM $PPID'; exit 4", Exit::Code(4)),
    ] {
        rig.run(&stranger(), spec(&["/bin/sh", "-c", script]));
        assert_eq!(rig.ended(&stranger()).exit, expected, "{script}");
        rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    }
    rig.still_works();
}

#[test]
fn attack_68_a_call_back_reaches_its_own_sources_listener_and_no_other() {
    let rig = rig();
    let (honest, forging) = (name("honest"), name("forging"));
    rig.open(&honest);
    rig.run(&forging, spec(&["/stranger", "call", "of honest", "again", "and again"]));
    over(&rig, &forging);
    nobody_calls(&rig.client.listener(&honest).expect("its listener"), "another source");
    // It called as often as it liked: each is a connection of its own, to be judged by whoever listens.
    for text in ["of honest", "again", "and again"] {
        assert_eq!(rig.callback(&forging), text);
    }
    rig.still_works();
}

#[test]
fn attack_68_nothing_calls_back_once_the_service_has_ended() {
    let rig = rig();
    let script = "(sleep 0.4; /stranger call late) & (sleep 0.5; exec /stranger call later) & exit 0";
    rig.run(&stranger(), spec(&["/bin/sh", "-c", script]));
    assert_eq!(rig.ended(&stranger()).exit, Exit::Code(0));
    nobody_calls(&rig.client.listener(&stranger()).expect("it outlives the service"), "a daemon");
    rig.still_works();
}

#[test]
fn attack_68_a_result_that_an_earlier_run_left_is_not_the_next_ones() {
    let rig = rig();
    let source = stranger();
    rig.run(&source, spec(&["/stranger", "call", "left behind"]));
    over(&rig, &source);
    let old = rig.client.listener(&source).expect("the listener");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.open(&source);
    nobody_calls(&rig.client.listener(&source).expect("a new listener"), "the earlier run");
    // Who kept the old listener has what had arrived, and hears no more of the source.
    assert_eq!(callback(&old), "left behind");
    let manifest = rig.prepared(&source);
    rig.start(&source, &manifest, spec(&["/stranger", "call", "new"]));
    assert_eq!(rig.callback(&source), "new");
    nobody_calls(&old, "the new run");
    rig.still_works();
}

#[test]
fn attack_68_two_services_of_one_source_are_told_apart_by_who_they_are_not_by_what_they_say() {
    let rig = rig();
    let source = stranger();
    let (main, second) = (service(MAIN), service("second"));
    let manifest = rig.prepared(&source);
    rig.client.open(&source, hostile::rig::plan(&[MAIN, "second"])).expect("open");
    rig.client.start(&source, &main, &manifest, spec(&["/bin/sh", "-c", "sleep 0.2; exit 3"])).expect("start");
    rig.client.start(&source, &second, &manifest, spec(&["/stranger", "forge"])).expect("start");
    assert_eq!(rig.service_ended(&source, &main).exit, Exit::Code(3));
    assert_eq!(rig.service_ended(&source, &second).exit, Exit::Code(7));
    assert!(!rig.log(&source).contains("Ready"), "one's output is in the other's log");
    rig.still_works();
}
