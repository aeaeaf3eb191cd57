//! The guest itself: that it is the machine which the tests inside it take it for.

use std::io::{Write, stderr};
use std::time::Duration;

use testbed::guest::{Guest, GuestError};

/// A boot takes some seconds; an emulated processor on a loaded machine may take many.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn the_guest_boots_with_cgroup_v2_and_every_controller() {
    let script = "
        stat -f -c 'kind %T' /sys/fs/cgroup
        echo \"on $(cat /sys/fs/cgroup/cgroup.subtree_control)\"
        echo \"interfaces $(ls /sys/class/net)\"
        grep -q landlock /sys/kernel/security/lsm && echo landlock
        truncate -s 1M /var/rig/image && mkdir /tmp/tree && echo inside >/tmp/tree/file
        mkfs.erofs --quiet /var/rig/image /tmp/tree && mkdir /tmp/mnt && mount -t erofs /var/rig/image /tmp/mnt && cat /tmp/mnt/file
        nft add table inet test && nft list tables
        cat /given/by/the/test
        exit 7";
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "given").expect("write");
    let guest = Guest::build_payload(&[(file.path(), "/given/by/the/test")], script).expect("payload");
    let run = guest.run(PATIENCE, &mut stderr()).expect("run");
    assert_eq!(run.status, 7, "{}", run.console);
    let has = |line: &str| assert!(run.console.lines().any(|said| said == line), "no {line} in {}", run.console);
    has("kind cgroup2fs");
    has("interfaces lo");
    has("landlock");
    has("inside");
    has("table inet test");
    has("given");
    let on = run.console.lines().find_map(|line| line.strip_prefix("on ")).unwrap_or_default();
    let on: Vec<_> = on.split(' ').collect();
    assert!(["cpu", "io", "memory", "pids"].iter().all(|name| on.contains(name)), "{on:?}");
}

#[test]
fn a_guest_that_panics_is_an_error_and_not_a_result() {
    let guest = Guest::build_payload(&[], "echo c >/proc/sysrq-trigger; sleep 60").expect("payload");
    match guest.run(PATIENCE, &mut stderr()) {
        Err(GuestError::NoResult { tail }) => assert!(tail.contains("Kernel panic"), "{tail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_that_hangs_is_killed_at_its_deadline() {
    let guest = Guest::build_payload(&[], "sleep 1000").expect("payload");
    match guest.run(Duration::from_secs(2), &mut stderr()) {
        Err(GuestError::TimedOut { .. }) => {}
        other => panic!("{other:?}"),
    }
}
