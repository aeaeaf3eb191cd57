//! 51 and 53: images whose configuration asks for what no job gets, and whose tree stands where the runner mounts.
//!
//! Either the start is refused with a reason, or what runs is what it would be without the trick: its working
//! directory, its ids, its program, its environment and its mounts are read from outside.

use std::os::unix::fs::MetadataExt as _;

use hostile::guard::{Guard, View, bottom, stranger};
use hostile::observed::{children, status};
use hostile::raw_tar::{Entry, RawTar, kind};
use hostile::rig::{MAIN, refusal, service};
use runner::protocol::{Digest, Limits, Refusal, ServiceSpec};
use rustix::fs::FileType;
use serde_json::{Value, json};

/// `PROC_SUPER_MAGIC`, `TMPFS_MAGIC` (Linux `magic.h`).
const PROC_FS: u64 = 0x9FA0;
const TMPFS: u64 = 0x0102_1994;

/// The length of a message between the runner's parts, beyond which it is not sent.
const MESSAGE_BYTES_MAX: usize = runner::protocol::MESSAGE_BYTES_MAX;

/// As the image says, and small.
fn as_it_says() -> ServiceSpec {
    let limits = Limits { scratch_bytes: 16 << 20, tmp_bytes: 16 << 20, ..Limits::default() };
    ServiceSpec { limits, ..ServiceSpec::default() }
}

/// Prepares layers on top of [`bottom`], and starts them as `config` says; what ran before is stopped.
fn tried(guard: &Guard, layers: &[Vec<u8>], config: &Value) -> Result<View, Refusal> {
    let manifest = guard.image(&[&[bottom()], layers].concat(), &config.to_string());
    guard.client.prepare(&stranger(), &manifest).expect("prepare");
    try_again(guard, &manifest)
}

fn try_again(guard: &Guard, manifest: &Digest) -> Result<View, Refusal> {
    guard.stop();
    guard.open(&stranger());
    let started = match guard.client.start(&stranger(), &service(MAIN), manifest, as_it_says()) {
        Ok(_) => Ok(View::of(guard.jail_pid(&stranger()))),
        refused => {
            let refused = refusal(refused);
            let expected = matches!(refused, Refusal::BadService { .. } | Refusal::JailFailed { .. });
            assert!(expected, "refused, but as: {refused}");
            println!("{refused}");
            Err(refused)
        }
    };
    guard.clean();
    started
}

/// Device and inode of what a link of procfs leads to.
fn identity(path: &str) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// The service's own process.
fn job(seen: &View) -> u32 {
    *children(seen.pid).first().expect("the service is the child of the jail's first process")
}

/// What [`tried`] must find of a service that runs at all: it is the image's program, in the image's tree, under the
/// jail's ids, with the three streams.
fn confined(guard: &Guard, seen: &View) {
    let job = job(seen);
    for uid in status(job, "Uid").expect("it runs").split_whitespace() {
        let uid: u32 = uid.parse().expect("a uid");
        assert!((200_000..200_000 + 65_536 * 64).contains(&uid), "it runs as {uid}");
    }
    assert_ne!(identity(&format!("/proc/{job}/exe")), identity(&format!("/proc/{}/exe", guard.runner_pid())));
    for of_host in ["/", "/proc", "/etc"] {
        assert_ne!(identity(&format!("/proc/{job}/cwd")), identity(of_host), "it is in the host's {of_host}");
    }
    assert_ne!(identity(&format!("/proc/{job}/root/.")), identity("/"));
    let fds = hostile::observed::descriptors(job);
    assert_eq!(fds.len(), 3, "{fds:?}");
    let environment = std::fs::read(format!("/proc/{job}/environ")).expect("an environment");
    assert!(!environment.starts_with(b"LD_") && !environment.windows(4).any(|four| four == b"\0LD_"));
}

#[test]
fn attack_51_an_entrypoint_of_procfs_runs_nothing_of_the_hosts() {
    let guard = Guard::new();
    let links = RawTar::new().link(kind::SYMLINK, b"self", b"/proc/self/exe").finish();
    let mut entrypoints: Vec<String> = (0..16).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    entrypoints.extend(
        [
            "/proc/self/exe",
            "/proc/1/exe",
            "/proc/thread-self/exe",
            "/self",
            "/proc/self/root/proc/self/exe",
            "/proc/self/cwd/wait/../../../proc/self/exe",
            "/proc/1/root/bin/sh",
            "../../../../../../../bin/sh",
            "/dev/fd/3",
            "/dev/stdin",
        ]
        .map(ToOwned::to_owned),
    );
    for entrypoint in entrypoints {
        if let Ok(seen) = tried(&guard, std::slice::from_ref(&links), &json!({ "Entrypoint": [entrypoint] })) {
            // It may have ended already, which is as good.
            if let Some(job) = children(seen.pid).first() {
                let ran = identity(&format!("/proc/{job}/exe"));
                let hosts = identity(&format!("/proc/{}/exe", guard.runner_pid()));
                assert!(ran.is_none() || ran != hosts, "{entrypoint} runs the runner itself");
            }
            let log = guard.log(&stranger());
            assert!(!log.to_lowercase().contains("usage: rig-runner"), "{entrypoint} ran the runner itself: {log}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_51_a_working_directory_of_procfs_is_no_way_out() {
    let guard = Guard::new();
    let links = RawTar::new()
        .link(kind::SYMLINK, b"cwd", b"/proc/self/cwd")
        .link(kind::SYMLINK, b"fd", b"/proc/self/fd")
        .link(kind::SYMLINK, b"up", b"../../../../../..")
        .link(kind::SYMLINK, b"loop", b"loop")
        .finish();
    let mut dirs: Vec<String> = (0..12).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    dirs.extend((3..8).map(|fd| format!("/fd/{fd}/../../..")));
    dirs.extend(
        [
            "/proc/self/cwd",
            "/proc/self/root",
            "/proc/1/root",
            "/proc/1/cwd/..",
            "/proc/self/task/1/root",
            "/proc/thread-self/cwd",
            "/cwd",
            "/up/etc",
            "/up/up/up",
            "/../../../../etc",
            "/loop",
            "/wait",
            "/proc",
            "/proc/self/ns",
            "/proc/sys",
            "/dev",
            "/dev/shm",
            "/dev/shm/new/dir",
            "/tmp/../..",
            "/new/./dir//",
            "relative",
            ".",
            "..",
            "/nul\u{0}inside",
        ]
        .map(ToOwned::to_owned),
    );
    for dir in dirs {
        if let Ok(seen) =
            tried(&guard, std::slice::from_ref(&links), &json!({ "Entrypoint": ["/wait"], "WorkingDir": dir }))
        {
            confined(&guard, &seen);
        }
    }
    guard.unharmed();
}

#[test]
fn attack_51_a_user_is_one_of_the_jails_or_none() {
    let guard = Guard::new();
    let accounts = b"evil:x:4294967295:4294967295::/:\nbig:x:65536:65536::/:\nneg:x:-1:-1::/:\nhex:x:0x0:0::/:\n\
        -1:x:0:0::/:\nhome:x:5:5::/root\0/x:/bin/sh\nodd:x:5:5::../../etc:\n:x:0:0::/:\nshort\nover:x:18446744073709551616:0::/:\n"
        .to_vec();
    let layer =
        RawTar::new().file(b"etc/passwd", &accounts).file(b"etc/group", b"g:x:99999999999:\nn:x:-5:\n").finish();
    for user in [
        "",
        "0",
        "0:0",
        ":",
        "::",
        ":0",
        "0:",
        "1:2:3",
        "a:b:c",
        "-1",
        "-1:-1",
        "4294967295",
        "4294967296",
        "65536",
        "65535",
        "65535:65535",
        "0:65536",
        "99999999999999999999999",
        "evil",
        "big",
        "neg",
        "hex",
        "home",
        "odd",
        "over",
        "short",
        "0:g",
        "0:n",
        "root",
        "root\n0",
        "0x0",
        "+0",
        " 0",
        "٣",
        "\u{0}",
        "../../etc/passwd",
        "%s%s%s%n",
    ] {
        if let Ok(seen) = tried(&guard, std::slice::from_ref(&layer), &json!({ "Entrypoint": ["/wait"], "User": user }))
        {
            confined(&guard, &seen);
        }
    }
    guard.unharmed();
}

#[test]
fn attack_51_accounts_that_are_no_small_file_neither_hang_nor_fill_the_runner() {
    let guard = Guard::new();
    let link = |target: &[u8]| RawTar::new().link(kind::SYMLINK, b"etc/passwd", target);
    for (what, layer) in [
        ("a directory", RawTar::new().dir(b"etc/passwd")),
        ("itself", link(b"passwd")),
        ("zeroes without end", link(b"/dev/zero")),
        ("what waits for input", link(b"/dev/stdin")),
        ("random", link(b"/dev/random")),
        ("an environment", link(b"/proc/self/environ")),
        ("a memory", link(b"/proc/self/mem")),
        ("an id map", link(b"/proc/self/uid_map")),
        ("a way up", link(b"../../../../../../etc/shadow")),
        ("40 MB of holes", RawTar::new().sparse(b"etc/passwd", 40_000_000, &[(40_000_000, 0)], b"")),
        ("a line without end", RawTar::new().file(b"etc/passwd", &vec![b':'; 4 << 20])),
        ("lines without number", RawTar::new().file(b"etc/passwd", "a:x:1:1::/:\n".repeat(200_000).as_bytes())),
        ("no text", RawTar::new().file(b"etc/passwd", &[0xFF; 4096])),
        (
            "nobody may read it",
            RawTar::new().entry(&Entry { mode: 0, ..Entry::new(kind::FILE, b"etc/passwd", b"root:x:7:7::/:\n") }),
        ),
    ] {
        for user in ["root", "nobody-here", "7"] {
            let began = std::time::Instant::now();
            let layers = [layer.clone().finish()];
            let (outcome, peaks) =
                guard.peaks(|| tried(&guard, &layers, &json!({ "Entrypoint": ["/wait"], "User": user })));
            if let Ok(seen) = outcome {
                confined(&guard, &seen);
            }
            assert!(began.elapsed().as_secs() < 5, "{what}: {:?}", began.elapsed());
            assert!(peaks.child < 100 << 20, "{what}: {peaks:?}");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_51_an_environment_steers_no_loader_and_has_a_bound() {
    let guard = Guard::new();
    let huge: Vec<String> = (0..4000).map(|number| format!("N{number}=v")).collect();
    for env in [
        json!(["LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/evil", "LD_AUDIT=/evil.so", "GLIBC_TUNABLES=x"]),
        json!(["A=1\nLD_PRELOAD=/evil.so", "LD_PRELOAD", "=LD_PRELOAD=/evil.so", "", "=", "LD_=1"]),
        json!(["A=\u{0}LD_PRELOAD=/evil.so"]),
        json!([format!("A={}", "x".repeat(40_000))]),
        json!(huge),
        json!(["PATH=/proc/self/fd:.:", "HOME=/proc/self/root", "PATH=/proc/1/cwd"]),
        json!(["NOTIFY_SOCKET=/run/systemd/notify", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]),
    ] {
        if let Ok(seen) = tried(&guard, &[], &json!({ "Entrypoint": ["/wait"], "Env": env })) {
            confined(&guard, &seen);
            let environment = std::fs::read(format!("/proc/{}/environ", job(&seen))).expect("an environment");
            assert!(environment.len() <= 33_000, "{} bytes", environment.len());
            assert!(!environment.windows(15).any(|name| name == b"NVIDIA_VISIBLE_"), "it claims a device");
        }
    }
    guard.unharmed();
}

#[test]
fn attack_51_keys_that_engines_act_upon_change_nothing_here() {
    let guard = Guard::new();
    let mounts =
        |seen: &View| std::fs::read_to_string(format!("/proc/{}/mountinfo", seen.pid)).expect("read").lines().count();
    let plain = tried(&guard, &[], &json!({ "Entrypoint": ["/wait"] })).expect("starts");
    let expected = mounts(&plain);
    let config = json!({
        "Entrypoint": ["/wait"],
        "Volumes": { "/": {}, "/proc": {}, "/etc": {}, "/../..": {}, "/new": {} },
        "Healthcheck": { "Test": ["CMD", "/exit"], "Interval": 1, "Retries": 1 },
        "StopSignal": "SIGKILL", "StopTimeout": 999_999, "Shell": ["/proc/self/exe", "-c"],
        "OnBuild": ["RUN /exit"], "ExposedPorts": { "1/tcp": {}, "99999/tcp": {} }, "ArgsEscaped": true,
        "Labels": { "io.rig.privileged": "true" }, "Privileged": true, "CapAdd": ["ALL"], "NetworkMode": "host",
        "Memory": -1, "CpuShares": 1, "Domainname": "x", "Hostname": "../../etc", "AttachStdin": true, "Tty": true,
    });
    match tried(&guard, &[], &config) {
        Ok(seen) => {
            confined(&guard, &seen);
            assert_eq!(mounts(&seen), expected);
            assert_eq!(seen.kind("new"), None);
            let health = guard.client.list().expect("list").remove(&stranger()).expect("it is there");
            assert!(format!("{health:?}").contains("Untested"), "{health:?}");
        }
        Err(refused) => println!("as good: {refused}"),
    }
    guard.unharmed();
}

#[test]
fn attack_51_words_that_are_too_long_for_the_runners_own_messages_hurt_nobody_else() {
    let guard = Guard::new();
    let quotes = "\"".repeat(10_000);
    for config in [
        json!({ "Entrypoint": ["/wait"], "WorkingDir": format!("/{}", "d/".repeat(50_000)) }),
        json!({ "Entrypoint": ["/wait"], "WorkingDir": format!("/{}", "x".repeat(4096)) }),
        json!({ "Entrypoint": ["/wait"], "User": "u".repeat(1 << 20) }),
        json!({ "Entrypoint": ["/wait"], "User": format!("0:{}", quotes.repeat(2)) }),
        json!({ "Entrypoint": [quotes.repeat(3)] }),
        json!({ "Entrypoint": ["/wait"], "Cmd": vec!["\u{1}"; 15_000] }),
        json!({ "Entrypoint": ["/wait"], "Env": [format!("A={}", quotes.repeat(3))] }),
        json!({ "Entrypoint": vec![""; 4] }),
        json!({ "Entrypoint": [] }),
        json!({ "Cmd": ["nul\u{0}"] }),
    ] {
        let manifest = guard.image(&[bottom()], &config.to_string());
        guard.client.prepare(&stranger(), &manifest).expect("prepare");
        guard.open(&stranger());
        let outcome = guard.client.start(&stranger(), &service(MAIN), &manifest, as_it_says());
        println!("{:.200}", format!("{outcome:?}"));
        guard.stop();
        assert!(guard.client.list().is_ok(), "the runner is gone");
    }
    guard.unharmed();
}

#[test]
fn attack_51_words_that_grow_on_the_way_to_the_spawner_are_the_images_fault_not_the_runners() {
    let guard = Guard::new();
    // Within the bound on words, and six times as long in JSON.
    let env = format!("A={}", "\u{1}".repeat(12_000));
    if let Ok(seen) = tried(&guard, &[], &json!({ "Entrypoint": ["/wait"], "Env": [env] })) {
        confined(&guard, &seen);
    }
    guard.unharmed();
}

/// The child that enters a jail tells the spawner why it gave up, and the spawner tells the runner, in a longer
/// message: whatever fits into the first must not be too much for the second.
#[test]
fn attack_51_a_refusal_as_long_as_a_message_does_not_end_the_runner() {
    let guard = Guard::new();
    let said =
        |user: &str| json!({ "Refused": { "Service": { "detail": format!("the image has no user {user:?}") } } });
    let quotes = "\"".repeat(10_000);
    let room = MESSAGE_BYTES_MAX - said(&quotes).to_string().len();
    for short in (0..=40).step_by(5) {
        let user = format!("{quotes}{}", "u".repeat(room - short));
        assert_eq!(said(&user).to_string().len(), MESSAGE_BYTES_MAX - short);
        let manifest = guard.image(&[bottom()], &json!({ "Entrypoint": ["/wait"], "User": user }).to_string());
        guard.client.prepare(&stranger(), &manifest).expect("prepare");
        guard.open(&stranger());
        let outcome = guard.client.start(&stranger(), &service(MAIN), &manifest, as_it_says());
        assert!(outcome.is_err(), "there is no such user");
        guard.stop();
        assert!(guard.client.list().is_ok(), "the runner is gone after {short}: {}", guard.journal());
    }
    guard.unharmed();
}

#[test]
fn attack_53_what_the_runner_mounts_over_is_never_a_link_or_a_file_of_the_images() {
    let guard = Guard::new();
    let canary = guard.canary_path();
    for place in ["proc", "dev", "tmp"] {
        for target in ["/", "..", place, "etc", "/etc", "proc/self/root", "../../../../../../etc", &canary, "/nowhere"]
        {
            let layer = RawTar::new().long(b'K', target.as_bytes()).link(kind::SYMLINK, place.as_bytes(), b"");
            match tried(&guard, &[layer.finish()], &json!({ "Entrypoint": ["/wait"] })) {
                Ok(_) => panic!("/{place} leads to {target}, and it started"),
                Err(refused) => assert!(refused.to_string().contains(place), "{refused}"),
            }
        }
        let file = RawTar::new().file(place.as_bytes(), b"x").finish();
        let refused = tried(&guard, &[file], &json!({ "Entrypoint": ["/wait"] })).expect_err("a file");
        assert!(refused.to_string().contains(place), "{refused}");
        // Something in it is hidden, whatever it is.
        let below = RawTar::new()
            .dir(place.as_bytes())
            .link(kind::SYMLINK, format!("{place}/null").as_bytes(), b"/etc/passwd")
            .link(kind::SYMLINK, format!("{place}/shm").as_bytes(), &canary.as_bytes()[..canary.len().min(100)])
            .file(format!("{place}/self").as_bytes(), b"x");
        let seen = tried(&guard, &[below.finish()], &json!({ "Entrypoint": ["/wait"] })).expect("starts");
        assert_eq!(
            (seen.file_system("proc"), seen.file_system("dev"), seen.file_system("tmp")),
            (PROC_FS, TMPFS, TMPFS)
        );
        assert_eq!(seen.kind("dev/null"), Some(FileType::CharacterDevice));
        assert_eq!(seen.kind("dev/shm"), Some(FileType::Directory));
        confined(&guard, &seen);
    }
    guard.unharmed();
}

#[test]
fn attack_53_an_etc_that_leads_elsewhere_leads_nowhere_outside() {
    let guard = Guard::new();
    let canary = guard.canary_path();
    let link = |name: &str, target: &str| {
        RawTar::new().long(b'K', target.as_bytes()).link(kind::SYMLINK, name.as_bytes(), b"").finish()
    };
    let up = format!("{}{}", "../".repeat(20), &canary[1..]);
    for target in [
        "/",
        "..",
        "etc",
        "/etc/etc",
        "/proc",
        "/proc/1",
        "/proc/self/fd",
        "/proc/self/root/etc",
        "/dev",
        "/dev/shm",
        "/tmp",
        "/nowhere",
        "../../../../../../etc",
        &canary,
        &up,
    ] {
        if let Ok(seen) = tried(&guard, &[link("etc", target)], &json!({ "Entrypoint": ["/wait"] })) {
            confined(&guard, &seen);
        }
    }
    let canary_file = format!("{canary}/file");
    for name in ["etc/hosts", "etc/resolv.conf", "etc/hostname"] {
        for target in [
            canary_file.as_str(),
            "/etc/shadow",
            "../../../../../../../etc/hosts",
            "hosts",
            "/proc/self/environ",
            "/proc/1/mem",
            "/dev/null",
            "/dev/shm/x",
            "/tmp/x",
            "/wait",
            "/proc/self/fd/3",
            "/nowhere/at/all",
        ] {
            if let Ok(seen) = tried(&guard, &[link(name, target)], &json!({ "Entrypoint": ["/wait"] })) {
                confined(&guard, &seen);
            }
        }
        for layer in [RawTar::new().dir(name.as_bytes()), RawTar::new().dir(format!("{name}/in").as_bytes())] {
            if let Ok(seen) = tried(&guard, &[layer.finish()], &json!({ "Entrypoint": ["/wait"] })) {
                confined(&guard, &seen);
            }
        }
    }
    let file = RawTar::new().file(b"etc", b"x").finish();
    if let Ok(seen) = tried(&guard, &[file], &json!({ "Entrypoint": ["/wait"] })) {
        confined(&guard, &seen);
    }
    guard.unharmed();
}

#[test]
fn attack_53_a_dangling_resolver_link_as_distributions_ship_it_does_not_keep_a_source_from_running() {
    let guard = Guard::new();
    let layer =
        RawTar::new().link(kind::SYMLINK, b"etc/resolv.conf", b"../run/systemd/resolve/stub-resolv.conf").finish();
    let seen = tried(&guard, &[layer], &json!({ "Entrypoint": ["/wait"] })).expect("a common image");
    confined(&guard, &seen);
    guard.unharmed();
}
