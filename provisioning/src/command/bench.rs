//! `rig bench`: what the GPUs of a running rig were measured to do, and measuring them.

use clap::Args;
use serde_json::Value;

use crate::command::cells::word_of;
use crate::exit::{Exit, Failure};
use crate::rig::{Ask, RigArgs, RigError};
use crate::screen::{Screen, Table};

/// Show what the GPUs of a running rig were measured to do, or measure them.
///
/// Bandwidths are of copies of 256 MiB: within the GPU, with what is read and what is written both counted; and between
/// it and the host's pinned memory. FP32 is fused multiplications and additions; FP16 is products of matrices on tensor
/// cores, summed in 32 bits; a multiplication and an addition are two operations. All are medians. The clocks are the
/// highest that were seen meanwhile: compare figures of the same GPU, driver and clocks.
///
/// A GPU takes no work while it is measured, for some seconds; one that has work is left alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig bench
  rig bench --run
  rig bench --json | jq '.gpus[] | {model: .gpu.model, fp32: .bench.fp32.tflops}'")]
pub(crate) struct Bench {
    /// Measure every GPU first, one after the other.
    #[arg(long)]
    run: bool,
    #[command(flatten)]
    rig: RigArgs,
}

// === impl Bench ===

impl Bench {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let mut answer = self.rig.ask(Ask::Gpus { retry: false }).await?;
        if self.run {
            self.measure(screen, &answer).await?;
            answer = self.rig.ask(Ask::Gpus { retry: false }).await?;
        }
        screen.answer(&answer, || describe(screen, &answer));
        Ok(())
    }

    /// Measures all of them; a GPU that cannot be measured does not keep the others from it, and is the failure.
    async fn measure(&self, screen: Screen, answer: &Value) -> Result<(), Failure> {
        let gpus: Vec<&Value> = gpus(answer).collect();
        if gpus.is_empty() {
            let why = answer["why"].as_str().unwrap_or("this machine has none");
            return Err(Failure::new(Exit::Failed, format!("there is no GPU to measure: {why}")));
        }
        let (count, mut failure) = (gpus.len(), None);
        for (number, report) in (1..).zip(gpus) {
            let name = name_of(report);
            let waiting = screen.wait(format!("measuring {name} ({number} of {count})"));
            let measured = self.rig.ask(Ask::Measure { gpu: word_of(&report["gpu"], "uuid") }).await;
            drop(waiting);
            match measured {
                Ok(_) => screen.note(&format!("{name} is measured.")),
                Err(error @ RigError::Refused { .. }) => {
                    screen.note(&format!("{name} is not measured."));
                    failure = failure.or(Some(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        failure.map_or(Ok(()), |error| {
            Err(Failure::from(error).next("have it offered (rig gpu says how it is), then measure again"))
        })
    }
}

fn describe(screen: Screen, answer: &Value) -> String {
    let header = ["gpu", "measured", "driver", "clocks", "within", "to it", "from it", "FP32", "FP16"];
    let (mut table, mut notes) = (Table::with_header(header), String::new());
    for report in gpus(answer) {
        let bench = &report["bench"];
        let bandwidth = |name: &str| rate(bench["bandwidth"][name].as_f64(), "GB/s");
        let measured = bench["at_unix"].as_u64().map_or_else(|| "never".to_owned(), date);
        table.push([
            name_of(report),
            measured,
            word_of(bench, "driver"),
            clocks(bench),
            bandwidth("device_copy_gb_s"),
            bandwidth("host_to_device_gb_s"),
            bandwidth("device_to_host_gb_s"),
            rate(bench["fp32"]["tflops"].as_f64(), "TFLOP/s"),
            rate(bench["fp16"]["tflops"].as_f64(), "TFLOP/s"),
        ]);
        for (name, figure) in [("FP32", &bench["fp32"]), ("FP16", &bench["fp16"])] {
            if let Some(why) = figure["unknown"].as_str() {
                notes.push_str(&format!("\n{} has no {name}: {why}", name_of(report)));
            }
        }
    }
    match (answer["why"].as_str(), gpus(answer).next()) {
        (Some(why), None) => format!("There is no GPU: {why}."),
        (None, None) => "This machine has no GPU.".to_owned(),
        (_, Some(_)) if notes.is_empty() => screen.table(&table),
        (_, Some(_)) => format!("{}\n{notes}", screen.table(&table)),
    }
}

fn gpus(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["gpus"].as_array().into_iter().flatten()
}

/// As `rig gpu` calls it.
fn name_of(report: &Value) -> String {
    format!("GPU {} {}", word_of(&report["gpu"], "index"), word_of(&report["gpu"], "model"))
}

fn clocks(bench: &Value) -> String {
    match [&bench["sm_mhz"], &bench["memory_mhz"]].map(Value::as_u64) {
        [Some(sm), Some(memory)] => format!("{sm}/{memory} MHz"),
        [Some(sm), None] => format!("{sm} MHz"),
        [None, _] => "-".to_owned(),
    }
}

/// A rate with as many digits as it is worth.
fn rate(rate: Option<f64>, unit: &str) -> String {
    match rate {
        Some(rate) if rate >= 100.0 => format!("{rate:.0} {unit}"),
        Some(rate) => format!("{rate:.1} {unit}"),
        None => "-".to_owned(),
    }
}

/// Unix seconds as a date and time of day in UTC.
fn date(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Counted from the first of March of the year 0, so that the day that a leap year has more is the last of its year,
    // in eras of 400 years, which all have as many days.
    let (era, day) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month, late) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1, u64::from(month >= 10));
    let (year, hour, minute) = (era * 400 + year + late, seconds / 3_600, seconds % 3_600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |unix, expected: &str| assert_eq!(date(unix), expected);
        check(0, "1970-01-01 00:00 UTC");
        check(951_782_399, "2000-02-28 23:59 UTC");
        check(951_782_400, "2000-02-29 00:00 UTC");
        check(951_868_800, "2000-03-01 00:00 UTC");
        check(1_704_067_199, "2023-12-31 23:59 UTC");
        check(1_709_164_800, "2024-02-29 00:00 UTC");
        check(1_795_257_632, "2026-11-21 10:40 UTC");
        check(4_102_444_800, "2100-01-01 00:00 UTC");
        check(4_107_542_400, "2100-03-01 00:00 UTC");
    }

    #[test]
    fn rates_have_the_digits_that_they_are_worth() {
        let check = |number, expected: &str| assert_eq!(rate(number, "GB/s"), expected);
        check(Some(3.25), "3.2 GB/s");
        check(Some(99.94), "99.9 GB/s");
        check(Some(4123.4), "4123 GB/s");
        check(None, "-");
    }
}
