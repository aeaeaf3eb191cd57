//! Turns the lists of calls into a program: a binary search over ranges of call numbers.
//!
//! Layout, in the order of execution:
//!
//! ```text
//! another architecture?          -> kill the process
//! number >= first of upper half? -> and so on, seven comparisons deep
//! leaf: allow | ENOSYS | kill the process | look at the arguments, then allow or ENOSYS
//! ```
//!
//! The kernel runs a new filter once for every number, to learn which it always allows and need not ask about again.
//! With a search that costs some eleven steps for each number, where a list as long would cost a thousand; and in a
//! call whose arguments are looked at, the search is all that is paid on top.

use nix::libc;

use super::checks::{Checked, Condition, Width};
use super::tape::{AND, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, LOAD_WORD, Label, RETURN, Tape};

/// Whose calls are numbered how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// `AUDIT_ARCH_*` (`linux/audit.h`).
    pub(super) arch: u32,
    /// Whether the same architecture has a second table, whose numbers have [`X32`] set.
    pub(super) has_x32: bool,
}

/// The bit of numbers in the x32 table (`__X32_SYSCALL_BIT`).
pub(super) const X32: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`; the arguments are little-endian 64-bit words.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const _: () = assert!(cfg!(target_endian = "little"), "the halves of an argument would be the other way round");

pub(super) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
pub(super) const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
pub(super) const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// Beyond every architecture's last call.
const NUMBERS_END: i64 = 1024;

/// One for each number, and the x32 table.
const RANGES_MAX: usize = 1024 + 2;

/// From `first` to the next range's first, the same happens.
#[derive(Clone, Copy)]
struct Range {
    first: u32,
    leaf: Label,
}

/// A list that is in the order of its numbers.
struct Ranges {
    list: [Range; RANGES_MAX],
    count: usize,
}

/// Compiles the program for `machine`: the calls of `always` whatever their arguments, those of `checked` if
/// their arguments pass.
pub(super) const fn compile(machine: Machine, always: &[&[i64]], checked: &[&[Checked]]) -> Tape {
    let mut tape = Tape::new();
    let kill = tape.put(RETURN, KILL);
    let absent = tape.put(RETURN, ABSENT);
    let allow = tape.put(RETURN, ALLOW);

    let mut calls = Ranges::new(allow);
    let mut list = 0;
    while list < always.len() {
        let mut call = 0;
        while call < always[list].len() {
            calls.insert(number(always[list][call]), allow);
            call += 1;
        }
        list += 1;
    }
    let mut list = 0;
    while list < checked.len() {
        let mut call = 0;
        while call < checked[list].len() {
            let leaf = check(&mut tape, &checked[list][call], allow, absent);
            calls.insert(number(checked[list][call].call), leaf);
            call += 1;
        }
        list += 1;
    }

    let ranges = calls.with_gaps(machine, absent, kill);
    let root = search(&mut tape, &ranges, 0, ranges.count);
    let begin = tape.put(LOAD_WORD, NUMBER);
    assert!(ranges.count > 1 && !root.is(begin), "there is nothing to search");
    tape.branch(JUMP_IF_EQUAL, machine.arch, begin, kill);
    tape.put(LOAD_WORD, ARCH);
    tape
}

/// The search among the ranges from `low` up to but without `high`; answers where it begins.
const fn search(tape: &mut Tape, ranges: &Ranges, low: usize, high: usize) -> Label {
    if high - low == 1 {
        return ranges.list[low].leaf;
    }
    let middle = low.midpoint(high);
    let above = search(tape, ranges, middle, high);
    let below = search(tape, ranges, low, middle);
    tape.branch(JUMP_IF_AT_LEAST, ranges.list[middle].first, above, below)
}

/// Goes through the alternatives in order.
const fn check(tape: &mut Tape, checked: &Checked, allow: Label, absent: Label) -> Label {
    let mut otherwise = absent;
    let mut left = checked.alternatives.len();
    while left > 0 {
        left -= 1;
        let conditions = checked.alternatives[left];
        let mut then = allow;
        let mut condition = conditions.len();
        assert!(condition > 0, "an alternative without a condition allows everything");
        while condition > 0 {
            condition -= 1;
            then = compare(tape, &conditions[condition], then, otherwise);
        }
        otherwise = then;
    }
    otherwise
}

/// Compares one argument with each of its values.
const fn compare(tape: &mut Tape, condition: &Condition, yes: Label, no: Label) -> Label {
    assert!(condition.argument < 6 && !condition.one_of.is_empty(), "a condition that nothing can meet");
    let mut otherwise = no;
    let mut value = condition.one_of.len();
    while value > 0 {
        value -= 1;
        otherwise = tape.branch(JUMP_IF_EQUAL, condition.one_of[value], yes, otherwise);
    }
    if condition.mask != u32::MAX {
        tape.put(AND, condition.mask);
    }
    let lower = ARGUMENTS + 8 * condition.argument;
    let begin = tape.put(LOAD_WORD, lower);
    match condition.width {
        Width::Int => begin,
        Width::Long => {
            tape.branch(JUMP_IF_EQUAL, 0, begin, no);
            tape.put(LOAD_WORD, lower + 4)
        }
    }
}

/// A call's number as the kernel shows it to filters.
pub(super) const fn number(call: i64) -> u32 {
    assert!(0 <= call && call < NUMBERS_END, "no architecture has so many calls");
    let [a, b, c, d, ..] = call.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

// === impl Ranges ===

impl Ranges {
    const fn new(anything: Label) -> Self {
        Self { list: [Range { first: 0, leaf: anything }; RANGES_MAX], count: 0 }
    }

    /// Puts the call `first` in its place.
    const fn insert(&mut self, first: u32, leaf: Label) {
        let mut place = self.count;
        while place > 0 && self.list[place - 1].first >= first {
            assert!(self.list[place - 1].first != first, "a call is listed twice");
            self.list[place] = self.list[place - 1];
            place -= 1;
        }
        self.list[place] = Range { first, leaf };
        self.count += 1;
    }

    /// Adds a range at the end, unless it goes on as the last one did.
    const fn push(&mut self, first: u32, leaf: Label) {
        if self.count == 0 || !self.list[self.count - 1].leaf.is(leaf) {
            self.list[self.count] = Range { first, leaf };
            self.count += 1;
        }
    }

    /// Every number there is, from single calls in order: what lies between them is absent, the x32 table kills.
    const fn with_gaps(&self, machine: Machine, absent: Label, kill: Label) -> Self {
        let mut ranges = Self::new(absent);
        let mut next = 0;
        let mut call = 0;
        while call < self.count {
            let Range { first, leaf } = self.list[call];
            if first > next {
                ranges.push(next, absent);
            }
            ranges.push(first, leaf);
            next = first + 1;
            call += 1;
        }
        ranges.push(next, absent);
        if machine.has_x32 {
            ranges.push(X32, kill);
            ranges.push(X32 << 1, absent);
        }
        ranges
    }
}
