//! Files in the shapes that real sources have (protocol §3.4).

use appliance::compose::plan::{Condition, Gpus, Health, Mount, Published, Restart, Service, Tmpfs, Volume};
use appliance::compose::{Exception, Exceptions, Plan};

use super::{offer, parse, service};

fn by_name<'a>(plan: &'a Plan, name: &str) -> &'a Service {
    plan.services.iter().find(|service| service.name == name).expect(name)
}

fn value<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    service.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[test]
fn two_services_with_a_model_server_behind_a_fixed_port_are_understood() {
    let plan = parse(
        r#"
services:
  handler:
    image: registry.example/handler:cuda
    pull_policy: always
    ports:
      - "${PORT}:5555"
    environment:
      - CALLBACK_URL=${CALLBACK_URL}
      - OLLAMA_URL=http://host.docker.internal:12436
      - MODEL=${MODEL:-small}
      - PORT
      - TZ
    extra_hosts:
      - "host.docker.internal:host-gateway"
    depends_on:
      - model
    networks: [inner]
    restart: unless-stopped
  model:
    image: registry.example/model:1.2@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    container_name: the-model
    ports: ["12436:11434"]
    volumes:
      - models:/root/.cache
    networks: { inner: { aliases: [llm] } }
    deploy:
      resources:
        reservations:
          devices: [{ driver: nvidia, count: "${GPUS:-1}", capabilities: [gpu] }]
volumes:
  models:
  unused:
networks:
  inner: { driver: bridge }
"#,
    )
    .expect("it is understood");
    assert_eq!(plan.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(), ["model", "handler"]);
    assert_eq!((plan.main, plan.main_port), (1, 5555));
    assert_eq!(plan.published, [Published { host_port: 12436, service: 0, port: 11434 }]);
    assert_eq!(plan.volumes, [Volume { name: "models".into(), bytes: None }]);
    let (model, handler) = (&plan.services[0], &plan.services[1]);
    assert_eq!(model.mounts, [Mount { volume: 0, target: "/root/.cache".into(), read_only: false }]);
    assert_eq!((model.gpus, model.aliases.as_slice()), (Some(Gpus::Count(1)), &["the-model".into(), "llm".into()][..]));
    assert_eq!(handler.depends_on, [(0, Condition::Started)]);
    assert_eq!(handler.restart, Restart::Always);
    assert_eq!(
        [value(handler, "MODEL"), value(handler, "PORT"), value(handler, "TZ")],
        [Some("small"), Some("5555"), None]
    );
    assert_eq!(
        plan.notes,
        [
            "`services.handler.pull_policy` is ignored: the image is pinned to the digest that its tag had first",
            "`volumes.unused` is ignored: no service mounts it",
        ]
    );
    assert!(plan.exceptions.is_empty());
}

/// Several of the keys that a jail refuses, as one real source has them all.
const GREEDY: &str = r#"
x-gpu: &gpu
  runtime: nvidia
  ipc: host
  shm_size: 16G
  deploy:
    resources:
      reservations:
        devices: [{ driver: nvidia, count: all, capabilities: [gpu] }]
services:
  worker:
    <<: *gpu
    image: registry.example/worker:1
    ports: ["${PORT}:5555"]
    cap_add: [SYS_PTRACE]
    security_opt: ["seccomp=unconfined"]
    ulimits: { memlock: -1, stack: 67108864, nofile: { soft: 65536, hard: 1048576 } }
    volumes: ["/data:/workspace", "/data/control:/control:ro", "/etc/localtime:/etc/localtime:ro"]
    depends_on:
      signer: { condition: service_healthy }
    environment: { CALLBACK_URL: "${CALLBACK_URL:?}", SIGNER: "http://signer:8000" }
  signer:
    image: registry.example/signer:1
    read_only: true
    tmpfs: ["/tmp:size=64m,mode=1777", "/run"]
    security_opt: ["no-new-privileges:true"]
    cap_drop: [ALL]
    restart: on-failure:3
    stop_grace_period: 1m30s
    environment: ["PROVIDER_PRIVATE_KEY=${PROVIDER_PRIVATE_KEY:-}"]
    volumes: ["/data/control:/control"]
    healthcheck: { test: "wget -q -O - localhost:8000/health", interval: 5s, retries: 12 }
    logging: { driver: json-file, options: { max-size: "10m" } }
    command: serve --port 8000
"#;

#[test]
fn a_source_that_asks_for_the_host_runs_without_it_once_its_owner_allows_that() {
    let mut allowed = Exceptions::default();
    let mut refusals = Vec::new();
    let plan = loop {
        match Plan::parse(GREEDY, &offer(), &allowed) {
            Ok(plan) => break plan,
            Err(error) => {
                let error = error.to_string();
                let named = Exception::ALL.into_iter().find(|exception| error.contains(exception.name()));
                assert!(allowed.0.insert(named.expect(&error)), "{error}");
                refusals.push(error);
            }
        }
    };
    assert_eq!(refusals.len(), 5, "{refusals:#?}");
    assert_eq!(
        plan.exceptions,
        ["ignore-cap-add", "ignore-ipc-host", "ignore-runtime", "ignore-security-opt", "volume-for-bind"]
    );
    let noted = "`services.worker.cap_add` is not run, as the owner allows (ignore-cap-add): no capability is given";
    assert!(plan.notes.iter().any(|note| note == noted), "{:#?}", plan.notes);
    let nested = "/data/control and /data are two volumes here, and share no files";
    assert!(plan.notes.iter().any(|note| note.ends_with(nested)), "{:#?}", plan.notes);
    let (signer, worker) = (by_name(&plan, "signer"), by_name(&plan, "worker"));
    assert_eq!(plan.main, 1);
    assert_eq!(worker.depends_on, [(0, Condition::Healthy)]);
    assert_eq!((worker.shm_bytes, worker.open_files, worker.gpus), (Some(16 << 30), Some(1 << 20), Some(Gpus::All)));
    assert_eq!(value(signer, "PROVIDER_PRIVATE_KEY"), Some(""));
    assert_eq!(
        signer.tmpfs,
        [
            Tmpfs { target: "/tmp".into(), bytes: 64 << 20, mode: Some(0o1777) },
            Tmpfs { target: "/run".into(), bytes: 256 << 20, mode: None },
        ]
    );
    assert_eq!((signer.restart, signer.stop_grace_ms), (Restart::OnFailure { max: Some(3) }, Some(90_000)));
    assert!(signer.read_only);
    let health = signer.health.as_ref().expect("it has a check");
    assert_eq!(health.test, ["/bin/sh", "-c", "wget -q -O - localhost:8000/health"]);
    assert_eq!((health.interval_ms, health.retries), (5_000, 12));
    // One path of the host is one volume, in whichever service; the clock is none.
    assert_eq!(plan.volumes.len(), 2);
    assert!(plan.volumes.iter().all(|volume| volume.name.starts_with("host-data")), "{:?}", plan.volumes);
    assert_eq!(worker.mounts.len(), 2);
    assert_eq!(worker.mounts[1].volume, signer.mounts[0].volume);
    assert_eq!((worker.mounts[1].read_only, signer.mounts[0].read_only), (true, false));
}

#[test]
fn an_exception_that_is_not_needed_is_not_reported() {
    let all: Exceptions = Exception::ALL.into_iter().collect();
    let plan = Plan::parse("services: {a: {image: i, cap_add: [], privileged: false}}", &offer(), &all);
    assert!(plan.expect("it asks for nothing").exceptions.is_empty());
    for lines in ["privileged: true", "network_mode: host", "pid: host", "uts: host", "userns_mode: host"] {
        let error = Plan::parse(&super::file(lines), &offer(), &all).map(|_| ()).expect_err(lines);
        assert!(error.to_string().contains("is refused"), "{lines}: no exception opens the box");
    }
}

#[test]
fn limits_are_those_of_the_file_in_bytes_and_thousandths() {
    let plan = service(
        "mem_limit: 512m\ncpus: 0.25\npids_limit: 100\nulimits: { nproc: 200, core: 0 }\n\
         deploy: { replicas: 1, resources: { limits: { memory: 2g, cpus: '1.5' } } }\nshm_size: 1073741824\ntmpfs: /dev/shm:size=1m",
    );
    let one = &plan.services[0];
    assert_eq!((one.memory_bytes, one.cpu_millis, one.processes), (Some(2 << 30), Some(1500), Some(200)));
    assert_eq!((one.shm_bytes, one.tmpfs.len()), (Some(1 << 30), 0));
    let plan = service("ulimits: { nofile: 99999999, nproc: -1 }\nstop_grace_period: 1h\nmem_limit: 0\ncpus: 0");
    let one = &plan.services[0];
    assert_eq!((one.open_files, one.processes, one.stop_grace_ms), (Some(1 << 20), None, Some(120_000)));
    assert_eq!((one.memory_bytes, one.cpu_millis), (None, None));
    assert_eq!(plan.notes.len(), 3, "{:#?}", plan.notes);
}

#[test]
fn graphics_processors_are_counted_however_they_are_asked_for() {
    for (lines, gpus) in [
        ("gpus: all", Gpus::All),
        ("gpus: [{ count: 2 }]", Gpus::Count(2)),
        ("gpus: [{ driver: nvidia }]", Gpus::All),
        ("deploy: { resources: { reservations: { devices: [{ capabilities: [gpu], count: 3 }] } } }", Gpus::Count(3)),
        (
            "deploy: { resources: { reservations: { devices: [{ capabilities: [gpu], device_ids: ['0', '3'] }] } } }",
            Gpus::Count(2),
        ),
        ("deploy: { resources: { reservations: { devices: [{ capabilities: [compute, gpu] }] } } }", Gpus::All),
    ] {
        assert_eq!(service(lines).services[0].gpus, Some(gpus), "{lines}");
    }
    assert_eq!(service("deploy: { resources: { reservations: { memory: 1g } } }").services[0].gpus, None);
}

#[test]
fn a_check_of_health_is_a_command_or_nothing() {
    for (lines, test) in [
        ("{ test: curl -f localhost }", &["/bin/sh", "-c", "curl -f localhost"][..]),
        ("{ test: [CMD-SHELL, curl -f localhost || exit 1] }", &["/bin/sh", "-c", "curl -f localhost || exit 1"]),
        ("{ test: [CMD, curl, -f, localhost] }", &["curl", "-f", "localhost"]),
    ] {
        let health = Health {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            interval_ms: 30_000,
            timeout_ms: 30_000,
            retries: 3,
            start_period_ms: 0,
        };
        assert_eq!(service(&format!("healthcheck: {lines}")).services[0].health.as_ref(), Some(&health), "{lines}");
    }
    for lines in ["{ test: [NONE] }", "{ disable: true, test: x }", "{ interval: 5s }", "{ disable: true }"] {
        assert_eq!(service(&format!("healthcheck: {lines}")).services[0].health, None, "{lines}");
    }
}

#[test]
fn ports_lead_to_services_in_every_form() {
    let plan = parse(
        "services:\n  b: {image: i, ports: ['127.0.0.1:9000:90', '[::1]:9001:91', '9002', {target: 93, published: '9003'}]}\n  \
         a: {image: i, ports: [{target: 6000, published: '${PORT}', protocol: tcp, mode: host}], links: ['b:db']}\n",
    )
    .expect("it is understood");
    assert_eq!((plan.main, plan.main_port), (1, 6000));
    let ports: Vec<_> = plan.published.iter().map(|port| (port.host_port, port.service, port.port)).collect();
    assert_eq!(ports, [(9000, 0, 90), (9001, 0, 91), (9003, 0, 93)]);
    assert_eq!(plan.services[0].aliases, ["db"]);
    assert_eq!(plan.services[1].depends_on, [(0, Condition::Started)]);
    assert_eq!(plan.notes.len(), 3, "{:#?}", plan.notes);
}

#[test]
fn a_service_of_a_profile_stays_out() {
    let plan = parse(
        "services:\n  a: {image: i, depends_on: {debug: {condition: service_started, required: false}}}\n  \
         debug: {image: i, profiles: [debug], privileged: true}\n",
    )
    .expect("it is understood");
    assert_eq!(plan.services.len(), 1);
    assert!(plan.notes[0].starts_with("`services.debug` is ignored: it has `profiles`"), "{:#?}", plan.notes);
}

#[test]
fn a_volume_says_how_large_it_may_grow() {
    let plan = parse(
        "services: {a: {image: i, volumes: ['x:/x', 'y:/y', 'z:/z', {type: volume, source: w, target: /w, read_only: true}, /anonymous]}}\n\
         volumes: {x: {x-size: 20G}, y: {driver: local, driver_opts: {size: 1g}}, z: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=100m,uid=1000'}}, w: {}}\n",
    )
    .expect("it is understood");
    let sizes: Vec<_> = plan.volumes.iter().map(|volume| volume.bytes).collect();
    assert_eq!(sizes, [Some(20 << 30), Some(1 << 30), Some(100 << 20), None, None]);
    assert!(plan.volumes[4].name.starts_with("anonymous-"), "{:?}", plan.volumes[4]);
    assert!(plan.services[0].mounts[3].read_only);
}
