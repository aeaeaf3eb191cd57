//! Kernels and copies: a bundle's job, a bare program that does the same with the same machine code, and PyTorch, in turns.
//!
//! Each round is a process of its own for the bundle and for the bare program. The time is the device's own, between two
//! events around launches that one more launch came before.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bundle::Digest;

use crate::bare;
use crate::bench::Bench;
use crate::cases::{bodies, sides, stepping};
use crate::figures::{float, ms};
use crate::kit::{Ask, Kit, Loaded};
use crate::manifests::{LAUNCHES, copies, repeated_products};
use crate::numbers::{bytes, half_bytes, noise};
use crate::report::{Place, Row};
use crate::torch::Torch;
use crate::worker::output;

/// What a bundle may take of what the bare program takes.
const GOAL: f64 = 1.01;

/// How long the bare program may take.
const BARE_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a large copy.
const COPY_BYTES: u64 = 256 << 20;

/// Copies within the device between two marks.
const COPIES: u32 = 20;

/// A job's files, for the bare program.
struct Files {
    arguments: Vec<String>,
    uuid: String,
}

/// Samples of a bundle and of the bare program, in the same order.
#[derive(Default)]
struct Pair {
    bundle: Vec<f64>,
    bare: Vec<f64>,
}

// === impl Pair ===

impl Pair {
    fn push(&mut self, bundle: f64, bare: f64) {
        self.bundle.push(bundle);
        self.bare.push(bare);
    }

    /// Two rows, the bundle's with its ratio.
    fn rows(&self, what: &str, place: Place, note: &str) -> [Row; 2] {
        let bare = Row::measured(format!("{what}: bare program"), Place::Beside, "ms", &self.bare);
        let bundle = Row::measured(format!("{what}: bundle"), place, "ms", &self.bundle);
        [bundle.beside(&bare, Some(GOAL)).with_note(note), bare]
    }
}

/// Products of two kinds, and bodies.
pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let mut torch = Torch::start();
    if let Ok(torch) = &torch {
        rows.push(Row::checked("PyTorch", Place::Beside, true, torch.version.clone()));
    }
    let gemm = bench.kit.bundle("gemm")?;
    let loaded = bench.kit.ready(repeated_products(&gemm.bundle)?)?;
    for (kind, side) in [("f32", 4096), ("f16", 8192)] {
        let side = if bench.is_small { 64 } else { side };
        let made = product_rows(bench, &loaded, kind, side, torch.as_mut());
        let what = format!("gemm_{kind} {side}");
        rows.extend(made.unwrap_or_else(|error| vec![Row::not_run(what, bench.backend.place(), format!("{error:#}"))]));
    }
    if let Err(error) = torch {
        rows.push(Row::not_run("the same products through PyTorch", Place::Beside, format!("{error:#}")));
    }
    rows.extend(body_rows(bench)?);
    Ok(())
}

fn product_rows(
    bench: &mut Bench,
    loaded: &Loaded,
    kind: &str,
    side: usize,
    torch: Result<&mut Torch, &mut anyhow::Error>,
) -> Result<Vec<Row>> {
    let what = format!("gemm_{kind} {side}^3, one launch of {LAUNCHES}");
    bench.say(&what);
    let (a, b) = (noise(11, side * side), noise(12, side * side));
    let inputs = if kind == "f32" {
        [bytes(&a), bytes(&b)].concat()
    } else {
        [a, b].map(|values| half_bytes(&kernels::reference::gemm::halves(&values))).concat()
    };
    let function = format!("gemm_{kind}");
    let ask = loaded.ask(&function, sides(side, side, side), inputs)?;
    let files = Files::write(bench, &ask)?;
    let mut torch = torch.ok();
    let (code, launches) = (machine_code_file(bench, loaded, &function)?, LAUNCHES);
    let (mut pair, mut matmul, mut same) = (Pair::default(), Vec::new(), Vec::new());
    let (mut note, mut without) = ("", None);
    for _ in 0..bench.rounds(7) {
        if !bench.has_time() {
            break;
        }
        let outcome = bench.backend.launch_warm(&ask)?;
        let bundle = between_marks(&outcome.ran()?.marks_ms)?;
        let bare = files.bare(&bench.kit)?;
        pair.push(bundle / f64::from(launches), between_marks(&bare.marks_ms)? / f64::from(launches));
        note = if bare.outputs == Digest::of(&outcome.outputs) {
            "same bytes"
        } else {
            "other bytes than the bare program"
        };
        let orders =
            [format!("matmul {kind} {side} {launches}"), format!("kernel {kind} {side} {launches} {}", code.display())];
        if let Some(times) = torch.as_mut().map(|torch| timed(torch, &orders)) {
            match times {
                Ok([product, own]) => {
                    matmul.push(product);
                    same.push(own);
                }
                Err(error) => {
                    torch = None;
                    without =
                        Some(Row::not_run(format!("{what}: through PyTorch"), Place::Beside, format!("{error:#}")));
                }
            }
        }
    }
    let mut rows = Vec::from(pair.rows(&what, bench.backend.place(), note));
    if let Some(row) = rows.first_mut() {
        *row = row.clone().with_note(teraflops(side, row.median()));
    }
    if !same.is_empty() {
        let same = Row::measured(format!("{what}: the same kernel through PyTorch"), Place::Beside, "ms", &same);
        let matmul = Row::measured(format!("{what}: torch.matmul"), Place::Beside, "ms", &matmul);
        let note = if kind == "f16" { "cuBLAS, whose product is in half precision" } else { "cuBLAS, without TF32" };
        let note = format!("{note}; {}", teraflops(side, matmul.median()));
        rows.extend(
            rows.first()
                .map(|own| Row { what: format!("{what}: bundle, again"), ..own.clone().beside(&same, Some(GOAL)) }),
        );
        rows.extend([same, matmul.with_note(note)]);
    }
    rows.extend(without);
    Ok(rows)
}

/// What PyTorch takes for both orders.
fn timed(torch: &mut Torch, [product, own]: &[String; 2]) -> Result<[f64; 2]> {
    Ok([torch.time(product)?, torch.time(own)?])
}

/// 10^12 operations per second.
fn teraflops(side: usize, launch_ms: Option<f64>) -> String {
    let side = float(u64::try_from(side).unwrap_or(u64::MAX));
    match launch_ms {
        Some(ms) if ms > 0.0 => format!("{:.1} TFLOP/s", 2.0 * side.powi(3) / ms / 1e9),
        Some(_) | None => String::new(),
    }
}

fn body_rows(bench: &mut Bench) -> Result<Vec<Row>> {
    let n = if bench.is_small { 256 } else { 131_072 };
    let what = format!("simulate, {n} bodies, 4 steps");
    bench.say(&what);
    let (start, velocities) = bodies(n);
    let inputs = bytes(&[start, velocities].concat());
    let ask = bench.kit.bundle("n-body")?.ask("simulate", stepping(n, 4), inputs)?;
    let files = Files::write(bench, &ask)?;
    let (mut pair, mut note) = (Pair::default(), "");
    for _ in 0..bench.rounds(7) {
        if !bench.has_time() {
            break;
        }
        let outcome = bench.backend.launch_warm(&ask)?;
        let bare = files.bare(&bench.kit)?;
        pair.push(between_marks(&outcome.ran()?.marks_ms)?, between_marks(&bare.marks_ms)?);
        note = if bare.outputs == Digest::of(&outcome.outputs) {
            "same bytes"
        } else {
            "other bytes than the bare program"
        };
    }
    Ok(Vec::from(pair.rows(&what, bench.backend.place(), note)))
}

/// Copies of a large buffer: into the device, within it, out of it.
pub(crate) fn copy_rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let size = if bench.is_small { 4 << 20 } else { COPY_BYTES };
    let loaded = bench.kit.ready(copies(size, COPIES)?)?;
    let words: Vec<u8> =
        (0..u32::try_from(size / 4)?).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let ask = loaded.ask("copies", Default::default(), words)?;
    let files = Files::write(bench, &ask)?;
    let (mut there, mut within, mut back) = (Pair::default(), Pair::default(), Pair::default());
    let mut intact = true;
    for _ in 0..bench.rounds(7) {
        if !bench.has_time() {
            break;
        }
        bench.say("copies");
        let outcome = bench.backend.launch_warm(&ask)?;
        intact &= outcome.outputs == ask.inputs;
        let (own, bare) = (outcome.ran()?, files.bare(&bench.kit)?);
        intact &= bare.outputs == Digest::of(&ask.inputs);
        there.push(ms(own.timings.upload_us), ms(bare.upload_us));
        within.push(
            between_marks(&own.marks_ms)? / f64::from(COPIES),
            between_marks(&bare.marks_ms)? / f64::from(COPIES),
        );
        back.push(ms(own.timings.download_us), ms(bare.download_us));
    }
    let (place, mib) = (bench.backend.place(), size >> 20);
    for (pair, what, moved) in
        [(there, "host to device", size), (within, "within the device", size * 2), (back, "device to host", size)]
    {
        let [own, bare] = pair.rows(&format!("{mib} MiB {what}"), place, "");
        let rate = |row: &Row| row.median().filter(|ms| *ms > 0.0).map(|ms| float(moved) / ms / 1e6);
        let words = |rate: Option<f64>| rate.map(|rate| format!("{rate:.1} GB/s")).unwrap_or_default();
        let (own_rate, bare_rate) = (words(rate(&own)), words(rate(&bare)));
        let pageable = if moved == size { ", pageable memory" } else { "" };
        rows.extend([own.with_note(own_rate), bare.with_note(format!("{bare_rate}{pageable}"))]);
    }
    rows.push(Row::checked("what was copied comes back as it was", place, intact, ""));
    rows.push(pinned(bench));
    Ok(())
}

/// What pinned memory gives, for comparison.
fn pinned(bench: &Bench) -> Row {
    let what = "pinned memory and the device's own, as `rig-cuda measure` has it";
    let mut command = Command::new(bench.kit.program("rig-cuda"));
    command.arg("measure").env("CUDA_VISIBLE_DEVICES", &bench.uuid);
    let measured =
        output(&mut command, BARE_WITHIN).and_then(|text| Ok(serde_json::from_str::<cuda::messages::Measured>(&text)?));
    match measured {
        Ok(of) => Row::checked(
            what,
            Place::OutsideTheJail,
            of.copied_bytes > 0,
            format!(
                "to the device {:.1}, from it {:.1}, within it {:.1} GB/s",
                of.host_to_device_gb_s, of.device_to_host_gb_s, of.device_copy_gb_s
            ),
        ),
        Err(error) => Row::not_run(what, Place::OutsideTheJail, format!("{error:#}")),
    }
}

/// From the first mark to the second.
fn between_marks(marks_ms: &[f64]) -> Result<f64> {
    let [begin, end] = marks_ms else { anyhow::bail!("{} marks instead of two", marks_ms.len()) };
    ensure!(end > begin, "no time between the marks");
    Ok(end - begin)
}

/// The machine code of the module that exports `kernel`, as a file.
fn machine_code_file(bench: &Bench, loaded: &Loaded, kernel: &str) -> Result<PathBuf> {
    let module = loaded.bundle.modules().iter().find(|module| module.kernel(kernel).is_some());
    let module = module.with_context(|| format!("no module has {kernel}"))?;
    let code = match module.kind() {
        bundle::Kind::Ptx => bench.kit.machine_code(module.bytes())?,
        bundle::Kind::Cubin | bundle::Kind::Fatbin => module.bytes().to_vec(),
    };
    let file = bench.dir.join(format!("{kernel}.cubin"));
    std::fs::write(&file, code)?;
    Ok(file)
}

// === impl Files ===

impl Files {
    fn write(bench: &Bench, ask: &Ask) -> Result<Self> {
        let mut arguments = vec!["bare".to_owned(), "--function".to_owned(), ask.function.clone()];
        let mut keep = |option: &str, name: &str, bytes: &[u8]| -> Result<()> {
            let file = bench.dir.join(name);
            std::fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))?;
            arguments.extend([option.to_owned(), file.display().to_string()]);
            Ok(())
        };
        keep("--archive", "bare.bundle", &ask.archive)?;
        keep("--parameters", "bare.json", &serde_json::to_vec(&ask.parameters)?)?;
        keep("--inputs", "bare.inputs", &ask.inputs)?;
        for (at, code) in ask.cubins.iter().enumerate() {
            keep("--cubin", &format!("bare.{at}.cubin"), code)?;
        }
        Ok(Self { arguments, uuid: bench.uuid.clone() })
    }

    fn bare(&self, kit: &Kit) -> Result<bare::Ran> {
        let mut command = Command::new(kit.program("gpu-report"));
        command.args(&self.arguments).env("CUDA_MODULE_LOADING", "EAGER").env("CUDA_VISIBLE_DEVICES", &self.uuid);
        let text = output(&mut command, BARE_WITHIN).context("run the bare program")?;
        serde_json::from_str(&text).context("understand the bare program")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_between_two_marks() {
        assert!(between_marks(&[1.0, 3.5]).is_ok_and(|time| (time - 2.5).abs() < 1e-12));
        for marks in [&[][..], &[1.0], &[2.0, 2.0], &[2.0, 1.0], &[1.0, 2.0, 3.0]] {
            assert!(between_marks(marks).is_err(), "{marks:?}");
        }
    }

    #[test]
    fn operations_are_two_for_each_product() {
        assert_eq!(teraflops(1000, Some(1.0)), "2.0 TFLOP/s");
        assert_eq!(teraflops(1000, None), "");
    }
}
