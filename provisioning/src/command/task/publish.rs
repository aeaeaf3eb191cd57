//! `rig task publish`.

use std::time::Duration;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::sol_types::SolValue;
use chain::abi::{Controller, Nexus, Source, TaskParams};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use crate::command::source::{pin, top_up};
use crate::exit::{Exit, Failure};
use crate::owner::{Owner, OwnerArgs, OwnerError, unread};
use crate::parse::{self, coin_words};
use crate::screen::Screen;

/// Larger inputs belong behind a link within the data.
const DATA_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Give a source a task.
///
/// Publishes the input document, deposits into the vault what the balance lacks of the payment, and publishes the task.
/// Prints the task's address.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig task publish 0x… --function echo --data '{\"text\": \"hello\"}' --payment 0.02 --key-file client.key
  rig task publish 0x… --function echo --data @input.json --payment 0.02 --expires-in 1h --key-file client.key")]
pub(crate) struct Publish {
    /// The source's address.
    #[arg(value_name = "SOURCE", value_parser = parse::address)]
    source: Address,
    /// The function to call.
    #[arg(long, required_unless_present = "config_url")]
    function: Option<String>,
    /// Its input: JSON, or @ and a file with JSON.
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}", value_parser = parse_data)]
    data: Value,
    /// What to pay.
    #[arg(long, value_name = "COIN", value_parser = parse::coin)]
    payment: U256,
    /// How long the task may take, such as 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse::span)]
    expires_in: Duration,
    /// A link to an input document that is published already, instead of --function and --data.
    #[arg(long, value_name = "URL", conflicts_with_all = ["function", "data"])]
    config_url: Option<Url>,
    #[command(flatten)]
    owner: OwnerArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    task: String,
    source: String,
    config: String,
    expires_at: u64,
    payment_wei: String,
    tx: String,
    block: u64,
}

// === impl Publish ===

impl Publish {
    pub(super) async fn run(self, screen: Screen) -> Result<(), Failure> {
        let owner = self.owner.open(screen).await?;
        self.check_terms(&owner).await?;
        let config = match &self.config_url {
            Some(url) => url.to_string(),
            None => {
                let input = json!({ "function_name": self.function, "data": self.data });
                pin(&owner, screen, "taskConfig.json", "application/json", input.to_string()).await?
            }
        };
        top_up(&owner, screen, self.payment).await?;
        let expires_at = head_time_s(&owner).await?.saturating_add(self.expires_in.as_secs());
        let params = TaskParams {
            source: self.source,
            config: config.clone(),
            expiryTime: U256::from(expires_at),
            payment: self.payment,
        };
        let call = Controller::publishTaskCall { _taskParams: params };
        let wish = self.wish(&config);
        let done = owner.send_as("publishing the task", wish, owner.contracts().controller, &call).await?;
        let event: Nexus::TaskPublished = owner.event("the new task", owner.contracts().nexus, done.tx).await?;
        owner.close().await?;
        let answer = Answer {
            task: event.task.to_string(),
            source: self.source.to_string(),
            config,
            expires_at,
            payment_wei: self.payment.to_string(),
            tx: done.tx.to_string(),
            block: done.block,
        };
        screen.answer(&answer, || answer.task.clone());
        Ok(())
    }

    /// What was asked for, without the moment at which the time begins to run.
    fn wish(&self, config: &str) -> B256 {
        let terms = (self.source, config, self.payment, U256::from(self.expires_in.as_secs()));
        keccak256(terms.abi_encode())
    }

    /// Refuses what the contract would refuse, in words, before anything is paid for.
    async fn check_terms(&self, owner: &Owner) -> Result<(), Failure> {
        let read = unread("the source");
        let source = Source::new(self.source, owner.provider());
        let params = source.getSourceParams().call().await.map_err(read)?;
        let status = source.getStatus().call().await.map_err(read)?;
        let refuse = |words: String, step: &str| Err(Failure::new(Exit::Refused, words).next(step));
        if status != 0 {
            return refuse(format!("source {} is not active", self.source), "name a source that is active");
        }
        if self.payment < params.minPayment {
            let words = format!("the source asks for at least {} coin", coin_words(params.minPayment));
            return refuse(words, "raise --payment");
        }
        if U256::from(self.expires_in.as_secs()) > params.maxExpiryDuration {
            let words = format!("tasks of the source expire within {} s", params.maxExpiryDuration);
            return refuse(words, "shorten --expires-in");
        }
        Ok(())
    }
}

/// The chain's clock, which is the one that the contract compares with.
async fn head_time_s(owner: &Owner) -> Result<u64, OwnerError> {
    let what = "the newest block";
    let block = owner.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let block = block.map_err(|source| OwnerError::Chain { what, source })?;
    let missing = || alloy::transports::TransportErrorKind::custom_str("the endpoint has no newest block");
    let block = block.ok_or_else(missing).map_err(|source| OwnerError::Chain { what, source })?;
    Ok(block.header.timestamp)
}

fn parse_data(text: &str) -> Result<Value, String> {
    let Some(path) = text.strip_prefix('@') else {
        return serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"));
    };
    let fault = |error: std::io::Error| format!("read {path}: {error}");
    let bytes = std::fs::metadata(path).map_err(fault)?.len();
    if bytes > DATA_BYTES_MAX {
        return Err(format!("{path} has {bytes} bytes, data has at most {DATA_BYTES_MAX}"));
    }
    let text = std::fs::read(path).map_err(fault)?;
    serde_json::from_slice(&text).map_err(|error| format!("{path} is not JSON: {error}"))
}
