//! Transactions that are signed elsewhere: shown here, carried to another machine by a person, seen again on the chain.
//!
//! Invariants:
//! * A transaction is shown only after the chain said that it would succeed.
//! * It is done when the chain holds a transaction of the account with the same receiver, data and value, as deep as the
//!   network asks for. Whatever else the account sends meanwhile is passed over.
//! * One at a time: the next is not shown before the last is done, because the later ones build on the earlier.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::types::TransactionRequest;
use alloy::transports::TransportError;
use chain::outbox::revert_reason;
use chain::rpc::Rpc;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Done, OwnerError, eip681};
use crate::parse::coin_words;
use crate::qr;
use crate::screen::Screen;

/// A person carries it to another machine and back, and may have to find the device first.
pub(super) const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Between two looks at the chain.
const POLL: Duration = Duration::from_secs(1);

/// Blocks that are looked at again, because the endpoints of a network do not see them at the same time.
const OVERLAP: u64 = 16;

/// Blocks in one look. A network of four blocks a second makes as many in a minute.
const BLOCKS_MAX: u64 = 256;

/// An account without a key here.
#[derive(Debug)]
pub(super) struct Elsewhere {
    rpc: Rpc,
    from: Address,
    screen: Screen,
}

/// What is to be signed.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) to: Address,
    /// The function in the words of its contract; `None`: plain coins.
    pub(super) signature: Option<&'static str>,
    pub(super) data: Bytes,
    pub(super) value_wei: U256,
}

/// The same, for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    unsigned: Unsigned<'a>,
}

#[derive(Debug, Serialize)]
struct Unsigned<'a> {
    what: &'a str,
    chain_id: u64,
    from: String,
    to: String,
    value_wei: String,
    value: String,
    data: &'a Bytes,
    /// The account's next, unless it sends something else before.
    nonce: u64,
    /// An estimate.
    gas: u64,
    uri: Option<String>,
}

/// A transaction in a block, as nodes write it. What is of another kind than we know is no trouble this way.
#[derive(Debug, Deserialize)]
struct Seen {
    hash: B256,
    from: Address,
    to: Option<Address>,
    input: Bytes,
    value: U256,
}

#[derive(Debug, Deserialize)]
struct Block {
    transactions: Vec<Seen>,
}

/// Where the account stood at a look.
#[derive(Clone, Copy)]
struct Stand {
    /// Blocks up to here do not hold the transaction.
    block: u64,
    /// Transactions of the account.
    count: u64,
}

// === impl Elsewhere ===

impl Elsewhere {
    /// Errors: `from` is a contract, whose transactions look different on the chain from what is shown here.
    pub(super) async fn open(rpc: Rpc, from: Address, screen: Screen) -> Result<Elsewhere, OwnerError> {
        /// An account with a key that lends itself a contract's code (EIP-7702).
        const LENT: [u8; 3] = [0xef, 0x01, 0x00];
        let code = rpc.provider().get_code_at(from).await.map_err(unanswered("the account"))?;
        if !code.is_empty() && !code.starts_with(&LENT) {
            return Err(OwnerError::Contract { from });
        }
        Ok(Elsewhere { rpc, from, screen })
    }

    /// Shows `wish`, and waits until it is on the chain.
    pub(super) async fn send(&self, what: &str, wish: &Wish) -> Result<Done, OwnerError> {
        let chain = self.rpc.provider();
        let gas = self.weigh(&chain, what, wish).await?;
        let stand = self.stand(&chain).await?;
        self.show(what, wish, gas, stand.count);
        let waiting = self.screen.wait(format!("{what}: waiting until it is on the chain"));
        let done = self.wait_for(&chain, what, wish, stand).await;
        drop(waiting);
        done
    }

    /// The gas that `wish` takes, if the chain would take it.
    async fn weigh(&self, chain: &RootProvider, what: &str, wish: &Wish) -> Result<u64, OwnerError> {
        let have_wei = chain.get_balance(self.from).await.map_err(unanswered("the account's balance"))?;
        if have_wei < wish.value_wei {
            return Err(OwnerError::Unfunded { what: what.to_owned(), have_wei, need_wei: wish.value_wei });
        }
        let request = TransactionRequest::default()
            .with_from(self.from)
            .with_to(wish.to)
            .with_input(wish.data.clone())
            .with_value(wish.value_wei);
        chain.estimate_gas(request).await.map_err(|source| match source.as_error_resp().and_then(revert_reason) {
            Some(reason) => OwnerError::Refused { what: what.to_owned(), reason },
            None => OwnerError::Chain { what: "what it would cost", source },
        })
    }

    async fn stand(&self, chain: &RootProvider) -> Result<Stand, OwnerError> {
        // In this order: what is counted later than the block was seen is above it.
        let block = chain.get_block_number().await.map_err(unanswered("the newest block"))?;
        let count = chain.get_transaction_count(self.from).await.map_err(unanswered("the account's transactions"))?;
        Ok(Stand { block, count })
    }

    fn show(&self, what: &str, wish: &Wish, gas: u64, nonce: u64) {
        let Wish { to, signature, data, value_wei } = wish;
        let chain_id = self.rpc.network().chain_id;
        let unsigned = Unsigned {
            what,
            chain_id,
            from: self.from.to_string(),
            to: to.to_string(),
            value_wei: value_wei.to_string(),
            value: coin_words(*value_wei),
            data,
            nonce,
            gas,
            uri: eip681::uri(chain_id, *to, *signature, data, *value_wei),
        };
        if self.screen.json {
            self.screen.answer(&Shown { unsigned }, String::new);
        } else {
            self.screen.note(&describe(&unsigned, stderr().is_terminal()));
        }
    }

    async fn wait_for(
        &self,
        chain: &RootProvider,
        what: &str,
        wish: &Wish,
        mut from: Stand,
    ) -> Result<Done, OwnerError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.stand(chain).await?;
            if now.count == from.count {
                from.block = now.block.max(from.block);
            } else if let Some(tx) = self.look(chain, wish, from.block, now.count).await? {
                return self.conclude(chain, what, tx, deadline).await;
            } else {
                self.screen.note("Another transaction of the account came first; this one is still waited for.");
                from = now;
            }
            if Instant::now() >= deadline {
                return Err(OwnerError::Unseen { what: what.to_owned(), from: self.from });
            }
            sleep(POLL).await;
        }
    }

    /// Looks for `wish` in the blocks after `after`, up to one that holds `count` transactions of the account.
    async fn look(
        &self,
        chain: &RootProvider,
        wish: &Wish,
        after: u64,
        count: u64,
    ) -> Result<Option<B256>, OwnerError> {
        // It was counted before, so the block that holds it is not above this.
        let head = chain.get_block_number().await.map_err(unanswered("the newest block"))?;
        tracing::debug!(block = head, count, "the account has sent something");
        let first = (after.saturating_sub(OVERLAP) + 1).max(head.saturating_sub(BLOCKS_MAX));
        for number in (first..=head).rev() {
            let params = (U256::from(number), true);
            let block: Option<Block> =
                chain.raw_request("eth_getBlockByNumber".into(), params).await.map_err(unanswered("a block"))?;
            let is_it = |seen: &&Seen| {
                seen.from == self.from
                    && seen.to == Some(wish.to)
                    && seen.input == wish.data
                    && seen.value == wish.value_wei
            };
            if let Some(seen) = block.iter().flat_map(|block| &block.transactions).find(is_it) {
                return Ok(Some(seen.hash));
            }
        }
        Ok(None)
    }

    /// Waits until `tx` is deep enough.
    async fn conclude(
        &self,
        chain: &RootProvider,
        what: &str,
        tx: B256,
        deadline: Instant,
    ) -> Result<Done, OwnerError> {
        let confirmations = self.rpc.network().confirmations.max(1);
        loop {
            let receipt = chain.get_transaction_receipt(tx).await.map_err(unanswered("the receipt"))?;
            let head = chain.get_block_number().await.map_err(unanswered("the newest block"))?;
            let placed = receipt.and_then(|receipt| Some((receipt.block_number?, receipt)));
            match placed {
                Some((_, receipt)) if !receipt.status() => {
                    let reason = format!("transaction {tx} failed on the chain");
                    return Err(OwnerError::Refused { what: what.to_owned(), reason });
                }
                Some((block, receipt)) if (head + 1).saturating_sub(block) >= confirmations => {
                    let fee_wei = u128::from(receipt.gas_used).saturating_mul(receipt.effective_gas_price);
                    return Ok(Done { tx, block, fee_wei: fee_wei.to_string() });
                }
                Some(_) | None => {}
            }
            if Instant::now() >= deadline {
                return Err(OwnerError::Unseen { what: what.to_owned(), from: self.from });
            }
            sleep(POLL).await;
        }
    }
}

fn unanswered(what: &'static str) -> impl FnOnce(TransportError) -> OwnerError {
    move |source| OwnerError::Chain { what, source }
}

/// For people: all that a wallet asks for, and the code where it can be read from a screen.
fn describe(unsigned: &Unsigned<'_>, has_terminal: bool) -> String {
    let Unsigned { what, chain_id, from, to, value_wei, value, data, nonce, gas, uri } = unsigned;
    let mut text = format!(
        "\nTo be signed elsewhere: {what}\n  chain id  {chain_id}\n  from      {from}\n  to        {to}\n  \
         value     {value} coin ({value_wei} wei)\n  data      {data}\n  \
         nonce     {nonce} (a hint: the account's next)\n  gas       {gas} (an estimate)\n"
    );
    match uri {
        Some(uri) => {
            text.push_str(&format!("  URI       {uri}\n"));
            if let Some(code) = qr::of(uri).filter(|_| has_terminal) {
                text.push_str(&format!("\n{code}\n"));
            }
        }
        None => text.push_str("  URI       none: EIP-681 cannot write its arguments\n"),
    }
    text
}
