//! The four bundles, five functions, against their references; and PTX made into machine code on this machine.

use std::thread::JoinHandle;

use anyhow::Result;
use bundle::Kind;

use crate::bench::Bench;
use crate::cases::{self, Case};
use crate::figures::ms;
use crate::report::{Place, Row};

/// A row whose reference is still being computed.
type Pending = (String, Place, String, JoinHandle<Result<(), String>>);

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let mut pending: Vec<Pending> = Vec::new();
    let from_ptx = cases::product(&bench.kit.ptx_bundle("gemm")?, [65, 130, 33])?;
    let from_ptx = Case { what: format!("{}, from PTX", from_ptx.what), ..from_ptx };
    for Case { what, ask, check } in cases::all(&bench.kit, !bench.is_small)?.into_iter().chain([from_ptx]) {
        bench.say(&what);
        let place = bench.backend.place();
        let outcome = match bench.backend.launch_warm(&ask) {
            Ok(outcome) => outcome,
            Err(error) => {
                rows.push(Row::checked(what, place, false, format!("{error:#}")));
                continue;
            }
        };
        match outcome.ran() {
            Ok(ran) => {
                let note = format!("run {:.3} ms", ms(ran.timings.run_us));
                let outputs = outcome.outputs;
                pending.push((what, place, note, std::thread::spawn(move || check(&outputs))));
            }
            Err(error) => rows.push(Row::checked(what, place, false, error.to_string())),
        }
    }
    for (what, place, note, check) in pending {
        let row = match check.join() {
            Ok(Ok(())) => Row::checked(what, place, true, note),
            Ok(Err(difference)) => Row::checked(what, place, false, difference),
            Err(_) => Row::checked(what, place, false, "the reference does not take these sizes"),
        };
        rows.push(row);
    }
    rows.push(compiling(bench));
    Ok(())
}

/// What the linker takes for the PTX of the largest example.
fn compiling(bench: &Bench) -> Row {
    let what = "PTX of gemm to machine code, both modules";
    let compiled = || -> Result<Vec<f64>> {
        let bundle = bench.kit.ptx_bundle("gemm")?.bundle;
        let mut samples = Vec::new();
        for _ in 0..bench.rounds(5) {
            let mut total = 0.0;
            for module in bundle.modules().iter().filter(|module| module.kind() == Kind::Ptx) {
                let (_, took) = bench.backend.compile(&bench.kit, module.bytes())?;
                total += took.as_secs_f64() * 1e3;
            }
            samples.push(total);
        }
        Ok(samples)
    };
    match compiled() {
        Ok(samples) => Row::measured(what, bench.backend.place(), "ms", &samples),
        Err(error) => Row::not_run(what, bench.backend.place(), format!("{error:#}")),
    }
}
