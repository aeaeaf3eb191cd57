//! What a service can see and do from inside.

use std::collections::BTreeMap;

use runner::protocol::{Digest, Exit, Refusal, ServiceSpec, SourceName};

use crate::probe;
use hostile::oci::Layer;
use hostile::rig::{MAIN, Rig, Setup, name, refusal, service, spec};

/// A spec that runs a probe.
pub(crate) fn probing(what: &str) -> ServiceSpec {
    let environment = vec![("RIG_PROBE".to_owned(), what.to_owned())];
    ServiceSpec { environment, ..spec(&probe::COMMAND) }
}

/// A runner whose images hold the probe.
pub(crate) fn with_probe() -> Rig {
    Setup::default().program("probe", std::env::current_exe().expect("the path of this test")).start()
}

/// Prepares an image and opens `source`, with nothing started yet.
pub(crate) fn opened(rig: &Rig, source: &SourceName) -> Digest {
    let manifest = rig.prepared(source);
    rig.open(source);
    manifest
}

/// Runs the facts probe; the callback carries `key=value` and `path: key: value` lines.
fn facts(rig: &Rig, source: &SourceName, spec: ServiceSpec) -> BTreeMap<String, String> {
    rig.run(source, spec);
    let text = rig.callback(source);
    let facts = text.lines().filter_map(|line| {
        let (key, value) = if line.starts_with("/proc/self/status: ") {
            line.split_once("status: ")?.1.split_once(':')?
        } else {
            line.split_once('=').or_else(|| line.split_once(": "))?
        };
        Some((key.trim().to_owned(), value.trim().to_owned()))
    });
    facts.collect()
}

#[test]
fn a_service_is_nobody_and_can_do_nothing_to_the_kernel() {
    let rig = with_probe();
    let facts = facts(&rig, &name("a"), probing("facts"));
    let zero = "0000000000000000";
    for (key, expected) in [
        ("CapInh", zero),
        ("CapPrm", zero),
        ("CapEff", zero),
        ("CapBnd", zero),
        ("CapAmb", zero),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "0 0 0 0"),
        ("Groups", ""),
        ("existing", ""),
        ("try mount", "ENOSYS"),
        ("try remount", "ENOSYS"),
        ("try umount", "ENOSYS"),
        ("try unshare user", "ENOSYS"),
        ("try unshare net", "ENOSYS"),
        ("try ptrace", "ENOSYS"),
        ("try chroot", "ENOSYS"),
        ("try setuid 1", "EPERM"),
        ("try packet socket", "ENOSYS"),
        ("try vsock", "ENOSYS"),
        ("try raw socket", "ENOSYS"),
        ("try netfilter", "ENOSYS"),
        ("try route", "ok"),
        // Landlock's answer; without it this is ENOTTY.
        ("try control /dev/null", "EACCES"),
    ] {
        assert_eq!(facts.get(key).map(String::as_str), Some(expected), "{key} in {facts:#?}");
    }
    let map = &facts["/proc/self/uid_map"];
    let [inside, outside, count]: [u32; 3] =
        map.split(' ').map(|id| id.parse().expect("an id")).collect::<Vec<_>>().try_into().expect("one range");
    assert!(inside == 0 && outside >= 200_000 && count == 65_536, "{map}");
    assert_eq!(&facts["/proc/self/gid_map"], map);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_another_table_kills() {
    let rig = with_probe();
    for which in ["x32", "int80"] {
        let source = name(which);
        rig.run(&source, probing(which));
        let ended = rig.ended(&source);
        assert_eq!(ended.exit, Exit::Signal(31), "{which}: {}", ended.log_tail);
    }
}

#[test]
fn a_service_sees_its_image_and_nothing_of_the_host() {
    let rig = with_probe();
    let facts = facts(&rig, &name("a"), probing("facts"));
    assert_eq!(facts["list /dev"], "fd full null random shm stderr stdin stdout urandom zero");
    assert_eq!((facts["list /sys"].as_str(), facts["list /proc/sys"].as_str()), ("", ""));
    let root: Vec<&str> = facts["list /"].split(' ').collect();
    let known = ["bin", "dev", "etc", "lib", "lib64", "probe", "proc", "tmp", "usr"];
    assert!(root.iter().all(|name| known.contains(name)), "{root:?}");
    // Standard streams, the directory that is being read, and nothing that was left open.
    assert_eq!(facts["list /proc/self/fd"].split(' ').count(), 4, "{}", facts["list /proc/self/fd"]);
    assert_eq!(facts["env FROM_IMAGE"], "1");
    assert!(!facts.contains_key("env LD_PRELOAD"));
    for (key, expected) in [
        ("try write /tmp/x", "ok"),
        ("try write /dev/shm/x", "ok"),
        ("try write /x", "ok"),
        ("try write /dev/x", "ReadOnlyFilesystem"),
        ("try write /etc/hosts", "PermissionDenied"),
        ("try read /proc/1/environ", "PermissionDenied"),
        ("try read /proc/1/exe", "PermissionDenied"),
    ] {
        assert!(facts[key].contains(expected), "{key}: {}", facts[key]);
    }
}

#[test]
fn the_only_way_out_leads_to_the_sources_own_hub() {
    let rig = with_probe();
    let facts = facts(&rig, &name("a"), probing("facts"));
    let devices = facts.iter().filter(|(key, value)| key.starts_with("/proc/self/net/dev") && value.contains(": 0 0"));
    assert!(devices.count() <= 2, "{facts:#?}");
    assert!(facts["try connect out"].contains("NetworkUnreachable"), "{}", facts["try connect out"]);
}

#[test]
fn what_listens_for_a_source_does_not_listen_on_the_host() {
    let rig = Rig::new();
    let source = name("a");
    rig.run(&source, spec(&["/bin/sleep", "1000"]));
    let pid = rig.jail_pid(&source);
    let netns = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a namespace");
    assert_ne!(netns("self"), netns(&pid.to_string()));
    // Port 20000, as procfs writes it, listening (0A): in the hub, and neither here nor in the jail.
    let listens = |pid: &str| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a table");
        table.lines().any(|line| line.contains("0100580A:4E20 00000000:0000 0A"))
    };
    assert!(!listens(&pid.to_string()) && !listens("self"));
}

#[test]
fn a_user_of_the_image_and_a_read_only_tree_are_respected() {
    let rig = with_probe();
    let spec = ServiceSpec { user: Some("app".to_owned()), read_only: true, ..probing("facts") };
    let facts = facts(&rig, &name("a"), spec);
    assert_eq!(facts["Uid"], "1000 1000 1000 1000");
    assert_eq!(facts["Gid"], "1000 1000 1000 1000");
    assert_eq!(facts["try write /tmp/x"], "ok");
    assert!(facts["try write /x"].contains("ReadOnlyFilesystem"), "{}", facts["try write /x"]);
}

#[test]
fn an_image_whose_etc_is_a_link_writes_nothing_outside_itself() {
    let rig = Rig::new();
    let outside = rig.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    let target = outside.to_str().expect("text");
    let above = Layer::new().file(".wh.etc", 0o644, b"").finish();
    let link = Layer::new().link(tar::EntryType::Symlink, "etc", target).finish();
    let source = name("a");
    let manifest = rig.prepared_with(&source, &[above, link]);
    rig.open(&source);
    rig.client.start(&source, &service(MAIN), &manifest, spec(&["/bin/cat", "/etc/hosts"])).ok();
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
    assert!(!rig.path("outside/hosts").exists());
}

#[test]
fn an_image_that_redirects_proc_dev_or_tmp_is_refused() {
    let rig = Rig::new();
    for dir in ["proc", "dev", "tmp"] {
        let source = name(dir);
        let link = Layer::new().link(tar::EntryType::Symlink, dir, "/etc").finish();
        let manifest = rig.prepared_with(&source, &[link]);
        rig.open(&source);
        match refusal(rig.client.start(&source, &service(MAIN), &manifest, spec(&["/bin/true"]))) {
            Refusal::JailFailed { step, .. } => assert!(step.contains(&format!("/{dir} in the image")), "{step}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(rig.runs(), 0);
}

#[test]
fn a_user_that_the_image_does_not_have_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let source = name("a");
    let manifest = opened(&rig, &source);
    for (user, said) in [("stranger", "no user"), ("app:strangers", "no group"), ("65536", "beyond 65535")] {
        let spec = ServiceSpec { user: Some(user.to_owned()), ..spec(&["/bin/true"]) };
        match refusal(rig.client.start(&source, &service(MAIN), &manifest, spec)) {
            Refusal::BadService { detail } => assert!(detail.contains(said), "{detail}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(rig.runs(), 0);
    rig.client.stop(&source, std::time::Duration::ZERO).expect("stop");
    assert_eq!(rig.mounted_layers(), 0);
}

#[test]
fn home_is_where_the_image_says_unless_the_spec_says_otherwise() {
    let rig = with_probe();
    let source = name("a");
    let home = |spec| {
        let home = facts(&rig, &source, spec)["env HOME"].clone();
        rig.client.stop(&source, std::time::Duration::ZERO).expect("stop");
        home
    };
    assert_eq!(home(probing("facts")), "/root");
    let mut spec = probing("facts");
    spec.environment.push(("HOME".to_owned(), "/elsewhere".to_owned()));
    assert_eq!(home(spec), "/elsewhere");
}
