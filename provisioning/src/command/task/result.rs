//! `rig task result`.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::providers::RootProvider;
use chain::abi::{Controller, Response, Task};
use chain::content::Content;
use chain::rpc::Rpc;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::network::NetworkArgs;
use crate::owner::{Owner, OwnerError, unread};
use crate::parse::{self, coin_words};
use crate::screen::Screen;
use crate::wallet::WalletArgs;

/// Between two looks at the task.
const POLL: Duration = Duration::from_millis(500);

/// The largest payload that is printed, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is read here, in an error's words.
const TASK: &str = "the task";

/// Responses that are looked at; more than one is rare.
const RESPONSES_MAX: u64 = 100;

/// Wait for a task's response and print its payload.
///
/// With --confirm, the first response of a task with manual delivery is confirmed, which pays its rig.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig task result 0x… --wait 60s --devnet devnet.json
  rig task result 0x… --wait 10m --confirm --key-file client.key")]
pub(crate) struct TaskResult {
    /// The task's address.
    #[arg(value_name = "TASK", value_parser = parse::address)]
    task: Address,
    /// How long to wait for a response, such as 60s.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse::span)]
    wait: Duration,
    /// Confirm the response, which pays for it. Needs a wallet.
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    wallet: WalletArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    task: String,
    status: &'static str,
    response: String,
    provider: String,
    payment_wei: String,
    confirmed: bool,
    link: String,
    payload: Value,
}

/// Where the task stands. The numbers are the contract's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    New,
    Attempted,
    Responded,
    Canceled,
    Expired,
    Finalized,
    Unknown,
}

// === impl TaskResult ===

impl TaskResult {
    pub(super) async fn run(self, screen: Screen) -> Result<(), Failure> {
        if self.confirm {
            self.wallet.check()?;
        }
        let settings = self.network.settings()?;
        let rpc = settings.connect().await?;
        let (response, mut status) = self.wait_for_response(&rpc, screen).await?;
        let params = Response::new(response, rpc.provider()).getResponseParams().call().await.map_err(unread(TASK))?;
        let content = Content::new(settings.content).map_err(OwnerError::Content)?;
        let payload = fetch(&content, screen, &params.data).await?;
        if self.confirm && status == Status::Responded {
            self.confirm(response, screen).await?;
            status = Status::Finalized;
        }
        let answer = Answer {
            task: self.task.to_string(),
            status: status.as_str(),
            response: response.to_string(),
            provider: params.provider.to_string(),
            payment_wei: params.payment.to_string(),
            confirmed: status == Status::Finalized,
            link: params.data,
            payload,
        };
        if !answer.confirmed {
            let payment = coin_words(params.payment);
            screen.note(&format!("Not confirmed yet: --confirm pays {payment} coin to the rig's owner."));
        }
        screen.answer(&answer, || serde_json::to_string_pretty(&answer.payload).expect("it was JSON when it came"));
        Ok(())
    }

    /// The confirmed response, or else the first.
    async fn wait_for_response(&self, rpc: &Rpc, screen: Screen) -> Result<(Address, Status), Failure> {
        let waiting = screen.wait("reading the task");
        let deadline = Instant::now() + self.wait;
        let task = Task::new(self.task, rpc.provider());
        loop {
            let status = Status::from(task.getStatus().call().await.map_err(unread(TASK))?);
            match status {
                Status::Responded | Status::Finalized => return Ok((response_of(&task).await?, status)),
                Status::Canceled | Status::Expired => {
                    let words = format!("task {} is {}", self.task, status.as_str());
                    return Err(Failure::new(Exit::Failed, words).next("publish it again; its payment came back"));
                }
                Status::New | Status::Attempted | Status::Unknown => {}
            }
            waiting.say(match status {
                Status::New => "waiting for a rig to take the task",
                _ => "waiting for the response",
            });
            if Instant::now() >= deadline {
                let words = format!("task {} is {}, and has no response yet", self.task, status.as_str());
                return Err(Failure::new(Exit::TimedOut, words).next("wait longer with --wait 10m"));
            }
            sleep(POLL).await;
        }
    }

    async fn confirm(&self, response: Address, screen: Screen) -> Result<(), Failure> {
        let owner = Owner::open(&self.network, &self.wallet, screen).await?;
        let call = Controller::confirmResponseCall { response };
        owner.send("confirming the response", owner.contracts().controller, &call, U256::ZERO).await?;
        Ok(owner.close().await?)
    }
}

async fn response_of(task: &Task::TaskInstance<RootProvider>) -> Result<Address, Failure> {
    let winner = task.winningProvider().call().await.map_err(unread(TASK))?;
    if winner != Address::ZERO {
        return Ok(task.responseOf(winner).call().await.map_err(unread(TASK))?);
    }
    let attempts = task.getAttemptCount().call().await.map_err(unread(TASK))?;
    let last = attempts.saturating_sub(U256::from(1)).min(U256::from(RESPONSES_MAX - 1));
    let responses = task.getResponsesOf(U256::ZERO, last).call().await.map_err(unread(TASK))?;
    let first = responses.into_iter().find(|response| *response != Address::ZERO);
    first.ok_or_else(|| Failure::new(Exit::Failed, "the task has a response that the contract does not list"))
}

async fn fetch(content: &Content, screen: Screen, link: &str) -> Result<Value, Failure> {
    let _waiting = screen.wait("fetching the payload");
    let bytes = content.fetch(link, PAYLOAD_BYTES_MAX).await.map_err(|error| {
        let exit = if error.is_final() { Exit::Failed } else { Exit::Unreachable };
        Failure::new(exit, error).next("try again later, or name another gateway in the network's [content]")
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let step = format!("look at it: curl {link}");
        Failure::new(Exit::Failed, format!("the payload is not JSON: {error}")).next(step)
    })
}

// === impl Status ===

impl From<u8> for Status {
    fn from(number: u8) -> Status {
        use Status::{Attempted, Canceled, Expired, Finalized, New, Responded, Unknown};
        const IN_ORDER: [Status; 6] = [New, Attempted, Responded, Canceled, Expired, Finalized];
        IN_ORDER.get(usize::from(number)).copied().unwrap_or(Unknown)
    }
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::New => "new",
            Status::Attempted => "attempted",
            Status::Responded => "responded",
            Status::Canceled => "canceled",
            Status::Expired => "expired",
            Status::Finalized => "finalized",
            Status::Unknown => "in a state that this rig does not know",
        }
    }
}
