//! Asks the kernel for what would open the box: mounts, namespaces, modules, clocks, keys, other doors into it.

use std::ffi::{CStr, CString};
use std::fs::File;

use nix::libc;

use crate::raw::{self, Arg, attempt};
use crate::{Attack, Words, errno, hold, said};

pub(crate) const ATTACKS: &[Attack] = &[
    ("write-sysctls", write_sysctls),
    ("fingerprint", fingerprint),
    ("remount", remount),
    ("namespaces", namespaces),
    ("mknod", mknod),
    ("setuid", setuid),
    ("who", who),
    ("keys", keys),
    ("plant-key", plant_key),
    ("io-uring", io_uring),
    ("doors", doors),
    ("clocks", clocks),
    ("machine", machine),
    ("cgroup", cgroup),
    ("personality", personality),
    ("terminal", terminal),
    ("listen-to-calls", listen_to_calls),
];

/// Files whose one line is the whole machine's.
fn write_sysctls(_: Words<'_>) {
    for (path, text) in [
        ("/proc/sys/kernel/core_pattern", "|/attack who"),
        ("/proc/sys/kernel/modprobe", "/attack"),
        ("/proc/sys/kernel/hostname", "owned"),
        ("/proc/sys/kernel/panic_on_oops", "1"),
        ("/proc/sys/kernel/sysrq", "511"),
        ("/proc/sys/vm/swappiness", "1"),
        ("/proc/sys/vm/overcommit_memory", "2"),
        ("/proc/sys/fs/file-max", "1024"),
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        ("/proc/sys/user/max_user_namespaces", "1"),
        ("/proc/sysrq-trigger", "c"),
        ("/proc/self/oom_score_adj", "-1000"),
        ("/proc/self/uid_map", "0 0 4294967295"),
        ("/proc/self/setgroups", "allow"),
        ("/proc/self/loginuid", "0"),
        ("/proc/self/attr/current", "unconfined"),
        ("/proc/self/timens_offsets", "monotonic 1000 0"),
        ("/proc/self/coredump_filter", "ff"),
        ("/sys/kernel/uevent_helper", "/attack"),
        ("/sys/power/state", "mem"),
    ] {
        said(path, std::fs::write(path, text).map_err(errno));
    }
}

/// Everything that would tell this machine from another.
fn fingerprint(_: Words<'_>) {
    for path in [
        "/proc/kallsyms",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/sys/kernel/random/boot_id",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/cmdline",
        "/proc/version",
        "/proc/mounts",
        "/proc/self/mountinfo",
        "/proc/self/mounts",
        "/proc/self/mountstats",
        "/proc/self/cgroup",
        "/proc/1/mountinfo",
        "/proc/1/cgroup",
        "/proc/modules",
        "/proc/keys",
        "/proc/net/route",
        "/proc/partitions",
        "/proc/devices",
        "/etc/machine-id",
        "/etc/hostname",
        "/sys/class/dmi/id/product_uuid",
    ] {
        match std::fs::read_to_string(path) {
            Ok(text) => text.lines().take(64).for_each(|line| println!("{path}: {line}")),
            Err(error) => println!("{path}: {:?}", errno(error)),
        }
    }
    let mut buffer = [0; 4096];
    // SYSLOG_ACTION_READ_ALL
    let arguments = &mut [Arg::Int(3), Arg::Bytes(&mut buffer), Arg::Int(4096)];
    said("syslog", attempt(libc::SYS_syslog, arguments));
}

fn remount(_: Words<'_>) {
    let tries: [(&str, &CStr, &CStr, &CStr, u64); 9] = [
        ("mount a tmpfs", c"tmpfs", c"/tmp", c"tmpfs", 0),
        ("mount a proc", c"proc", c"/tmp", c"proc", 0),
        ("mount a sysfs", c"sysfs", c"/tmp", c"sysfs", 0),
        ("mount a cgroup2", c"cgroup2", c"/tmp", c"cgroup2", 0),
        ("mount an overlay", c"overlay", c"/tmp", c"overlay", 0),
        ("mount a device", c"/dev/vda", c"/tmp", c"ext4", 0),
        ("bind /", c"/", c"/tmp", c"", libc::MS_BIND | libc::MS_REC),
        ("remount / writable", c"", c"/", c"", libc::MS_REMOUNT | libc::MS_BIND),
        ("share /", c"", c"/", c"", libc::MS_SHARED | libc::MS_REC),
    ];
    for (name, source, target, kind, flags) in tries {
        let flags = i64::try_from(flags).unwrap_or(0);
        let arguments = &mut [Arg::Text(source), Arg::Text(target), Arg::Text(kind), Arg::Int(flags), Arg::Int(0)];
        said(name, attempt(libc::SYS_mount, arguments));
    }
    for target in [c"/proc", c"/dev", c"/tmp", c"/", c"/etc/hosts"] {
        // MNT_DETACH
        let outcome = attempt(libc::SYS_umount2, &mut [Arg::Text(target), Arg::Int(2)]);
        said(format!("unmount {target:?}"), outcome);
    }
    said("pivot", attempt(libc::SYS_pivot_root, &mut [Arg::Text(c"/tmp"), Arg::Text(c"/tmp")]));
    said("chroot", attempt(libc::SYS_chroot, &mut [Arg::Text(c"/tmp")]));
    said("fsopen", attempt(libc::SYS_fsopen, &mut [Arg::Text(c"tmpfs"), Arg::Int(0)]));
    said("fspick", attempt(libc::SYS_fspick, &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Int(0)]));
    // OPEN_TREE_CLONE
    said("open_tree", attempt(libc::SYS_open_tree, &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Int(1)]));
    let mut writable = [0_u8; 32];
    writable[8..16].copy_from_slice(&1_u64.to_ne_bytes()); // clear MOUNT_ATTR_RDONLY
    let arguments = &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Int(0x8000), Arg::Bytes(&mut writable), Arg::Int(32)];
    said("mount_setattr", attempt(libc::SYS_mount_setattr, arguments));
    let arguments = &mut [Arg::Int(-100), Arg::Text(c"/bin"), Arg::Int(-100), Arg::Text(c"/tmp"), Arg::Int(0)];
    said("move_mount", attempt(libc::SYS_move_mount, arguments));
}

/// Each kind of namespace in each of the three ways to get one, then those of others.
fn namespaces(_: Words<'_>) {
    let kinds = [
        ("user", libc::CLONE_NEWUSER),
        ("net", libc::CLONE_NEWNET),
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
        ("user and all", libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS),
    ];
    for (name, flag) in kinds {
        said(format!("unshare {name}"), attempt(libc::SYS_unshare, &mut [Arg::Int(flag.into())]));
        // In the flags of `clone` the bit for time is part of the signal.
        if flag != 0x80 {
            said(format!("clone {name}"), clone_with(flag.into()));
        }
        said(format!("clone3 {name}"), clone3_with(u64::from(flag.cast_unsigned())));
    }
    for kind in ["net", "mnt", "user", "pid", "cgroup"] {
        for process in ["self", "1"] {
            let path = format!("/proc/{process}/ns/{kind}");
            match File::open(&path) {
                Ok(file) => {
                    let fd = std::os::fd::AsRawFd::as_raw_fd(&file).into();
                    said(format!("enter {path}"), attempt(libc::SYS_setns, &mut [Arg::Int(fd), Arg::Int(0)]));
                }
                Err(error) => println!("{path}: {:?}", errno(error)),
            }
        }
    }
}

/// A child by `clone` that holds still if there is one.
pub(crate) fn clone_with(flags: i64) -> Result<i64, nix::errno::Errno> {
    let signal = i64::from(libc::SIGCHLD);
    match attempt(libc::SYS_clone, &mut [Arg::Int(flags | signal), Arg::Int(0)]) {
        Ok(0) => hold(),
        other => other,
    }
}

/// A child by `clone3` that holds still if there is one.
pub(crate) fn clone3_with(flags: u64) -> Result<i64, nix::errno::Errno> {
    // struct clone_args, its first version: flags, pidfd, child_tid, parent_tid, exit_signal, stack, size, tls.
    let mut arguments = [0_u8; 64];
    arguments[..8].copy_from_slice(&flags.to_ne_bytes());
    arguments[32] = 17;
    match attempt(libc::SYS_clone3, &mut [Arg::Bytes(&mut arguments), Arg::Int(64)]) {
        Ok(0) => hold(),
        other => other,
    }
}

fn mknod(_: Words<'_>) {
    for dir in ["/tmp", "/dev/shm", "/dev", "/"] {
        for (name, kind, major, minor) in [
            ("mem", libc::S_IFCHR, 1, 1),
            ("nvidia1", libc::S_IFCHR, 195, 1),
            ("kmsg", libc::S_IFCHR, 1, 11),
            ("loop0", libc::S_IFBLK, 7, 0),
            ("vda", libc::S_IFBLK, 253, 0),
            ("whiteout", libc::S_IFCHR, 0, 0),
        ] {
            let path = format!("{dir}/{name}");
            let Ok(c_path) = CString::new(path.clone()) else { continue };
            let device = i64::from((major << 8) | minor);
            let mode = i64::from(kind | 0o666);
            let arguments = &mut [Arg::Int(-100), Arg::Text(&c_path), Arg::Int(mode), Arg::Int(device)];
            said(&path, attempt(libc::SYS_mknodat, arguments));
            said(&path, File::open(&path).map_err(errno));
        }
    }
}

/// Runs the image's setuid copy of this program, which then says who it is; and asks for more by itself.
fn setuid(_: Words<'_>) {
    said("become 0", attempt(libc::SYS_setuid, &mut [Arg::Int(0)]));
    said("become 0 in group 0", attempt(libc::SYS_setresgid, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(0)]));
    said("join groups", attempt(libc::SYS_setgroups, &mut [Arg::Int(0), Arg::Int(0)]));
    // struct __user_cap_header_struct, version 3; then all capabilities.
    let mut header = Vec::new();
    header.extend(0x2008_0522_u32.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    let all = &mut [Arg::Bytes(&mut header), Arg::Bytes(&mut [0xFF; 24])];
    said("take capabilities", attempt(libc::SYS_capset, all));
    for program in ["/suid", "/sgid", "/capable"] {
        said(program, std::process::Command::new(program).arg("who").spawn().map_err(errno));
    }
    // PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT raise SYS_ADMIN
    for (name, option, a, b) in [("keep", 8, 1, 0), ("securebits", 28, 0, 0), ("ambient", 47, 2, 21)] {
        said(name, attempt(libc::SYS_prctl, &mut [Arg::Int(option), Arg::Int(a), Arg::Int(b)]));
    }
    let mut capability = [0_u8; 20];
    for name in [c"security.capability", c"user.overlay.redirect", c"trusted.overlay.opaque"] {
        let arguments =
            &mut [Arg::Text(c"/tmp"), Arg::Text(name), Arg::Bytes(&mut capability), Arg::Int(20), Arg::Int(0)];
        said(format!("{name:?}"), attempt(libc::SYS_setxattr, arguments));
    }
}

/// Who this is, for a parent that ran it under another name.
fn who(_: Words<'_>) {
    println!("euid {} egid {}", nix::unistd::geteuid(), nix::unistd::getegid());
    hold();
}

/// `keys PREFIX`: reads what others keep, and leaves something.
fn keys(words: Words<'_>) {
    let wanted = words.first().copied().unwrap_or_default();
    // KEYCTL_GET_KEYRING_ID of thread, process, session, user and user session keyring; JOIN_SESSION_KEYRING.
    for keyring in [-1_i64, -2, -3, -4, -5] {
        let outcome = attempt(libc::SYS_keyctl, &mut [Arg::Int(0), Arg::Int(keyring), Arg::Int(1)]);
        said(format!("keyring {keyring}"), outcome);
        if let Ok(name) = CString::new(wanted) {
            let search = &mut [Arg::Int(10), Arg::Int(keyring), Arg::Text(c"user"), Arg::Text(&name), Arg::Int(0)];
            said(format!("search {keyring}"), attempt(libc::SYS_keyctl, search));
        }
    }
    said("join", attempt(libc::SYS_keyctl, &mut [Arg::Int(1), Arg::Text(c"hostile")]));
    said("add", add_key(c"hostile-leaves-this", -4));
    let request = &mut [Arg::Text(c"user"), Arg::Text(c"hostile-asks"), Arg::Text(c"x"), Arg::Int(-4)];
    said("request", attempt(libc::SYS_request_key, request));
}

/// `plant-key NAME`, on the host: a key for [`keys`] to find; ends at once.
fn plant_key(words: Words<'_>) {
    let name = CString::new(words.first().copied().unwrap_or_default()).unwrap_or_default();
    said("plant", add_key(&name, -4));
    std::process::exit(0);
}

fn add_key(name: &CStr, keyring: i64) -> Result<i64, nix::errno::Errno> {
    let mut payload = *b"payload-of-a-key";
    let arguments =
        &mut [Arg::Text(c"user"), Arg::Text(name), Arg::Bytes(&mut payload), Arg::Int(16), Arg::Int(keyring)];
    attempt(libc::SYS_add_key, arguments)
}

fn io_uring(_: Words<'_>) {
    // struct io_uring_params
    let mut params = [0_u8; 120];
    let setup = attempt(libc::SYS_io_uring_setup, &mut [Arg::Int(8), Arg::Bytes(&mut params)]);
    said("io_uring_setup", setup);
    said("io_uring_enter", attempt(libc::SYS_io_uring_enter, &mut [Arg::Int(0), Arg::Int(1)]));
    said("io_uring_register", attempt(libc::SYS_io_uring_register, &mut [Arg::Int(-1), Arg::Int(0)]));
}

/// Descriptors that are doors into the kernel; what could be opened stays open.
fn doors(_: Words<'_>) {
    // union bpf_attr for BPF_MAP_CREATE: an array of one.
    let mut map = [0_u8; 72];
    map[0] = 2;
    map[4] = 4;
    map[8] = 4;
    map[12] = 1;
    said("bpf", attempt(libc::SYS_bpf, &mut [Arg::Int(0), Arg::Bytes(&mut map), Arg::Int(72)]));
    // struct perf_event_attr: software, its size, the CPU clock; then itself, on any CPU.
    let mut event = [0_u8; 128];
    event[0] = 1;
    event[4] = 128;
    let perf = &mut [Arg::Bytes(&mut event), Arg::Int(0), Arg::Int(-1), Arg::Int(-1), Arg::Int(0)];
    said("perf_event_open", attempt(libc::SYS_perf_event_open, perf));
    said("userfaultfd", attempt(libc::SYS_userfaultfd, &mut [Arg::Int(1)]));
    said("/dev/userfaultfd", File::open("/dev/userfaultfd").map_err(errno));
    said("fanotify_init", attempt(libc::SYS_fanotify_init, &mut [Arg::Int(0), Arg::Int(0)]));
    said("lookup_dcookie", attempt(libc::SYS_lookup_dcookie, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(0)]));
    let mut handle = [0_u8; 136];
    handle[0] = 128;
    let mut mount = [0_u8; 4];
    let name = &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Bytes(&mut handle), Arg::Bytes(&mut mount), Arg::Int(0)];
    said("name_to_handle_at", attempt(libc::SYS_name_to_handle_at, name));
    let open = &mut [Arg::Int(-100), Arg::Bytes(&mut handle), Arg::Int(0)];
    said("open_by_handle_at", attempt(libc::SYS_open_by_handle_at, open));
    said("memfd_secret", attempt(libc::SYS_memfd_secret, &mut [Arg::Int(0)]));
    said("process_madvise", attempt(libc::SYS_process_madvise, &mut [Arg::Int(-1)]));
    said("statmount", attempt(457, &mut [Arg::Int(0)]));
    said("listmount", attempt(458, &mut [Arg::Int(0)]));
}

fn clocks(_: Words<'_>) {
    let mut time = [0_u8; 16];
    time[0] = 1;
    for clock in [0_i64, 1, 7] {
        let outcome = attempt(libc::SYS_clock_settime, &mut [Arg::Int(clock), Arg::Bytes(&mut time)]);
        said(format!("set clock {clock}"), outcome);
    }
    said("settimeofday", attempt(libc::SYS_settimeofday, &mut [Arg::Bytes(&mut time), Arg::Int(0)]));
    // struct timex with ADJ_OFFSET | ADJ_FREQUENCY.
    let mut timex = [0_u8; 208];
    timex[0] = 3;
    said("adjtimex", attempt(libc::SYS_adjtimex, &mut [Arg::Bytes(&mut timex)]));
    let arguments = &mut [Arg::Int(0), Arg::Bytes(&mut timex)];
    said("clock_adjtime", attempt(libc::SYS_clock_adjtime, arguments));
    said("/dev/rtc0", File::open("/dev/rtc0").map_err(errno));
    said("time namespace", attempt(libc::SYS_unshare, &mut [Arg::Int(0x80)]));
}

/// The machine itself: its power, its kernel, its ports.
fn machine(_: Words<'_>) {
    // LINUX_REBOOT_CMD_CAD_OFF does nothing that lasts; whoever may do this may also reboot.
    let reboot = &mut [Arg::Int(0xFEE1_DEAD), Arg::Int(672_274_793), Arg::Int(0), Arg::Int(0)];
    said("reboot", attempt(libc::SYS_reboot, reboot));
    said("kexec_load", attempt(libc::SYS_kexec_load, &mut [Arg::Int(0)]));
    let file = &mut [Arg::Int(-1), Arg::Int(-1), Arg::Int(0), Arg::Int(0), Arg::Int(0)];
    said("kexec_file_load", attempt(libc::SYS_kexec_file_load, file));
    let mut module = [0_u8; 64];
    let init = &mut [Arg::Bytes(&mut module), Arg::Int(64), Arg::Text(c"")];
    said("init_module", attempt(libc::SYS_init_module, init));
    said("finit_module", attempt(libc::SYS_finit_module, &mut [Arg::Int(0), Arg::Text(c""), Arg::Int(0)]));
    said("delete_module", attempt(libc::SYS_delete_module, &mut [Arg::Text(c"none"), Arg::Int(0)]));
    said("swapon", attempt(libc::SYS_swapon, &mut [Arg::Text(c"/attack"), Arg::Int(0)]));
    said("swapoff", attempt(libc::SYS_swapoff, &mut [Arg::Text(c"/dev/zram0")]));
    said("acct", attempt(libc::SYS_acct, &mut [Arg::Text(c"/tmp/acct")]));
    said("quotactl", attempt(libc::SYS_quotactl, &mut [Arg::Int(0), Arg::Int(0)]));
    said("quotactl_fd", attempt(443, &mut [Arg::Int(0), Arg::Int(0)]));
    said("sethostname", attempt(libc::SYS_sethostname, &mut [Arg::Text(c"owned"), Arg::Int(5)]));
    said("setdomainname", attempt(libc::SYS_setdomainname, &mut [Arg::Text(c"owned"), Arg::Int(5)]));
    said("vhangup", attempt(libc::SYS_vhangup, &mut []));
    x86();
}

#[cfg(target_arch = "x86_64")]
fn x86() {
    said("iopl", attempt(libc::SYS_iopl, &mut [Arg::Int(3)]));
    said("ioperm", attempt(libc::SYS_ioperm, &mut [Arg::Int(0x70), Arg::Int(2), Arg::Int(1)]));
    let mut entry = [0_u8; 16];
    let ldt = &mut [Arg::Int(1), Arg::Bytes(&mut entry), Arg::Int(16)];
    said("modify_ldt", attempt(libc::SYS_modify_ldt, ldt));
}

#[cfg(not(target_arch = "x86_64"))]
fn x86() {}

fn cgroup(_: Words<'_>) {
    let mut dirs = vec!["/sys/fs/cgroup".to_owned(), "/tmp/cgroup".to_owned(), "/proc/self/root/sys/fs/cgroup".into()];
    for line in std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        println!("cgroup: {line}");
        if let Some((_, path)) = line.split_once("::") {
            dirs.push(format!("/sys/fs/cgroup{path}"));
        }
    }
    for kind in [c"cgroup", c"cgroup2"] {
        let arguments = &mut [Arg::Text(c"none"), Arg::Text(c"/tmp"), Arg::Text(kind), Arg::Int(0), Arg::Int(0)];
        said(format!("mount {kind:?}"), attempt(libc::SYS_mount, arguments));
    }
    for dir in dirs {
        for (file, text) in [
            ("release_agent", "/attack"),
            ("notify_on_release", "1"),
            ("cgroup.procs", "0"),
            ("cgroup.subtree_control", "-memory"),
            ("memory.max", "max"),
            ("pids.max", "max"),
            ("cgroup.kill", "1"),
        ] {
            let path = format!("{dir}/{file}");
            said(&path, std::fs::write(&path, text).map_err(errno));
        }
        said(&dir, std::fs::create_dir(format!("{dir}/escape")).map_err(errno));
    }
}

fn personality(_: Words<'_>) {
    // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_LINUX32
    for persona in [0x0004_0000, 0x0040_0000, 8] {
        said(format!("personality {persona:#x}"), attempt(libc::SYS_personality, &mut [Arg::Int(persona)]));
    }
    // x32: the same table with a bit that means 32-bit pointers.
    in_a_child("x32", || attempt(libc::SYS_getpid | 0x4000_0000, &mut []));
    in_a_child("int80", raw::getpid_of_32_bits);
}

/// Forks for what may kill, and says how the child ended: 0 if it could do it.
fn in_a_child(name: &str, act: impl Fn() -> Result<i64, nix::errno::Errno>) {
    match raw::fork() {
        Ok(None) => std::process::exit(act().map_or_else(|errno| errno as i32, |_| 0)),
        Ok(Some(child)) => println!("{name}: {:?}", nix::sys::wait::waitpid(child, None)),
        Err(errno) => println!("{name}: {errno:?}"),
    }
}

/// Types for whoever sits at a terminal.
fn terminal(_: Words<'_>) {
    for path in ["/dev/tty", "/dev/console", "/dev/ptmx", "/dev/pts/0", "/dev/tty1"] {
        said(path, File::options().read(true).write(true).open(path).map_err(errno));
    }
    for fd in 0..3 {
        let mut typed = *b"x";
        for (name, request) in [("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSCTTY", 0x540E)] {
            let arguments = &mut [Arg::Int(fd), Arg::Int(request), Arg::Bytes(&mut typed)];
            said(format!("{name} {fd}"), attempt(libc::SYS_ioctl, arguments));
            // The kernel looks at 32 bits of the request only; a filter that compares 64 is fooled.
            let high = request | 1 << 32;
            let arguments = &mut [Arg::Int(fd), Arg::Int(high), Arg::Bytes(&mut typed)];
            said(format!("{name} {fd}, dressed up"), attempt(libc::SYS_ioctl, arguments));
        }
    }
}

/// Puts itself between a program and the kernel.
fn listen_to_calls(_: Words<'_>) {
    // One instruction: allow.
    let mut program = Vec::new();
    program.extend(6_u16.to_ne_bytes());
    program.extend([0, 0]);
    program.extend(0x7FFF_0000_u32.to_ne_bytes());
    let mut header = Vec::new();
    header.extend(1_u64.to_ne_bytes());
    header.extend((program.as_mut_ptr() as u64).to_ne_bytes());
    // SECCOMP_SET_MODE_FILTER with NEW_LISTENER, with TSYNC, and plain.
    for (name, flags) in [("listener", 8), ("all threads", 1), ("filter", 0)] {
        let arguments = &mut [Arg::Int(1), Arg::Int(flags), Arg::Bytes(&mut header)];
        said(name, attempt(libc::SYS_seccomp, arguments));
    }
    // PR_SET_SECCOMP, filter mode
    let arguments = &mut [Arg::Int(22), Arg::Int(2), Arg::Bytes(&mut header)];
    said("filter by prctl", attempt(libc::SYS_prctl, arguments));
    // A Landlock of its own may only take away; 17 more than the kernel stacks are tried.
    for number in 0..17 {
        let mut attributes = [0_u8; 8];
        attributes[0] = 4;
        let create = &mut [Arg::Bytes(&mut attributes), Arg::Int(8), Arg::Int(0)];
        let outcome = attempt(libc::SYS_landlock_create_ruleset, create);
        let outcome =
            outcome.and_then(|fd| attempt(libc::SYS_landlock_restrict_self, &mut [Arg::Int(fd), Arg::Int(0)]));
        said(format!("landlock {number}"), outcome);
    }
    std::hint::black_box(&program);
}
