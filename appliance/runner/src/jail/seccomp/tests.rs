//! The program against the lists that it was made from, and against what was meant by them.

use std::collections::BTreeSet;

use nix::libc;
use seccompiler::sock_filter;

use super::checks::{CHECKED, Checked, GPU_IOCTL, IOCTL, WHITEOUTS, Width};
use super::tape::{AND, INSTRUCTIONS_MAX, JUMP, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, LOAD_WORD, RETURN};
use super::tree::{ABSENT, ALLOW, KILL, Machine, X32, compile, number};
use super::{ALWAYS, HERE, OPAQUE, PROGRAM, UNPACKER_PROGRAM, WORKER_PROGRAM};

/// The lists of each program.
const OF_SERVICE: &[&[Checked]] = &[CHECKED, IOCTL];
const OF_UNPACKER: &[&[Checked]] = &[CHECKED, IOCTL, WHITEOUTS];
const OF_WORKER: &[&[Checked]] = &[CHECKED, GPU_IOCTL];

/// `struct seccomp_data`, less the instruction pointer.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

// === impl Call ===

impl Call {
    fn new(call: i64, arguments: [u64; 6]) -> Self {
        Self { number: number(call), arch: HERE.arch, arguments }
    }

    fn word(&self, offset: u32) -> u32 {
        let place = usize::try_from(offset).expect("an offset");
        match (place, place % 8) {
            (0, _) => self.number,
            (4, _) => self.arch,
            (16..64, 0) => halves(self.arguments[(place - 16) / 8]).0,
            (16..64, 4) => halves(self.arguments[(place - 16) / 8]).1,
            _ => panic!("nothing is read at {offset}"),
        }
    }
}

/// Lower, upper.
fn halves(word: u64) -> (u32, u32) {
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("32 bits");
    (half(word), half(word >> 32))
}

/// What the kernel does with the program: the answer, and after how many instructions.
fn execute(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut place) = (0, 0);
    for executed in 1.. {
        let &sock_filter { code, jt, jf, k } = &program[place];
        let choose = |yes| usize::from(if yes { jt } else { jf });
        place += 1 + match code {
            LOAD_WORD => {
                accumulator = call.word(k);
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JUMP => usize::try_from(k).expect("a distance"),
            JUMP_IF_EQUAL => choose(accumulator == k),
            JUMP_IF_AT_LEAST => choose(accumulator >= k),
            RETURN => return (k, executed),
            _ => panic!("no such instruction: {code:#x}"),
        };
    }
    unreachable!("the loop has no end")
}

/// What the lists say, without a program.
fn listed(machine: Machine, call: &Call, always: &[&[i64]], checked: &[&[Checked]]) -> u32 {
    let is_it = |listed: &i64| number(*listed) == call.number;
    let passes = |checked: &Checked| {
        checked.alternatives.iter().any(|alternative| {
            alternative.iter().all(|condition| {
                let argument = usize::try_from(condition.argument).expect("an index");
                let (lower, upper) = halves(call.arguments[argument]);
                (condition.width == Width::Int || upper == 0) && condition.one_of.contains(&(lower & condition.mask))
            })
        })
    };
    if call.arch != machine.arch || machine.has_x32 && call.number >> 30 == 1 {
        KILL
    } else if always.iter().any(|list| list.iter().any(is_it))
        || checked.iter().copied().flatten().any(|checked| is_it(&checked.call) && passes(checked))
    {
        ALLOW
    } else {
        ABSENT
    }
}

/// Every value that any list names, its neighbours, each with one more bit set, and the same in the upper half.
fn telling_values(checked: &[&[Checked]]) -> Vec<u64> {
    let all = checked.iter().copied().flatten();
    let conditions = all.flat_map(|checked| checked.alternatives.iter().copied().flatten());
    let named = conditions.flat_map(|condition| condition.one_of.iter().copied().chain([condition.mask]));
    let mut values = BTreeSet::from([0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX]);
    for value in named.map(u64::from) {
        values.extend([value, value.saturating_sub(1), value + 1, value | 1 << 32, value | 1 << 63]);
    }
    let plain: Vec<u64> = values.iter().copied().collect();
    for bit in 0..32 {
        values.extend([1 << bit, 0x22 | 1 << bit]);
    }
    values.extend(plain.iter().map(|value| value | 0x8_0800));
    values.into_iter().collect()
}

/// Every number with every telling value in every argument, and `socket` with every three of them.
fn assert_program_says_what_the_lists_say(machine: Machine, always: &[&[i64]], checked: &[&[Checked]]) {
    let tape = compile(machine, always, checked);
    let program = tape.program();
    let values = telling_values(checked);
    let check = |call: Call| {
        let (said, _) = execute(program, &call);
        assert_eq!(said, listed(machine, &call, always, checked), "{call:x?}");
    };
    for number in (0..=1023).chain([X32 - 1, X32, X32 + 1, X32 + 59, 0x7FFF_FFFF, 0x8000_0000, u32::MAX]) {
        let is_checked = checked.iter().copied().flatten().any(|checked| super::tree::number(checked.call) == number);
        let values = if is_checked { &values[..] } else { &values[..4] };
        for value in values {
            for argument in 0..6 {
                let mut arguments = [0; 6];
                arguments[argument] = *value;
                check(Call { number, arch: machine.arch, arguments });
                check(Call { number, arch: machine.arch, arguments: [*value; 6] });
            }
        }
        for arch in [0, 0x4000_0003, 0xC000_003E ^ 0xC000_00B7 ^ machine.arch, u32::MAX] {
            check(Call { number, arch, arguments: [0; 6] });
        }
    }
    let few: Vec<u64> = values.iter().copied().filter(|value| halves(*value).0 < 0x100).collect();
    for [family, kind, protocol] in few.iter().flat_map(|a| few.iter().flat_map(|b| few.iter().map(|c| [*a, *b, *c]))) {
        let arguments = [family, kind, protocol, 0, 0, 0];
        check(Call { number: number(libc::SYS_socket), arch: machine.arch, arguments });
    }
}

#[test]
fn each_program_says_what_its_lists_say() {
    assert_program_says_what_the_lists_say(HERE, &ALWAYS, OF_SERVICE);
    assert_program_says_what_the_lists_say(HERE, &[ALWAYS[0], ALWAYS[1], OPAQUE], OF_UNPACKER);
    assert_program_says_what_the_lists_say(HERE, &ALWAYS, OF_WORKER);
}

#[test]
fn a_program_for_a_machine_without_x32_and_with_other_numbers_says_so_too() {
    let machine = Machine { arch: 0xC000_00B7, has_x32: false };
    let all = OF_SERVICE.iter().copied().flatten();
    let checked: Vec<u32> = all.map(|checked| number(checked.call)).collect();
    // Every second number, which makes the most ranges there can be; and none but the last.
    let sparse: Vec<i64> = (0..300).filter(|call| call % 2 == 1 && !checked.contains(&number(*call))).collect();
    let tape = compile(machine, &[&sparse], OF_SERVICE);
    assert!(tape.program().iter().any(|instruction| instruction.code == JUMP), "no jump is too long for a byte");
    for always in [&sparse[..], &[1023]] {
        assert_program_says_what_the_lists_say(machine, &[always], OF_SERVICE);
    }
}

#[test]
fn a_foreign_architecture_and_the_x32_table_kill() {
    let i386 = 0x4000_0003;
    for call in ALWAYS.into_iter().flatten().copied() {
        let call = Call::new(call, [0; 6]);
        assert_eq!(execute(PROGRAM, &Call { arch: i386, ..call }).0, KILL);
        let x32 = execute(PROGRAM, &Call { number: call.number | X32, ..call }).0;
        assert_eq!(x32, if HERE.has_x32 { KILL } else { ABSENT });
    }
}

#[test]
fn every_program_is_short_and_so_is_the_way_through_it() {
    for (name, program) in [("service", PROGRAM), ("unpacker", UNPACKER_PROGRAM), ("worker", WORKER_PROGRAM)] {
        println!("{name}: {} instructions", program.len());
        assert!(program.len() <= INSTRUCTIONS_MAX);
        let calls = ALWAYS.into_iter().flatten().map(|call| Call::new(*call, [0; 6]));
        let executed: Vec<usize> = calls.map(|call| execute(program, &call)).map(|(_, executed)| executed).collect();
        let (sum, most) = (executed.iter().sum::<usize>(), executed.iter().max().copied().unwrap_or_default());
        let tenths = sum * 10 / executed.len();
        println!("{} calls; executed for each: mean {}.{}, most {most}", executed.len(), tenths / 10, tenths % 10);
        // Three to begin with, one to end, and the height of a search among all the ranges that 512 can hold.
        assert!(most <= 3 + 9 + 1, "{most}");
    }
}

/// What was meant, in the kernel's words, for those calls whose arguments decide.
#[test]
fn arguments_decide_as_was_meant() {
    let upper = 0xDEAD_BEEF_0000_0000;
    let (cloexec, nonblock) = (0o2_000_000, 0o4_000);
    let yes = [
        (libc::SYS_socket, [1, 1, 0, 0]),
        (libc::SYS_socket, [1, 5 | cloexec, 0, 0]),
        (libc::SYS_socket, [2, 1 | cloexec | nonblock, 6, 0]),
        (libc::SYS_socket, [10, 2 | cloexec, 17, 0]),
        (libc::SYS_socket, [upper | 2, upper | 1, upper, 0]),
        (libc::SYS_socket, [16, 3 | cloexec, 0, 0]),
        (libc::SYS_socketpair, [1, 1, 0, 0]),
        (libc::SYS_ioctl, [0, 0x5401, 0, 0]),
        (libc::SYS_ioctl, [0, upper | 0x8933, 0, 0]),
        (libc::SYS_prctl, [15, 0, 0, 0]),
        (libc::SYS_clone, [0x3D_0F00, 0, 0, 0]),
        (libc::SYS_clone, [0x0120_0011, 0, 0, 0]),
        (libc::SYS_clone, [upper | 17, 0, 0, 0]),
        (libc::SYS_prlimit64, [0, 7, 0, 0]),
        (libc::SYS_sched_setscheduler, [0, 3, 0, 0]),
        (libc::SYS_sched_setscheduler, [0, 0x4000_0000, 0, 0]),
        (libc::SYS_mmap, [0, 4096, 7, 0x22]),
        (libc::SYS_memfd_create, [0, 3, 0, 0]),
        (libc::SYS_shmget, [0, 4096, 0o1600, 0]),
    ];
    let no = [
        // Raw and packet sockets, MPTCP, SCTP, SMC, ping; packet, vsock, key, algorithm families; netfilter.
        (libc::SYS_socket, [2, 3, 1, 0]),
        (libc::SYS_socket, [2, 10, 0, 0]),
        (libc::SYS_socket, [10, 3 | cloexec, 58, 0]),
        (libc::SYS_socket, [2, 1, 262, 0]),
        (libc::SYS_socket, [2, 1, 132, 0]),
        (libc::SYS_socket, [2, 1, 256, 0]),
        (libc::SYS_socket, [2, 2, 1, 0]),
        (libc::SYS_socket, [17, 3, 0, 0]),
        (libc::SYS_socket, [40, 1, 0, 0]),
        (libc::SYS_socket, [15, 3, 2, 0]),
        (libc::SYS_socket, [38, 5, 0, 0]),
        (libc::SYS_socket, [16, 3, 12, 0]),
        (libc::SYS_socketpair, [2, 1, 0, 0]),
        // TIOCSTI, TIOCLINUX, and an accelerator's.
        (libc::SYS_ioctl, [0, 0x5412, 0, 0]),
        (libc::SYS_ioctl, [0, 0x541C, 0, 0]),
        (libc::SYS_ioctl, [0, 0xC020_46D3, 0, 0]),
        // PR_SET_SECCOMP, PR_SET_MM, PR_SET_PTRACER.
        (libc::SYS_prctl, [22, 2, 0, 0]),
        (libc::SYS_prctl, [35, 0, 0, 0]),
        (libc::SYS_prctl, [0x5961_6D61, 0, 0, 0]),
        (libc::SYS_clone, [0x1000_0011, 0, 0, 0]),
        (libc::SYS_clone, [0x0002_0011, 0, 0, 0]),
        (libc::SYS_clone, [upper | 0x4000_0011, 0, 0, 0]),
        (libc::SYS_prlimit64, [1, 7, 0, 0]),
        (libc::SYS_sched_setscheduler, [0, 1, 0, 0]),
        (libc::SYS_sched_setscheduler, [0, 0x4000_0002, 0, 0]),
        (libc::SYS_sched_setscheduler, [0, 6, 0, 0]),
        (libc::SYS_mmap, [0, 4096, 3, 0x4_0022]),
        (libc::SYS_mmap, [0, 4096, 3, upper | 0x22]),
        (libc::SYS_memfd_create, [0, 4, 0, 0]),
        (libc::SYS_shmget, [0, 4096, 0o5600, 0]),
        // Never, whatever the arguments.
        (libc::SYS_clone3, [0, 0, 0, 0]),
        (libc::SYS_seccomp, [0, 0, 0, 0]),
        (libc::SYS_personality, [0, 0, 0, 0]),
        (libc::SYS_sched_setattr, [0, 0, 0, 0]),
        (libc::SYS_bpf, [0, 0, 0, 0]),
        (libc::SYS_io_uring_setup, [0, 0, 0, 0]),
        (libc::SYS_mknodat, [0, 0, 0, 0]),
    ];
    let cases = yes.map(|case| (case, ALLOW)).into_iter().chain(no.map(|case| (case, ABSENT)));
    for ((call, [a, b, c, d]), expected) in cases {
        let said = execute(PROGRAM, &Call::new(call, [a, b, c, d, 0, 0])).0;
        assert_eq!(said, expected, "call {call} with {a:#x}, {b:#x}, {c:#x}, {d:#x}");
    }
}

#[test]
fn only_the_unpacker_makes_nodes_and_only_such_as_are_no_device() {
    let null = Call::new(libc::SYS_mknodat, [3, 0, 0o020_666, 0x103, 0, 0]);
    let whiteout = Call::new(libc::SYS_mknodat, [3, 0, 0o020_000, 0, 0, 0]);
    let opaque = Call::new(libc::SYS_fsetxattr, [3, 0, 0, 1, 0, 0]);
    for (call, as_service, as_unpacker) in [(null, ABSENT, ABSENT), (whiteout, ABSENT, ALLOW), (opaque, ABSENT, ALLOW)]
    {
        let said = (execute(PROGRAM, &call).0, execute(UNPACKER_PROGRAM, &call).0);
        assert_eq!(said, (as_service, as_unpacker), "{call:x?}");
    }
    assert!(UNPACKER_PROGRAM.len() <= 512, "{}", UNPACKER_PROGRAM.len());
}

/// Type `F` with this number, for a structure of this size, as the kernel encodes a command.
fn command(number: u64, bytes: u64) -> u64 {
    3 << 30 | bytes << 16 | 0x46 << 8 | number
}

/// Attack 63: what a worker may command, in the words of the driver's own headers.
#[test]
fn a_worker_commands_what_computing_takes_and_nothing_else() {
    let said = |program, command| execute(program, &Call::new(libc::SYS_ioctl, [3, command, 0, 0, 0, 0])).0;
    let check = |commands: &[u64], expected: u32| {
        for command in commands {
            assert_eq!(said(WORKER_PROGRAM, *command), expected, "{command:#x}");
            assert_eq!(said(WORKER_PROGRAM, *command | 1 << 33), expected, "{command:#x} with a bit nobody reads");
        }
    };
    // What computing takes of the resource manager: escapes from 0x27 on, and the ones of the interface from 200 on. The
    // size is the driver's to check.
    for number in
        [0x27, 0x29, 0x2A, 0x2B, 0x34, 0x35, 0x4A, 0x4E, 0x4F, 0x5E, 200, 201, 206, 207, 210, 212, 214, 215, 218]
    {
        check(&[command(number, 0), command(number, 8), command(number, 48), command(number, 0x3FFF)], ALLOW);
    }
    // Register access, I2C, the registry, indirect calls of any size, exported objects, imported ones, NUMA, sleeping.
    for number in [0x22, 0x23, 0x24, 0x25, 0x26, 0x32, 0x33, 0x38, 0x39, 0x3C, 0x41, 0x42, 0x48, 0x49, 0x56, 0x58] {
        check(&[command(number, 0), command(number, 16), command(number, 0x3FFF)], ABSENT);
    }
    for number in [202, 203, 204, 205, 208, 209, 211, 213, 216, 217, 219, 220] {
        check(&[command(number, 0), command(number, 12)], ABSENT);
    }
    // Unified memory: begin, end, ranges, GPUs, channels, external memory, migration.
    check(&[0x3000_0001, 0x3000_0002, 23, 27, 33, 37, 68, 73, 75], ALLOW);
    // Tests, tools that read another process, counters of events, pages held back, what no list names.
    check(&[1, 8, 16, 20, 21, 22, 40, 41, 48, 49, 50, 52, 54, 64, 67, 69, 76, 80, 200, 0x3000_0003], ABSENT);
    // Of other devices: a terminal's input, KVM, a loop device, a disk, a display, a graphics card of another maker.
    check(
        &[0x5412, 0x541C, 0xAE01, 0xAE80, 0x4C00, 0x4C80, 0x1260, 0x6400, 0xC010_64B2, 0x4B4D, 0x4601 | 1 << 15],
        ABSENT,
    );
    // None of it is for a service.
    for number in 0..=255 {
        assert_eq!(said(PROGRAM, command(number, 32)), ABSENT, "{number:#x}");
        assert_eq!(said(UNPACKER_PROGRAM, command(number, 32)), ABSENT, "{number:#x}");
    }
}

/// But for its commands a worker is a service.
#[test]
fn a_worker_may_call_what_a_service_may() {
    for number in (0..1024_i64).filter(|number| *number != libc::SYS_ioctl) {
        for arguments in [[0; 6], [1; 6], [2, 1, 6, 0, 0, 0], [u64::MAX; 6]] {
            let call = Call::new(number, arguments);
            assert_eq!(execute(WORKER_PROGRAM, &call).0, execute(PROGRAM, &call).0, "{call:x?}");
        }
    }
}
