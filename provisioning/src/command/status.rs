//! `rig status`: how a running rig is doing.

use clap::Args;
use serde_json::Value;

use crate::command::cells::{coin_of, list_of, number_of, word_of};
use crate::command::doing;
use crate::exit::Failure;
use crate::rig::{Ask, RigArgs};
use crate::screen::{Screen, Table, harmless};

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
    let identity = &answer["identity"];
    fact("code", word_of(identity, "code"));
    fact("tier", word_of(identity, "kept"));
    for (name, value) in trouble(identity) {
        fact(name, value);
    }
    fact("owner", word_of(answer, "owner"));
    fact("state", format!("{}{draining}", word_of(answer, "phase_text")));
    if let Some(why) = answer["trouble"]["why"].as_str() {
        fact("trouble", why.to_owned());
    }
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
            notes.push_str(&format!("\n{address}: {}", harmless(note)));
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

/// What stands in the key's way, as the rig words it, and what to do; nothing if it is open and the signer answers.
fn trouble(identity: &Value) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if identity["state"].as_str().is_some_and(|state| state != "open") {
        rows.push(("key", format!("{}: {}", word_of(identity, "state_code"), word_of(identity, "what"))));
        rows.push(("next", word_of(identity, "next")));
    }
    if let Some(replaces) = identity["replaces"].as_str() {
        rows.push(("replaces", replaces.to_owned()));
    }
    if let Some(silence) = identity["silence"].as_str() {
        rows.push(("signer", silence.to_owned()));
    }
    rows
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(identity: Value) -> String {
        describe(Screen::new(false), &json!({ "address": "0x1", "identity": identity }))
    }

    #[test]
    fn a_key_that_is_open_is_shown_with_its_tier_and_code_and_nothing_to_do() {
        let open = json!({ "kept": "B (TPM)", "code": "K7F2-QD9M-3XTA", "state": "open", "state_code": "ID-00" });
        let text = shown(open);
        assert!(text.contains("B (TPM)") && text.contains("K7F2-QD9M-3XTA"), "{text}");
        assert!(!text.contains("ID-00") && !text.contains("next"), "{text}");
    }

    #[test]
    fn a_trouble_is_shown_with_its_code_and_the_way_on() {
        let closed = json!({
            "state": "tpm-cleared", "state_code": "ID-02", "what": "the TPM was cleared", "next": "run `rig rotate`",
            "replaces": "0x2", "silence": "ask the signer: no such file",
        });
        let text = shown(closed);
        for words in ["ID-02: the TPM was cleared", "run `rig rotate`", "0x2", "no such file"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn a_rig_of_an_older_release_says_less() {
        assert!(shown(Value::Null).contains("code"));
    }
}
