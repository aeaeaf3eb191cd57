//! Sources of several services: their names, ports, volumes, memory file systems and health.

use std::time::Duration;

use hostile::oci::{Head, Layer};
use hostile::rig::{MAIN, Rig, name, plan, refusal, service, spec, wait_for};
use runner::protocol::{
    Exit, Health, HealthTest, NetworkPolicy, Published, Refusal, ServiceSpec, ServiceState, SourceName, SourcePlan,
    TmpfsMount, VolumeMount, VolumePlan,
};

use crate::confinement::{probing, with_probe};

const FOR_EVER: [&str; 3] = ["/bin/sh", "-c", "echo ready; while :; do sleep 1000; done"];

fn calling(target: &str) -> ServiceSpec {
    let mut spec = probing("call");
    spec.environment.push(("RIG_TARGET".to_owned(), target.to_owned()));
    spec
}

fn script(script: &str) -> ServiceSpec {
    spec(&["/bin/sh", "-c", script])
}

fn with_volume(script_of: &str, target: &str) -> ServiceSpec {
    let volume = VolumeMount { volume: volume("models"), target: target.to_owned(), read_only: false };
    ServiceSpec { volumes: vec![volume], ..script(script_of) }
}

fn volume(name: &str) -> runner::protocol::VolumeName {
    name.parse().expect("a name")
}

fn plan_with_volume(bytes: u64) -> SourcePlan {
    SourcePlan { volumes: vec![VolumePlan { name: volume("models"), bytes }], ..plan(&[MAIN]) }
}

/// Runs one service to its end and answers how it ended and what it printed.
fn ran(rig: &Rig, source: &SourceName, of: &str, spec: ServiceSpec) -> (Exit, String) {
    let manifest = rig.prepared(source);
    rig.client.start(source, &service(of), &manifest, spec).expect("start");
    let ended = rig.service_ended(source, &service(of));
    (ended.exit, rig.client.logs(source, &service(of)).expect("logs"))
}

#[test]
fn services_find_each_other_by_name_alias_and_published_port() {
    let rig = with_probe();
    let source = name("a");
    let manifest = rig.prepared(&source);
    let plan = SourcePlan {
        aliases: vec![(service("model"), service("llm"))],
        published: vec![Published { port: 12436, service: service("llm"), target: 5555 }],
        ..plan(&["handler", "llm"])
    };
    assert!(!rig.client.open(&source, plan.clone()).expect("open"));
    assert!(rig.client.open(&source, plan).expect("open again"));
    rig.client.start(&source, &service("llm"), &manifest, probing("serve")).expect("start");
    for target in ["llm:5555", "model:5555", "host.docker.internal:12436"] {
        let (exit, log) = ran(&rig, &source, "handler", calling(target));
        assert!(exit == Exit::Code(0) && log.contains("answer=ok"), "{target}: {log}");
    }
}

#[test]
fn a_source_cannot_reach_the_services_of_another() {
    let rig = with_probe();
    let (one, other) = (name("one"), name("other"));
    rig.run(&one, probing("serve"));
    rig.client.open(&other, plan(&[MAIN, "second"])).expect("open");
    // 10.88.1.1 is the first service of every source; here it is the caller itself, on whose port nothing listens.
    let (_, log) = ran(&rig, &other, "second", calling("10.88.1.1:5555"));
    assert!(!log.contains("answer=ok"), "{log}");
}

#[test]
fn a_source_without_a_network_has_nobody_to_talk_to() {
    let rig = with_probe();
    let source = name("a");
    rig.client.open(&source, SourcePlan { network: NetworkPolicy::None, ..plan(&[MAIN]) }).expect("open");
    let (_, log) = ran(&rig, &source, MAIN, calling("10.88.0.1:20000"));
    assert!(log.contains("NetworkUnreachable"), "{log}");
    assert!(matches!(refusal(rig.client.listener(&source)), Refusal::BadPlan { .. }));
}

#[test]
fn a_volume_outlives_its_source_and_nothing_else_does() {
    let mut rig = Rig::new();
    let source = name("a");
    let write = "echo kept > /models/file; echo lost > /srv.file; echo done";
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    assert_eq!(ran(&rig, &source, MAIN, with_volume(write, "/models")).1, "done\n");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let read = "cat /data/models/file; cat /srv.file 2>/dev/null; echo done";
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    assert_eq!(ran(&rig, &source, MAIN, with_volume(read, "/data/models")).1, "kept\ndone\n");
    // Nor does the death of the runner harm it.
    rig.kill_runner();
    rig.start_runner();
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    assert_eq!(ran(&rig, &source, MAIN, with_volume(read, "/data/models")).1, "kept\ndone\n");
    assert!(matches!(refusal(rig.client.forget(&source)), Refusal::RunsDifferently { .. }));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.client.forget(&source).expect("forget");
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    assert_eq!(
        ran(&rig, &source, MAIN, with_volume(read, "/data/models")).1,
        "cat: /data/models/file: No such file or directory\ndone\n"
    );
}

#[test]
fn a_volume_that_lost_its_first_block_is_mended_or_named_and_never_made_anew() {
    let rig = Rig::new();
    let source = name("a");
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    assert_eq!(ran(&rig, &source, MAIN, with_volume("echo kept > /models/file", "/models")).0, Exit::Code(0));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let file = rig.state("volumes/0/models.img");
    let mut image = std::fs::read(&file).expect("the volume");
    image[1024..2048].fill(0xA5);
    std::fs::write(&file, &image).expect("damage it");
    match refusal(rig.client.open(&source, plan_with_volume(32 << 20))) {
        Refusal::Internal { detail } => assert!(detail.contains("models.img is damaged"), "{detail}"),
        other => panic!("{other}"),
    }
    assert_eq!(std::fs::read(&file).expect("the volume"), image, "what is damaged is left as it is");
    rig.client.forget(&source).expect("forget");
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
}

#[test]
fn an_empty_volume_takes_the_owner_of_what_it_covers() {
    let rig = Rig::new();
    let source = name("a");
    rig.client.open(&source, plan_with_volume(32 << 20)).expect("open");
    let prepared = Head { uid: 1000, ..Head::new(tar::EntryType::Directory, 0o750) };
    let layer = Layer::new().raw("made", prepared, b"").finish();
    let manifest = rig.prepared_with(&source, &[layer]);
    let script = with_volume("echo mine > /made/file && cat /made/file", "/made");
    let as_app = ServiceSpec { user: Some("1000".to_owned()), ..script };
    rig.start(&source, &manifest, as_app);
    assert_eq!(rig.ended(&source).exit, Exit::Code(0), "{}", rig.log(&source));
    assert_eq!(rig.log(&source), "mine\n");
}

#[test]
fn what_a_service_writes_ends_at_its_size() {
    let rig = Rig::new();
    let source = name("a");
    let mut small = script("cat /dev/zero > /full 2>/dev/null; echo full > /tmp/note; cat /tmp/note");
    small.limits.scratch_bytes = 32 << 20;
    rig.open(&source);
    assert_eq!(ran(&rig, &source, MAIN, small).1, "full\n");
    assert_eq!(rig.runs(), 0);
}

#[test]
fn memory_file_systems_have_their_size_and_mode() {
    let rig = Rig::new();
    let source = name("a");
    rig.open(&source);
    let mount = |target: &str, mode| TmpfsMount { target: target.to_owned(), bytes: 1 << 20, mode };
    let tmpfs = vec![mount("/cache/inner", 0o700), mount("/tmp", 0o1777), mount("/cache", 0o755)];
    let fill = "for at in /cache /cache/inner /tmp /dev/shm; do cat /dev/zero > $at/x 2>/dev/null; done; echo done";
    let mut sealed = ServiceSpec { tmpfs, read_only: true, ..script(fill) };
    sealed.limits.shm_bytes = 1 << 20;
    assert_eq!(ran(&rig, &source, MAIN, sealed).1, "done\n");
    let twice = vec![mount("/cache", 0o755), mount("/cache", 0o755)];
    let manifest = rig.prepared(&source);
    let start = |spec| rig.client.start(&source, &service(MAIN), &manifest, spec);
    assert!(matches!(refusal(start(ServiceSpec { tmpfs: twice, ..script("") })), Refusal::BadService { .. }));
    let unknown = with_volume("", "/models");
    assert!(matches!(refusal(start(unknown)), Refusal::BadService { .. }));
}

#[test]
fn a_health_test_runs_inside_and_its_changes_are_told() {
    let rig = Rig::new();
    let source = name("a");
    let test = |script: &str| HealthTest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        interval_ms: 100,
        timeout_ms: 2_000,
        retries: 2,
        start_period_ms: 0,
    };
    let health = |rig: &Rig| match rig.service_state(&source, &service(MAIN)) {
        ServiceState::Running { health, .. } => health,
        ended @ ServiceState::Exited { .. } => panic!("{ended:?}"),
    };
    let becomes = |rig: &Rig, wanted| wait_for("another health", || (health(rig) == wanted).then_some(()));
    let well =
        "sleep 0.3; echo x > /tmp/well; echo ready; sleep 1; cat /dev/null > /tmp/ill; while :; do sleep 1000; done";
    let check = test("echo noise; test -e /tmp/well && ! test -e /tmp/ill");
    rig.run(&source, ServiceSpec { health: Some(check), ..script(well) });
    assert_eq!(health(&rig), Health::Starting);
    becomes(&rig, Health::Healthy);
    becomes(&rig, Health::Unhealthy);
    assert!(!rig.log(&source).contains("noise"));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.open(&source);
    let slow = HealthTest { timeout_ms: 100, ..test("sleep 1000") };
    let manifest = rig.prepared(&source);
    rig.start(&source, &manifest, ServiceSpec { health: Some(slow), ..spec(&FOR_EVER) });
    becomes(&rig, Health::Unhealthy);
}

#[test]
fn one_service_ends_and_starts_again_beside_the_others() {
    let rig = Rig::new();
    let source = name("a");
    let manifest = rig.prepared(&source);
    rig.client.open(&source, plan(&["one", "two"])).expect("open");
    for of in ["one", "two"] {
        rig.client.start(&source, &service(of), &manifest, spec(&FOR_EVER)).expect("start");
    }
    rig.client.stop_service(&source, &service("one"), Duration::ZERO).expect("stop");
    assert!(matches!(rig.service_state(&source, &service("two")), ServiceState::Running { .. }));
    let waited = rig.client.wait(&source, &service("two"), Duration::from_millis(10)).expect("wait");
    assert!(matches!(waited, ServiceState::Running { .. }));
    rig.client.start(&source, &service("one"), &manifest, script("exit 5")).expect("start");
    let waited = rig.client.wait(&source, &service("one"), Duration::from_secs(30)).expect("wait");
    assert!(matches!(waited, ServiceState::Exited { exit: Exit::Code(5), .. }), "{waited:?}");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    assert!(rig.client.list().expect("list").is_empty());
}

#[test]
fn a_plan_that_cannot_be_carried_out_is_refused_with_the_reason() {
    let rig = Rig::new();
    let source = name("a");
    let port = |port, of: &str| Published { port, service: service(of), target: 80 };
    let many = (0..17).map(|number| service(&format!("s{number}"))).collect();
    for (bad, says) in [
        (plan(&[]), "no service"),
        (plan(&["a", "a"]), "two of its services"),
        (SourcePlan { services: many, ..plan(&["a"]) }, "17 services"),
        (SourcePlan { aliases: vec![(service("b"), service("c"))], ..plan(&["a"]) }, "none of its services"),
        (SourcePlan { published: vec![port(1, "b")], ..plan(&["a"]) }, "none of its services"),
        (SourcePlan { network: NetworkPolicy::Internet, ..plan(&["a"]) }, "--egress"),
        (SourcePlan { network: NetworkPolicy::None, published: vec![port(1, "a")], ..plan(&["a"]) }, "no network"),
    ] {
        match refusal(rig.client.open(&source, bad)) {
            Refusal::BadPlan { detail } => assert!(detail.contains(says), "{detail}"),
            other => panic!("{other}"),
        }
    }
    rig.open(&source);
    assert!(matches!(refusal(rig.client.open(&source, plan(&["other"]))), Refusal::RunsDifferently { .. }));
}
