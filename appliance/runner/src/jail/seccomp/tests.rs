//! The program against the lists that it was made from, and against what was meant by them.

use std::collections::BTreeSet;

use nix::libc;
use seccompiler::sock_filter;

use super::checks::{CHECKED, Checked, Width};
use super::tape::{AND, INSTRUCTIONS_MAX, JUMP, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, LOAD_WORD, RETURN};
use super::tree::{ABSENT, ALLOW, KILL, Machine, X32, compile, number};
use super::{ALWAYS, HERE, PROGRAM, UNPACKER_PROGRAM};

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
fn listed(machine: Machine, call: &Call, always: &[&[i64]], checked: &[Checked]) -> u32 {
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
        || checked.iter().any(|checked| is_it(&checked.call) && passes(checked))
    {
        ALLOW
    } else {
        ABSENT
    }
}

/// Every value that any list names, its neighbours, each with one more bit set, and the same in the upper half.
fn telling_values() -> Vec<u64> {
    let conditions = CHECKED.iter().flat_map(|checked| checked.alternatives.iter().copied().flatten());
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
fn assert_program_says_what_the_lists_say(machine: Machine, always: &[&[i64]]) {
    let tape = compile(machine, always, &[CHECKED]);
    let program = tape.program();
    let values = telling_values();
    let check = |call: Call| {
        let (said, _) = execute(program, &call);
        assert_eq!(said, listed(machine, &call, always, CHECKED), "{call:x?}");
    };
    for number in (0..=1023).chain([X32 - 1, X32, X32 + 1, X32 + 59, 0x7FFF_FFFF, 0x8000_0000, u32::MAX]) {
        let is_checked = CHECKED.iter().any(|checked| super::tree::number(checked.call) == number);
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
fn the_program_says_what_the_lists_say() {
    assert_program_says_what_the_lists_say(HERE, &ALWAYS);
}

#[test]
fn a_program_for_a_machine_without_x32_and_with_other_numbers_says_so_too() {
    let machine = Machine { arch: 0xC000_00B7, has_x32: false };
    let checked: Vec<u32> = CHECKED.iter().map(|checked| number(checked.call)).collect();
    // Every second number, which makes the most ranges there can be; and none but the last.
    let sparse: Vec<i64> = (0..300).filter(|call| call % 2 == 1 && !checked.contains(&number(*call))).collect();
    let tape = compile(machine, &[&sparse], &[CHECKED]);
    assert!(tape.program().iter().any(|instruction| instruction.code == JUMP), "no jump is too long for a byte");
    for always in [&sparse[..], &[1023]] {
        assert_program_says_what_the_lists_say(machine, &[always]);
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
fn the_program_is_short_and_so_is_the_way_through_it() {
    println!("{} instructions", PROGRAM.len());
    assert!(PROGRAM.len() <= INSTRUCTIONS_MAX);
    let calls = ALWAYS.into_iter().flatten().map(|call| Call::new(*call, [0; 6]));
    let executed: Vec<usize> = calls.map(|call| execute(PROGRAM, &call)).map(|(_, executed)| executed).collect();
    let (sum, most) = (executed.iter().sum::<usize>(), executed.iter().max().copied().unwrap_or_default());
    let tenths = sum * 10 / executed.len();
    println!("{} calls; executed for each: mean {}.{}, most {most}", executed.len(), tenths / 10, tenths % 10);
    // Three to begin with, one to end, and the height of a search among all the ranges that 512 can hold.
    assert!(most <= 3 + 9 + 1, "{most}");
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
