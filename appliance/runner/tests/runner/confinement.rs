//! What a service can see and do from inside.

use std::collections::BTreeMap;

use runner::protocol::{Refusal, ServiceSpec, SourceName, SourceState};

use crate::oci::Layer;
use crate::probe;
use crate::rig::{Rig, callback, name, refusal, spec};

/// A spec that runs a probe.
pub(crate) fn probing(what: &str) -> ServiceSpec {
    let environment = vec![("RIG_PROBE".to_owned(), what.to_owned())];
    ServiceSpec { environment, ..spec(&probe::COMMAND) }
}

/// Runs the facts probe; the callback carries `key=value` and `path: key: value` lines.
fn facts(rig: &Rig, source: &SourceName, spec: ServiceSpec) -> BTreeMap<String, String> {
    let manifest = rig.prepared(source);
    rig.client.start(source, &manifest, spec).expect("start");
    let listener = rig.client.listener(source).expect("the listener");
    let text = callback(&listener);
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
    let rig = Rig::new();
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
        ("try raw socket", "EPERM"),
        ("try netfilter", "ENOSYS"),
        ("try route", "ok"),
    ] {
        assert_eq!(facts.get(key).map(String::as_str), Some(expected), "{key} in {facts:#?}");
    }
    let map = &facts["/proc/self/uid_map"];
    let [inside, outside, count]: [u32; 3] =
        map.split(' ').map(|id| id.parse().expect("an id")).collect::<Vec<_>>().try_into().expect("one range");
    assert!(inside == 0 && outside >= 200_000 && count == 65_536, "{map}");
    assert_eq!(&facts["/proc/self/gid_map"], map);
}

#[test]
fn a_service_sees_its_image_and_nothing_of_the_host() {
    let rig = Rig::new();
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
fn the_only_network_is_the_jails_own_loopback() {
    let rig = Rig::new();
    let facts = facts(&rig, &name("a"), probing("facts"));
    let devices = facts.keys().filter(|key| key.starts_with("/proc/self/net/dev"));
    assert_eq!(devices.count(), 1, "{facts:#?}");
    assert!(facts["/proc/self/net/dev"].starts_with("lo:"), "{}", facts["/proc/self/net/dev"]);
    assert!(facts["try connect out"].contains("NetworkUnreachable"), "{}", facts["try connect out"]);
}

#[test]
fn what_listens_in_a_jail_does_not_listen_on_the_host() {
    let rig = Rig::new();
    let source = name("a");
    rig.run(&source, &["/bin/sleep", "1000"]);
    let SourceState::Running { pid, .. } = rig.client.list().expect("list")[&source] else {
        panic!("it does not run");
    };
    let netns = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a namespace");
    assert_ne!(netns("self"), netns(&pid.to_string()));
    // 10.88.0.1:20000, as procfs writes it, listening (0A).
    let listens = |pid: &str| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a table");
        table.lines().any(|line| line.contains("0100580A:4E20 00000000:0000 0A"))
    };
    assert!(listens(&pid.to_string()) && !listens("self"));
}

#[test]
fn a_user_of_the_image_and_a_read_only_tree_are_respected() {
    let rig = Rig::new();
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
    let manifest = rig.prepared_with(&source, vec![above, link]);
    rig.client.start(&source, &manifest, spec(&["/bin/cat", "/etc/hosts"])).ok();
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
    assert!(!rig.path("outside/hosts").exists());
}

#[test]
fn an_image_that_redirects_proc_dev_or_tmp_is_refused() {
    let rig = Rig::new();
    for dir in ["proc", "dev", "tmp"] {
        let source = name(dir);
        let link = Layer::new().link(tar::EntryType::Symlink, dir, "/etc").finish();
        let manifest = rig.prepared_with(&source, vec![link]);
        match refusal(rig.client.start(&source, &manifest, spec(&["/bin/true"]))) {
            Refusal::JailFailed { step, .. } => assert!(step.contains(&format!("/{dir} in the image")), "{step}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(std::fs::read_dir(rig.path("state/runs")).expect("list").count(), 0);
}
