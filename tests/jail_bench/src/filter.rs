//! The seccomp filter of the other jails: the allow-list that podman comes with.
//!
//! crun and runc get the list by its names and compile it at each start, as they do for podman. bubblewrap takes a
//! program, which is compiled here, once, before anything is measured: for this architecture alone, and one comparison
//! for each call, one after the other. That is less than half of what `libseccomp` makes of the list for three
//! architectures, and so never to bubblewrap's disadvantage.
//!
//! Calls that podman allows under conditions on their arguments (`personality`, `socket`) are allowed without; those
//! that it allows together with a capability are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Debian's golang-github-containers-common, which skopeo depends on.
const LIST: &str = "/usr/share/containers/seccomp.json";

/// Debian's linux-libc-dev, which build-essential depends on.
const NUMBERS: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";

/// Names that the list allows only with conditions on their arguments.
const WITH_ARGUMENTS: [&str; 2] = ["personality", "socket"];

/// `ENOSYS`, for whatever is not on the list.
const REFUSED_ERRNO: u16 = 38;

/// What may be called.
#[derive(Debug)]
pub(crate) struct AllowList {
    pub(crate) names: BTreeSet<String>,
    numbers: BTreeSet<u32>,
}

// === impl AllowList ===

impl AllowList {
    pub(crate) fn read() -> Result<Self> {
        let list = fs::read(LIST).with_context(|| format!("read {LIST}; skopeo comes with it"))?;
        let list: Value = serde_json::from_slice(&list).with_context(|| format!("understand {LIST}"))?;
        let rules = list["syscalls"].as_array().context("the list has rules")?;
        let mut names: BTreeSet<String> = WITH_ARGUMENTS.map(str::to_owned).into();
        for rule in rules.iter().filter(|rule| is_unconditional(rule)) {
            let allowed = rule["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.extend(allowed.map(str::to_owned));
        }
        let header = fs::read_to_string(NUMBERS).with_context(|| format!("read {NUMBERS}"))?;
        let numbers: BTreeMap<&str, u32> = header.lines().filter_map(number).collect();
        let numbers: BTreeSet<u32> = names.iter().filter_map(|name| numbers.get(name.as_str()).copied()).collect();
        ensure!(numbers.len() > 250, "{LIST} and {NUMBERS} have only {} calls in common", numbers.len());
        Ok(Self { names, numbers })
    }

    /// As `linux.seccomp` of an OCI configuration.
    pub(crate) fn oci(&self) -> Value {
        serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": REFUSED_ERRNO,
            "syscalls": [{ "names": self.names, "action": "SCMP_ACT_ALLOW" }],
        })
    }

    /// Writes the program for bubblewrap; answers how many instructions it has.
    pub(crate) fn write_program(&self, path: &Path) -> Result<usize> {
        let program = self.program();
        fs::write(path, program.iter().flat_map(Instruction::bytes).collect::<Vec<u8>>())?;
        Ok(program.len())
    }

    fn program(&self) -> Vec<Instruction> {
        /// Jumps reach 255 instructions far.
        const CHUNK: usize = 200;
        /// `AUDIT_ARCH_X86_64`.
        const ARCHITECTURE: u32 = 0xC000_003E;
        let mut program = vec![load(4), jump_if_equal(ARCHITECTURE, 1, 0), give(Verdict::Kill), load(0)];
        let numbers: Vec<u32> = self.numbers.iter().copied().collect();
        for chunk in numbers.chunks(CHUNK) {
            // Behind the last comparison of a chunk: one step over the verdict, then the verdict.
            for (at, number) in chunk.iter().enumerate() {
                program.push(jump_if_equal(*number, u8::try_from(chunk.len() - at).unwrap_or(u8::MAX), 0));
            }
            program.push(jump(1));
            program.push(give(Verdict::Allow));
        }
        program.push(give(Verdict::Refuse));
        program
    }
}

/// `struct sock_filter` of `linux/filter.h`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// What a filter answers.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Allow,
    Refuse,
    Kill,
}

// === impl Instruction ===

impl Instruction {
    fn bytes(&self) -> Vec<u8> {
        let Self { code, if_true, if_false, value } = *self;
        [&code.to_le_bytes()[..], &[if_true, if_false], &value.to_le_bytes()].concat()
    }
}

/// `BPF_LD | BPF_W | BPF_ABS`, of `struct seccomp_data`.
fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, if_true: 0, if_false: 0, value: offset }
}

/// `BPF_JMP | BPF_JEQ | BPF_K`.
fn jump_if_equal(value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: 0x15, if_true, if_false, value }
}

/// `BPF_JMP | BPF_JA`.
fn jump(value: u32) -> Instruction {
    Instruction { code: 0x05, if_true: 0, if_false: 0, value }
}

/// `BPF_RET | BPF_K`, with the `SECCOMP_RET_*` of the verdict.
fn give(verdict: Verdict) -> Instruction {
    let value = match verdict {
        Verdict::Allow => 0x7FFF_0000,
        Verdict::Refuse => 0x0005_0000 | u32::from(REFUSED_ERRNO),
        Verdict::Kill => 0x8000_0000,
    };
    Instruction { code: 0x06, if_true: 0, if_false: 0, value }
}

/// Allowed here whatever the arguments and the capabilities are.
fn is_unconditional(rule: &Value) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => true,
    };
    let arches = &rule["includes"]["arches"];
    let is_for_here = arches.as_array().is_some_and(|arches| arches.iter().any(|arch| arch == "amd64"));
    rule["action"] == "SCMP_ACT_ALLOW"
        && is_empty(&rule["args"])
        && is_empty(&rule["excludes"])
        && (is_empty(&rule["includes"]) || is_for_here)
}

/// A line `#define __NR_read 0`.
fn number(line: &str) -> Option<(&str, u32)> {
    let mut words = line.strip_prefix("#define __NR_")?.split_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?))
}
