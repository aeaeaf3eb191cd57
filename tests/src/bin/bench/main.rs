//! Benches of the main job. Every figure says what bounds it.
//!
//! There is no side-by-side run against the network's own provider software here: it needs a Docker engine, and its
//! images are closed. What is measured instead is our share: the time that is neither the client's nor the handler's.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

mod facts;

mod handshake;

mod identity;

mod image;

mod overhead;

mod catch_up;

mod publish;

/// Which bench.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bench {
    /// The main job: overhead per task, catch-up, facts, memory and CPU of the provider.
    Work,
    /// The key: signing, starting, TLS handshakes, size and memory of the signer.
    Identity,
    /// The image: its size, its boots beside those of a plain Debian, its memory, its build.
    Image,
}

/// Benches of the rig, in release builds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which.
    bench: Bench,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) samples: Vec<f64>,
    pub(crate) bound: &'static str,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match figures(arguments.bench) {
        Ok(figures) => {
            show(arguments.bench, &figures, arguments.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn figures(bench: Bench) -> Result<Vec<Figure>> {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime");
    match bench {
        Bench::Work => runtime()?.block_on(work()),
        Bench::Identity => runtime()?.block_on(identity::measure()),
        // It leaves the world before it makes a runtime.
        Bench::Image => image::measure(),
    }
}

async fn work() -> Result<Vec<Figure>> {
    say("folding facts, and making them durable");
    let mut figures = facts::fold()?;
    figures.extend(facts::append()?);
    for (block_time, bound) in [
        (None, "the 2 cores that chain, rig and handler share; a block per transaction"),
        (Some(1), "block time: two blocks of 1 s, attempt and response"),
    ] {
        say("a rig, 21 tasks alone and 64 in waves of eight");
        figures.extend(overhead::measure(block_time, bound).await?);
    }
    say("a chain of 100,000 blocks with 10,000 tasks");
    figures.extend(catch_up::measure().await?);
    Ok(figures)
}

/// Progress, on standard error.
fn say(what: &str) {
    eprintln!("bench: {what}");
}

// === The table ===

fn show(bench: Bench, figures: &[Figure], as_json: bool) {
    let name = bench.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if as_json {
        let rows: Vec<Value> = figures
            .iter()
            .map(|f| {
                let [p10, median, p90] = quantiles(&f.samples);
                json!({ "what": f.what, "unit": f.unit, "median": median, "p10": p10, "p90": p90, "n": f.samples.len(), "bound": f.bound })
            })
            .collect();
        println!("{}", json!({ "bench": name, "figures": rows }));
        return;
    }
    println!("{:<66} {:>11} {:>11} {:>11} {:>4}  {:<12} bounded by", "figure", "median", "p10", "p90", "n", "unit");
    for figure in figures {
        let [p10, median, p90] = quantiles(&figure.samples);
        println!(
            "{:<66} {median:>11.2} {p10:>11.2} {p90:>11.2} {:>4}  {:<12} {}",
            figure.what,
            figure.samples.len(),
            figure.unit,
            figure.bound
        );
    }
}

/// The 10th, 50th and 90th percentile.
fn quantiles(samples: &[f64]) -> [f64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    [at(0.1), at(0.5), at(0.9)]
}
