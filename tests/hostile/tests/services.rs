//! 54: services that answer badly, as the runner meets them. What they say is read elsewhere; here they must not hold
//! up the runner, use up what it has, or reach another source.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hostile::attacks::{armed, attack, over};
use hostile::guard::stranger;
use hostile::rig::{MAIN, Rig, Setup, binary, name, refusal, service, spec, wait_for};
use runner::client::ClientError;
use runner::protocol::{Refusal, SourceName};

const PORT: u16 = 5555;

/// How long one connection into a jail may take: the runner's two seconds, and room.
const CONNECT_MAX: Duration = Duration::from_secs(4);

/// How long another question may wait meanwhile.
const ELSEWHERE_MAX: Duration = Duration::from_secs(1);

fn rig() -> Rig {
    armed(Setup::default().program("/stranger", binary("stranger", "RIG_STRANGER")))
}

fn connect(rig: &Rig, source: &SourceName) -> (Result<TcpStream, ClientError>, Duration) {
    let began = Instant::now();
    let answer = rig.client.connect(source, &service(MAIN), PORT);
    (answer, began.elapsed())
}

fn run(rig: &Rig, words: &[&str]) {
    rig.run(&stranger(), spec(&[&["/stranger"], words].concat()));
}

/// The descriptors of runner and spawner, when nothing is under way.
fn descriptors(rig: &Rig) -> u64 {
    rig.settle();
    let observed = rig.observed();
    observed.runner_descriptors + observed.spawner_descriptors
}

#[test]
fn attack_54_a_port_that_never_opens_is_said_to_be_closed_every_time() {
    let rig = rig();
    run(&rig, &["call"]);
    over(&rig, &stranger());
    let before = descriptors(&rig);
    for _ in 0..50 {
        let (answer, took) = connect(&rig, &stranger());
        assert!(matches!(refusal(answer), Refusal::NotListening { .. }));
        assert!(took < CONNECT_MAX, "{took:?}");
    }
    assert_eq!(descriptors(&rig), before);
    rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    rig.still_works();
}

#[test]
fn attack_54_a_service_that_takes_no_connection_holds_up_nobody_else() {
    let rig = rig();
    run(&rig, &["deaf", "5555"]);
    rig.printed(&stranger(), "serving");
    let mut kept = Vec::new();
    let full = wait_for("its queue to be full", || {
        let (answer, took) = connect(&rig, &stranger());
        assert!(took < CONNECT_MAX, "{took:?}");
        assert!(kept.len() < 64, "a queue of none takes {}", kept.len());
        answer.map(|stream| kept.push(stream)).err()
    });
    assert!(matches!(refusal::<()>(Err(full)), Refusal::NotListening { .. }));
    // Many wait in vain at once; who asks about something else is answered.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| connect(&rig, &stranger()));
        }
        for _ in 0..20 {
            let began = Instant::now();
            rig.client.list().expect("list");
            assert!(began.elapsed() < ELSEWHERE_MAX, "{:?}", began.elapsed());
        }
    });
    rig.still_works();
    let began = Instant::now();
    rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    assert!(began.elapsed() < ELSEWHERE_MAX * 2, "{:?}", began.elapsed());
}

#[test]
fn attack_54_a_service_that_says_nothing_costs_the_runner_nothing() {
    let rig = rig();
    run(&rig, &["mute", "5555"]);
    rig.printed(&stranger(), "serving");
    let before = descriptors(&rig);
    let streams: Vec<TcpStream> = (0..100).map(|_| connect(&rig, &stranger()).0.expect("it listens")).collect();
    assert_eq!(descriptors(&rig), before, "the runner keeps what it hands out");
    let mut byte = [0];
    for mut stream in &streams {
        let read = stream.read(&mut byte).expect_err("nothing was said");
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);
    }
    rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    // Whoever still waits is told that it is over.
    for mut stream in &streams {
        stream.set_nonblocking(false).expect("wait");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("but not for ever");
        assert!(!matches!(stream.read(&mut byte), Ok(1)), "somebody is still there");
    }
    rig.still_works();
}

#[test]
fn attack_54_a_service_that_answers_byte_by_byte_is_stopped_like_any_other() {
    let rig = rig();
    run(&rig, &["drip", "5555"]);
    rig.printed(&stranger(), "serving");
    let streams: Vec<TcpStream> = (0..16).map(|_| connect(&rig, &stranger()).0.expect("it listens")).collect();
    for mut stream in &streams {
        stream.set_nonblocking(false).expect("wait");
        assert_eq!(stream.read(&mut [0]).expect("a byte"), 1);
    }
    let began = Instant::now();
    rig.client.stop(&stranger(), Duration::ZERO).expect("stop");
    assert!(began.elapsed() < ELSEWHERE_MAX * 2, "{:?}", began.elapsed());
    for mut stream in streams {
        let mut rest = Vec::new();
        // The end, in peace or not; but the end.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 10_000);
    }
    rig.still_works();
}

#[test]
fn attack_54_a_flood_of_calls_back_reaches_neither_the_runner_nor_another_source() {
    let rig = rig();
    let (flooding, calling) = (name("flooding"), name("calling"));
    let manifest = rig.prepared(&flooding);
    rig.open(&flooding);
    rig.open(&calling);
    let (before, before_runner) = (descriptors(&rig), hostile::observed::tree(&rig.state("")).1);
    rig.start(&flooding, &manifest, attack(&["callback-flood", "20000"]));
    let said = over(&rig, &flooding);
    println!("{said}");
    // What the kernel holds for it is bounded by the listener's queue, not by what the job would like.
    let listener = rig.client.listener(&flooding).expect("the listener");
    let mut waiting = 0;
    while listener.accept().is_ok() {
        waiting += 1;
        assert!(waiting < 10_000, "a queue without end");
    }
    println!("{waiting} waited");
    let manifest = rig.prepared(&calling);
    rig.start(&calling, &manifest, spec(&["/stranger", "call", "me"]));
    assert_eq!(rig.callback(&calling), "me");
    drop(listener);
    rig.client.stop(&flooding, Duration::ZERO).expect("stop");
    rig.client.stop(&calling, Duration::ZERO).expect("stop");
    assert!(descriptors(&rig) <= before, "{} descriptors, {before} before", descriptors(&rig));
    let after = hostile::observed::tree(&rig.state("logs")).1;
    assert!(after <= before_runner + (16 << 20), "{after} bytes of logs");
    rig.still_works();
}

#[test]
fn attack_54_a_service_that_ends_before_it_is_asked_is_said_to_have_ended() {
    let rig = rig();
    rig.run(&stranger(), attack(&["exit", "3"]));
    assert_eq!(rig.ended(&stranger()).exit, runner::protocol::Exit::Code(3));
    let (answer, took) = connect(&rig, &stranger());
    assert!(matches!(refusal(answer), Refusal::NotRunning { .. }));
    assert!(took < ELSEWHERE_MAX, "{took:?}");
    rig.still_works();
}
