//! What a log means to the rig.

use alloy::rpc::types::Log;
use alloy::sol_types::{SolEvent, SolEventInterface};
use alloy_primitives::{Address, B256};
use work::{ProviderId, ResponseId, SourceId, TaskId};

use crate::abi::{Nexus, Terminal, Vault};
use crate::rpc::Contracts;

/// A hint that something changed. It may come twice and may be about a block that has left the chain: ask
/// [`crate::read`] before believing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client published a source.
    SourcePublished {
        /// Which.
        source: SourceId,
    },
    /// A client changed a source's terms.
    SourceUpdated {
        /// Which.
        source: SourceId,
    },
    /// A source was activated or, for good, inactivated.
    SourceStatusChanged {
        /// Which.
        source: SourceId,
        /// `SourceStatus`: 0 active, 1 inactive.
        status: u8,
    },
    /// A provider is on a source's list.
    Registered {
        /// Who.
        provider: ProviderId,
        /// On which.
        source: SourceId,
    },
    /// A client published a task.
    TaskPublished {
        /// Which.
        task: TaskId,
        /// For which source.
        source: SourceId,
    },
    /// A task was attempted in a provider's name.
    Attempted {
        /// Which.
        task: TaskId,
        /// In whose name.
        provider: ProviderId,
    },
    /// A task moved on.
    TaskStatusChanged {
        /// Which.
        task: TaskId,
        /// `TaskStatus`, 0 to 5.
        status: u8,
    },
    /// Somebody responded to a task.
    ResponseSubmitted {
        /// The response.
        response: ResponseId,
        /// To which.
        task: TaskId,
    },
    /// A response was confirmed.
    ResponseStatusChanged {
        /// Which.
        response: ResponseId,
    },
    /// An owner named a provider.
    ProviderAnnounced {
        /// The provider.
        provider: ProviderId,
        /// The owner.
        master: ProviderId,
    },
    /// A provider named its owner.
    MasterAnnounced {
        /// The provider.
        provider: ProviderId,
        /// The owner.
        master: ProviderId,
    },
    /// An owner let a provider go.
    ProviderRemoved {
        /// Which.
        provider: ProviderId,
    },
    /// An owner wants a provider to stop a source.
    RemoveContainer {
        /// Which provider.
        provider: ProviderId,
        /// Which source.
        source: SourceId,
    },
    /// Money moved in an account of the vault.
    VaultMoved {
        /// Whose.
        account: ProviderId,
    },
}

/// The contracts whose logs are read. The Controller emits nothing of its own: what it does shows in the Nexus.
pub(super) fn addresses(contracts: &Contracts) -> Vec<Address> {
    vec![contracts.nexus, contracts.terminal, contracts.vault]
}

/// The signatures that are asked for.
pub(super) fn signatures() -> Vec<B256> {
    vec![
        Nexus::SourcePublished::SIGNATURE_HASH,
        Nexus::SourceUpdated::SIGNATURE_HASH,
        Nexus::SourceStatusChanged::SIGNATURE_HASH,
        Nexus::Registered::SIGNATURE_HASH,
        Nexus::TaskPublished::SIGNATURE_HASH,
        Nexus::Attempted::SIGNATURE_HASH,
        Nexus::TaskStatusChanged::SIGNATURE_HASH,
        Nexus::ResponseSubmitted::SIGNATURE_HASH,
        Nexus::ResponseStatusChanged::SIGNATURE_HASH,
        Terminal::ProviderAnnounced::SIGNATURE_HASH,
        Terminal::MasterAnnounced::SIGNATURE_HASH,
        Terminal::ProviderRemoved::SIGNATURE_HASH,
        Terminal::RemoveContainer::SIGNATURE_HASH,
        Vault::Claimed::SIGNATURE_HASH,
        Vault::Deposited::SIGNATURE_HASH,
        Vault::Locked::SIGNATURE_HASH,
        Vault::Sanctioned::SIGNATURE_HASH,
        Vault::Unbonded::SIGNATURE_HASH,
        Vault::UnbondingCanceled::SIGNATURE_HASH,
        Vault::Waived::SIGNATURE_HASH,
        Vault::Withdrawn::SIGNATURE_HASH,
    ]
}

/// Reads a log. `None`: not one of ours. A log of ours that does not decode is reported and passed over, since waiting
/// would not make it better.
pub(super) fn read(contracts: &Contracts, log: &Log) -> Option<Event> {
    let read = match log.address() {
        nexus if nexus == contracts.nexus => read_nexus(log),
        terminal if terminal == contracts.terminal => read_terminal(log),
        vault if vault == contracts.vault => read_vault(log),
        _ => return None,
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(block = log.block_number, tx = ?log.transaction_hash, %error, "log does not decode");
        None
    })
}

fn read_nexus(log: &Log) -> alloy::sol_types::Result<Option<Event>> {
    use Nexus::NexusEvents as E;
    Ok(Some(match E::decode_log(&log.inner)?.data {
        E::SourcePublished(e) => Event::SourcePublished { source: SourceId(e.source) },
        E::SourceUpdated(e) => Event::SourceUpdated { source: SourceId(e.source) },
        E::SourceStatusChanged(e) => Event::SourceStatusChanged { source: SourceId(e.source), status: e.status },
        E::Registered(e) => Event::Registered { provider: ProviderId(e.provider), source: SourceId(e.source) },
        E::TaskPublished(e) => Event::TaskPublished { task: TaskId(e.task), source: SourceId(e.source) },
        E::Attempted(e) => Event::Attempted { task: TaskId(e.task), provider: ProviderId(e.provider) },
        E::TaskStatusChanged(e) => Event::TaskStatusChanged { task: TaskId(e.task), status: e.status },
        E::ResponseSubmitted(e) => Event::ResponseSubmitted { response: ResponseId(e.response), task: TaskId(e.task) },
        E::ResponseStatusChanged(e) => Event::ResponseStatusChanged { response: ResponseId(e.response) },
        E::OwnershipTransferred(_) => return Ok(None),
    }))
}

fn read_terminal(log: &Log) -> alloy::sol_types::Result<Option<Event>> {
    use Terminal::TerminalEvents as E;
    Ok(Some(match E::decode_log(&log.inner)?.data {
        E::ProviderAnnounced(e) => {
            Event::ProviderAnnounced { provider: ProviderId(e.provider), master: ProviderId(e.master) }
        }
        E::MasterAnnounced(e) => {
            Event::MasterAnnounced { provider: ProviderId(e.provider), master: ProviderId(e.master) }
        }
        E::ProviderRemoved(e) => Event::ProviderRemoved { provider: ProviderId(e.provider) },
        E::RemoveContainer(e) => {
            Event::RemoveContainer { provider: ProviderId(e.provider), source: SourceId(e.source) }
        }
        E::AgentSet(_)
        | E::BaseDataUpdated(_)
        | E::DefaultAgentDisabled(_)
        | E::LiveDataUpdated(_)
        | E::OwnershipTransferred(_) => return Ok(None),
    }))
}

fn read_vault(log: &Log) -> alloy::sol_types::Result<Option<Event>> {
    use Vault::VaultEvents as E;
    let account = match E::decode_log(&log.inner)?.data {
        E::Claimed(e) => e.account,
        E::Deposited(e) => e.account,
        E::Locked(e) => e.account,
        E::Sanctioned(e) => e.account,
        E::Unbonded(e) => e.account,
        E::UnbondingCanceled(e) => e.account,
        E::Waived(e) => e.account,
        E::Withdrawn(e) => e.account,
    };
    Ok(Some(Event::VaultMoved { account: ProviderId(account) }))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Log as Raw, LogData, U256};

    use super::*;

    fn contracts() -> Contracts {
        let address = Address::repeat_byte;
        Contracts { nexus: address(1), controller: address(2), terminal: address(3), vault: address(4) }
    }

    fn log(address: Address, data: LogData) -> Log {
        Log { inner: Raw { address, data }, ..Log::default() }
    }

    #[test]
    fn an_event_counts_only_from_its_own_contract() {
        let (task, provider) = (Address::repeat_byte(9), Address::repeat_byte(8));
        let data = Nexus::Attempted { task, provider, suggestedPayment: U256::from(5) }.encode_log_data();
        let contracts = contracts();
        let expected = Event::Attempted { task: TaskId(task), provider: ProviderId(provider) };
        assert_eq!(read(&contracts, &log(contracts.nexus, data.clone())), Some(expected));
        for stranger in [contracts.controller, contracts.vault, contracts.terminal, Address::repeat_byte(7)] {
            assert_eq!(read(&contracts, &log(stranger, data.clone())), None);
        }
    }

    #[test]
    fn a_log_that_does_not_decode_is_passed_over() {
        let contracts = contracts();
        let cut = LogData::new_unchecked(vec![Vault::Locked::SIGNATURE_HASH], vec![1, 2, 3].into());
        assert_eq!(read(&contracts, &log(contracts.vault, cut)), None);
        assert_eq!(read(&contracts, &log(contracts.vault, LogData::default())), None);
    }

    #[test]
    fn every_signature_is_asked_for_once() {
        let mut all = signatures();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), signatures().len());
    }
}
