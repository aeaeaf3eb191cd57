//! Writes a BPF program, last instruction first.
//!
//! BPF jumps only forward, and a conditional jump at most 255 instructions far. Written backwards, every target
//! already stands when a jump to it is written, so its distance is known; where it is too great the tape puts a copy
//! of the target, or an unconditional jump, within reach. Everything here runs in the compiler; a program that is
//! too long does not compile.

use seccompiler::sock_filter;

/// The longest program. Attaching one costs time in its length, once for each jail.
pub(super) const INSTRUCTIONS_MAX: usize = 512;

/// How far a conditional jump reaches: a byte, less the one instruction by which its other target may push it on.
const REACH: usize = 254;

// Instructions (`linux/bpf_common.h`): class, width or operation, source.
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// An instruction that has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that grows at its front.
#[derive(Debug)]
pub(super) struct Tape {
    code: [sock_filter; INSTRUCTIONS_MAX],
    start: usize,
}

// === impl Label ===

impl Label {
    pub(super) const fn is(self, other: Self) -> bool {
        self.0 == other.0
    }
}

// === impl Tape ===

impl Tape {
    pub(super) const fn new() -> Self {
        Self {
            code: [const { sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 } }; INSTRUCTIONS_MAX],
            start: INSTRUCTIONS_MAX,
        }
    }

    /// The program as the kernel takes it.
    pub(super) const fn program(&self) -> &[sock_filter] {
        self.code.split_at(self.start).1
    }

    /// Writes an instruction that needs no target; what was written before it comes next.
    pub(super) const fn put(&mut self, code: u16, k: u32) -> Label {
        assert!(self.start > 0, "the seccomp filter is longer than INSTRUCTIONS_MAX");
        self.start -= 1;
        self.code[self.start] = sock_filter { code, jt: 0, jf: 0, k };
        Label(self.start)
    }

    /// Writes a jump that depends on comparing the accumulator with `k`.
    pub(super) const fn branch(&mut self, comparison: u16, k: u32, yes: Label, no: Label) -> Label {
        let no = self.within_reach(no);
        let yes = self.within_reach(yes);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        assert!(jt <= 255 && jf <= 255, "a jump is too far");
        let here = self.put(comparison, k);
        self.code[here.0].jt = jt.to_le_bytes()[0];
        self.code[here.0].jf = jf.to_le_bytes()[0];
        here
    }

    /// `target`, or something near that amounts to it.
    const fn within_reach(&mut self, target: Label) -> Label {
        if self.distance(target) <= REACH {
            return target;
        }
        let (code, k) = (self.code[target.0].code, self.code[target.0].k);
        if code != RETURN {
            let [a, b, c, d, ..] = self.distance(target).to_le_bytes();
            return self.put(JUMP, u32::from_le_bytes([a, b, c, d]));
        }
        let mut near = self.start;
        while near - self.start < REACH {
            if self.code[near].code == RETURN && self.code[near].k == k {
                return Label(near);
            }
            near += 1;
        }
        self.put(RETURN, k)
    }

    /// How many instructions the next one to be written would skip to get to `target`.
    const fn distance(&self, target: Label) -> usize {
        target.0 - self.start
    }
}
