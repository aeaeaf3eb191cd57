//! How long it takes until the first kernel runs: cold, warm, and with and without a worker that waits.

use anyhow::Result;
use cuda::messages::JobTimings;

use crate::backend::Outcome;
use crate::bench::Bench;
use crate::figures::ms;
use crate::report::{Place, Row};

/// One part of a job and how it is read.
type Part = (&'static str, fn(&JobTimings) -> u64);

/// The parts of a job, in their order.
const PARTS: [Part; 7] = [
    ("warm job: parse and plan", |of| of.parse_us),
    ("warm job: load modules", |of| of.load_us),
    ("warm job: allocate", |of| of.allocate_us),
    ("warm job: upload", |of| of.upload_us),
    ("warm job: first launch submitted", |of| of.first_launch_us),
    ("warm job: run", |of| of.run_us),
    ("warm job: download", |of| of.download_us),
];

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    rows.extend(cold(bench)?);
    rows.extend(warm(bench)?);
    Ok(())
}

/// A worker from its process to its context.
fn cold(bench: &Bench) -> Result<Vec<Row>> {
    bench.say("cold workers");
    let mut parts = [const { Vec::new() }; 5];
    for _ in 0..bench.rounds(10) {
        if !bench.has_time() {
            break;
        }
        let worker = bench.unjailed.start()?;
        let of = worker.warm.timings;
        let all = worker.took.as_secs_f64() * 1e3;
        let spawn = all - ms(of.load_us) - ms(of.init_us) - ms(of.context_us);
        for (samples, value) in parts.iter_mut().zip([spawn, ms(of.load_us), ms(of.init_us), ms(of.context_us), all]) {
            samples.push(value);
        }
    }
    let names = ["spawn and greeting", "map the driver", "cuInit", "context", "until warm"];
    let note = match bench.backend.place() {
        Place::Jail => "while the runner's own worker keeps the driver awake",
        Place::OutsideTheJail | Place::Beside | Place::Host => "",
    };
    let rows = names.into_iter().zip(&parts);
    Ok(rows.map(|(name, samples)| cold_row(name, samples).with_note(note)).collect())
}

fn cold_row(name: &str, samples: &[f64]) -> Row {
    Row::measured(format!("cold worker: {name}"), Place::OutsideTheJail, "ms", samples)
}

/// The same job on a worker that waits, and on none.
fn warm(bench: &mut Bench) -> Result<Vec<Row>> {
    let ask = bench.small_product()?;
    let place = bench.backend.place();
    bench.say("warm and cold jobs, in turns");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // In turns, so that a machine that is busy is busy for both. A job that comes at once finds no warm worker.
    for round in 0..bench.rounds(30) {
        if !bench.has_time() {
            break;
        }
        with.push(bench.backend.launch_warm(&ask)?);
        if round % 3 == 0 {
            without.push(bench.backend.launch(&ask)?);
        }
    }
    let mut rows = Vec::new();
    let timings: Vec<JobTimings> =
        with.iter().filter_map(|outcome| outcome.ended.ran()).map(|ran| ran.timings).collect();
    for (name, part) in PARTS {
        let samples: Vec<f64> = timings.iter().map(|of| ms(part(of))).collect();
        rows.push(Row::measured(name, place, "ms", &samples));
    }
    let first = |of: &JobTimings| of.parse_us + of.load_us + of.allocate_us + of.upload_us + of.first_launch_us;
    let samples: Vec<f64> = timings.iter().map(|of| ms(first(of))).collect();
    rows.push(Row::measured("warm job: receipt by the worker to first launch", place, "ms", &samples));
    let handed: Vec<f64> = with.iter().map(|outcome| outcome.waited.as_secs_f64() * 1e3).collect();
    rows.push(Row::measured("warm job: asked to handed over", place, "ms", &handed));

    let total = |outcomes: &[Outcome]| -> Vec<f64> {
        let ran = outcomes.iter().filter(|outcome| outcome.ended.ran().is_some());
        ran.map(|outcome| outcome.total.as_secs_f64() * 1e3).collect()
    };
    let waits = with.iter().filter(|outcome| outcome.was_warm).count();
    let pool = Row::measured("the same job, with the warm pool: total", place, "ms", &total(&with))
        .with_note(format!("a worker was warm for {waits} of {}", with.len()));
    let parts: Vec<f64> = without.iter().map(|outcome| ms(outcome.warm.context_us)).collect();
    let none = Row::measured("the same job, without: total", place, "ms", &total(&without))
        .beside(&pool, None)
        .with_note("the worker's start is in it");
    let context = Row::measured("of that, the context", place, "ms", &parts);
    rows.extend([pool, none, context]);
    Ok(rows)
}
