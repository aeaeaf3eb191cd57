//! A kernel that draws all the power it can (number 65 of the list), and what the board says meanwhile.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::numbers::counts;
use crate::report::{Place, Row};

/// How long it draws, in milliseconds.
const FOR_MS: u32 = 5000;

/// Between two looks of `nvidia-smi`, in milliseconds.
const EVERY_MS: &str = "200";

/// How far above its limit a board may be seen: the limit is of an average.
const ABOVE: f64 = 1.05;

/// What is asked of it.
const FIELDS: &str = "power.draw.instant,power.limit,temperature.gpu,clocks.sm";

/// What some older ones have.
const OLD_FIELDS: &str = "power.draw,power.limit,temperature.gpu,clocks.sm";

/// `nvidia-smi`, which prints a line every now and then until this is dropped.
struct Looks {
    child: Child,
    lines: Receiver<String>,
}

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    bench.say("drawing power");
    let place = bench.backend.place();
    let ask = bench.fault("virus", counts(&[("milliseconds", FOR_MS)]))?;
    bench.backend.settle()?;
    let looks = Looks::begin(&bench.uuid, FIELDS).or_else(|_| Looks::begin(&bench.uuid, OLD_FIELDS));
    let outcome = bench.backend.launch(&ask)?;
    if outcome.ended.is_unknown_kernel() {
        rows.push(Row::not_run("a kernel that draws power", place, "unknown kernel"));
        return Ok(());
    }
    let ran = outcome.ended.ran().is_some();
    rows.push(Row::checked("a kernel that draws power for 5 s", place, ran, outcome.ended.words()));
    match looks.map(|looks| looks.seen()) {
        Ok(seen) if !seen.is_empty() => {
            let column = |at: usize| -> Vec<f64> { seen.iter().filter_map(|look| look.get(at).copied()).collect() };
            let limit = column(1).first().copied().unwrap_or(f64::NAN);
            let most = column(0).into_iter().fold(0.0, f64::max);
            rows.push(Row::measured("power", Place::Beside, "W", &column(0)));
            rows.push(Row::measured("temperature", Place::Beside, "C", &column(2)));
            rows.push(Row::measured("clock of the multiprocessors", Place::Beside, "MHz", &column(3)));
            let note = format!("at most {most:.0} W of {limit:.0} W");
            rows.push(Row::checked("the board keeps to its limit", Place::Beside, most <= limit * ABOVE, note));
        }
        Ok(_) => rows.push(Row::not_run("power", Place::Beside, "nvidia-smi said nothing")),
        Err(error) => rows.push(Row::not_run("power", Place::Beside, format!("{error:#}"))),
    }
    Ok(())
}

// === impl Looks ===

impl Looks {
    fn begin(uuid: &str, fields: &str) -> Result<Self> {
        let query = format!("--query-gpu={fields}");
        let ask = ["-i", uuid, &query, "--format=csv,noheader,nounits"];
        let known =
            Command::new("nvidia-smi").args(ask).stdin(Stdio::null()).output().context("there is no nvidia-smi")?;
        anyhow::ensure!(known.status.success(), "nvidia-smi does not know {fields}");
        let mut command = Command::new("nvidia-smi");
        command.args(ask).args(["-lms", EVERY_MS]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start nvidia-smi")?;
        let printed = child.stdout.take().context("nvidia-smi without standard output")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// What was seen until now.
    fn seen(&self) -> Vec<Vec<f64>> {
        self.lines.try_iter().filter_map(|line| numbers(&line)).collect()
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of numbers; nothing if one is none.
fn numbers(line: &str) -> Option<Vec<f64>> {
    line.split(',').map(|number| number.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_all_numbers_or_nothing() {
        assert_eq!(numbers("698.12, 700.00, 61, 1980"), Some(vec![698.12, 700.0, 61.0, 1980.0]));
        assert_eq!(numbers("[N/A], 700.00, 61, 1980"), None);
    }
}
