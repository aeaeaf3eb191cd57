//! Files that were written to get at something, and the first shapes of real ones.

use std::time::{Duration, Instant};

use appliance::compose::ComposeError;

use super::{parse, says, service};

#[test]
fn files_in_the_shape_of_real_sources_are_understood() {
    let text_to_text = r#"
version: "3.8"
services:
  text-to-text:
    image: registry.example/t2t:cpu@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    pull_policy: always
    container_name: t2t
    ports:
      - "${PORT}:5555"
      - "12436:11434"
    environment:
      - CALLBACK_URL=${CALLBACK_URL}
      - PORT=${PORT}
      - TZ
    extra_hosts:
      - "host.docker.internal:host-gateway"
    restart: on-failure:3
    logging: { driver: json-file, options: { max-size: 10m } }
    deploy:
      resources:
        reservations:
          devices: [{ driver: nvidia, count: all, capabilities: [gpu] }]
networks:
  default: { driver: bridge }
"#;
    let plan = parse(text_to_text).expect("it is understood");
    let service = &plan.services[plan.main];
    assert_eq!(service.name, "text-to-text");
    assert_eq!(service.environment.len(), 2, "a name without a value has none here");
    assert_eq!(service.environment[1], ("PORT".to_owned(), "5555".to_owned()));

    let anchored = r#"
x-common: &common
  CALLBACK_URL: ${CALLBACK_URL}
  THREADS: 4
  RATE: 0.5
  DEBUG: false
  NOTHING:
  EMPTY: ""
services:
  worker:
    image: registry.example/worker
    read_only: true
    user: 1000
    working_dir: /app
    environment: *common
    entrypoint: ["python", "-m"]
    command: server --name "two words" --path=${SOURCE_ADDRESS}
    cap_drop: [ALL]
"#;
    let plan = parse(anchored).expect("it is understood").services.remove(0);
    let value = |name: &str| plan.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("CALLBACK_URL"), Some("http://host.docker.internal:20000/t/task"));
    assert_eq!([value("THREADS"), value("RATE"), value("DEBUG")], [Some("4"), Some("0.5"), Some("false")]);
    assert_eq!((value("NOTHING"), value("EMPTY")), (None, Some("")));
    assert_eq!(plan.command, Some(["server", "--name", "two words", "--path=0xS"].map(str::to_owned).to_vec()));
    assert_eq!((plan.user.as_deref(), plan.read_only), (Some("1000"), true));
}

#[test]
fn whatever_opens_the_box_is_refused_with_its_path() {
    for lines in [
        "privileged: true",
        "cap_add: [SYS_PTRACE]",
        "network_mode: host",
        "network_mode: service:b",
        "pid: host",
        "ipc: host",
        "uts: host",
        "userns_mode: host",
        "cgroup: host",
        "cgroup_parent: /",
        "devices: [/dev/kfd, /dev/dri]",
        "device_cgroup_rules: ['c 1:3 mr']",
        "security_opt: [seccomp=unconfined]",
        "runtime: nvidia",
        "sysctls: { net.core.somaxconn: 1 }",
        "volumes: ['/data:/workspace']",
        "volumes: ['/:/host']",
        "volumes_from: [b]",
        "configs: [c]",
        "secrets: [s]",
        "env_file: .env",
        "extends: { file: other.yml, service: b }",
        "group_add: [video, '991']",
        "dns: 169.254.169.254",
        "credential_spec: { file: x }",
        "PRIVILEGED: true",
    ] {
        let key = lines.split(':').next().expect("a key");
        let message = says(lines);
        assert!(
            message.starts_with(&format!("`services.a.{key}")) && message.contains("` is refused: "),
            "{lines}: {message}"
        );
    }
    let shown = parse("services: {a: {image: i, \"\\e[2Jx\": 1}}").expect_err("refused").to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    let unnamed = parse("services: {\"a\\e[2J\": {image: i}}").expect_err("refused").to_string();
    assert!(unnamed.ends_with("is no name for a service") && !unnamed.chars().any(char::is_control), "{unnamed:?}");
    let included = parse("include: [other.yml]\nservices: {a: {image: i}}").expect_err("refused");
    assert!(included.to_string().starts_with("`include` is refused: "), "{included}");
}

#[test]
fn a_merge_key_does_not_smuggle_anything_in() {
    let text = "x-bad: &bad { privileged: true }\nservices:\n  a:\n    image: i\n    <<: *bad\n";
    assert!(matches!(parse(text), Err(ComposeError::Refused { .. } | ComposeError::Syntax { .. })));
}

#[test]
fn nothing_but_the_four_names_is_filled_in() {
    for name in ["PROVIDER_PRIVATE_KEY", "PATH", "HOME", "callback_url", "CALLBACK_URL_"] {
        let message = says(&format!("environment: {{ K: '${{{name}}}' }}"));
        assert_eq!(message, format!("`services.a.environment.K` asks for ${{{name}}}, which this rig does not offer"));
    }
    for (text, filled) in [
        ("$PORT", "5555"),
        ("${PORT}${PORT}", "55555555"),
        ("$$PORT", "$PORT"),
        ("$${PORT}", "${PORT}"),
        ("${NO:-}", ""),
        ("${NO-a b}", "a b"),
        ("${NO:-$PORT}", "5555"),
        ("${PORT:+x}", "x"),
        ("${NO:+x}", ""),
        ("${PORT:?must be there}", "5555"),
        ("p=$PORT.", "p=5555."),
    ] {
        assert_eq!(service(&format!("environment: {{ K: '{text}' }}")).services[0].environment[0].1, filled, "{text}");
    }
    for text in ["${PORT", "$", "${}", "${ PORT }", "${PORT:x}", "${!PORT}", "100$ ", "${PO RT}"] {
        let message = says(&format!("environment: {{ K: '{text}' }}"));
        assert!(message.starts_with("`services.a.environment.K` has a `${` that does not end"), "{text}: {message}");
    }
    assert!(says("command: 'python ${SECRET}'").contains("`services.a.command`"));
    assert!(says("command: [python, '${SECRET}']").contains("`services.a.command[1]`"));
    assert!(says("working_dir: $SECRET").contains("`services.a.working_dir`"));
    assert!(says("command: python 'a").contains("`services.a.command` has a quote"));
}

#[test]
fn a_file_made_to_hurt_the_parser_is_an_error_in_no_time() {
    let bomb = {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{},", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        text + "services: {a: {image: i, environment: *a11}}\n"
    };
    let cases = [
        ("aliases that multiply", bomb),
        ("an alias to itself", "services: &s {a: {image: i, x-a: *s}}".to_owned()),
        ("an alias to nothing", "services: {a: {image: *none}}".to_owned()),
        ("lists in lists", format!("services: {{a: {{image: i, x-a: {}}}}}", "[".repeat(10_000))),
        ("maps in maps", "{a: ".repeat(10_000)),
        ("closed lists in lists", format!("x-a: {}{}\nservices: {{}}", "[".repeat(10_000), "]".repeat(10_000))),
        ("indented maps", (0..3_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 400))).collect()),
        ("one key twice", "services: {a: {image: i, image: j}}".to_owned()),
        ("one service twice", "services:\n  a: {image: i}\n  a: {image: j}\n".to_owned()),
        ("one variable twice", "services: {a: {image: i, environment: {K: 1, K: 2}}}".to_owned()),
        ("tabs", "services:\n\ta:\n\t\timage: i\n".to_owned()),
        ("two documents", "services: {a: {image: i}}\n---\nservices: {b: {image: j}}\n".to_owned()),
        ("a tag", "services: {a: {image: !!python/object/apply:os.system [id]}}".to_owned()),
        ("control characters", "services: {a: {image: \"i\0\u{1}\"}}\u{0}".to_owned()),
        ("an image that is a list", "services: {a: {image: [i]}}".to_owned()),
        ("an image that is nothing", "services: {a: {image: }}".to_owned()),
        ("a service that is nothing", "services: {a: }".to_owned()),
        ("services in a list", "services: [{image: i}]".to_owned()),
        ("nothing", "\n\n# only a comment\n".to_owned()),
        ("a command of maps", "services: {a: {image: i, command: [{a: b}]}}".to_owned()),
        ("a variable of maps", "services: {a: {image: i, environment: {K: {a: b}}}}".to_owned()),
        ("a quote without an end", "services: {a: {image: \"i}}".to_owned()),
    ];
    for (what, text) in cases {
        let began = Instant::now();
        // Half of what a worker thread has.
        let outcome = std::thread::Builder::new().stack_size(1 << 20).spawn(move || parse(&text).map(|_| ()));
        let outcome = outcome.expect("a thread").join().expect("no panic");
        assert!(outcome.is_err(), "{what}");
        let message = outcome.expect_err(what).to_string();
        assert!(message.chars().count() < 400 && !message.chars().any(char::is_control), "{what}: {message}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what} took {:?}", began.elapsed());
    }
}

#[test]
fn a_file_as_large_as_is_read_takes_no_time_either() {
    let huge = "x".repeat(200_000);
    let many: String = (0..8_000).map(|n| format!("      K{n}: v\n")).collect();
    for text in [
        format!("services: {{a: {{image: i, command: {huge}}}}}"),
        format!("services: {{a: {{image: i, x-note: {huge}}}}}"),
        format!("services:\n  a:\n    image: i\n    environment:\n{many}"),
        format!("services: {{a: {{image: i, command: '{}'}}}}", "$$".repeat(100_000)),
        format!("services: {{a: {{image: i, command: '{}'}}}}", "${PORT}".repeat(30_000)),
    ] {
        let began = Instant::now();
        let _ = parse(&text);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?} for {:.60}", began.elapsed(), text);
    }
}
