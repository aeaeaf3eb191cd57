//! 53 and more: what an image or an earlier run makes of the places where volumes and tmpfs are mounted.
//!
//! A volume is one source's, ends where its size ends, and what is left in it has no power over the next run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use hostile::attacks::{armed, attack, over};
use hostile::guard::{Guard, View, stranger};
use hostile::observed::{children, status};
use hostile::raw_tar::{RawTar, kind};
use hostile::rig::{MAIN, Rig, Setup, binary, name, plan, refusal, service, spec};
use runner::protocol::{Refusal, ServiceSpec, SourceName, SourcePlan, TmpfsMount, VolumeMount, VolumePlan};
use rustix::fs::{FileType, Mode, makedev, mknodat, statvfs};

/// `PROC_SUPER_MAGIC`, `TMPFS_MAGIC` (Linux `magic.h`).
const PROC_FS: u64 = 0x9FA0;
const TMPFS: u64 = 0x0102_1994;

const MIB: u64 = 1 << 20;

fn setup() -> Setup {
    Setup::default().program("/stranger", binary("stranger", "RIG_STRANGER"))
}

fn with_volumes(names: &[&str]) -> SourcePlan {
    let volume = |name: &&str| VolumePlan { name: name.parse().expect("a name"), bytes: 16 * MIB };
    SourcePlan { volumes: names.iter().map(volume).collect(), ..plan(&[MAIN]) }
}

/// `command`, with volumes at targets.
fn mounted(command: &[&str], volumes: &[(&str, &str)]) -> ServiceSpec {
    let mount = |(volume, target): &(&str, &str)| VolumeMount {
        volume: volume.parse().expect("a name"),
        target: (*target).to_owned(),
        read_only: false,
    };
    ServiceSpec { volumes: volumes.iter().map(mount).collect(), ..spec(command) }
}

/// Opens `source` with its volumes, runs `spec` until it says that it is over, and looks at it.
fn run(rig: &Rig, source: &SourceName, layers: &[Vec<u8>], spec: ServiceSpec) -> Result<View, Refusal> {
    let volumes: Vec<String> = spec.volumes.iter().map(|mount| mount.volume.to_string()).collect();
    let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
    // Refused if it is not open.
    let _ = rig.client.stop(source, Duration::ZERO);
    let manifest = rig.prepared_with(source, layers);
    rig.client.open(source, with_volumes(&volumes)).expect("open");
    match rig.client.start(source, &service(MAIN), &manifest, spec) {
        Ok(_) => {
            over(rig, source);
            Ok(View::of(rig.jail_pid(source)))
        }
        refused => {
            let refused = refusal(refused);
            println!("{refused}");
            Err(refused)
        }
    }
}

/// Whether `/proc` and `/dev` are what the runner mounts there. An empty tmpfs is none of its `/dev`.
fn stands(seen: &View) -> bool {
    let is = |path, file_system| seen.kind(path).is_some() && seen.file_system(path) == file_system;
    is("proc", PROC_FS) && is("dev", TMPFS) && seen.kind("dev/null") == Some(FileType::CharacterDevice)
}

const HOLD: [&str; 2] = ["/stranger", "call"];

/// Places in an image that a mount target leads to by a link, and a link of a link.
fn places(guard: &Guard) -> Vec<String> {
    let canary = guard.canary_path();
    let mut places = vec![canary.clone(), format!("../../../../../../../..{canary}")];
    places.extend(
        [
            "/proc",
            "/proc/1",
            "/proc/self/fd",
            "/proc/self/root",
            "/proc/self/cwd",
            "/proc/self/ns",
            "/dev",
            "/dev/shm",
            "/dev/null",
            "/etc",
            "../../etc",
            "/etc/hosts",
            "/",
            "..",
            "../..",
            "data",
            "/tmp",
            "/tmp/new",
            "/stranger",
            "/nowhere/at/all",
        ]
        .map(ToOwned::to_owned),
    );
    places
}

#[test]
fn attack_53_a_volume_at_a_link_covers_neither_procfs_nor_devices_nor_anything_outside() {
    let guard = Guard::over(setup());
    let mut covered = Vec::new();
    for place in places(&guard) {
        let link = RawTar::new().long(b'K', place.as_bytes()).link(kind::SYMLINK, b"data", b"").finish();
        if let Ok(seen) = run(&guard, &stranger(), &[link], mounted(&HOLD, &[("v", "/data")])) {
            covered.extend((!stands(&seen)).then_some(place));
        }
        guard.clean();
    }
    assert!(covered.is_empty(), "a volume covers what is not the image's, by a link to {covered:?}");
    guard.unharmed();
}

#[test]
fn attack_53_a_tmpfs_at_a_link_covers_neither_procfs_nor_devices_nor_anything_outside() {
    let guard = Guard::over(setup());
    let mut covered = Vec::new();
    for place in places(&guard) {
        let link = RawTar::new().long(b'K', place.as_bytes()).link(kind::SYMLINK, b"data", b"").finish();
        let tmpfs = vec![TmpfsMount { target: "/data".to_owned(), bytes: MIB, mode: 0o7777 }];
        if let Ok(seen) = run(&guard, &stranger(), &[link], ServiceSpec { tmpfs, ..spec(&HOLD) }) {
            covered.extend((!stands(&seen)).then_some(place));
        }
        guard.clean();
    }
    assert!(covered.is_empty(), "a tmpfs covers what is not the image's, by a link to {covered:?}");
    guard.unharmed();
}

#[test]
fn attack_53_a_volume_at_a_file_is_refused() {
    let guard = Guard::over(setup());
    for layer in
        [RawTar::new().file(b"data", b"x"), RawTar::new().file(b"a", b"x").link(kind::SYMLINK, b"data", b"a/b")]
    {
        let refused = run(&guard, &stranger(), &[layer.finish()], mounted(&HOLD, &[("v", "/data")]));
        assert!(matches!(refused, Err(Refusal::JailFailed { .. })), "{refused:?}");
    }
    guard.unharmed();
}

#[test]
fn attack_53_mounts_below_mounts_are_all_seen() {
    let guard = Guard::over(setup());
    let tmpfs = vec![TmpfsMount { target: "/data/b/t".to_owned(), bytes: MIB, mode: 0o1777 }];
    let volumes = [("inner", "/data/b"), ("outer", "/data")];
    let seen = run(&guard, &stranger(), &[], ServiceSpec { tmpfs, ..mounted(&HOLD, &volumes) }).expect("starts");
    let devices: Vec<_> = ["/", "data", "data/b"].map(|path| seen.stat(path).expect("there").st_dev).into();
    assert_ne!(devices[0], devices[1]);
    assert_ne!(devices[1], devices[2]);
    let seen = seen.kind("data/b/t").map(|_| seen.file_system("data/b/t"));
    assert_eq!(seen, Some(TMPFS), "a tmpfs below a volume is hidden by it");
    guard.unharmed();
}

#[test]
fn attack_53_what_a_run_leaves_where_the_next_one_mounts_leads_nowhere() {
    let guard = Guard::over(setup());
    let mut covered = Vec::new();
    for place in places(&guard) {
        let source = stranger();
        let leave = ["/stranger", "leave", "link", "/data/b", &place];
        run(&guard, &source, &[], mounted(&leave, &[("outer", "/data")])).expect("starts");
        if let Ok(seen) = run(&guard, &source, &[], mounted(&HOLD, &[("outer", "/data"), ("inner", "/data/b")])) {
            covered.extend((!stands(&seen)).then_some(place));
        }
        guard.client.stop(&source, Duration::ZERO).expect("stop");
        guard.client.forget(&source).expect("forget");
        guard.clean();
    }
    assert!(covered.is_empty(), "a volume covers what is not the image's, by a link to {covered:?}");
    guard.unharmed();
}

#[test]
fn attack_06_a_volume_that_is_full_is_full_for_itself_alone() {
    let guard = Guard::over(setup().program("/attack", hostile::attacks::program()));
    let mut fill = mounted(&[], &[("v", "/data"), ("w", "/other")]);
    fill.command = attack(&["fill", "/data"]).command;
    let seen = run(&guard, &stranger(), &[], fill).expect("starts");
    assert!(guard.log(&stranger()).contains("ENOSPC"), "{}", guard.log(&stranger()));
    let room = |path: &str| statvfs(format!("/proc/{}/root{path}", seen.pid)).expect("statvfs");
    let full = room("/data");
    assert!(full.f_bavail * full.f_frsize < MIB && full.f_blocks * full.f_frsize <= 16 * MIB);
    for other in ["/other", "/", "/tmp"] {
        assert!(room(other).f_bavail * room(other).f_frsize > 8 * MIB, "{other}");
    }
    let (_, bytes) = hostile::observed::tree(&guard.state("volumes"));
    assert!(bytes <= 36 * MIB, "two volumes of 16 MiB take {bytes}");
    guard.unharmed();
}

#[test]
fn attack_07_a_volume_without_inodes_is_without_them_for_itself_alone() {
    let guard = Guard::over(setup().program("/attack", hostile::attacks::program()));
    let mut bomb = mounted(&[], &[("v", "/data"), ("w", "/other")]);
    bomb.command = attack(&["inode-bomb", "/data"]).command;
    let seen = run(&guard, &stranger(), &[], bomb).expect("starts");
    let log = guard.log(&stranger());
    assert!(log.contains("ENOSPC"), "{log}");
    let inodes = |path: &str| statvfs(format!("/proc/{}/root{path}", seen.pid)).expect("statvfs").f_ffree;
    // The room may end before the inodes do; either way the next volume has its own.
    assert!(inodes("/data") < inodes("/other") && inodes("/other") > 100);
    guard.unharmed();
}

#[test]
fn attack_35_volumes_of_two_sources_with_one_name_are_two_volumes() {
    let guard = Guard::over(setup());
    let (a, b) = (name("a"), name("b"));
    let leave = ["/stranger", "leave", "text", "/data/secret", "of a"];
    let first = run(&guard, &a, &[], mounted(&leave, &[("shared", "/data")])).expect("starts");
    assert_eq!(first.read("data/secret").as_deref(), Some(&b"of a"[..]));
    let second = run(&guard, &b, &[], mounted(&HOLD, &[("shared", "/data")])).expect("starts");
    assert_eq!(second.kind("data"), Some(FileType::Directory));
    assert_eq!(second.kind("data/secret"), None);
    let owners = [&first, &second].map(|seen| seen.stat("data").expect("there").st_uid);
    assert_ne!(owners[0], owners[1]);
    // Nor is it to be had by name from a plan that does not have it.
    let _ = guard.client.stop(&b, Duration::ZERO);
    guard.client.open(&b, with_volumes(&[])).expect("open");
    let manifest = guard.prepared(&b);
    let refused = guard.client.start(&b, &service(MAIN), &manifest, mounted(&HOLD, &[("shared", "/data")]));
    assert!(matches!(refusal(refused), Refusal::BadService { .. }));
    guard.unharmed();
}

#[test]
fn attack_35_a_volume_survives_its_source_and_ends_when_it_is_forgotten() {
    let guard = Guard::over(setup());
    let (source, other) = (stranger(), name("other"));
    let leave = ["/stranger", "leave", "text", "/data/kept", "kept"];
    run(&guard, &source, &[], mounted(&leave, &[("v", "/data")])).expect("starts");
    run(&guard, &other, &[], mounted(&leave, &[("v", "/data")])).expect("starts");
    let again = run(&guard, &source, &[], mounted(&HOLD, &[("v", "/data")])).expect("starts");
    assert_eq!(again.read("data/kept").as_deref(), Some(&b"kept"[..]));
    assert!(guard.client.forget(&source).is_err(), "it is open");
    guard.client.stop(&source, Duration::ZERO).expect("stop");
    guard.client.forget(&source).expect("forget");
    // Whoever comes next in its place starts with nothing.
    for next in [name("next"), source] {
        let seen = run(&guard, &next, &[], mounted(&HOLD, &[("v", "/data")])).expect("starts");
        assert_eq!(seen.names("data"), [""; 0], "{next} finds what another left");
    }
    let kept = run(&guard, &other, &[], mounted(&HOLD, &[("v", "/data")])).expect("starts");
    assert_eq!(kept.read("data/kept").as_deref(), Some(&b"kept"[..]), "another's was forgotten");
    guard.unharmed();
}

/// The directory of a mounted volume, as the runner sees it.
fn inside_runner(rig: &Rig, volume: &str) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", rig.runner_pid()));
    let mounts = root.join(rig.state("v").strip_prefix("/").expect("absolute"));
    let slots = fs::read_dir(&mounts).expect("list").flatten();
    let found = slots.map(|slot| slot.path().join(volume).join("room/data")).find(|path| path.is_dir());
    found.expect("the volume is mounted")
}

#[test]
fn attack_23_devices_and_setuid_programs_in_a_volume_are_inert_in_the_next_run() {
    let guard = Guard::over(setup());
    let source = stranger();
    let leave = ["/stranger", "leave", "setuid", "/data/setuid", ",", "fifo", "/data/fifo"];
    let seen = run(&guard, &source, &[], mounted(&leave, &[("v", "/data")])).expect("starts");
    let left = seen.stat("data/setuid").expect("left");
    assert_eq!(left.st_mode & 0o6000, 0o6000, "the test needs the bits to be there");
    // What a job cannot make, as if it could.
    let data = inside_runner(&guard, "v");
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("mem", FileType::CharacterDevice, makedev(1, 1)),
        ("disk", FileType::BlockDevice, makedev(7, 0)),
    ] {
        let path = data.join(name);
        mknodat(rustix::fs::CWD, &path, kind, Mode::from(0o666), device).expect("mknod");
        std::os::unix::fs::chown(&path, Some(left.st_uid), Some(left.st_gid)).expect("chown");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    }
    let open = ["/data/setuid", "open", "/data/null", "/data/mem", "/data/disk"];
    let as_app = ServiceSpec { user: Some("1000".to_owned()), ..mounted(&open, &[("v", "/data")]) };
    let seen = run(&guard, &source, &[], as_app).expect("starts");
    let job = *children(seen.pid).first().expect("it runs");
    let uids = status(job, "Uid").expect("it runs");
    let uids: std::collections::BTreeSet<&str> = uids.split_whitespace().collect();
    assert_eq!(uids.len(), 1, "real, effective and saved ids differ: {uids:?}");
    assert!(uids.iter().all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid != left.st_uid)), "{uids:?}");
    assert_eq!(status(job, "CapEff").as_deref(), Some("0000000000000000"));
    let log = guard.log(&source);
    for name in ["null", "mem", "disk"] {
        assert!(log.contains(&format!("/data/{name}: Err(PermissionDenied) Err(PermissionDenied)")), "{log}");
    }
    guard.unharmed();
}

#[test]
fn attack_51_accounts_in_a_volume_that_are_a_pipe_or_a_device_do_not_hold_up_the_start() {
    let guard = Guard::over(setup());
    let source = stranger();
    run(&guard, &source, &[], mounted(&HOLD, &[("etc", "/etc")])).expect("starts");
    let passwd = inside_runner(&guard, "etc").join("passwd");
    for kind in [FileType::Fifo, FileType::CharacterDevice, FileType::Socket] {
        mknodat(rustix::fs::CWD, &passwd, kind, Mode::from(0o666), makedev(1, 5)).expect("mknod");
        let began = std::time::Instant::now();
        let user = Some("7".to_owned());
        // Volumes at /etc cover the runner's own files there, which is the owner's business.
        let outcome = run(&guard, &source, &[], ServiceSpec { user, ..mounted(&HOLD, &[("etc", "/etc")]) });
        assert!(began.elapsed().as_secs() < 5, "{kind:?}: {:?}", began.elapsed());
        if let Ok(seen) = outcome {
            let uid = fs::metadata(format!("/proc/{}", seen.pid)).expect("it runs").uid();
            assert!(uid == 0 || uid >= 200_000, "{uid}");
        }
        fs::remove_file(inside_runner(&guard, "etc").join("passwd")).expect("remove");
    }
    guard.unharmed();
}

#[test]
fn attack_06_a_volume_of_any_size_takes_no_more_room_than_is_used() {
    let rig = armed(setup());
    for bytes in [0, 1, u64::MAX, 1 << 50] {
        let source = stranger();
        let plan =
            SourcePlan { volumes: vec![VolumePlan { name: "v".parse().expect("a name"), bytes }], ..plan(&[MAIN]) };
        match rig.client.open(&source, plan) {
            Ok(_) => rig.client.stop(&source, Duration::ZERO).map(drop).expect("stop"),
            refused => println!("{}", refusal(refused)),
        }
        let (_, taken) = hostile::observed::tree(&rig.state("volumes"));
        assert!(taken < 256 * MIB, "a volume of {bytes} takes {taken} while it is empty");
        rig.client.forget(&source).expect("forget");
    }
    rig.still_works();
}
