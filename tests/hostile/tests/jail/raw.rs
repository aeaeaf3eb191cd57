//! System calls that no wrapper offers, made to hear whether they exist in a jail; all but the last with zeroes for
//! arguments.
#![expect(unsafe_code, reason = "most of what a jail must refuse has no safe wrapper, for good reason")]

use nix::errno::Errno;
use nix::libc;

/// What must not exist. With zeroes for arguments each of them fails or does nothing even where it is allowed.
const FORBIDDEN: [(&str, i64); 34] = [
    ("add_key", libc::SYS_add_key),
    ("keyctl", libc::SYS_keyctl),
    ("request_key", libc::SYS_request_key),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("kcmp", libc::SYS_kcmp),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("clone3", libc::SYS_clone3),
    ("setns", libc::SYS_setns),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("pivot_root", libc::SYS_pivot_root),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("clock_settime", libc::SYS_clock_settime),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("syslog", libc::SYS_syslog),
    ("swapon", libc::SYS_swapon),
    ("quotactl", libc::SYS_quotactl),
    ("personality", libc::SYS_personality),
    ("seccomp", libc::SYS_seccomp),
    ("mknodat", libc::SYS_mknodat),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("setxattr", libc::SYS_setxattr),
];

/// Those of the forbidden calls that do exist, with what they said.
pub(crate) fn existing() -> Vec<String> {
    let existing = FORBIDDEN.iter().filter_map(|(name, number)| {
        // SAFETY: every pointer among the arguments is null and every length zero, so none of these calls can
        // read or write memory of this process.
        let result = unsafe { libc::syscall(*number, 0, 0, 0, 0, 0, 0) };
        let errno = Errno::last();
        let absent = result == -1 && errno == Errno::ENOSYS;
        (!absent).then(|| format!("{name}: {result} {errno}"))
    });
    existing.collect()
}

/// Asks for this process's id in the 32-bit way, and in the x32 way; whoever must not, does not return.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_of_another_table(which: &str) -> i64 {
    const GETPID_OF_I386: i64 = 20;
    const X32: i64 = 0x4000_0000;
    if which == "x32" {
        // SAFETY: `getpid` takes no arguments and touches no memory, under whatever number.
        return unsafe { libc::syscall(X32 | libc::SYS_getpid) };
    }
    let mut number = GETPID_OF_I386;
    // SAFETY: the call takes no arguments and touches no memory; the registers that this entry of the kernel does
    // not keep are named.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    number
}
