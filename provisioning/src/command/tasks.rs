//! `rig tasks`: what a running rig did, and what it left alone and why.

use clap::Args;
use serde_json::Value;

use crate::command::cells::{coin_of, list_of, word_of};
use crate::exit::Failure;
use crate::rig::{Ask, RigArgs};
use crate::screen::{Screen, Table};

/// Show a running rig's newest tasks: what it ran and was paid for, and what their source was given: whom it may talk
/// to, and the exceptions that the owner allowed it.
///
/// With --refused also those that it saw and did not take, each with the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig tasks --limit 50
  rig tasks --refused --json | jq '.tasks[] | .why'")]
pub(crate) struct Tasks {
    /// Also show the tasks that it did not take.
    #[arg(long)]
    refused: bool,
    /// How many to show, newest first.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
    #[command(flatten)]
    rig: RigArgs,
}

// === impl Tasks ===

impl Tasks {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let answer = self.rig.ask(Ask::Tasks { limit: self.limit, refused: self.refused }).await?;
        screen.answer(&answer, || describe(screen, &answer));
        Ok(())
    }
}

fn describe(screen: Screen, answer: &Value) -> String {
    let mut table = Table::with_header(["task", "stage", "payment", "paid", "network", "exceptions", "why"]);
    let tasks = answer["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    for task in tasks {
        table.push([
            word_of(task, "task"),
            word_of(task, "stage"),
            coin_of(task, "payment_wei"),
            coin_of(task, "paid_wei"),
            word_of(task, "network"),
            list_of(task, "exceptions"),
            word_of(task, "why"),
        ]);
    }
    match tasks {
        [] => "No tasks yet.".to_owned(),
        _ => screen.table(&table),
    }
}
