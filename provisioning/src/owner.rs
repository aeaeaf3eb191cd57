//! The owner at work: one wallet on one network, for the length of one command.
//!
//! Invariants:
//! * Transactions leave through `chain::outbox` only, as on the rig. What was under way when a command was interrupted
//!   is in the outbox's file, and the same command joins it instead of sending it twice.
//! * An account whose key is elsewhere has no outbox: its transactions are shown, and seen again on the chain; see
//!   [`elsewhere`].
//! * One command at a time writes for a wallet on a network; see [`place`].

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::{Provider, RootProvider};
use alloy::sol_types::{SolCall, SolEvent};
use alloy::transports::TransportError;
use chain::content::{Content, SetUpError};
use chain::outbox::{Intent, Outbox, OutboxLimits, Seal, SendError, Sent, StoreError};
use chain::rpc::{Contracts, Rpc};
use clap::Args;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};
use crate::network::NetworkArgs;
use crate::parse::coin_words;
use crate::screen::Screen;
use crate::wallet::{Opened, WalletArgs};

mod eip681;
mod elsewhere;
mod place;

use self::elsewhere::{Elsewhere, Wish};
use self::place::{Place, PlaceError};

/// A person waits for it, so the chain is asked often (milliseconds).
const POLL_MS: u64 = 200;

/// Far above the time of a block on any network of ours, and of a few raised bids.
const SEND_TIMEOUT: Duration = Duration::from_secs(180);

/// How far a replica may lag.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Who acts, and where, on the command line.
#[derive(Debug, Args)]
pub(crate) struct OwnerArgs {
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    wallet: WalletArgs,
}

/// An open wallet on a network that answers.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) address: Address,
    pub(crate) rpc: Rpc,
    pub(crate) content: Content,
    screen: Screen,
    hand: Hand,
    place: Place,
}

/// How transactions leave.
#[derive(Debug)]
enum Hand {
    Here { outbox: Outbox, cancel: CancellationToken, task: JoinHandle<Result<(), StoreError>> },
    Elsewhere(Elsewhere),
}

/// A transaction that is on the chain.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) tx: B256,
    pub(crate) block: u64,
    pub(crate) fee_wei: String,
}

/// What the owner's machine or the chain stood in the way with.
#[derive(Debug, Error)]
pub(crate) enum OwnerError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("set up the content client")]
    Content(#[from] SetUpError),
    #[error("open the outbox")]
    Outbox(#[source] StoreError),
    #[error("{what}: the contract refuses: {reason}")]
    Refused { what: String, reason: String },
    #[error("{what}: the wallet has {} coin and needs {}", coin_words(*.have_wei), coin_words(*.need_wei))]
    Unfunded { what: String, have_wei: U256, need_wei: U256 },
    #[error("{what}")]
    Send {
        what: String,
        #[source]
        source: SendError,
    },
    #[error("{what}: not on the chain after {} s; {}", SEND_TIMEOUT.as_secs(), .troubles.join("; "))]
    Slow { what: String, troubles: Vec<String> },
    #[error("{what}: not on the chain after {} min", elsewhere::PATIENCE.as_secs() / 60)]
    Unseen { what: String, from: Address },
    #[error("{from} is a contract, and only the transactions of an account with a key can be shown and found again")]
    Contract { from: Address },
    #[error("{what}: transaction {tx} is on the chain, but its event is not in its receipt")]
    NoEvent { what: &'static str, tx: B256 },
    #[error("read {what}")]
    Read {
        what: &'static str,
        #[source]
        source: Box<alloy::contract::Error>,
    },
    #[error("read {what}")]
    Chain {
        what: &'static str,
        #[source]
        source: TransportError,
    },
}

// === impl OwnerArgs ===

impl OwnerArgs {
    /// See [`Owner::open`].
    pub(crate) async fn open(&self, screen: Screen) -> Result<Owner, Failure> {
        Owner::open(&self.network, &self.wallet, screen).await
    }
}

// === impl Owner ===

impl Owner {
    /// Opens the wallet, reaches the network, and waits for the right to send.
    pub(crate) async fn open(network: &NetworkArgs, wallet: &WalletArgs, screen: Screen) -> Result<Owner, Failure> {
        wallet.check()?;
        let settings = network.settings()?;
        let wallet = wallet.open(settings.network.chain_id, screen).await?;
        let address = match &wallet {
            Opened::Here(wallet) => wallet.address(),
            Opened::Elsewhere(from) => *from,
        };
        let rpc = settings.connect().await?;
        let content = Content::new(settings.content.clone()).map_err(OwnerError::Content)?;
        let place = Place::take(&place::state_folder()?, &settings, address, screen).await?;
        let hand = match wallet {
            Opened::Elsewhere(from) => Hand::Elsewhere(Elsewhere::open(rpc.clone(), from, screen).await?),
            Opened::Here(wallet) => {
                let limits = OutboxLimits { poll_ms: POLL_MS, ..OutboxLimits::default() };
                let (outbox, task) =
                    Outbox::open(place.outbox(), rpc.clone(), Arc::new(wallet), limits).map_err(OwnerError::Outbox)?;
                let cancel = CancellationToken::new();
                let task = tokio::spawn(task.run(cancel.clone()));
                Hand::Here { outbox, cancel, task }
            }
        };
        Ok(Owner { address, rpc, content, screen, hand, place })
    }

    pub(crate) fn contracts(&self) -> Contracts {
        self.rpc.network().contracts
    }

    pub(crate) fn provider(&self) -> RootProvider {
        self.rpc.provider()
    }

    /// Calls `to` and waits until it is on the chain. `what` says it in the user's words. The call itself names the
    /// intent, so a repeated command must come to the same call; otherwise see [`Owner::send_as`].
    pub(crate) async fn send<C: SolCall>(
        &self,
        what: &str,
        to: Address,
        call: &C,
        value_wei: U256,
    ) -> Result<Done, OwnerError> {
        let data = call.abi_encode();
        let name = keccak256([data.as_slice(), &value_wei.to_be_bytes::<32>()].concat());
        let wish = Wish { to, signature: Some(C::SIGNATURE), data: data.into(), value_wei };
        self.send_wish(what, name, wish).await
    }

    /// Like [`Owner::send`] for a call that comes out differently each time it is made, because the time of day is in it:
    /// `name` hashes what the user asked for. While such a call of an interrupted command is under way, the next is
    /// refused.
    pub(crate) async fn send_as<C: SolCall>(
        &self,
        what: &str,
        name: B256,
        to: Address,
        call: &C,
    ) -> Result<Done, OwnerError> {
        let data = call.abi_encode().into();
        let wish = Wish { to, signature: Some(C::SIGNATURE), data, value_wei: U256::ZERO };
        self.send_wish(what, name, wish).await
    }

    /// Sends plain coins.
    pub(crate) async fn transfer(&self, what: &str, to: Address, value_wei: U256) -> Result<Done, OwnerError> {
        let wish = Wish { to, signature: None, data: Bytes::new(), value_wei };
        self.send_wish(what, B256::from(value_wei), wish).await
    }

    async fn send_wish(&self, what: &str, name: B256, wish: Wish) -> Result<Done, OwnerError> {
        let outbox = match &self.hand {
            Hand::Elsewhere(elsewhere) => return elsewhere.send(what, &wish).await,
            Hand::Here { outbox, .. } => outbox,
        };
        let _waiting = self.screen.wait(what);
        let Wish { to, data, value_wei, .. } = wish;
        let intent = Intent { key: format!("{} {to} {name}", self.place.number()), to, data, value_wei };
        let what = what.to_owned();
        let Ok(sent) = timeout(SEND_TIMEOUT, outbox.send(intent)).await else {
            let troubles = outbox.standing().borrow().troubles.iter().map(|each| format!("{each:?}")).collect();
            return Err(OwnerError::Slow { what, troubles });
        };
        match sent {
            Ok(Sent::Mined { tx, block, fee_wei }) => Ok(Done { tx, block, fee_wei: fee_wei.to_string() }),
            Ok(Sent::Reverted { reason, .. }) | Err(SendError::WouldRevert { reason }) => {
                Err(OwnerError::Refused { what, reason })
            }
            Err(SendError::Unfunded { have_wei, need_wei }) => Err(OwnerError::Unfunded { what, have_wei, need_wei }),
            Err(source) => Err(OwnerError::Send { what, source }),
        }
    }

    /// The first event `E` of `emitter` in the receipt of `tx`, which is on the chain.
    pub(crate) async fn event<E: SolEvent>(
        &self,
        what: &'static str,
        emitter: Address,
        tx: B256,
    ) -> Result<E, OwnerError> {
        let deadline = Instant::now() + RECEIPT_TIMEOUT;
        loop {
            let receipt = self.provider().get_transaction_receipt(tx).await;
            if let Some(receipt) = receipt.map_err(|source| OwnerError::Chain { what, source })? {
                let logs = receipt.logs().iter().filter(|log| log.address() == emitter);
                let event = logs.filter_map(|log| E::decode_log(&log.inner).ok()).next();
                return event.map(|event| event.data).ok_or(OwnerError::NoEvent { what, tx });
            }
            // The endpoint may be a replica that lags behind the one that mined it.
            if Instant::now() >= deadline {
                return Err(OwnerError::NoEvent { what, tx });
            }
            sleep(Duration::from_millis(POLL_MS)).await;
        }
    }

    /// Stops sending after the command did what it should.
    pub(crate) async fn close(self) -> Result<(), PlaceError> {
        if let Hand::Here { cancel, task, outbox } = self.hand {
            cancel.cancel();
            // Everything that was sent has been answered; what the task might still say is of no use to this command.
            let _ = task.await;
            drop(outbox);
        }
        self.place.count()
    }
}

/// For a question to a contract about `what` that got no answer.
pub(crate) fn unread(what: &'static str) -> impl Fn(alloy::contract::Error) -> OwnerError + Copy {
    move |source| OwnerError::Read { what, source: Box::new(source) }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Failure {
        Failure::from(OwnerError::from(error))
    }
}

impl From<OwnerError> for Failure {
    fn from(error: OwnerError) -> Failure {
        let (exit, next) = match &error {
            OwnerError::Place(PlaceError::Homeless) => (Exit::Usage, Some("set HOME")),
            OwnerError::Place(_) | OwnerError::Content(_) | OwnerError::Outbox(_) => (Exit::Failed, None),
            OwnerError::Refused { reason, .. } => (Exit::Refused, advice(reason)),
            OwnerError::Unfunded { .. } => (Exit::Refused, Some("send coins to the wallet, then repeat the command")),
            OwnerError::Unseen { .. } => {
                (Exit::TimedOut, Some("look for it in the explorer; if it is not there, repeat the command"))
            }
            OwnerError::Contract { .. } => {
                (Exit::Usage, Some("pair from the wallet's own page, or from another account"))
            }
            OwnerError::Slow { .. } => (Exit::TimedOut, Some("repeat the command: it goes on where it stopped")),
            OwnerError::Send { source: SendError::Refused { .. }, .. } => {
                (Exit::Failed, Some("a command that was interrupted sent this already: look for it in the explorer"))
            }
            OwnerError::Send { .. } => (Exit::Failed, Some("repeat the command: it goes on where it stopped")),
            OwnerError::NoEvent { .. } => (Exit::Failed, Some("look at the transaction in the explorer")),
            OwnerError::Read { source, .. } => match source.as_ref() {
                alloy::contract::Error::TransportError(TransportError::Transport(_)) => {
                    (Exit::Unreachable, Some("check the connection, or name another endpoint"))
                }
                _ => (Exit::Failed, Some("check the address and the network: this may be no contract of that kind")),
            },
            OwnerError::Chain { .. } => (Exit::Unreachable, Some("check the connection, or name another endpoint")),
        };
        let failure = Failure::new(exit, error);
        match next {
            Some(step) => failure.next(step),
            None => failure,
        }
    }
}

/// What to do about a refusal. The words of the real contracts are not public; these are the SDK's.
fn advice(reason: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 9] = [
        ("InsufficientBalance", "deposit more coins into the vault"),
        ("InsufficientLockup", "lock more stake"),
        ("NotEligible", "lock more stake, or ask why the account is under sanction"),
        ("NotOwner", "use the wallet that owns it"),
        ("SourceInactive", "name a source that is active"),
        ("AlreadyPaired", "the rig has another owner: that owner must remove it first"),
        ("AlreadyConfirmed", "nothing: a response is confirmed and paid"),
        ("AlreadyFinalized", "nothing: the task is over"),
        ("Expired", "publish the task again with a longer --expires-in"),
    ];
    ADVICE.iter().find(|(word, _)| reason.contains(word)).map(|(_, step)| *step)
}
