//! Ten thousand jobs in a row, after which the machine is as it was.
//!
//! `$RIG_JOBS` sets another number. What is counted is what can be seen from a process namespace of its own, so that
//! other jails on the machine are not counted, and an orphan of one of these would be.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostile::observed::{Observed, resident_bytes};
use hostile::oci::{self, Layer, Pack};
use hostile::rig::{MAIN, Rig, name, plan, service, spec, wait_for};
use runner::protocol::{
    Digest, Ending, Exit, Health, HealthTest, ServiceSpec, ServiceState, SourceName, SourcePlan, TmpfsMount,
    VolumeMount, VolumePlan,
};

/// How many kinds of jobs there are besides the short one.
const KINDS: u32 = 7;

/// Of so many jobs, one is of another kind than short.
const EVERY: u32 = 100;

/// How much more memory runner and spawner may have each: less than a KiB for each of ten thousand jobs.
const RESIDENT_BYTES_MORE_MAX: u64 = 8 << 20;

struct Jobs<'a> {
    rig: &'a Rig,
    image: Digest,
    shell: Digest,
    source: SourceName,
}

impl Jobs<'_> {
    /// Does job `number`, to its end.
    fn run(&self, number: u32) {
        match number % EVERY {
            0 => self.unusual(number / EVERY % KINDS),
            _ => self.job(&plan(&[MAIN]), true_that_writes_nothing(), Exit::Code(0)),
        }
    }

    fn job(&self, plan: &SourcePlan, spec: ServiceSpec, exit: Exit) {
        let client = &self.rig.client;
        client.open(&self.source, plan.clone()).expect("open");
        client.start(&self.source, &service(MAIN), &self.image, spec).expect("start");
        assert_eq!(self.rig.ended(&self.source).exit, exit);
        self.close();
    }

    fn close(&self) -> Ending {
        self.rig.client.stop(&self.source, Duration::ZERO).expect("stop")
    }

    fn unusual(&self, kind: u32) {
        let writable = ServiceSpec { read_only: false, ..true_that_writes_nothing() };
        match kind {
            // With a disk to write on.
            0 => self.job(&plan(&[MAIN]), writable, Exit::Code(0)),
            // With memory file systems.
            1 => {
                let mount = |target: &str| TmpfsMount { target: target.to_owned(), bytes: 1 << 20, mode: 0o755 };
                let tmpfs = vec![mount("/run"), mount("/var/cache")];
                self.job(&plan(&[MAIN]), ServiceSpec { tmpfs, ..writable }, Exit::Code(0));
            }
            // With a neighbour that is still there when it stops.
            2 => {
                self.rig.client.open(&self.source, plan(&[MAIN, "second"])).expect("open");
                self.start("second", &self.shell, spec(&["/bin/sleep", "1000"]));
                self.start(MAIN, &self.image, true_that_writes_nothing());
                assert_eq!(self.rig.ended(&self.source).exit, Exit::Code(0));
                assert_eq!(self.close(), Ending::Killed);
            }
            // With a health test.
            3 => {
                let command = vec!["/bin/true".to_owned()];
                let health = HealthTest { command, interval_ms: 10, timeout_ms: 5000, retries: 3, start_period_ms: 0 };
                self.rig.open(&self.source);
                self.start(MAIN, &self.shell, ServiceSpec { health: Some(health), ..spec(&["/bin/sleep", "1000"]) });
                wait_for("health", || {
                    let state = self.rig.service_state(&self.source, &service(MAIN));
                    matches!(state, ServiceState::Running { health: Health::Healthy, .. }).then_some(())
                });
                assert_eq!(self.close(), Ending::Killed);
            }
            // Killed.
            4 => {
                self.rig.open(&self.source);
                self.start(MAIN, &self.shell, spec(&["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]));
                assert_eq!(self.close(), Ending::Killed);
            }
            // Failing.
            5 => {
                self.job(&plan(&[MAIN]), ServiceSpec { command: Some(vec!["/fail".into()]), ..writable }, Exit::Code(3))
            }
            // With a volume, which is forgotten afterwards.
            _ => {
                let volume: runner::protocol::VolumeName = "kept".parse().expect("a name");
                let volumes = vec![VolumePlan { name: volume.clone(), bytes: 16 << 20 }];
                let mount = VolumeMount { volume, target: "/kept".to_owned(), read_only: false };
                let plan = SourcePlan { volumes, ..plan(&[MAIN]) };
                self.job(&plan, ServiceSpec { volumes: vec![mount], ..writable }, Exit::Code(0));
                self.rig.client.forget(&self.source).expect("forget");
            }
        }
    }

    fn start(&self, name: &str, image: &Digest, spec: ServiceSpec) {
        self.rig.client.start(&self.source, &service(name), image, spec).expect("start");
    }
}

fn true_that_writes_nothing() -> ServiceSpec {
    let mut spec = ServiceSpec { read_only: true, ..spec(&["/true"]) };
    spec.limits.scratch_bytes = 16 << 20;
    spec
}

/// What the machine holds once everything has come to rest: equal to `wanted`, or the last of many looks.
fn at_rest(rig: &Rig, wanted: Option<&Observed>) -> Observed {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = rig.observed();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let next = rig.observed();
        let is_enough = wanted.map_or(next == last, |wanted| next == *wanted);
        last = next;
        if is_enough || Instant::now() > deadline {
            return last;
        }
    }
}

/// Set where the jobs are run and counted.
const INSIDE: &str = "RIG_LEAKS_INSIDE";

#[test]
fn ten_thousand_jobs_leave_nothing_behind() {
    if std::env::var_os(INSIDE).is_some() {
        return run_and_count();
    }
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]);
    apart.arg(std::env::current_exe().expect("the path of this test"));
    apart.args(["--exact", "ten_thousand_jobs_leave_nothing_behind", "--nocapture"]).env(INSIDE, "1");
    let done = apart.stderr(Stdio::inherit()).output().expect("unshare of util-linux");
    // Without its summary: whoever counts tests would count this one twice.
    let said = String::from_utf8_lossy(&done.stdout);
    said.lines().filter(|line| !line.starts_with("test result:")).for_each(|line| println!("{line}"));
    assert!(done.status.success());
}

fn run_and_count() {
    let count: u32 = std::env::var("RIG_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let rig = Rig::new();
    let source = name("source");
    let layer = Layer::new()
        .file("true", 0o755, &oci::program_that_exits(0))
        .file("fail", 0o755, &oci::program_that_exits(3))
        .finish();
    let image = oci::image(&rig.content(), &[(layer, Pack::Plain)], "{}");
    rig.client.prepare(&source, &image).expect("prepare");
    let shell = rig.prepared(&source);
    let jobs = Jobs { rig: &rig, image, shell, source };
    // One of each kind first, so that what is made once has been made; and the logs have their length.
    (0..KINDS).for_each(|kind| jobs.unusual(kind));
    jobs.run(1);
    let before = at_rest(&rig, None);
    let resident = || [rig.runner_pid(), rig.spawner_pid()].map(resident_bytes);
    let resident_before = resident();
    println!("before {count} jobs:\n{before}");
    let began = Instant::now();
    for number in 0..count {
        jobs.run(number);
        if number % 1000 == 999 {
            println!("{} jobs in {:?}", number + 1, began.elapsed());
        }
    }
    // The last two are those of before, so that the same logs are there.
    jobs.unusual(KINDS - 1);
    jobs.run(1);
    let took = began.elapsed();
    let after = at_rest(&rig, Some(&before));
    println!("after {count} jobs in {took:?}, {:?} each:\n{after}", took / count.max(1));
    println!("resident bytes of runner and spawner: {resident_before:?} before, {:?} after", resident());
    for (before, after) in resident_before.into_iter().zip(resident()) {
        // The allocator keeps what it once had; what grows with the number of jobs is a leak.
        assert!(after <= before + RESIDENT_BYTES_MORE_MAX, "{before} bytes in memory became {after}");
    }
    for ((what, before), (_, after)) in before.counts().into_iter().zip(after.counts()) {
        assert_eq!(before, after, "{what}");
    }
}
