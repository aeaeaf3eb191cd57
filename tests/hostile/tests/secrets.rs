//! Jobs that look for what is not theirs.

use std::fs;
use std::io::IoSliceMut;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use hostile::attacks::{armed, attack, attacked, attacked_as, attacker, rig};
use hostile::observed::{descendants, descriptors};
use hostile::rig::{MAIN, Setup, name, plan, service};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use runner::protocol::{ServiceSpec, SourcePlan, VolumeMount, VolumePlan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a jail's `/dev` holds, and nothing else.
const DEV: [&str; 10] = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];

/// A jail's `/dev`, as the host sees it.
fn dev(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root/dev")).expect("a jail's /dev").flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Opens every device that it can think of; all that may be there is what every jail has.
fn only_harmless_devices() -> String {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["devices"]);
    assert_eq!(dev(rig.jail_pid(&source)), DEV);
    let open: Vec<_> =
        descriptors(attacker(&rig, &source)).into_iter().filter(|path| path.starts_with("/dev")).collect();
    assert!(open.iter().all(|path| path.ends_with("null")), "{open:?}");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.still_works();
    said
}

#[test]
fn attack_22_no_graphics_card_is_there_that_was_not_given() {
    let said = only_harmless_devices();
    let cards: Vec<_> =
        said.lines().filter(|line| line.starts_with("/dev/nvidia") || line.starts_with("/dev/dri")).collect();
    assert!(cards.len() >= 13 && cards.iter().all(|line| line.ends_with(": ENOENT")), "{cards:?}");
}

#[test]
fn attack_34_no_device_of_the_machine_is_there() {
    let said = only_harmless_devices();
    let found: Vec<_> = said.lines().filter(|line| line.starts_with("/dev/") && !line.ends_with(": ENOENT")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn attack_34_the_hosts_own_nodes_cannot_be_touched() {
    use std::os::unix::fs::MetadataExt as _;
    let rig = rig();
    let node = |name: &str| fs::metadata(format!("/dev/{name}")).expect("a node of the host");
    let times = || ["null", "zero", "random"].map(|name| (node(name).mtime(), node(name).mtime_nsec()));
    let before = times();
    attacked(&rig, &name("a"), &["nodes"]);
    assert_eq!(times(), before, "a job writes to a file system of the host");
}

#[test]
fn attack_34_the_hosts_own_nodes_cannot_be_locked() {
    let rig = rig();
    attacked(&rig, &name("a"), &["nodes"]);
    // A lock on the host's node would be a way to speak to other jobs, and to hold up the host's programs.
    for name in ["null", "zero", "random"] {
        let file = fs::File::open(format!("/dev/{name}")).expect("a node of the host");
        let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert_eq!(lock, Ok(()), "a job holds a lock on the host's /dev/{name}");
    }
}

#[test]
fn attack_33_no_descriptor_comes_out_of_a_jail() {
    let rig = rig();
    let source = name("a");
    // Once without, so that what is opened once has been.
    attacked(&rig, &source, &["io-uring"]);
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let before = descriptors(rig.runner_pid());
    rig.run(&source, attack(&["smuggle"]));
    let listener = rig.client.listener(&source).expect("the listener");
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&listener.as_fd(), PollFlags::IN)], Some(&patience)).expect("poll");
    assert_eq!(ready, 1, "{}", rig.log(&source));
    let (stream, _) = listener.accept().expect("accept");
    nothing_beside(&stream);
    rig.printed(&source, "attacked");
    drop((stream, listener));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.run(&source, attack(&["smuggle-server"]));
    rig.printed(&source, "listening");
    let stream = rig.client.connect(&source, &service(MAIN), 5555).expect("connect");
    nothing_beside(&stream);
    drop(stream);
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let after = || descriptors(rig.runner_pid());
    let rest = std::time::Instant::now() + Duration::from_secs(5);
    while after().len() > before.len() {
        assert!(std::time::Instant::now() < rest, "{before:?} became {:?}", after());
        std::thread::sleep(Duration::from_millis(5));
    }
    rig.still_works();
}

/// Reads with room for descriptors; there may be bytes, but no descriptor beside them.
fn nothing_beside(stream: &TcpStream) {
    stream.set_nonblocking(false).expect("wait");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("but not for ever");
    let mut bytes = [0; 64];
    let mut room = nix::cmsg_space!([i32; 8]);
    let mut body = [IoSliceMut::new(&mut bytes)];
    let Ok(message) = recvmsg::<()>(stream.as_raw_fd(), &mut body, Some(&mut room), MsgFlags::empty()) else { return };
    let came = message.cmsgs().expect("control messages");
    assert!(!{ came }.any(|came| matches!(came, ControlMessageOwned::ScmRights(_))));
}

#[test]
fn attack_35_neither_the_rigs_secrets_nor_other_jobs_files_are_found() {
    let rig = rig();
    let secret = format!("canary-{}", std::process::id());
    // Where an owner keeps such things: beside the socket, in the state directory, in the content store, in /tmp.
    let places = [rig.path("wallet.key"), rig.state("provider.toml"), rig.content().join("blobs/token")];
    for place in &places {
        fs::write(place, format!("{secret}-of-the-host")).expect("write");
    }
    let other = name("other");
    let manifest = rig.prepared(&other);
    let volume: runner::protocol::VolumeName = "kept".parse().expect("a name");
    let volumes = vec![VolumePlan { name: volume.clone(), bytes: 32 << 20 }];
    rig.client.open(&other, SourcePlan { volumes, ..plan(&[MAIN]) }).expect("open");
    let theirs = format!("{secret}-of-another-job");
    let words = ["keep-secret", &theirs, "/tmp/secret", "/dev/shm/secret", "/secret", "/kept/secret"];
    let mount = VolumeMount { volume, target: "/kept".to_owned(), read_only: false };
    rig.start(&other, &manifest, ServiceSpec { volumes: vec![mount], ..attack(&words) });
    let kept = rig.printed(&other, "attacked");
    assert_eq!(kept.matches(": OK").count(), 4, "{kept}");
    let source = name("a");
    let said = attacked(&rig, &source, &["search", "canary-"]);
    assert!(said.contains(" files\n"), "{said}");
    assert!(!said.contains(&secret), "{said}");
    // The search is worth something: what is in its own image, it finds.
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    let layer = hostile::oci::Layer::new().file("own", 0o644, b"x canary-own-file y").finish();
    let manifest = rig.prepared_with(&source, &[layer]);
    rig.open(&source);
    rig.start(&source, &manifest, attack(&["search", "canary-"]));
    rig.printed(&source, "found in /own: canary-own-file");
    for place in &places {
        assert_eq!(fs::read_to_string(place).expect("read"), format!("{secret}-of-the-host"));
    }
    rig.still_works();
}

#[test]
fn attack_36_no_secret_of_the_runner_is_in_any_environment() {
    let rig = armed(Setup::default().env("PROVIDER_KEY", "canary-in-the-environment").env("RIG_LOG", "info"));
    let source = name("a");
    let spec = ServiceSpec { environment: vec![("GIVEN".to_owned(), "this".to_owned())], ..attack(&["environments"]) };
    let said = attacked_as(&rig, &source, spec);
    assert!(!said.contains("canary-in-the-environment"), "{said}");
    // Nor is it in the memory of any process on the way there.
    let jail = rig.jail_pid(&source);
    for pid in [rig.spawner_pid(), jail].into_iter().chain(descendants(jail)) {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("an environment");
        assert!(!String::from_utf8_lossy(&environment).contains("canary"), "{pid}");
    }
    // It has what it was given, what its image says, and what the jail needs; nothing else.
    let own: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("own ")?.split('=').next()).collect();
    let known = ["GIVEN", "FROM_IMAGE", "HOME", "PATH", "HOSTNAME"];
    assert!(own.iter().all(|name| known.contains(name)), "{own:?}");
    assert!(own.contains(&"GIVEN") && !own.contains(&"LD_PRELOAD"), "{own:?}");
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    rig.still_works();
}
