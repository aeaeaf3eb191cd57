//! `rig cache`: what a running rig keeps of images, and clearing it away.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::command::cells::{bytes_words, number_of, word_of};
use crate::exit::Failure;
use crate::rig::{Ask, RigArgs};
use crate::screen::{Screen, Table};

/// How much of a digest tells it apart, in characters; as much as other tools show.
const DIGEST_CHARS: usize = 12;

/// Show what a running rig keeps of images, or clear it away.
///
/// Sealed layers are what sources run on; blobs are what was downloaded and is not a layer. Both are collected by age
/// and size anyway.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig cache
  rig cache clean --all
  rig cache --json | jq '.layers[] | select(.held | not) | .digest'")]
pub(crate) struct Cache {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    rig: RigArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Remove what is beyond the rig's limits; nothing that is in use.
    Clean {
        /// Remove everything that is not in use; it is downloaded again when it is needed.
        #[arg(long)]
        all: bool,
    },
}

// === impl Cache ===

impl Cache {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self.action {
            None => {
                let answer = self.rig.ask(Ask::Cache).await?;
                screen.answer(&answer, || describe(screen, &answer));
            }
            Some(Action::Clean { all }) => {
                let waiting = screen.wait("clearing the cache");
                let answer = self.rig.ask(Ask::Clean { all }).await?;
                drop(waiting);
                screen.answer(&answer, || removed(&answer));
            }
        }
        Ok(())
    }
}

fn describe(screen: Screen, answer: &Value) -> String {
    let mut table = Table::with_header(["layer", "size", "last used", "in use"]);
    let layers = answer["layers"].as_array().map_or(&[][..], Vec::as_slice);
    for layer in layers {
        table.push([short(&word_of(layer, "digest")), size(&layer["bytes"]), ago(layer), in_use(layer).to_owned()]);
    }
    let total = |at: &Value, what: &str| format!("{} {what}, {}", number_of(at, "count"), size(&at["bytes"]));
    let totals = format!("{}; {}", total(answer, "sealed layers"), total(&answer["blobs"], "blobs"));
    match layers {
        [] => format!("Nothing is sealed yet.\n\n{totals}"),
        _ => format!("{}\n\n{totals}", screen.table(&table)),
    }
}

fn removed(answer: &Value) -> String {
    let part = |name: &str, what: &str| {
        let part = &answer["removed"][name];
        format!("{} {what} ({})", number_of(part, "count"), size(&part["bytes"]))
    };
    format!("Removed {} and {}.", part("layers", "sealed layers"), part("blobs", "blobs"))
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(DIGEST_CHARS).collect()
}

fn size(bytes: &Value) -> String {
    bytes.as_u64().map_or_else(|| "-".to_owned(), bytes_words)
}

fn in_use(layer: &Value) -> &'static str {
    match layer["held"].as_bool() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

fn ago(layer: &Value) -> String {
    let Some(used) = layer["last_used_unix"].as_u64() else { return "-".to_owned() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match now.saturating_sub(used) {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}
