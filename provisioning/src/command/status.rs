//! `rig status`: how a running rig is doing.

use clap::Args;
use serde_json::Value;

use crate::command::cells::{coin_of, number_of, word_of};
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
    fact("version", word_of(answer, "version"));
    let mut sources = Table::with_header(["source", "stage", "environment", "usual run", "why"]);
    let listed = answer["sources"].as_array().map_or(&[][..], Vec::as_slice);
    for source in listed {
        let usual = source["usual_run_ms"].as_u64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let words = ["source", "stage", "environment"].map(|name| word_of(source, name));
        let [address, stage, environment] = words;
        sources.push([address, stage, environment, usual, word_of(source, "why")]);
    }
    match listed {
        [] => format!("{}\n\nNo sources yet.", screen.table(&facts)),
        _ => format!("{}\n\n{}", screen.table(&facts), screen.table(&sources)),
    }
}
