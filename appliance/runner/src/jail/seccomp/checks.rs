//! The calls that a service may make for some arguments only.
//!
//! A filter sees the six registers and nothing behind a pointer. A register is 64 bits wide; where the kernel takes
//! an `int` from it the upper half is never read, so it is not looked at here either ([`Width::Int`]): looking would
//! refuse honest programs, because nothing obliges them to clear it.

use nix::libc;

/// A call, and what must hold of its arguments: one of the alternatives, whole.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) call: i64,
    pub(super) alternatives: &'static [&'static [Condition]],
}

/// The masked argument is one of the values.
#[derive(Debug)]
pub(super) struct Condition {
    /// From 0.
    pub(super) argument: u32,
    pub(super) width: Width,
    /// Of the lower half.
    pub(super) mask: u32,
    pub(super) one_of: &'static [u32],
}

/// How much of a register the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// The lower half.
    Int,
    /// All of it; then the upper half must be zero.
    Long,
}

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// What of a socket's type is the type; the rest are `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCK_TYPE_MASK: u32 = 0xF;
/// The family's default protocol, TCP.
const STREAM_PROTOCOLS: &[u32] = &[0, 6];
/// The family's default protocol, UDP.
const DATAGRAM_PROTOCOLS: &[u32] = &[0, 17];

/// Terminals: `TCGETS`, `TIOCGWINSZ`. Descriptors: `FIONREAD`, `FIONBIO`, `FIONCLEX`, `FIOCLEX`, `FIOASYNC`.
/// Interfaces: `SIOCGIFNAME`, `SIOCGIFCONF`, `SIOCGIFFLAGS`, `SIOCGIFADDR`, `SIOCGIFINDEX`.
const IOCTLS: &[u32] = &[
    0x5401, 0x5413, //
    0x541B, 0x5421, 0x5450, 0x5451, 0x5452, //
    0x8910, 0x8912, 0x8913, 0x8915, 0x8933,
];

/// `PDEATHSIG` set and get, `DUMPABLE` get and set, `NAME` set and get, `SECCOMP` get, `CAPBSET_READ`, `TIMERSLACK`
/// set and get, `NO_NEW_PRIVS` set and get, `THP_DISABLE` get, `SET_VMA`.
const PRCTLS: &[u32] = &[1, 2, 3, 4, 15, 16, 21, 23, 29, 30, 38, 39, 42, 0x5356_4D41];

/// Every flag that makes a namespace. `CLONE_NEWTIME` is absent: in `clone` its bit is part of the signal.
const NAMESPACES: u32 = 0x7E02_0000;

/// Set beside a policy, and harmless.
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
/// `SCHED_OTHER`, `SCHED_BATCH`, `SCHED_IDLE`: no policy that runs before everybody else.
const FAIR_POLICIES: &[u32] = &[0, 3, 5];

// Huge pages are a pool of the host's that no limit of a job covers.
const MAP_HUGETLB: u32 = 0x4_0000;
const MFD_HUGETLB: u32 = 0x4;
const SHM_HUGETLB: u32 = 0o4000;

/// All of them.
pub(super) const CHECKED: &[Checked] = &[
    // The protocol is checked too: MPTCP, SCTP and SMC are streams that Landlock's TCP rules do not see.
    Checked {
        call: libc::SYS_socket,
        alternatives: &[
            &[is(0, &[AF_UNIX])],
            &[is(0, &[AF_INET, AF_INET6]), masked(1, SOCK_TYPE_MASK, &[SOCK_STREAM]), is(2, STREAM_PROTOCOLS)],
            &[is(0, &[AF_INET, AF_INET6]), masked(1, SOCK_TYPE_MASK, &[SOCK_DGRAM]), is(2, DATAGRAM_PROTOCOLS)],
            // glibc's `getaddrinfo` asks it for addresses.
            &[is(0, &[AF_NETLINK]), is(2, &[NETLINK_ROUTE])],
        ],
    },
    Checked { call: libc::SYS_socketpair, alternatives: &[&[is(0, &[AF_UNIX])]] },
    Checked { call: libc::SYS_prctl, alternatives: &[&[is(0, PRCTLS)]] },
    // The kernel takes the lower half of this `unsigned long` as its flags, whatever the upper one holds.
    Checked { call: libc::SYS_clone, alternatives: &[&[masked(0, NAMESPACES, &[0])]] },
    // Pid 0 is the caller.
    Checked { call: libc::SYS_prlimit64, alternatives: &[&[is(0, &[0])]] },
    Checked { call: libc::SYS_sched_setscheduler, alternatives: &[&[masked(1, !SCHED_RESET_ON_FORK, FAIR_POLICIES)]] },
    // Writable and executable at once is allowed: interpreters that compile need it.
    Checked {
        call: libc::SYS_mmap,
        alternatives: &[&[Condition { width: Width::Long, ..masked(3, MAP_HUGETLB, &[0]) }]],
    },
    Checked { call: libc::SYS_memfd_create, alternatives: &[&[masked(1, MFD_HUGETLB, &[0])]] },
    Checked { call: libc::SYS_shmget, alternatives: &[&[masked(2, SHM_HUGETLB, &[0])]] },
];

/// What may be commanded where no device is.
pub(super) const IOCTL: &[Checked] = &[Checked { call: libc::SYS_ioctl, alternatives: &[&[is(1, IOCTLS)]] }];

/// What a worker may command: the same, and what computing on an NVIDIA GPU takes. Landlock says on which files.
pub(super) const GPU_IOCTL: &[Checked] = &[Checked {
    call: libc::SYS_ioctl,
    alternatives: &[&[is(1, IOCTLS)], &[masked(1, COMMAND, RESOURCE_MANAGER)], &[is(1, UNIFIED_MEMORY)]],
}];

/// Of an encoded command its type and number; the size, which the driver checks, differs from release to release.
const COMMAND: u32 = 0xFFFF;

/// Commands of `/dev/nvidiactl` and `/dev/nvidiaN` that computing takes, of type `F`: allocate and free memory and
/// objects, control, duplicate, share, map and unmap, card information, descriptors and events, versions and
/// parameters. Absent are register and I2C access, the registry, exports to other processes, and display. Source: what
/// gVisor forwards for compute (`pkg/sentry/devices/nvproxy`).
const RESOURCE_MANAGER: &[u32] = &[
    0x4627, 0x4629, 0x462A, 0x462B, 0x4634, 0x4635, 0x464A, 0x464E, 0x464F, 0x465E, //
    0x46C8, 0x46C9, 0x46CE, 0x46CF, 0x46D2, 0x46D4, 0x46D6, 0x46D7, 0x46DA,
];

/// Commands of `/dev/nvidia-uvm` that computing takes: begin and end, range groups, GPUs with their address spaces and
/// channels, peers, external mappings, free, page access, where memory lies, migration, semaphores, ranges. Absent are
/// all that profile, debug or read another process. Source: `uvm_ioctl.h` of NVIDIA's open kernel modules.
const UNIFIED_MEMORY: &[u32] = &[
    0x3000_0001,
    0x3000_0002, //
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
    33,
    34,
    37,
    38,
    39,
    42,
    43,
    44,
    45,
    46,
    47,
    51,
    53,
    65,
    66,
    68,
    70,
    71,
    72,
    73,
    74,
    75,
];

/// How the unpacker writes down what a layer hides: character devices 0:0, which are no devices.
pub(super) const WHITEOUTS: &[Checked] = &[Checked { call: libc::SYS_mknodat, alternatives: &[&[is(3, &[0])]] }];

const fn is(argument: u32, one_of: &'static [u32]) -> Condition {
    masked(argument, u32::MAX, one_of)
}

const fn masked(argument: u32, mask: u32, one_of: &'static [u32]) -> Condition {
    Condition { argument, width: Width::Int, mask, one_of }
}
