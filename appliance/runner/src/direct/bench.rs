//! What the rate of arithmetic is measured with: two bundles of our own, each one kernel, launched several times
//! between marks.
//!
//! Invariants: every operation that is counted is done, because what it leads to is written and checked; a figure of a
//! GPU that computes something else is not told. The kernels depend on nothing but registers, so that memory has no
//! part in the figure.

use std::os::fd::OwnedFd;

use bundle::{Arch, Bundle, Parameters};
use cuda::messages::Job;
use runner::memory::{self, MemoryError};
use runner::protocol::Throughput;

/// Launches that count. Odd, so that there is a median; one before them warms up and does not.
const LAUNCHES: usize = 5;

/// Blocks of a launch. Many times what any GPU holds at once, so that its end, when multiprocessors run out of blocks,
/// is a small part.
const BLOCKS: u64 = 32_768;

/// Threads of a block, and numbers that a launch writes.
const THREADS: u64 = 256;

/// Bytes of what a launch writes.
pub(super) const OUTPUT_BYTES: u64 = THREADS * 4;

/// One kernel and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Eight independent chains of `x = x / 2 + 1` in each thread, fused and in 32 bits.
    Fma,
    /// Eight independent accumulators of 16 by 8 in each warp, to which products of 16-bit floats are added.
    Mma,
}

/// A kernel's bundle, in sealed memory.
#[derive(Debug)]
pub(super) struct Bench {
    archive: OwnedFd,
    digest: bundle::Digest,
    /// Its module, to be compiled.
    pub(super) ptx: OwnedFd,
}

/// A bundle that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error("pack the benchmark")]
    Pack(#[source] bundle::BundleError),
    #[error("keep the benchmark in memory")]
    Memory(#[from] MemoryError),
}

// === impl Kernel ===

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Fma => "bench_fma_f32",
            Self::Mma => "bench_mma_f16",
        }
    }

    /// What its PTX is for. The wide product of matrices came with this one.
    pub(super) fn target(self) -> Arch {
        match self {
            Self::Fma => Arch::new(7, 5),
            Self::Mma => Arch::new(8, 0),
        }
    }

    /// How often a launch goes round its loop. Long enough that the clocks have risen when the first launch is over: at
    /// the rates of an H200's data sheet 66 ms and 35 ms; seconds on a slow GPU.
    fn rounds(self) -> u64 {
        match self {
            Self::Fma => 2048,
            Self::Mma => 512,
        }
    }

    /// Operations of a launch; a multiplication and an addition are two.
    fn operations(self) -> u64 {
        let round = match self {
            Self::Fma => THREADS * FMA_CHAINS * FMA_UNROLLED * 2,
            Self::Mma => THREADS / 32 * MMA_CHAINS * MMA_UNROLLED * (16 * 8 * 16 * 2),
        };
        BLOCKS * self.rounds() * round
    }

    /// What thread `lane` of each block writes.
    fn expected(self, lane: u16) -> f32 {
        match self {
            // Every chain ends at 2, wherever it began.
            Self::Fma => 16.0,
            // Each operation adds 1 to each of the 4 numbers that a thread has of each accumulator.
            Self::Mma => (f32::from(lane) + f32::from(MMA_ADDED)) * 32.0,
        }
    }

    fn ptx(self) -> String {
        match self {
            Self::Fma => fma_ptx(),
            Self::Mma => mma_ptx(),
        }
    }

    fn manifest(self) -> String {
        let (kernel, target, rounds) = (self.name(), self.target(), self.rounds());
        let launch = format!(
            r#"
[[function.go.steps]]
launch = "{kernel}"
grid = ["{BLOCKS}"]
block = ["{THREADS}"]
arguments = [{{ buffer = "out", access = "write" }}, {{ value = "{rounds}", type = "u32" }}]
"#
        );
        let mark = |number: usize| format!("\n[[function.go.steps]]\nmark = \"m{number}\"\n");
        let counted: String = (1..=LAUNCHES).map(|number| format!("{launch}{}", mark(number))).collect();
        format!(
            r#"format = 1
name = "bench"
description = "The rate of arithmetic"

[[module]]
name = "code"
file = "code.ptx"
kind = "ptx"
ptx_isa = "7.0"
target = "{target}"
min_driver = "11.0"

[function.go]
determinism = "bitwise-any"
seconds = 60

[function.go.buffers.out]
type = "f32"
elements = "{THREADS}"
output = {{ as = "base64" }}
{launch}{}{counted}"#,
            mark(0)
        )
    }

    /// The rate, from when each mark was passed and from what the last launch wrote.
    pub(super) fn throughput(self, marks_ms: &[f64], outputs: &[u8]) -> Throughput {
        let found = outputs.chunks_exact(4).map(|four| four.try_into().map_or(f32::NAN, f32::from_le_bytes));
        let is_right = |(lane, value): (u16, f32)| value.to_bits() == self.expected(lane).to_bits();
        if outputs.len() as u64 != OUTPUT_BYTES || !(0_u16..).zip(found).all(is_right) {
            return Throughput::Unknown("the GPU computed something else than it had to".to_owned());
        }
        let mut times: Vec<f64> = marks_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
        times.sort_by(f64::total_cmp);
        match times.get(times.len() / 2) {
            Some(&ms) if times.len() == LAUNCHES && ms > 0.0 => Throughput::Tflops(tflops(self.operations(), ms)),
            Some(_) | None => Throughput::Unknown("the GPU's clock did not tell the time".to_owned()),
        }
    }
}

/// 10¹² operations per second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits than a float has")]
fn tflops(operations: u64, ms: f64) -> f64 {
    operations as f64 / ms / 1e9
}

// === impl Bench ===

impl Bench {
    pub(super) fn new(kernel: Kernel) -> Result<Self, BenchError> {
        let (manifest, ptx) = (kernel.manifest(), kernel.ptx());
        let files = [("bundle.toml", manifest.as_bytes()), ("code.ptx", ptx.as_bytes())];
        let archive = bundle::pack(&files).map_err(BenchError::Pack)?;
        let digest = Bundle::parse(&archive).map_err(BenchError::Pack)?.digest();
        let sealed = memory::sealed;
        Ok(Self { archive: sealed("the benchmark", &archive)?, digest, ptx: sealed("PTX", ptx.as_bytes())? })
    }

    pub(super) fn archive(&self) -> &OwnedFd {
        &self.archive
    }

    pub(super) fn job(&self) -> Job {
        Job { bundle: self.digest, function: "go".to_owned(), parameters: Parameters::default(), scan: false }
    }
}

// === The kernels ===

/// Chains of a thread. With several warps on each scheduler, more than enough to hide how long one operation takes.
const FMA_CHAINS: u64 = 8;

/// Operations on each chain in a round, so that the loop itself is a small part.
const FMA_UNROLLED: u64 = 16;

const MMA_CHAINS: u64 = 8;
const MMA_UNROLLED: u64 = 8;

/// What a launch adds to each number of an accumulator: 512 rounds of 8.
const MMA_ADDED: u16 = 4096;

/// A kernel that runs `body` as often as its second parameter says on the registers `%x0` to `%x{count-1}`, of which
/// number i begins as the lane plus `first(i)`, and stores the sum of them. `%lane` is the thread in its block.
fn ptx(kernel: Kernel, count: u64, declared: &str, first: impl Fn(u64) -> u64, body: &str) -> String {
    let (name, target) = (kernel.name(), kernel.target());
    let begin: String = (0..count)
        .map(|number| format!("    add.u32 %add, %lane, {};\n    cvt.rn.f32.u32 %x{number}, %add;\n", first(number)))
        .collect();
    let sum: String = (1..count).map(|number| format!("    add.rn.f32 %x0, %x0, %x{number};\n")).collect();
    format!(
        "\
.version 7.0
.target {target}
.address_size 64

.visible .entry {name}(
    .param .u64 out,
    .param .u32 rounds
)
.maxntid {THREADS}, 1, 1
{{
    .reg .pred %more;
    .reg .u32 %lane, %left, %add;
    .reg .u64 %to, %at;
    .reg .f32 %x<{count}>;
{declared}
    ld.param.u64 %to, [out];
    ld.param.u32 %left, [rounds];
    cvta.to.global.u64 %to, %to;
    mov.u32 %lane, %tid.x;
{begin}    setp.eq.u32 %more, %left, 0;
    @%more bra END;
ROUND:
{body}    sub.u32 %left, %left, 1;
    setp.ne.u32 %more, %left, 0;
    @%more bra ROUND;
END:
{sum}    mul.wide.u32 %at, %lane, 4;
    add.u64 %at, %to, %at;
    st.global.f32 [%at], %x0;
    ret;
}}
"
    )
}

fn fma_ptx() -> String {
    let declared =
        "    .reg .f32 %half, %one;\n    mov.f32 %half, 0f3F000000;\n    mov.f32 %one, 0f3F800000;\n".to_owned();
    let chains = || (0..FMA_CHAINS).map(|x| format!("    fma.rn.f32 %x{x}, %x{x}, %half, %one;\n"));
    let body: String = (0..FMA_UNROLLED).flat_map(|_| chains()).collect();
    ptx(Kernel::Fma, FMA_CHAINS, &declared, |chain| chain, &body)
}

fn mma_ptx() -> String {
    // Two quarters in 16 bits each: a row times a column of 16 of them is 1.
    let declared = "    .reg .b32 %a;\n    mov.b32 %a, 0x34003400;\n";
    let operation = |chain: u64| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|part| format!("%x{}", 4 * chain + part));
        let sums = format!("{{{a}, {b}, {c}, {d}}}");
        format!(
            "    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {sums}, {{%a, %a, %a, %a}}, {{%a, %a}}, {sums};\n"
        )
    };
    let body: String = (0..MMA_UNROLLED).flat_map(|_| (0..MMA_CHAINS).map(operation)).collect();
    ptx(Kernel::Mma, 4 * MMA_CHAINS, declared, |_| 0, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: [Kernel; 2] = [Kernel::Fma, Kernel::Mma];

    fn outputs(kernel: Kernel) -> Vec<u8> {
        (0..256).flat_map(|lane| kernel.expected(lane).to_le_bytes()).collect()
    }

    #[test]
    fn the_bundles_are_valid_and_their_plans_have_the_marks() {
        for kernel in KERNELS {
            let bench =
                Bench::new(kernel).unwrap_or_else(|error| panic!("{kernel:?}: {}", super::super::words(&error)));
            let archive = memory::read("it", bench.archive, 1 << 20).expect("its archive");
            let bundle = Bundle::parse(&archive).expect("valid");
            let plan = bundle.function("go").expect("it goes").plan(&Parameters::default()).expect("a plan");
            assert_eq!((plan.marks.len(), plan.output_bytes()), (LAUNCHES + 1, OUTPUT_BYTES), "{kernel:?}");
            assert_eq!(plan.operations.len(), 2 * LAUNCHES + 2, "{kernel:?}");
        }
    }

    #[test]
    fn as_many_operations_are_counted_as_stand_in_the_loop() {
        let check = |kernel: Kernel, word: &str, each: u64| {
            let text = kernel.ptx();
            let (_, from_loop) = text.split_once("ROUND:").expect("a loop");
            let (body, _) = from_loop.split_once("bra ROUND").expect("its end");
            let lines = body.lines().filter(|line| line.trim_start().starts_with(word)).count() as u64;
            assert_eq!(lines * each * BLOCKS * kernel.rounds(), kernel.operations(), "{kernel:?}");
        };
        check(Kernel::Fma, "fma.rn.f32", 256 * 2);
        check(Kernel::Mma, "mma.sync", 8 * 4096);
        assert_eq!(u64::from(MMA_ADDED), Kernel::Mma.rounds() * MMA_UNROLLED);
    }

    #[test]
    fn a_rate_is_of_the_median_of_right_results() {
        let expected = |ms| Throughput::Tflops(tflops(Kernel::Fma.operations(), ms));
        let check = |marks: &[f64], rate| assert_eq!(Kernel::Fma.throughput(marks, &outputs(Kernel::Fma)), rate);
        check(&[0.0, 10.0, 19.0, 30.0, 130.0, 131.0], expected(10.0));
        let unknown = || Throughput::Unknown("the GPU's clock did not tell the time".to_owned());
        check(&[0.0; 6], unknown());
        check(&[], unknown());
        check(&[0.0, 1.0], unknown());
    }

    #[test]
    fn a_gpu_that_computes_something_else_has_no_rate() {
        let marks = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        for kernel in KERNELS {
            let mut wrong = outputs(kernel);
            assert!(matches!(kernel.throughput(&marks, &wrong), Throughput::Tflops(_)));
            assert!(matches!(kernel.throughput(&marks, &wrong[4..]), Throughput::Unknown(_)));
            wrong[1020] ^= 1;
            let Throughput::Unknown(why) = kernel.throughput(&marks, &wrong) else { panic!("a rate") };
            assert!(why.contains("something else"), "{why}");
        }
    }
}
