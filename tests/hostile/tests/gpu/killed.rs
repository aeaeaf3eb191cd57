//! Ends that nobody announced: of a worker, of a client, of the runner. Nothing is left, and the next job works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fake_gpu_script::{Event, EventKind, Process, Script};
use hostile::gpu::{GpuRig, gemm, one_launch, order, small};
use hostile::observed::{children, jailed, loops};
use hostile::rig::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::client::ClientError;
use runner::protocol::{End, Exit, Refusal};

use crate::{assert_ran, small_job};

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it lives");
}

/// The process that started `pid`: of a worker, the first of its jail.
fn parent(pid: u32) -> u32 {
    let status = hostile::observed::status(pid, "PPid").expect("it lives");
    status.parse().expect("a pid")
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_worker_that_is_killed_over_its_job_ends_the_job_and_nothing_else() {
    let rig = GpuRig::healthy();
    for victim in [|worker| worker, parent] {
        let begun = rig.running(&one_launch("fault_hang"), 20);
        let asked = Instant::now();
        kill_9(victim(rig.worker()));
        let (launched, outputs) = begun.join().expect("no panic").expect("launched");
        assert_eq!((launched.end, outputs), (End::Died { exit: Exit::Signal(9) }, Vec::new()));
        assert!(asked.elapsed() < Duration::from_secs(10), "it was not noticed: {:?}", asked.elapsed());
        rig.still_works();
    }
}

#[test]
fn a_worker_that_is_killed_while_it_waits_is_replaced() {
    let rig = GpuRig::healthy();
    let worker = rig.worker();
    kill_9(worker);
    wait_for("another worker", || rig.workers().first().copied().filter(|other| *other != worker));
    rig.still_works();
}

/// The GPU is taken for a job when the worker for it fails to get warm; it must not stay so.
#[test]
fn a_worker_that_dies_before_it_is_warm_does_not_take_the_gpu_away() {
    let rig = GpuRig::offering(slow_to_begin);
    // Now and then the runner has made the next worker itself, and the job gets that.
    let lost_all = |_: &u32| {
        let waits = rig.worker();
        let jail = parent(waits);
        kill_9(waits);
        wait_for("its jail's end", || is_gone(jail).then_some(()));
        let (launch, fds) = order(&small_job(), 20);
        let begun = rig.begin(launch, fds);
        kill_9(wait_for("the next worker", || rig.workers().first().copied()));
        let answer = begun.join().expect("no panic");
        rig.still_works();
        matches!(answer, Err(ClientError::Refused(Refusal::NoGpu { .. })))
    };
    let times = (1..=10).find(lost_all).expect("a job that lost both its workers");
    println!("it had no worker at attempt {times}");
}

/// Whoever held the GPU last must be dead before it is waited for that nobody holds it.
#[test]
fn a_job_that_its_gpus_health_wants_dead_is_killed_before_the_gpu_is_looked_at() {
    let rig = GpuRig::healthy();
    let begun = rig.running(&one_launch("fault_hang"), 60);
    let worker = rig.worker();
    let asked = Instant::now();
    // The driver says who computes on the GPU, as long as that lives.
    rig.change(|script| {
        script.gpus[0].processes = vec![Process { pid: worker, vram_bytes: 1 << 20 }];
        script.events = vec![Event { gpu: 0, kind: EventKind::Xid, data: 13 }];
    });
    wait_for("the worker's end", || is_gone(worker).then_some(()));
    rig.change(|script| script.gpus[0].processes.clear());
    let (launched, _) = begun.join().expect("no panic").expect("launched");
    let End::GpuLost { why } = launched.end else { panic!("{:?}", launched.end) };
    assert!(why.contains("Xid 13"), "{why}");
    assert!(asked.elapsed() < Duration::from_secs(9), "killed after {:?}", asked.elapsed());
    rig.still_works();
}

#[test]
fn a_deadline_is_told_before_the_gpu_has_proved_itself() {
    // A canary that takes long; no other job has so much to begin with.
    let rig = GpuRig::offering(|script| {
        script.cuda.delay_ms.insert("cuInit".to_owned(), 3000);
    });
    let began = Instant::now();
    let (launched, _) = rig.launch_within(&one_launch("fault_hang"), 1).expect("launched");
    assert_eq!(launched.end, End::Deadline { seconds: 1 });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    rig.still_works();
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    let rig = GpuRig::healthy();
    let (launch, fds) = order(&one_launch("fault_hang"), 1);
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    let address = rustix::net::SocketAddrUnix::new(rig.rig.path("runner.sock")).expect("an address");
    rustix::net::connect(&socket, &address).expect("connect");
    let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
    let request = runner::protocol::Request::Launch(Box::new(launch));
    runner::wire::send(&socket, &request, &fds).expect("send");
    rig.becomes("busy with");
    drop(socket);
    rig.still_works();
}

/// Relative paths of everything below `dir`, links not followed.
fn below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path.clone());
            }
            found.insert(path.strip_prefix(dir).expect("below it").to_owned());
        }
    }
    found
}

fn assert_nothing_is_left(rig: &mut GpuRig, what: &str) {
    let before = below(&rig.rig.state(""));
    let spawner = rig.rig.spawner_pid();
    let processes: Vec<u32> = jailed(spawner).into_iter().chain(children(spawner)).chain([spawner]).collect();
    assert_eq!(rig.workers().len(), 1, "{what}");
    rig.rig.kill_runner();
    wait_for("the end of every process", || processes.iter().all(|pid| is_gone(*pid)).then_some(()));
    wait_for("the loop devices to be free", || loops(&rig.rig.state("")).is_empty().then_some(()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let state = rig.rig.state("").to_string_lossy().into_owned();
    assert!(!mounts.contains(state.trim_end_matches('/')), "{what}: {mounts}");
    rig.rig.start_runner();
    assert_eq!(rig.gpu().state.to_string(), "not proven yet", "{what}: what it was before counts for nothing");
    rig.still_works();
    let after = below(&rig.rig.state(""));
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

fn slow_to_begin(script: &mut Script) {
    script.cuda.delay_ms.insert("cuInit".to_owned(), 500);
}

#[test]
fn a_runner_that_is_killed_while_a_worker_waits_leaves_nothing() {
    let mut rig = GpuRig::offering(slow_to_begin);
    rig.still_works();
    assert_nothing_is_left(&mut rig, "a worker waits");
}

#[test]
fn a_runner_that_is_killed_while_a_job_runs_leaves_nothing() {
    let mut rig = GpuRig::offering(slow_to_begin);
    rig.still_works();
    let begun = rig.running(&one_launch("fault_hang"), 60);
    assert_nothing_is_left(&mut rig, "a job runs");
    assert!(begun.join().expect("no panic").is_err(), "whoever asked is told");
}

#[test]
fn a_runner_that_is_killed_while_a_gpu_proves_itself_leaves_nothing() {
    let mut script = small();
    slow_to_begin(&mut script);
    let mut rig = GpuRig::new(script);
    wait_for("a worker", || rig.workers().first().copied());
    rig.rig.kill_runner();
    rig.rig.start_runner();
    rig.still_works();
    let (launched, _) = rig.launch(&gemm(4, 4, 4)).expect("launched");
    assert_ran(&launched);
    rig.offered();
    assert_nothing_is_left(&mut rig, "a second time");
}

#[test]
fn a_runner_that_is_told_to_stop_ends_its_job_and_proves_nothing_any_more() {
    let mut rig = GpuRig::offering(|script| {
        script.cuda.delay_ms.insert("cuInit".to_owned(), 3000);
    });
    for job in [None, Some(one_launch("fault_hang"))] {
        let begun = job.map(|job| rig.running(&job, 60));
        let processes = jailed(rig.rig.spawner_pid());
        let asked = Instant::now();
        kill(Pid::from_raw(rig.rig.runner_pid().cast_signed()), Signal::SIGTERM).expect("it lives");
        rig.rig.runner_ended();
        let took = asked.elapsed();
        println!("the runner ended {took:?} after it was told to");
        assert!(took < Duration::from_secs(2), "{took:?}");
        wait_for("the end of every process", || processes.iter().all(|pid| is_gone(*pid)).then_some(()));
        if let Some(Ok((launched, _))) = begun.map(|begun| begun.join().expect("no panic")) {
            assert_eq!(launched.end, End::GpuLost { why: "the runner stops".to_owned() });
        }
        rig.rig.start_runner();
        rig.still_works();
    }
}
