//! `rig status`: how a running rig is doing.

use clap::Args;
use serde_json::Value;

use crate::command::cells::{coin_of, list_of, number_of, word_of};
use crate::command::doing;
use crate::exit::Failure;
use crate::rig::{Ask, RigArgs};
use crate::screen::{Screen, Table};

/// Show how a running rig is doing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig status
  rig status --rig ~/rig/run --json")]
pub(crate) struct Status {
    #[command(flatten)]
    rig: RigArgs,
}

// === impl Status ===

impl Status {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let answer = self.rig.ask(Ask::Status).await?;
        screen.answer(&answer, || describe(screen, &answer));
        Ok(())
    }
}

fn describe(screen: Screen, answer: &Value) -> String {
    let mut facts = Table::with_header(["rig", &word_of(answer, "address")]);
    let mut fact = |name: &str, value: String| facts.push([name.to_owned(), value]);
    let draining = if answer["draining"] == Value::Bool(true) { ", draining" } else { "" };
    fact("owner", word_of(answer, "owner"));
    fact("state", format!("{}{draining}", word_of(answer, "phase_text")));
    fact("gas", coin_of(answer, "gas_wei"));
    fact("stake", coin_of(answer, "lockup_wei"));
    let head = &answer["head"];
    fact("newest block", format!("{}, {} s old", number_of(head, "block"), number_of(head, "age_s")));
    let counts = ["open", "waiting", "running", "responded", "settled"];
    let jobs = counts.map(|name| format!("{} {name}", number_of(&answer["jobs"], name)));
    fact("tasks", jobs.join(", "));
    for endpoint in answer["endpoints"].as_array().into_iter().flatten() {
        fact("endpoint", format!("{} {}", word_of(endpoint, "url"), word_of(endpoint, "state")));
    }
    fact("jails", confinement(answer));
    fact("version", word_of(answer, "version"));
    let mut sources =
        Table::with_header(["source", "stage", "environment", "network", "exceptions", "usual run", "why"]);
    let mut notes = String::new();
    let listed = answer["sources"].as_array().map_or(&[][..], Vec::as_slice);
    for source in listed {
        let usual = source["usual_run_ms"].as_u64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let words = ["source", "stage", "environment", "network"].map(|name| word_of(source, name));
        let [address, stage, environment, network] = words;
        let why = doing::words(&source["doing"]).unwrap_or_else(|| word_of(source, "why"));
        for note in source["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            notes.push_str(&format!("\n{address}: {note}"));
        }
        sources.push([address, stage, environment, network, list_of(source, "exceptions"), usual, why]);
    }
    if !notes.is_empty() {
        notes.insert_str(0, "\n\nNot followed of their compose files:");
    }
    match listed {
        [] => format!("{}\n\nNo sources yet.", screen.table(&facts)),
        _ => format!("{}\n\n{}{notes}", screen.table(&facts), screen.table(&sources)),
    }
}

/// How jails are limited on that machine.
fn confinement(answer: &Value) -> String {
    match answer["confinement"].as_str() {
        Some("cgroups") => "limited by cgroups".to_owned(),
        Some("rlimits_only") => "limited per process only: this machine is for development".to_owned(),
        Some(other) => other.to_owned(),
        None => "-".to_owned(),
    }
}
