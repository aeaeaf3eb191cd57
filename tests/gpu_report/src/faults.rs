//! Kernels that end badly (numbers 58 and 59 of the list): each in its class, and the next job on the same GPU works.

use std::time::{Duration, Instant};

use anyhow::Result;
use bundle::Parameters;
use cuda::class::Class;

use crate::backend::{Ended, Outcome};
use crate::bench::Bench;
use crate::figures::ms;
use crate::kit::Ask;
use crate::manifests::one_kernel;
use crate::patch::spoil;
use crate::report::{Place, Row};

/// From the deadline of a kernel without end until the next job's answer, in milliseconds.
const NEXT_WITHIN_MS: f64 = 10_000.0;

/// A fault is not begun with less time than this: after each the runner has the whole memory scanned.
const FAULT_AT_LEAST: Duration = Duration::from_secs(40);

/// Each kernel, and the classes that it may end in. What a driver calls a `trap` and a stack that is full has changed.
const FAULTS: [(&str, &[Class]); 6] = [
    ("illegal_address", &[Class::IllegalAddress]),
    ("misaligned", &[Class::MisalignedAddress]),
    ("assertion", &[Class::Assert]),
    ("trap", &[Class::LaunchFailure, Class::IllegalInstruction]),
    ("illegal_instruction", &[Class::IllegalInstruction]),
    (
        "stack_overflow",
        &[Class::LaunchFailure, Class::IllegalAddress, Class::MisalignedAddress, Class::IllegalInstruction],
    ),
];

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let next = bench.small_product()?;
    for (kernel, classes) in FAULTS {
        if bench.left() < FAULT_AT_LEAST {
            rows.push(Row::not_run(kernel, bench.backend.place(), "there was no time left"));
            continue;
        }
        bench.say(kernel);
        rows.extend(one(bench, kernel, classes, &next));
    }
    rows.extend(endless(bench, &next));
    Ok(())
}

/// A fault, and the next job.
fn one(bench: &mut Bench, kernel: &str, classes: &[Class], next: &Ask) -> Vec<Row> {
    let place = bench.backend.place();
    let ended = fault(bench, kernel).and_then(|ask| bench.backend.launch_warm(&ask)).map(|outcome| outcome.ended);
    let row = match &ended {
        Err(error) => Row::not_run(kernel, place, format!("{error:#}")),
        Ok(ended) if ended.is_unknown_kernel() => Row::not_run(kernel, place, "unknown kernel"),
        Ok(Ended::Failed(failure)) => Row::checked(kernel, place, classes.contains(&failure.class), words(&ended)),
        Ok(Ended::Ran(_) | Ended::Deadline | Ended::Gone(_) | Ended::Refused(_)) => {
            Row::checked(kernel, place, false, words(&ended))
        }
    };
    if ended.is_err() {
        return vec![row];
    }
    vec![row, next_works(bench, &format!("after {kernel}: the next job"), next)]
}

fn words(ended: &Result<Ended>) -> String {
    ended.as_ref().map(Ended::words).unwrap_or_default()
}

/// The job that does it.
fn fault(bench: &Bench, kernel: &str) -> Result<Ask> {
    if kernel != "illegal_instruction" {
        return bench.fault(kernel, Parameters::default());
    }
    // A parser that reads the spoilt code is asked too: the bundle is packed, not taken as it is.
    let archive = one_kernel(kernel, &spoil(&bench.faulty_code()?, kernel)?, bench.kit.arch())?;
    bench.kit.ready(archive)?.ask(kernel, Parameters::default(), Vec::new())
}

/// The next job, asked for at once.
fn next_works(bench: &mut Bench, what: &str, next: &Ask) -> Row {
    let place = bench.backend.place();
    let asked = Instant::now();
    match bench.backend.launch(next) {
        Ok(outcome) => {
            let took = format!("{:.0} ms after it was asked for", asked.elapsed().as_secs_f64() * 1e3);
            let holds = outcome.ended.ran().is_some();
            Row::checked(what, place, holds, if holds { took } else { outcome.ended.words() })
        }
        Err(error) => Row::checked(what, place, false, format!("{error:#}")),
    }
}

/// Kernels without end, on one block and on all: killed, and how long until the next first kernel.
fn endless(bench: &mut Bench, next: &Ask) -> Vec<Row> {
    let place = bench.backend.place();
    let mut rows = Vec::new();
    let (mut answered, mut launched) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        if bench.left() < FAULT_AT_LEAST {
            break;
        }
        bench.say("a kernel without end");
        match deadline(bench, next) {
            Ok((ended, outcome, since_ms)) if matches!(ended, Ended::Deadline) && outcome.ended.ran().is_some() => {
                let note = format!("{}; a plan has one stream", ended.words());
                rows.push(Row::checked("a kernel without end on every multiprocessor", place, true, note));
                let after = outcome.ended.ran().map_or(0.0, |ran| {
                    ms(ran.timings.run_us.saturating_sub(ran.timings.first_launch_us) + ran.timings.download_us)
                });
                answered.push(since_ms);
                launched.push(since_ms - after);
            }
            Ok((ended, _, _)) if ended.is_unknown_kernel() => {
                rows.push(Row::not_run("a kernel without end", place, "unknown kernel"));
                return rows;
            }
            Ok((ended, outcome, _)) => {
                let note = format!("{}; the next job: {}", ended.words(), outcome.ended.words());
                rows.push(Row::checked("a kernel without end on every multiprocessor", place, false, note));
            }
            Err(error) => {
                rows.push(Row::checked("a kernel without end", place, false, format!("{error:#}")));
                return rows;
            }
        }
    }
    rows.dedup();
    let within = answered.iter().all(|ms| *ms <= NEXT_WITHIN_MS);
    rows.push(Row::measured("deadline to the next first kernel", place, "ms", &launched));
    rows.push(Row::measured("deadline to the next answer", place, "ms", &answered));
    let what = "the next job starts within 10 s of a kill";
    rows.push(if answered.is_empty() {
        Row::not_run(what, place, "nothing was killed")
    } else {
        Row::checked(what, place, within, "")
    });
    rows
}

/// A kernel without end, and the next job, which is asked for when the kernel has been killed. Milliseconds from the
/// deadline to the next answer.
fn deadline(bench: &mut Bench, next: &Ask) -> Result<(Ended, Outcome, f64)> {
    let ask = bench.fault("endless", Parameters::default())?.within(1);
    bench.backend.settle()?;
    let asked = Instant::now();
    let killed = bench.backend.launch(&ask)?;
    let outcome = bench.backend.launch(next)?;
    let since_asked = asked.elapsed();
    let deadline = killed.waited.as_secs_f64() + 1.0;
    Ok((killed.ended, outcome, (since_asked.as_secs_f64() - deadline) * 1e3))
}

/// A row for a bench without a jail, where one must be.
pub(crate) fn only_in_a_jail(what: &str) -> Row {
    Row::not_run(what, Place::Jail, "there is no jail here")
}
