//! The endpoints of one network, as one provider.
//!
//! Invariants:
//! * An endpoint on another chain is never asked again: [`EndpointState::WrongChain`] is final.
//! * A proper answer of the chain (a revert, `nonce too low`, a null) is returned as it came. Only weather moves a request
//!   to the next endpoint: no connection, a time-out, HTTP 429 or 5xx, a body that is not JSON-RPC, a rate limit, a
//!   replica that does not know a block yet.
//! * The order in the configuration is the order of preference among equals; a healthy endpoint goes before a lagging
//!   one, a lagging one before one that did not answer. So the reader stays on one replica while it is well.
//! * Starting needs nobody to answer. Only when every endpoint answers for another chain is it refused.
//!
//! Alloy's own fallback layer was not taken: with one active transport it never falls over, with several it asks all of
//! them at once and believes the fastest, which on a load-balanced network is often the replica that lags.

mod endpoint;
mod pool;

use std::{sync::Arc, time::Duration};

use alloy::{primitives::Address, providers::RootProvider, rpc::client::RpcClient, transports::TransportResult};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

pub use endpoint::{EndpointReport, EndpointState};

use crate::read::bid::KnownBids;

/// Endpoints of one network at most.
pub const ENDPOINTS_MAX: usize = 16;
/// A well endpoint is checked (chain id, head) this often.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// While no endpoint is healthy, all are checked this often.
const CHECK_EVERY_ILL: Duration = Duration::from_secs(2);

/// One network: which contracts, and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// EIP-155 chain id. Mainnet is 1071, the local network 31337.
    pub chain_id: u64,
    /// Where the contracts stand.
    pub contracts: Contracts,
    /// HTTP endpoints in order of preference, 1 to [`ENDPOINTS_MAX`].
    pub rpc_urls: Vec<Url>,
    /// A WebSocket that announces new heads; it only wakes [`crate::watch`].
    #[serde(default)]
    pub ws_url: Option<Url>,
    /// Depth at which a transaction counts as done; 1 is inclusion in the head.
    #[serde(default = "defaults::confirmations")]
    pub confirmations: u64,
    /// An endpoint whose head is older than this (seconds) lags.
    #[serde(default = "defaults::head_lag_max_s")]
    pub head_lag_max_s: u64,
    /// Time one endpoint has for one answer (milliseconds).
    #[serde(default = "defaults::request_timeout_ms")]
    pub request_timeout_ms: u64,
}

/// The four contracts that the rig listens to and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contracts {
    /// Registry of sources and tasks.
    pub nexus: Address,
    /// The client's side: publish, confirm, cancel.
    pub controller: Address,
    /// Identity: providers, masters, agents.
    pub terminal: Address,
    /// Money.
    pub vault: Address,
}

mod defaults {
    /// A block of the network is final when it exists (protocol.md §1); the outbox looks back at it for a while anyway.
    pub(super) fn confirmations() -> u64 {
        1
    }
    /// Sixty blocks late at the claimed block time.
    pub(super) fn head_lag_max_s() -> u64 {
        60
    }
    pub(super) fn request_timeout_ms() -> u64 {
        10_000
    }
}

/// A network that cannot be connected to because of how it is described, not because of the weather.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// There must be at least one and at most [`ENDPOINTS_MAX`] endpoints.
    #[error("network {chain_id} names {got} endpoints, 1 to {ENDPOINTS_MAX} are possible")]
    EndpointCount {
        /// The network's chain id.
        chain_id: u64,
        /// How many were named.
        got: usize,
    },
    /// Every endpoint answered, and each for another chain.
    #[error("every endpoint is on chain {got}, not on chain {want}")]
    WrongChain {
        /// What the configuration names.
        want: u64,
        /// What the first endpoint said.
        got: u64,
    },
    /// The HTTP client could not be built.
    #[error("build the http client")]
    Client(#[source] reqwest::Error),
}

/// A handle to the pool; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Rpc {
    network: Arc<Network>,
    pool: pool::Pool,
    provider: RootProvider,
    known_bids: Arc<KnownBids>,
}

// === impl Rpc ===

impl Rpc {
    /// Checks every endpoint once, keeps checking them while any handle lives, and returns even if none answers.
    ///
    /// Errors: only what the description of the network alone makes impossible; see [`RpcError`].
    pub async fn connect(network: Network) -> Result<Self, RpcError> {
        let got = network.rpc_urls.len();
        if got == 0 || got > ENDPOINTS_MAX {
            return Err(RpcError::EndpointCount { chain_id: network.chain_id, got });
        }
        let pool = pool::Pool::new(&network).map_err(RpcError::Client)?;
        pool.check_all().await;
        if let Some(got) = pool.only_wrong_chain() {
            return Err(RpcError::WrongChain { want: network.chain_id, got });
        }
        pool.keep_checking(CHECK_EVERY, CHECK_EVERY_ILL);
        let provider = RootProvider::new(RpcClient::new(pool.clone(), false));
        Ok(Self { network: Arc::new(network), pool, provider, known_bids: Arc::default() })
    }

    /// Alloy's provider over the pool.
    #[must_use]
    pub fn provider(&self) -> RootProvider {
        self.provider.clone()
    }

    /// What the network was described as.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What is known about each endpoint, in the order of the configuration.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointReport> {
        self.pool.reports()
    }

    /// The highest block number that any endpoint has shown. It never falls, so after a deep re-org it may name a block
    /// that the chain has not reached again yet.
    #[must_use]
    pub fn freshest_head(&self) -> u64 {
        self.pool.freshest_head()
    }

    /// Bids that were found through this handle or one like it.
    pub(crate) fn known_bids(&self) -> &KnownBids {
        &self.known_bids
    }

    /// Tells the pool of a head that was read through it.
    pub(crate) fn note_head(&self, block: u64) {
        self.pool.note_head(block);
    }

    /// Asks every endpoint on the right chain at once, and returns all answers in the order of preference. For the one
    /// request that any single endpoint may swallow, and that is harmless when repeated.
    pub(crate) async fn ask_everyone<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[serde_json::Value],
    ) -> Vec<TransportResult<T>> {
        self.pool.ask_everyone(method, params).await
    }
}
