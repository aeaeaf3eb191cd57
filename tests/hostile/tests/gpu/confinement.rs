//! What the jail of a worker holds, seen from outside while it waits for a job or compiles.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use fake_gpu_script::Gpu;
use hostile::gpu::{GpuRig, small};
use hostile::observed::status;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use crate::compiles::{bomb, compile, compiler, with_linker};
use crate::small_job;

/// What every jail has in `/dev`.
const DEVICES: [&str; 10] = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];

fn of(pid: u32, below: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{below}"))
}

/// The names in a directory of a worker's jail, sorted.
fn names(pid: u32, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(of(pid, &format!("root{dir}"))).unwrap_or_else(|error| panic!("{dir}: {error}"));
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn environment(pid: u32) -> Vec<String> {
    let text = std::fs::read(of(pid, "environ")).expect("its environment");
    let pairs = text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
    pairs.map(|pair| String::from_utf8_lossy(pair).into_owned()).collect()
}

/// Panics unless the process can do nothing to the kernel and reach nobody.
fn assert_confined(pid: u32) {
    let zero = "0000000000000000";
    for (key, expected) in [
        ("CapInh", zero),
        ("CapPrm", zero),
        ("CapEff", zero),
        ("CapBnd", zero),
        ("CapAmb", zero),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("Groups", ""),
    ] {
        assert_eq!(status(pid, key).as_deref(), Some(expected), "{key}");
    }
    let ids: Vec<u32> = status(pid, "Uid").expect("ids").split_whitespace().filter_map(|id| id.parse().ok()).collect();
    assert!(ids.len() == 4 && ids.iter().all(|id| *id >= 200_000), "{ids:?}");
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let link = |path: PathBuf| std::fs::read_link(path).expect("a namespace");
        assert_ne!(link(of(pid, &format!("ns/{kind}"))), link(format!("/proc/self/ns/{kind}").into()), "{kind}");
    }
    // No network but a loopback that is down: nothing came or went, no route, nobody listens.
    let devices = std::fs::read_to_string(of(pid, "net/dev")).expect("its network");
    assert_eq!(
        devices.lines().skip(2).map(|line| line.split(':').next().unwrap_or("").trim()).collect::<Vec<_>>(),
        ["lo"]
    );
    assert_eq!(std::fs::read_to_string(of(pid, "net/route")).expect("its routes").lines().count(), 1);
    assert_eq!(std::fs::read_to_string(of(pid, "net/tcp")).expect("its sockets").lines().count(), 1);
    // Its standard streams and its socket.
    let mut descriptors: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(of(pid, "fd")).expect("its descriptors").flatten() {
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        descriptors.insert(number, std::fs::read_link(entry.path()).unwrap_or_default());
    }
    assert_eq!(descriptors.keys().copied().take(4).collect::<Vec<_>>(), [0, 1, 2, 3], "{descriptors:?}");
    assert_eq!(descriptors[&0], PathBuf::from("/dev/null"));
    assert!(descriptors[&3].to_string_lossy().starts_with("socket:"), "{descriptors:?}");
    for limit in
        ["Max core file size        0                    0 ", "Max open files            1024                 1024 "]
    {
        let limits = std::fs::read_to_string(of(pid, "limits")).expect("its limits");
        assert!(limits.contains(limit), "{limit} in {limits}");
    }
    // Its files: an image that nobody writes to, and nothing of the kernel's but processes.
    assert_eq!(names(pid, "/"), ["bin", "dev", "etc", "lib", "lib64", "proc", "tmp"]);
    assert_eq!(names(pid, "/bin"), ["rig-cuda"]);
    assert_eq!(names(pid, "/etc"), ["hostname", "hosts", "resolv.conf"]);
    let processes = names(pid, "/proc");
    assert!(
        processes.iter().all(|name| name.starts_with("self") || name == "thread-self" || name.parse::<u32>().is_ok()),
        "{processes:?}"
    );
    let mounts = std::fs::read_to_string(of(pid, "mountinfo")).expect("its mounts");
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        let (place, options) = (words[4], words[5]);
        let is_writable = ["/tmp", "/dev/shm", "/proc"].contains(&place);
        assert_eq!(options.starts_with("ro,"), !is_writable, "{mount}");
        assert!(options.contains("nosuid") && (options.contains("nodev") || place == "/dev"), "{mount}");
        assert!(place != "/proc" || mount.ends_with("subset=pid"), "{mount}");
        assert!(!place.starts_with("/sys"), "{mount}");
    }
}

#[test]
fn attack_64_the_jail_of_a_worker_holds_what_it_needs_and_no_means_to_set_a_gpu() {
    let rig = GpuRig::healthy();
    for _ in 0..2 {
        let pid = rig.worker();
        assert_confined(pid);
        let descriptors = std::fs::read_dir(of(pid, "fd")).expect("its descriptors").count();
        assert_eq!(descriptors, 4, "while it waits");
        assert_eq!(
            environment(pid),
            [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "CUDA_VISIBLE_DEVICES=GPU-0fa4e000-0000-4000-8000-000000000000",
                "CUDA_DISABLE_PTX_JIT=1",
                "CUDA_CACHE_DISABLE=1",
                "CUDA_MODULE_LOADING=EAGER",
                "LD_LIBRARY_PATH=/lib",
                "HOME=/",
            ]
        );
        // The driver's library and those that it and the program are linked with; none that sets clocks or power.
        let libraries = names(pid, "/lib");
        assert!(libraries.contains(&"libcuda.so.1".to_owned()), "{libraries:?}");
        let known =
            ["ld-linux", "libc.so", "libcuda.so.1", "libdl.so", "libgcc_s.so", "libm.so", "libpthread.so", "librt.so"];
        assert!(libraries.iter().all(|name| known.iter().any(|known| name.starts_with(known))), "{libraries:?}");
        assert!(
            !rig.driver().join("libnvidia-ml.so.1").as_os_str().is_empty()
                && !libraries.iter().any(|name| name.contains("nvidia-ml"))
        );
        let maps = std::fs::read_to_string(of(pid, "maps")).expect("what it has mapped");
        assert!(maps.contains("/lib/libcuda.so.1") && !maps.contains("nvidia-ml"), "{maps}");
        assert_eq!(names(pid, "/dev"), DEVICES);
        // The same for the next worker.
        rig.launch(&small_job()).expect("launched");
        rig.offered();
    }
}

/// Runs `test` where `/dev` holds the nodes of two GPUs and what their driver has besides, seen by nobody else.
fn with_nodes(test: impl FnOnce() + Send + 'static) {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().to_owned();
    let inside = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).expect("private");
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlayfs");
        for (key, below) in [("upperdir", "upper"), ("workdir", "work")] {
            std::fs::create_dir(place.join(below)).expect("mkdir");
            fsconfig_set_string(&fs, key, place.join(below)).expect("a directory");
        }
        fsconfig_set_string(&fs, "lowerdir", "/dev").expect("a directory");
        fsconfig_create(&fs).expect("an overlay");
        let dev = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("a mount");
        move_mount(dev.as_fd(), "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("attach");
        for (name, number) in [("nvidia0", 0), ("nvidia1", 1), ("nvidia-modeset", 254), ("nvidiactl", 255)] {
            let path = PathBuf::from("/dev").join(name);
            mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(195, number)).expect("a node");
        }
        test();
    };
    if let Err(panic) = std::thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Name and number of each GPU's node in a worker's jail.
fn gpu_nodes(pid: u32) -> Vec<(String, u64, u64)> {
    let further = names(pid, "/dev").into_iter().filter(|name| !DEVICES.contains(&name.as_str()));
    let node = |name: String| {
        let node = std::fs::symlink_metadata(of(pid, &format!("root/dev/{name}"))).expect("a node");
        assert!(node.file_type().is_char_device(), "{name}");
        (name, major(node.rdev()), minor(node.rdev()))
    };
    further.map(node).collect()
}

#[test]
fn a_worker_has_the_nodes_of_its_own_gpu_and_no_others() {
    with_nodes(|| {
        let mut script = small();
        script.gpus.push(Gpu { vram_bytes: script.gpus[0].vram_bytes, ..Gpu::numbered(1) });
        let rig = GpuRig::new(script);
        rig.offered();
        let mut found = Vec::new();
        for worker in rig.workers() {
            assert_confined(worker);
            let of_gpu = environment(worker)
                .into_iter()
                .find_map(|pair| Some(pair.strip_prefix("CUDA_VISIBLE_DEVICES=")?.to_owned()));
            found.push((of_gpu.expect("its GPU"), gpu_nodes(worker)));
        }
        found.sort();
        let expected = |gpu: u8| {
            let own = (format!("nvidia{gpu}"), 195, u64::from(gpu));
            (Gpu::numbered(gpu).uuid, vec![own, ("nvidiactl".to_owned(), 195, 255)])
        };
        assert_eq!(found, [expected(0), expected(1)]);
        rig.still_works();
    });
}

#[test]
fn a_node_that_is_not_the_drivers_is_given_to_nobody() {
    with_nodes(|| {
        // The machine's memory under the name of a GPU, and a file that is no device.
        for name in ["nvidia0", "nvidiactl"] {
            std::fs::remove_file(PathBuf::from("/dev").join(name)).expect("remove");
        }
        mknod("/dev/nvidia0", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 1)).expect("a node");
        std::fs::write("/dev/nvidiactl", "no device").expect("write");
        let rig = GpuRig::healthy();
        assert_eq!(gpu_nodes(rig.worker()), []);
        assert_eq!(rig.rig.journal().matches("a device node is not the driver's").count(), 2);
        rig.still_works();
    });
}

#[test]
fn a_compiler_has_no_gpu() {
    with_nodes(|| {
        let rig = with_linker();
        assert_eq!(gpu_nodes(rig.worker()).len(), 2);
        let (client, bomb) = (rig.rig.client.clone(), bomb());
        let begun = std::thread::spawn(move || compile(&client, bomb.as_bytes()).map(drop));
        let pid = compiler(&rig);
        hostile::rig::wait_for("the linker", || {
            std::fs::read_to_string(of(pid, "maps")).is_ok_and(|maps| maps.contains("libnvJitLink.so")).then_some(())
        });
        assert_confined(pid);
        assert_eq!(names(pid, "/dev"), DEVICES);
        assert_eq!(
            environment(pid),
            ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=/lib", "HOME=/"]
        );
        let maps = std::fs::read_to_string(of(pid, "maps")).expect("what it has mapped");
        assert!(!maps.contains("libcuda"), "the driver is not even loaded");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
            .expect("it lives");
        assert!(begun.join().expect("no panic").is_err());
        rig.still_works();
    });
}
