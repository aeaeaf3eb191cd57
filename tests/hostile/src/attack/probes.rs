//! One question each: may a job do this? Asked in processes of their own, since some of them kill.
//!
//! The list is compared with `probes.golden`, line by line; a probe is never renamed, only added or removed there too.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::kernel::{clone_with, clone3_with};
use crate::raw::{self, Arg, attempt};
use crate::{Attack, Words, errno};

pub(crate) const ATTACKS: &[Attack] = &[("probes", probes), ("probe", probe)];

/// What the kernel said.
type Outcome = Result<i64, Errno>;

/// Name, and how to ask.
type Probe = (&'static str, fn() -> Outcome);

const COUNT: usize = 81;

const PROBES: [Probe; COUNT] = [
    // The tree of mounts.
    ("mount tmpfs", || mount(c"tmpfs", c"/tmp", c"tmpfs", 0)),
    ("mount proc", || mount(c"proc", c"/tmp", c"proc", 0)),
    ("remount / writable", || mount(c"none", c"/", c"none", libc::MS_REMOUNT | libc::MS_BIND)),
    ("bind /", || mount(c"/", c"/tmp", c"none", libc::MS_BIND)),
    ("umount /proc", || attempt(libc::SYS_umount2, &mut [Arg::Text(c"/proc"), Arg::Int(2)])),
    ("pivot_root", || attempt(libc::SYS_pivot_root, &mut [Arg::Text(c"/tmp"), Arg::Text(c"/tmp")])),
    ("chroot", || attempt(libc::SYS_chroot, &mut [Arg::Text(c"/tmp")])),
    ("fsopen tmpfs", || attempt(libc::SYS_fsopen, &mut [Arg::Text(c"tmpfs"), Arg::Int(0)])),
    ("open_tree clone", || attempt(libc::SYS_open_tree, &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Int(1)])),
    ("move_mount", || {
        let (from, to) = (Arg::Text(c"/dev"), Arg::Text(c"/tmp"));
        attempt(libc::SYS_move_mount, &mut [Arg::Int(-100), from, Arg::Int(-100), to, Arg::Int(0)])
    }),
    ("mount_setattr", || {
        let attributes = Arg::Bytes(&mut [0; 32]);
        attempt(libc::SYS_mount_setattr, &mut [Arg::Int(-100), Arg::Text(c"/"), Arg::Int(0), attributes, Arg::Int(32)])
    }),
    ("mknod null", || mknod(c"/tmp/probe-null", libc::S_IFCHR, 1, 3)),
    ("mknod loop0", || mknod(c"/tmp/probe-loop", libc::S_IFBLK, 7, 0)),
    ("swapon", || attempt(libc::SYS_swapon, &mut [Arg::Text(c"/attack"), Arg::Int(0)])),
    ("quotactl", || attempt(libc::SYS_quotactl, &mut [Arg::Int(0)])),
    // Namespaces.
    ("unshare user", || unshare(libc::CLONE_NEWUSER)),
    ("unshare net", || unshare(libc::CLONE_NEWNET)),
    ("unshare mnt", || unshare(libc::CLONE_NEWNS)),
    ("unshare time", || unshare(0x80)),
    ("clone user", || clone_with(libc::CLONE_NEWUSER.into())),
    ("clone3 user", || clone3_with(u64::from(libc::CLONE_NEWUSER.cast_unsigned()))),
    ("setns own net", || setns("/proc/self/ns/net")),
    ("setns of pid 1", || setns("/proc/1/ns/mnt")),
    // Sockets.
    ("socket packet", || socket(17, 3, 0x0300)),
    ("socket raw icmp", || socket(2, 3, 1)),
    ("socket raw ipv6", || socket(10, 3, 58)),
    ("socket ping", || socket(2, 2, 1)),
    ("socket netlink route", || socket(16, 3, 0)),
    ("socket netlink audit", || socket(16, 3, 9)),
    ("socket netlink netfilter", || socket(16, 3, 12)),
    ("socket netlink uevent", || socket(16, 3, 15)),
    ("socket vsock", || socket(40, 1, 0)),
    ("socket alg", || socket(38, 5, 0)),
    ("socket bluetooth", || socket(31, 3, 1)),
    ("socket xdp", || socket(44, 3, 0)),
    ("connect 127.0.0.1:22", || connect([127, 0, 0, 1], 22)),
    ("connect 169.254.169.254:80", || connect([169, 254, 169, 254], 80)),
    ("connect 10.0.0.1:80", || connect([10, 0, 0, 1], 80)),
    ("connect abstract", || {
        let address = UnixAddr::from_abstract_name("rig-hostile-probe").map_err(errno)?;
        UnixStream::connect_addr(&address).map(|_| 0).map_err(errno)
    }),
    // Keys.
    ("keyctl session keyring", || attempt(libc::SYS_keyctl, &mut [Arg::Int(0), Arg::Int(-3), Arg::Int(0)])),
    ("add_key", || {
        let (kind, name) = (Arg::Text(c"user"), Arg::Text(c"probe"));
        attempt(libc::SYS_add_key, &mut [kind, name, Arg::Bytes(&mut [1; 4]), Arg::Int(4), Arg::Int(-2)])
    }),
    ("request_key", || {
        let (kind, name) = (Arg::Text(c"user"), Arg::Text(c"probe"));
        attempt(libc::SYS_request_key, &mut [kind, name, Arg::Int(0), Arg::Int(0)])
    }),
    // Processes.
    ("signal pid 1", || attempt(libc::SYS_kill, &mut [Arg::Int(1), Arg::Int(0)])),
    ("ptrace traceme", || attempt(libc::SYS_ptrace, &mut [])),
    ("ptrace attach pid 1", || attempt(libc::SYS_ptrace, &mut [Arg::Int(16), Arg::Int(1)])),
    ("process_vm_readv", || attempt(libc::SYS_process_vm_readv, &mut [Arg::Int(1)])),
    ("pidfd_getfd", || attempt(libc::SYS_pidfd_getfd, &mut [Arg::Int(-1), Arg::Int(0), Arg::Int(0)])),
    ("kcmp", || attempt(libc::SYS_kcmp, &mut [Arg::Int(1), Arg::Int(1), Arg::Int(0)])),
    ("open /proc/1/mem", || open("/proc/1/mem")),
    ("read /proc/1/environ", || read("/proc/1/environ")),
    ("list /proc/1/root", || list("/proc/1/root")),
    ("seccomp listener", || attempt(libc::SYS_seccomp, &mut [Arg::Int(1), Arg::Int(8), Arg::Bytes(&mut [0; 16])])),
    ("setuid 1", || attempt(libc::SYS_setuid, &mut [Arg::Int(1)])),
    ("nice -20", || attempt(libc::SYS_setpriority, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(-20)])),
    ("sched fifo", || {
        let priority = Arg::Bytes(&mut [1, 0, 0, 0]);
        attempt(libc::SYS_sched_setscheduler, &mut [Arg::Int(0), Arg::Int(1), priority])
    }),
    // Files of the kernel.
    ("write core_pattern", || write("/proc/sys/kernel/core_pattern", "core")),
    ("read boot_id", || read("/proc/sys/kernel/random/boot_id")),
    ("read kallsyms", || read("/proc/kallsyms")),
    ("read kcore", || open("/proc/kcore")),
    ("write sysrq-trigger", || write("/proc/sysrq-trigger", "h")),
    ("write oom_score_adj", || write("/proc/self/oom_score_adj", "-1000")),
    ("write /proc/self/exe", || File::options().write(true).open("/proc/self/exe").map(|_| 0).map_err(errno)),
    ("list /sys", || list("/sys/kernel")),
    ("write cgroup.procs", || write("/sys/fs/cgroup/cgroup.procs", "0")),
    // Devices.
    ("open /dev/mem", || open("/dev/mem")),
    ("open /dev/kmsg", || open("/dev/kmsg")),
    ("open /dev/kvm", || open("/dev/kvm")),
    ("open /dev/fuse", || open("/dev/fuse")),
    ("open /dev/vda", || open("/dev/vda")),
    ("ioctl TIOCSTI", || attempt(libc::SYS_ioctl, &mut [Arg::Int(0), Arg::Int(0x5412), Arg::Text(c"x")])),
    // Other doors into the kernel.
    ("bpf", || attempt(libc::SYS_bpf, &mut [Arg::Int(0), Arg::Bytes(&mut [0; 72]), Arg::Int(72)])),
    ("perf_event_open", || {
        let event = Arg::Bytes(&mut [0; 128]);
        attempt(libc::SYS_perf_event_open, &mut [event, Arg::Int(0), Arg::Int(-1), Arg::Int(-1), Arg::Int(0)])
    }),
    ("userfaultfd", || attempt(libc::SYS_userfaultfd, &mut [Arg::Int(1)])),
    ("io_uring_setup", || attempt(libc::SYS_io_uring_setup, &mut [Arg::Int(1), Arg::Bytes(&mut [0; 120])])),
    ("init_module", || attempt(libc::SYS_init_module, &mut [Arg::Int(0), Arg::Int(0), Arg::Text(c"")])),
    ("clock_settime", || attempt(libc::SYS_clock_settime, &mut [Arg::Int(99), Arg::Bytes(&mut [0; 16])])),
    ("personality", || attempt(libc::SYS_personality, &mut [Arg::Int(0x0004_0000)])),
    ("int80 getpid", raw::getpid_of_32_bits),
    ("x32 getpid", || attempt(libc::SYS_getpid | 0x4000_0000, &mut [])),
    // What a job needs.
    ("memfd_create", || attempt(libc::SYS_memfd_create, &mut [Arg::Text(c"probe"), Arg::Int(0)])),
    ("write /tmp", || write("/tmp/probe", "x")),
];

/// Prints `name => outcome`, since a log shows no tabs, for each, where outcome is `OK`, an errno's name, or the signal that it died of.
fn probes(_: Words<'_>) {
    for (name, _) in PROBES {
        let outcome = Command::new("/proc/self/exe").args(["probe", name]).output();
        let outcome = match outcome {
            Ok(output) => match output.status.signal() {
                Some(signal) => nix::sys::signal::Signal::try_from(signal)
                    .map_or_else(|_| format!("signal {signal}"), |signal| format!("killed by {signal}")),
                None => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            },
            Err(error) => format!("could not be asked: {error}"),
        };
        println!("{name} => {outcome}");
    }
}

pub(crate) fn probe(words: Words<'_>) {
    let name = words.first().copied().unwrap_or_default();
    let Some((_, ask)) = PROBES.iter().find(|(known, _)| *known == name) else {
        println!("no such probe");
        std::process::exit(1);
    };
    match ask() {
        Ok(_) => println!("OK"),
        Err(errno) => println!("{errno:?}"),
    }
    std::process::exit(0);
}

fn mount(source: &std::ffi::CStr, target: &std::ffi::CStr, kind: &std::ffi::CStr, flags: u64) -> Outcome {
    let flags = Arg::Int(i64::try_from(flags).unwrap_or(0));
    attempt(libc::SYS_mount, &mut [Arg::Text(source), Arg::Text(target), Arg::Text(kind), flags, Arg::Int(0)])
}

fn mknod(path: &std::ffi::CStr, kind: u32, major: i64, minor: i64) -> Outcome {
    let mode = Arg::Int(i64::from(kind | 0o600));
    attempt(libc::SYS_mknodat, &mut [Arg::Int(-100), Arg::Text(path), mode, Arg::Int((major << 8) | minor)])
}

fn unshare(flag: i32) -> Outcome {
    attempt(libc::SYS_unshare, &mut [Arg::Int(flag.into())])
}

fn setns(path: &str) -> Outcome {
    let file = File::open(path).map_err(errno)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file).into();
    attempt(libc::SYS_setns, &mut [Arg::Int(fd), Arg::Int(0)])
}

fn socket(family: i64, kind: i64, protocol: i64) -> Outcome {
    attempt(libc::SYS_socket, &mut [Arg::Int(family), Arg::Int(kind), Arg::Int(protocol)])
}

fn connect(address: [u8; 4], port: u16) -> Outcome {
    let address = SocketAddr::from((Ipv4Addr::from(address), port));
    match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        Ok(_) => Ok(0),
        // The standard library's own time-out has no number.
        Err(error) if error.raw_os_error().is_none() => Err(Errno::ETIMEDOUT),
        Err(error) => Err(errno(error)),
    }
}

fn open(path: &str) -> Outcome {
    File::open(path).map(|_| 0).map_err(errno)
}

fn read(path: &str) -> Outcome {
    fs::read(path).map(|_| 0).map_err(errno)
}

fn list(path: &str) -> Outcome {
    fs::read_dir(path).map(|_| 0).map_err(errno)
}

fn write(path: &str, text: &str) -> Outcome {
    fs::write(path, text).map(|()| 0).map_err(errno)
}
