//! Reaches for processes outside, and refuses to end.

use nix::libc;
use nix::sys::signal::Signal;

use crate::raw::{self, Arg, attempt};
use crate::{Attack, Words, hold, number, said};

pub(crate) const ATTACKS: &[Attack] = &[
    ("trace", trace),
    ("steal-memory", steal_memory),
    ("kill", kill),
    ("stubborn", stubborn),
    ("zombies", zombies),
    ("daemon", daemon),
    ("self-replace", self_replace),
];

/// `trace PID…`: of the host, besides every pid that may be seen here.
fn trace(words: Words<'_>) {
    let given = words.iter().filter_map(|word| word.parse::<i64>().ok());
    said("traceme", attempt(libc::SYS_ptrace, &mut []));
    for pid in given.chain(1..=8) {
        for (name, request) in [("attach", 16), ("seize", 0x4206)] {
            said(format!("{name} {pid}"), attempt(libc::SYS_ptrace, &mut [Arg::Int(request), Arg::Int(pid)]));
        }
    }
}

/// `steal-memory PID ADDRESS`: of a process of the host, and of the first process here.
fn steal_memory(words: Words<'_>) {
    let address: u64 = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0x40_0000);
    for pid in [i64::from(number(words, 0, 1)), 1] {
        let mut buffer = [0_u8; 64];
        let mut local = Vec::new();
        local.extend((buffer.as_mut_ptr() as u64).to_ne_bytes());
        local.extend(64_u64.to_ne_bytes());
        let mut remote = Vec::new();
        remote.extend(address.to_ne_bytes());
        remote.extend(64_u64.to_ne_bytes());
        for (name, call) in [("read", libc::SYS_process_vm_readv), ("write", libc::SYS_process_vm_writev)] {
            let mut arguments =
                [Arg::Int(pid), Arg::Bytes(&mut local), Arg::Int(1), Arg::Bytes(&mut remote), Arg::Int(1), Arg::Int(0)];
            said(format!("{name} memory of {pid}"), attempt(call, &mut arguments));
        }
        println!("memory: {:?}", String::from_utf8_lossy(&buffer).trim_end_matches('\0'));
        let kcmp = &mut [Arg::Int(pid), Arg::Int(pid), Arg::Int(0)];
        said(format!("compare {pid}"), attempt(libc::SYS_kcmp, kcmp));
        match attempt(libc::SYS_pidfd_open, &mut [Arg::Int(pid), Arg::Int(0)]) {
            Ok(pidfd) => {
                for fd in 0..4 {
                    let stolen = attempt(libc::SYS_pidfd_getfd, &mut [Arg::Int(pidfd), Arg::Int(fd), Arg::Int(0)]);
                    said(format!("take descriptor {fd} of {pid}"), stolen);
                }
                let _ = attempt(libc::SYS_close, &mut [Arg::Int(pidfd)]);
            }
            Err(errno) => println!("name {pid}: {errno:?}"),
        }
        let path = format!("/proc/{pid}/mem");
        said(&path, std::fs::File::options().read(true).write(true).open(&path).map_err(crate::errno));
    }
}

/// `kill PID…`: these, everything at once, and every number there may be.
fn kill(words: Words<'_>) {
    // Its own children and group would go first; it has none.
    let given = words.iter().filter_map(|word| word.parse::<i64>().ok());
    for pid in given {
        for call in [libc::SYS_kill, libc::SYS_tkill] {
            said(format!("kill {pid}"), attempt(call, &mut [Arg::Int(pid), Arg::Int(9)]));
        }
    }
    said("kill all", attempt(libc::SYS_kill, &mut [Arg::Int(-1), Arg::Int(9)]));
    said("kill the first", attempt(libc::SYS_kill, &mut [Arg::Int(1), Arg::Int(9)]));
    let own = i64::from(std::process::id());
    let hit =
        (2..100_000).filter(|pid| *pid != own && attempt(libc::SYS_kill, &mut [Arg::Int(*pid), Arg::Int(9)]).is_ok());
    println!("hit {}", hit.count());
    said("own a terminal's signals", attempt(libc::SYS_fcntl, &mut [Arg::Int(1), Arg::Int(8), Arg::Int(-1)]));
}

/// Ignores every signal that can be ignored, with children that do, one of them stopped, one waited for for ever.
fn stubborn(_: Words<'_>) {
    for number in 1..32 {
        let Ok(signal) = Signal::try_from(number) else { continue };
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCHLD) {
            continue;
        }
        // struct sigaction of the kernel: handler SIG_IGN, flags, restorer, mask.
        let mut action = [0_u8; 32];
        action[..8].copy_from_slice(&1_u64.to_ne_bytes());
        let arguments = &mut [Arg::Int(number.into()), Arg::Bytes(&mut action), Arg::Int(0), Arg::Int(8)];
        said(format!("ignore {signal}"), attempt(libc::SYS_rt_sigaction, arguments));
    }
    // PR_SET_PDEATHSIG: not to die with whoever made it.
    said("outlive its parent", attempt(libc::SYS_prctl, &mut [Arg::Int(1), Arg::Int(0)]));
    match raw::fork() {
        Ok(None) => {
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
            hold();
        }
        other => said("a stopped child", other),
    }
    match raw::fork() {
        Ok(None) => {
            let _ = attempt(libc::SYS_setsid, &mut []);
            hold();
        }
        other => said("a child in a session of its own", other),
    }
}

/// `zombies COUNT`: children that have ended and that nobody waits for, and orphans that the first process inherits.
fn zombies(words: Words<'_>) {
    let count = number(words, 0, 500);
    for _ in 0..count {
        match raw::fork() {
            Ok(None) => {
                // The grandchild becomes an orphan, and ends as one.
                let _ = raw::fork();
                std::process::exit(0);
            }
            Ok(Some(_)) => {}
            Err(errno) => {
                println!("fork: {errno:?}");
                break;
            }
        }
    }
    println!("made {count}");
}

/// Leaves behind what outlives it: daemons in sessions of their own, and a fork that runs on for ever.
fn daemon(_: Words<'_>) {
    for _ in 0..8 {
        if let Ok(None) = raw::fork() {
            let _ = attempt(libc::SYS_setsid, &mut []);
            if let Ok(None) = raw::fork() {
                loop {
                    match raw::fork() {
                        // A process that always is another one.
                        Ok(Some(_)) => std::process::exit(0),
                        _ => std::thread::sleep(std::time::Duration::from_micros(100)),
                    }
                }
            }
            std::process::exit(0);
        }
    }
    println!("gone");
    std::process::exit(0);
}

/// Writes over the program that it is, and looks at what it was given.
fn self_replace(_: Words<'_>) {
    for path in ["/proc/self/exe", "/attack", "/proc/1/exe", "/bin/sh"] {
        let opened = std::fs::File::options().write(true).open(path).map_err(crate::errno);
        said(path, opened.map(drop));
    }
    for fd in 3..1024 {
        if attempt(libc::SYS_fcntl, &mut [Arg::Int(fd), Arg::Int(1)]).is_ok() {
            println!("descriptor {fd} was left open");
        }
    }
}
