//! `rig gpu`: the GPUs of a running rig, how they do, and trying again those that it gave up.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::command::cells::{bytes_words, word_of};
use crate::exit::Failure;
use crate::rig::{Ask, RigArgs};
use crate::screen::{Screen, Table};

mod words;

/// Show the GPUs of a running rig: what they are, how they do, and whether they take work.
///
/// A GPU takes work when it is offered. One that is withdrawn or given up takes none until a person has done what its
/// line says; then `rig gpu retry` has it looked at again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig gpu
  rig gpu retry
  rig gpu --json | jq '.gpus[] | select(.state.state != \"offered\") | .gpu.uuid'")]
pub(crate) struct Gpu {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    rig: RigArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Try GPUs again that were given up or withdrawn.
    Retry,
}

// === impl Gpu ===

impl Gpu {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let retry = matches!(self.action, Some(Action::Retry));
        let answer = self.rig.ask(Ask::Gpus { retry }).await?;
        screen.answer(&answer, || {
            let shown = describe(screen, &answer);
            if retry {
                format!("{shown}\n\nThose that were given up are tried again; rig gpu shows them.")
            } else {
                shown
            }
        });
        Ok(())
    }
}

fn describe(screen: Screen, answer: &Value) -> String {
    let mut machine = Table::with_header(["driver", &driver(answer)]);
    machine.push(["compiler".to_owned(), compiler(answer)]);
    let mut parts = vec![screen.table(&machine)];
    match answer["why"].as_str() {
        Some(why) => parts.push(format!("No bundle runs here: {why}.")),
        None if answer["gpus"].as_array().is_none_or(Vec::is_empty) => {
            parts.push("This machine has no GPU.".to_owned())
        }
        None => {}
    }
    parts.extend(answer["gpus"].as_array().into_iter().flatten().map(|report| screen.table(&card(report))));
    parts.join("\n\n")
}

fn driver(answer: &Value) -> String {
    let cuda = answer["cuda"].as_str().map_or_else(String::new, |cuda| format!(", for CUDA up to {cuda}"));
    match answer["driver"].as_str() {
        Some(driver) => format!("{driver}{cuda}"),
        None => "none".to_owned(),
    }
}

fn compiler(answer: &Value) -> String {
    match answer["compiler"].as_str() {
        Some(version) => format!("nvJitLink {version}"),
        None => "none, so bundles in PTX do not run; install libnvJitLink where the loader looks".to_owned(),
    }
}

/// One GPU, a fact in each row.
fn card(report: &Value) -> Table {
    let (gpu, sample) = (&report["gpu"], &report["sample"]);
    let mut card = Table::with_header([&format!("GPU {}", word_of(gpu, "index")), &word_of(gpu, "model")]);
    let mut fact = |name: &str, value: String| card.push([name.to_owned(), value]);
    fact("uuid", word_of(gpu, "uuid"));
    fact("state", words::state(&report["state"]));
    if let Some(next) = words::next(&report["state"]) {
        fact("to do", next.to_owned());
    }
    fact("compute capability", pair(&gpu["compute_capability"], ["major", "minor"], "."));
    fact("memory", memory(gpu, sample));
    fact("PCIe", pcie(&gpu["pcie"]));
    fact("temperature", temperature(sample));
    fact("power", power(gpu, sample));
    fact("utilisation", unit(&sample["gpu_percent"], "%"));
    fact("clocks", clocks(&sample["clocks"]));
    fact("held back by", words::throttle(&sample["throttle"]));
    fact("fans", fans(&sample["fans_percent"]));
    fact("warm worker", warm(report).to_owned());
    card
}

fn memory(gpu: &Value, sample: &Value) -> String {
    let bytes = |value: &Value| value.as_u64().map(bytes_words);
    match (bytes(&gpu["vram_bytes"]), bytes(&sample["memory_used_bytes"])) {
        (Some(all), Some(used)) => format!("{all}, {used} used"),
        (Some(all), None) => all,
        (None, _) => "-".to_owned(),
    }
}

fn pcie(link: &Value) -> String {
    let now = pair(link, ["generation", "width"], " x");
    let most = pair(link, ["generation_max", "width_max"], " x");
    match (now.as_str(), most.as_str()) {
        ("-", "-") => "-".to_owned(),
        (now, most) if now == most => format!("generation {now}"),
        (now, most) => format!("generation {now}, at most {most}"),
    }
}

fn temperature(sample: &Value) -> String {
    let chip = unit(&sample["gpu_c"], "°C");
    match sample["memory_c"].as_u64() {
        Some(memory) => format!("{chip}, memory {memory} °C"),
        None => chip,
    }
}

fn power(gpu: &Value, sample: &Value) -> String {
    let watts = |value: &Value| value.as_u64().map(|mw| format!("{}.{} W", mw / 1000, mw % 1000 / 100));
    let limit = watts(&gpu["power"]["limit_mw"]);
    match (watts(&sample["power_mw"]), limit) {
        (Some(now), Some(limit)) => format!("{now} of {limit}"),
        (Some(now), None) => now,
        (None, _) => "-".to_owned(),
    }
}

fn clocks(clocks: &Value) -> String {
    format!("{}, memory {}", unit(&clocks["sm_mhz"], "MHz"), unit(&clocks["memory_mhz"], "MHz"))
}

fn fans(percents: &Value) -> String {
    let percents: Vec<String> = percents.as_array().into_iter().flatten().map(|fan| unit(fan, "%")).collect();
    if percents.is_empty() { "-".to_owned() } else { percents.join(", ") }
}

fn warm(report: &Value) -> &'static str {
    if report["warm"].is_object() { "yes" } else { "no" }
}

fn unit(value: &Value, unit: &str) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| format!("{number} {unit}"))
}

/// Two numbers that belong together; a dash if one of them is missing.
fn pair(value: &Value, names: [&str; 2], between: &str) -> String {
    match names.map(|name| value[name].as_u64()) {
        [Some(first), Some(second)] => format!("{first}{between}{second}"),
        _ => "-".to_owned(),
    }
}
