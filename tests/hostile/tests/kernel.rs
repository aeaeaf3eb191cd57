//! Jobs that ask the kernel for a way out: it has none for them, and the machine stays as it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostile::attacks::{attack, attacked, attacked_as, attacker, line_of, over, program, rig};
use hostile::observed::{FIRST_UID, children, descendants, descriptors, status};
use hostile::oci::{Head, Layer};
use hostile::rig::{Rig, name, wait_for};
use runner::protocol::{ServiceSpec, SourceName};

/// Asserts that nothing of what was tried was done, and that the runner is as well as before.
#[track_caller]
fn nothing_was_done(rig: &Rig, source: &SourceName, said: &str) {
    nothing_but(rig, source, said, &[]);
}

/// The same, except for tries that begin with one of `harmless`.
#[track_caller]
fn nothing_but(rig: &Rig, source: &SourceName, said: &str, harmless: &[&str]) {
    assert!(said.contains("attacked\n"), "it did not come to its end: {said}");
    let done = said.lines().filter(|line| line.ends_with(": OK"));
    let done: Vec<_> = done.filter(|line| !harmless.iter().any(|known| line.starts_with(known))).collect();
    assert!(done.is_empty(), "{done:?}");
    rig.client.stop(source, Duration::ZERO).expect("stop");
    rig.still_works();
}

/// The jail's first process, and everything below it.
fn inhabitants(rig: &Rig, source: &SourceName) -> Vec<u32> {
    let first = rig.jail_pid(source);
    std::iter::once(first).chain(descendants(first)).collect()
}

fn mountinfo(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts")
}

/// Names of anonymous kernel objects among the descriptors of a jail.
fn kernel_objects(rig: &Rig, source: &SourceName) -> BTreeSet<String> {
    let all = inhabitants(rig, source).into_iter().flat_map(descriptors);
    { all.map(|path| path.to_string_lossy().into_owned()) }.filter(|name| name.starts_with("anon_inode:")).collect()
}

#[test]
fn attack_18_a_job_cannot_tell_which_machine_it_is_on() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["fingerprint"]);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).map(|line| line.trim_matches([':', ' ', '\t']));
    let mut secrets = vec![
        line_of("/proc/sys/kernel/random/boot_id"),
        line_of("/proc/cmdline"),
        line_of("/proc/version"),
        // Directories with names of their own, wherever a path begins.
        last_name(&rig.path("")),
        last_name(rig.state("").parent().expect("a directory")),
    ];
    secrets.extend(model.map(str::to_owned));
    secrets.extend(fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned()));
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let line = said.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "it has seen {secret}");
    }
    nothing_was_done(&rig, &source, &said);
}

fn last_name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn attack_19_the_tree_of_mounts_stays_as_it_was_made() {
    let rig = rig();
    let source = name("a");
    let manifest = rig.prepared(&source);
    rig.open(&source);
    // A quiet run of the same image shows what it should look like.
    rig.start(&source, &manifest, attack(&["serve"]));
    rig.printed(&source, "serving");
    let shape = |pid: u32| {
        let points = mountinfo(pid);
        let fields = |line: &str| line.split(' ').skip(4).take(2).collect::<Vec<_>>().join(" ");
        points.lines().map(fields).collect::<Vec<_>>()
    };
    let quiet = shape(rig.jail_pid(&source));
    rig.client.stop(&source, Duration::ZERO).expect("stop");
    // What others mount on this machine meanwhile is not this test's business.
    let own = last_name(rig.state("").parent().expect("a directory"));
    let host = || mountinfo(std::process::id()).lines().filter(|line| line.contains(&own)).count();
    rig.open(&source);
    rig.start(&source, &manifest, attack(&["remount"]));
    let said = over(&rig, &source);
    for pid in inhabitants(&rig, &source) {
        assert_eq!(shape(pid), quiet, "{pid}");
    }
    assert_eq!(host(), 0, "a mount came to the host");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_20_there_is_no_namespace_but_the_jails_own() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["namespaces"]);
    let kinds = ["user", "net", "mnt", "pid", "ipc", "uts", "cgroup", "time"];
    let of = |pid: u32| kinds.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace"));
    let own = of(rig.jail_pid(&source));
    let host = of(std::process::id());
    for pid in inhabitants(&rig, &source) {
        assert_eq!(of(pid), own, "{pid}");
    }
    for (kind, (own, host)) in kinds.iter().zip(own.iter().zip(&host)).take(7) {
        assert_ne!(own, host, "{kind} is shared with the host");
    }
    // And it could make none even if the call were there.
    let id = status(rig.jail_pid(&source), "Uid").expect("ids");
    assert!(id.split_whitespace().all(|id| id.parse::<u32>().expect("an id") >= FIRST_UID), "{id}");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_21_no_device_node_comes_into_being() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["mknod"]);
    let root = PathBuf::from(format!("/proc/{}/root", rig.jail_pid(&source)));
    for dir in ["tmp", "dev/shm", ""] {
        assert_eq!(nodes(&root.join(dir)), [] as [PathBuf; 0], "{dir}");
    }
    let names: BTreeSet<_> =
        nodes(&root.join("dev")).iter().filter_map(|path| Some(path.file_name()?.to_owned())).collect();
    assert_eq!(names, ["full", "null", "random", "urandom", "zero"].map(Into::into).into());
    nothing_was_done(&rig, &source, &said);
}

/// Devices directly in a directory.
fn nodes(dir: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt as _;
    let paths = fs::read_dir(dir).expect("a directory of the jail").flatten().map(|entry| entry.path());
    // A mounted node is one to who looks at it, not to who lists its directory.
    let kind = |path: &PathBuf| path.symlink_metadata().map(|metadata| metadata.file_type());
    paths.filter(|path| kind(path).is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())).collect()
}

#[test]
fn attack_23_setuid_programs_and_file_capabilities_give_nothing() {
    let rig = rig();
    let source = name("a");
    let content = fs::read(program()).expect("the program");
    // cap_sys_admin,cap_setuid=ep, as the kernel stores it: version 2, effective; permitted; inheritable.
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    for word in [0x0020_0080_u32, 0, 0, 0] {
        capability.extend(word.to_le_bytes());
    }
    let regular = tar::EntryType::Regular;
    let above = Layer::new()
        .raw("suid", Head::new(regular, 0o4755), &content)
        .raw("sgid", Head::new(regular, 0o2755), &content)
        .xattrs(&[("security.capability", &capability), ("user.overlay.opaque", b"y")])
        .raw("capable", Head::new(regular, 0o755), &content)
        .finish();
    let manifest = rig.prepared_with(&source, &[above]);
    rig.open(&source);
    let spec = ServiceSpec { user: Some("app".to_owned()), ..attack(&["setuid"]) };
    rig.start(&source, &manifest, spec);
    over(&rig, &source);
    // Its three programs say who they are, and hold still.
    let said = wait_for("three programs", || Some(rig.log(&source)).filter(|log| log.matches("euid").count() == 3));
    let people = inhabitants(&rig, &source);
    let service = attacker(&rig, &source);
    assert_eq!(children(service).len(), 3, "{said}");
    let own = status(service, "Uid").expect("ids");
    let id: u32 = own.split_whitespace().next().and_then(|id| id.parse().ok()).expect("an id");
    assert_eq!(id % 65_536, (FIRST_UID + 1000) % 65_536, "it is the image's app: {own}");
    for pid in people {
        if pid != rig.jail_pid(&source) {
            assert_eq!(status(pid, "Uid").as_ref(), Some(&own), "{pid}");
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set).as_deref(), Some("0000000000000000"), "{pid} {set}");
        }
        assert_eq!(status(pid, "NoNewPrivs").as_deref(), Some("1"), "{pid}");
    }
    assert!(!said.contains("euid 0"), "{said}");
    nothing_but(&rig, &source, &said, &["/suid", "/sgid", "/capable"]);
}

#[test]
fn attack_24_the_hosts_key_rings_are_neither_read_nor_filled() {
    let rig = rig();
    let planted = format!("canary-key-{}", std::process::id());
    let planting = Command::new(program()).args(["plant-key", &planted]).output().expect("plant a key");
    assert!(String::from_utf8_lossy(&planting.stdout).contains("plant: OK"), "{planting:?}");
    let source = name("a");
    let said = attacked(&rig, &source, &["keys", &planted]);
    let keys = fs::read_to_string("/proc/keys").expect("keys");
    assert!(keys.contains(&planted), "the check is worth something: {keys}");
    assert!(!keys.contains("hostile-leaves-this") && !keys.contains("hostile-asks"), "{keys}");
    // A line of /proc/key-users begins with an id: no jail's has ever had a key.
    let users = fs::read_to_string("/proc/key-users").expect("users");
    let ids = users.lines().filter_map(|line| line.trim().split(':').next()?.parse::<u32>().ok());
    let jails: Vec<u32> = ids.filter(|id| *id >= FIRST_UID).collect();
    assert_eq!(jails, [] as [u32; 0], "{users}");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_25_there_is_no_io_uring() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["io-uring"]);
    let objects = kernel_objects(&rig, &source);
    assert!(!objects.iter().any(|name| name.contains("io_uring")), "{objects:?}");
    assert!(said.lines().take(3).all(|line| line.ends_with("ENOSYS")), "{said}");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_26_no_other_door_into_the_kernel_opens() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["doors"]);
    let objects = kernel_objects(&rig, &source);
    for object in ["bpf", "perf", "userfaultfd", "fanotify", "secretmem"] {
        assert!(!objects.iter().any(|name| name.contains(object)), "{objects:?}");
    }
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_37_the_clocks_go_on() {
    let rig = rig();
    let zone = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let before = offset_ms();
    let source = name("a");
    let said = attacked(&rig, &source, &["clocks"]);
    let moved = (offset_ms() - before).abs();
    assert!(moved < 100, "the clock moved by {moved} ms");
    assert_eq!(fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default(), zone);
    nothing_was_done(&rig, &source, &said);
}

/// Wall clock less time since the start of the machine, in milliseconds; constant unless somebody sets a clock.
fn offset_ms() -> i128 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let uptime: f64 = line_of("/proc/uptime").split(' ').next().and_then(|word| word.parse().ok()).expect("seconds");
    let up = Duration::from_secs_f64(uptime).as_millis();
    i128::try_from(wall).expect("a time") - i128::try_from(up).expect("a time")
}

#[test]
fn attack_38_the_machine_runs_on_with_the_kernel_that_it_has() {
    let rig = rig();
    let facts = || {
        [
            "/proc/sys/kernel/random/boot_id",
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/domainname",
            "/proc/swaps",
            "/proc/modules",
            "/proc/sys/kernel/ctrl-alt-del",
        ]
        .map(|path| fs::read_to_string(path).unwrap_or_default())
    };
    // Modules that others load meanwhile are not this test's business; names are, use counts are not.
    let names = |facts: [String; 6]| {
        facts.map(|text| {
            text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<BTreeSet<_>>()
        })
    };
    let before = names(facts());
    let source = name("a");
    let said = attacked(&rig, &source, &["machine"]);
    let after = names(facts());
    for (before, after) in before.iter().zip(&after) {
        assert!(before.is_subset(after), "{before:?} became {after:?}");
    }
    assert!(!after[1].contains("owned"), "{after:?}");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_39_nobody_leaves_his_cgroup() {
    let rig = rig();
    let source = name("a");
    let cgroup = |pid: u32| line_of(&format!("/proc/{pid}/cgroup"));
    let said = attacked(&rig, &source, &["cgroup"]);
    let own = cgroup(rig.jail_pid(&source));
    for pid in inhabitants(&rig, &source) {
        assert_eq!(cgroup(pid), own, "{pid}");
        assert!(!mountinfo(pid).contains(" - cgroup"), "{}", mountinfo(pid));
    }
    if rig.cgroup().is_some() {
        let dir = hostile::attacks::cgroup_of(&rig, rig.jail_pid(&source));
        let below = fs::read_dir(&dir).expect("list").flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(below, 0, "it has made no cgroups");
        assert_ne!(line_of(dir.join("memory.max").to_str().expect("text")), "max");
        assert_ne!(line_of(dir.join("pids.max").to_str().expect("text")), "max");
    }
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_41_no_other_call_table_and_no_other_personality() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["personality"]);
    assert_eq!(line_of(&format!("/proc/{}/personality", attacker(&rig, &source))), "00000000");
    // What a 32-bit call means is decided by another table, so such a program is killed.
    assert!(said.lines().any(|line| line.starts_with("int80") && line.contains("SIGSYS")), "{said}");
    let x32 = said.lines().find(|line| line.starts_with("x32")).expect("a line");
    let refused = [format!("{}, ", nix::errno::Errno::ENOSYS as i32), "SIGSYS".to_owned()];
    assert!(refused.iter().any(|word| x32.contains(word)) || x32.contains(", 38)"), "{x32}");
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_42_there_is_no_terminal_to_type_into() {
    let rig = rig();
    let source = name("a");
    let said = attacked(&rig, &source, &["terminal"]);
    let fields = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let rest = stat.rsplit(") ").next().expect("fields").split(' ').map(str::to_owned).collect::<Vec<_>>();
        // Session and terminal: fields 6 and 7 of proc(5).
        (rest[3].clone(), rest[4].clone())
    };
    let (session, terminal) = fields(attacker(&rig, &source));
    assert_eq!(terminal, "0");
    assert_ne!(session, fields(rig.runner_pid()).0);
    nothing_was_done(&rig, &source, &said);
}

#[test]
fn attack_43_nobody_listens_to_anybodys_calls() {
    let rig = rig();
    let source = name("a");
    let filters = |pid: u32| status(pid, "Seccomp_filters").expect("a count");
    let said = attacked(&rig, &source, &["listen-to-calls"]);
    assert_eq!(filters(attacker(&rig, &source)), filters(rig.jail_pid(&source)));
    assert_eq!(status(attacker(&rig, &source), "Seccomp").as_deref(), Some("2"));
    let objects = kernel_objects(&rig, &source);
    assert!(!objects.iter().any(|name| name.contains("seccomp")), "{objects:?}");
    // It may take rights away from itself, as any program may; that gives none.
    nothing_but(&rig, &source, &said, &["landlock"]);
}

#[test]
fn a_job_with_a_read_only_tree_is_as_confined() {
    let rig = rig();
    let source = name("a");
    let spec = ServiceSpec { read_only: true, ..attack(&["remount"]) };
    let said = attacked_as(&rig, &source, spec);
    nothing_was_done(&rig, &source, &said);
}
