//! What the key may be used for.
//!
//! Invariants:
//! * [`Policy::check`] is pure: transaction, time and usage in; a [`Permit`] or the first broken rule out.
//! * A [`Permit`] is the only thing that the key signs, and only [`Policy::check`] makes one.
//! * Whatever is not named here is refused. There is no wildcard, no override and no "trusted" peer.
//! * Calldata is accepted only if it is byte for byte what an encoder writes for the decoded call, so nothing
//!   can hide behind odd offsets, dirty padding or trailing bytes.
//!
//! A peer that has taken over the provider can still make the rig attempt bad tasks, lock or unbond its own
//! stake, and burn gas up to `max_gas_wei_per_day`. It cannot pay anybody but the owner and the rig itself.

use std::time::Duration;

use alloy::consensus::{Transaction, TypedTransaction};
use alloy::primitives::{Address, B256, TxKind, U256, keccak256};
use serde::{Deserialize, Serialize};

mod calls;
mod file;
mod usage;

pub use file::{Contracts, FileError, KeyWish, PolicyFile, TierWish};
pub use usage::{Minute, Usage};

/// Longest calldata that is read, in bytes. The longest honest call carries one URL (`submitResponse`); 8 KiB
/// leaves room for a URL of 7 KiB and keeps a request, hex-encoded, far below the frame limit.
pub const CALLDATA_BYTES_MAX: usize = 8 * 1024;

/// The rules of one rig: the policy file, bound to the address of the key that it protects.
#[derive(Debug, Clone)]
pub struct Policy {
    file: PolicyFile,
    own: Address,
}

/// Leave to sign exactly this transaction, once.
#[derive(Debug)]
pub struct Permit<'a> {
    tx: &'a TypedTransaction,
    gas_wei: u128,
    response: Option<Response>,
}

/// What a `submitResponse` says, as far as it matters for answering a task once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// The task that is answered.
    pub task: Address,
    /// Keccak-256 of the calldata, which is canonical: two different answers never share it.
    pub digest: B256,
}

/// The name of a rule. It travels in refusals and log lines, so a name is never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Only legacy and EIP-1559 transactions: no access list type, no blobs, no delegation of the account.
    TransactionType,
    /// The chain id is present and is ours, so that a signature cannot be replayed elsewhere.
    ChainId,
    /// The key never creates a contract.
    ContractCreation,
    /// The access list is empty: no call of ours needs one, and each entry costs gas.
    AccessList,
    /// The gas limit is at most `max_gas`.
    Gas,
    /// The fee per gas is at most `max_fee_per_gas_wei`, and the tip at most the fee.
    FeePerGas,
    /// Calldata is at most [`CALLDATA_BYTES_MAX`] bytes.
    CalldataSize,
    /// The destination is one of our three contracts, or the owner.
    Destination,
    /// Calls carry no value; only a plain transfer to the owner does.
    Value,
    /// A transfer to the owner carries no calldata.
    PlainTransfer,
    /// The function is on the list of its contract.
    Selector,
    /// The arguments are the canonical encoding of that function's arguments.
    Calldata,
    /// A `provider` argument is our own address.
    Provider,
    /// `announceMaster` names the owner.
    Owner,
    /// At most `max_calls_per_minute` signatures in any 60 seconds.
    CallsPerMinute,
    /// At most `max_gas_wei_per_day` of gas, at worst price, in any 24 hours.
    GasWeiPerDay,
    /// A task is answered once. The same response again, at another price, is the same answer.
    SecondResponse,
    /// Responses are signed only while the journal of responses can be read and written.
    Journal,
    /// The key is closed and there is no successor, so that there is nothing to sign with.
    KeyClosed,
    /// The TLS key signs a TLS 1.3 client's proof of possession and nothing else.
    TlsMessage,
    /// This machine shows no TPM that could attest.
    NoTpm,
    /// At most so many requests to the TPM in any minute: it is slow, and signatures wait behind it.
    TpmCallsPerMinute,
}

/// A refusal: the first rule that the transaction breaks, and what was found, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {why}")]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// What was found and what would have been allowed.
    pub why: String,
}

/// A policy file that cannot protect this key.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The owner's key must never be on the rig, so the two addresses differ.
    #[error("the owner {0} is the address of this rig's own key; name the wallet that owns the rig")]
    OwnerIsSelf(Address),
}

// === impl Policy ===

impl Policy {
    /// Binds `file` to the key whose address is `own`.
    /// Errors: [`BindError::OwnerIsSelf`].
    pub fn bind(file: PolicyFile, own: Address) -> Result<Self, BindError> {
        if file.owner == own {
            return Err(BindError::OwnerIsSelf(own));
        }
        Ok(Self { file, own })
    }

    /// Decides whether `tx` may be signed at `now`, given what was signed before.
    ///
    /// `now` is time since any fixed moment on a monotonic clock, the same one that [`Usage::enter`] was told.
    /// Nothing is remembered here: the caller enters the permit into `usage` before it signs.
    /// Errors: the first broken rule, in the order of [`Rule`].
    pub fn check<'a>(&self, tx: &'a TypedTransaction, now: Duration, usage: &Usage) -> Result<Permit<'a>, Refusal> {
        self.check_envelope(tx)?;
        self.check_fees(tx)?;
        let response = self.check_destination(tx)?;
        let gas_wei = u128::from(tx.gas_limit()).saturating_mul(tx.max_fee_per_gas());
        self.check_budget(gas_wei, now, usage)?;
        Ok(Permit { tx, gas_wei, response })
    }

    fn check_envelope(&self, tx: &TypedTransaction) -> Result<(), Refusal> {
        match tx {
            TypedTransaction::Legacy(_) | TypedTransaction::Eip1559(_) => {}
            TypedTransaction::Eip2930(_) | TypedTransaction::Eip4844(_) | TypedTransaction::Eip7702(_) => {
                return Err(Rule::TransactionType.broken(format!("type {} is not signed, only 0 and 2", tx.tx_type())));
            }
        }
        if tx.chain_id() != Some(self.file.chain_id) {
            let found = tx.chain_id().map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(Rule::ChainId.broken(format!("chain id {found}, ours is {}", self.file.chain_id)));
        }
        if tx.is_create() {
            return Err(Rule::ContractCreation.broken("the transaction has no destination".to_owned()));
        }
        match tx.access_list() {
            Some(list) if !list.is_empty() => {
                Err(Rule::AccessList.broken(format!("{} entries, none is allowed", list.len())))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_fees(&self, tx: &TypedTransaction) -> Result<(), Refusal> {
        let (gas, fee_wei) = (tx.gas_limit(), tx.max_fee_per_gas());
        if gas > self.file.max_gas {
            return Err(Rule::Gas.broken(format!("gas limit {gas}, at most {}", self.file.max_gas)));
        }
        if fee_wei > u128::from(self.file.max_fee_per_gas_wei) {
            let most = self.file.max_fee_per_gas_wei;
            return Err(Rule::FeePerGas.broken(format!("{fee_wei} wei per gas, at most {most}")));
        }
        match tx.max_priority_fee_per_gas() {
            Some(tip_wei) if tip_wei > fee_wei => {
                Err(Rule::FeePerGas.broken(format!("tip of {tip_wei} wei above the fee of {fee_wei}")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_destination(&self, tx: &TypedTransaction) -> Result<Option<Response>, Refusal> {
        let input = tx.input();
        if input.len() > CALLDATA_BYTES_MAX {
            let found = input.len();
            return Err(Rule::CalldataSize.broken(format!("{found} bytes, at most {CALLDATA_BYTES_MAX}")));
        }
        let TxKind::Call(to) = tx.kind() else {
            return Err(Rule::ContractCreation.broken("the transaction has no destination".to_owned()));
        };
        if to == self.file.owner {
            return match input.is_empty() {
                true => Ok(None),
                false => Err(Rule::PlainTransfer.broken("a transfer to the owner carries calldata".to_owned())),
            };
        }
        let contracts = &self.file.contracts;
        let call = match to {
            _ if to == contracts.nexus => calls::nexus(input),
            _ if to == contracts.terminal => calls::terminal(input),
            _ if to == contracts.vault => calls::vault(input),
            _ => return Err(Rule::Destination.broken(format!("{to} is neither a known contract nor the owner"))),
        };
        if tx.value() != U256::ZERO {
            return Err(Rule::Value.broken(format!("a call carries {} wei, none is allowed", tx.value())));
        }
        match call? {
            calls::Binds::Nobody => Ok(None),
            calls::Binds::Provider(found) if found == self.own => Ok(None),
            calls::Binds::Response { task, provider } if provider == self.own => {
                Ok(Some(Response { task, digest: keccak256(input) }))
            }
            calls::Binds::Provider(found) | calls::Binds::Response { provider: found, .. } => {
                Err(Rule::Provider.broken(format!("provider {found}, ours is {}", self.own)))
            }
            calls::Binds::Owner(found) if found == self.file.owner => Ok(None),
            calls::Binds::Owner(found) => {
                Err(Rule::Owner.broken(format!("master {found}, the owner is {}", self.file.owner)))
            }
        }
    }

    fn check_budget(&self, gas_wei: u128, now: Duration, usage: &Usage) -> Result<(), Refusal> {
        let calls = usage.calls_in_minute(now);
        if calls >= self.file.max_calls_per_minute as usize {
            let most = self.file.max_calls_per_minute;
            return Err(Rule::CallsPerMinute.broken(format!("{calls} in the last minute, at most {most}")));
        }
        let spent_wei = usage.gas_wei_in_day(now);
        let most_wei = u128::from(self.file.max_gas_wei_per_day);
        if spent_wei.saturating_add(gas_wei) > most_wei {
            let why = format!("{gas_wei} wei on top of {spent_wei} in the last day, at most {most_wei}");
            return Err(Rule::GasWeiPerDay.broken(why));
        }
        Ok(())
    }
}

// === impl Permit ===

impl Permit<'_> {
    /// The transaction that may be signed.
    pub fn tx(&self) -> &TypedTransaction {
        self.tx
    }

    /// What its gas can cost at most, in wei: gas limit times fee per gas.
    pub fn gas_wei(&self) -> u128 {
        self.gas_wei
    }

    /// The answer to a task that it is, if it is one.
    pub fn response(&self) -> Option<Response> {
        self.response
    }
}

// === impl Rule ===

impl Rule {
    /// True if the same request may pass later, without any change: a budget refills with time, a journal or a key
    /// that cannot be used is mended by somebody.
    pub fn passes_with_time(self) -> bool {
        match self {
            Self::CallsPerMinute | Self::GasWeiPerDay | Self::TpmCallsPerMinute | Self::Journal | Self::KeyClosed => {
                true
            }
            Self::TransactionType
            | Self::ChainId
            | Self::ContractCreation
            | Self::AccessList
            | Self::Gas
            | Self::FeePerGas
            | Self::CalldataSize
            | Self::Destination
            | Self::Value
            | Self::PlainTransfer
            | Self::Selector
            | Self::Calldata
            | Self::Provider
            | Self::Owner
            | Self::SecondResponse
            | Self::TlsMessage
            | Self::NoTpm => false,
        }
    }

    /// The rule's name as it stands in refusals and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::TransactionType => "transaction-type",
            Self::ChainId => "chain-id",
            Self::ContractCreation => "contract-creation",
            Self::AccessList => "access-list",
            Self::Gas => "gas",
            Self::FeePerGas => "fee-per-gas",
            Self::CalldataSize => "calldata-size",
            Self::Destination => "destination",
            Self::Value => "value",
            Self::PlainTransfer => "plain-transfer",
            Self::Selector => "selector",
            Self::Calldata => "calldata",
            Self::Provider => "provider",
            Self::Owner => "owner",
            Self::CallsPerMinute => "calls-per-minute",
            Self::GasWeiPerDay => "gas-wei-per-day",
            Self::SecondResponse => "second-response",
            Self::Journal => "journal",
            Self::KeyClosed => "key-closed",
            Self::TlsMessage => "tls-message",
            Self::NoTpm => "no-tpm",
            Self::TpmCallsPerMinute => "tpm-calls-per-minute",
        }
    }

    /// The refusal by this rule, with what was found.
    pub fn broken(self, why: String) -> Refusal {
        Refusal { rule: self, why }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
