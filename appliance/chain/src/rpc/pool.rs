//! Which endpoint is asked next: the transport under the provider.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut, TransportResult},
};
use futures::future::join_all;
use serde::de::DeserializeOwned;
use tower::Service;

use super::{
    Network,
    endpoint::{self, Endpoint, EndpointReport, EndpointState},
};

/// The endpoints, ranked anew for every request.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    chain_id: u64,
    head_lag_max_s: u64,
    endpoints: Vec<Endpoint>,
    freshest_head: AtomicU64,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(network: &Network) -> Result<Self, reqwest::Error> {
        let client = endpoint::client(Duration::from_millis(network.request_timeout_ms))?;
        let endpoints = network.rpc_urls.iter().map(|url| Endpoint::new(client.clone(), url.clone())).collect();
        let shared = Shared {
            chain_id: network.chain_id,
            head_lag_max_s: network.head_lag_max_s,
            endpoints,
            freshest_head: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(super) async fn check_all(&self) {
        self.shared.check_all().await;
    }

    /// Checks until the last handle is dropped.
    pub(super) fn keep_checking(&self, every: Duration, every_ill: Duration) {
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            loop {
                let Some(is_well) = shared.upgrade().map(|shared| shared.is_well()) else { return };
                tokio::time::sleep(if is_well { every } else { every_ill }).await;
                let Some(shared) = shared.upgrade() else { return };
                shared.check_all().await;
            }
        });
    }

    pub(super) fn reports(&self) -> Vec<EndpointReport> {
        self.shared.endpoints.iter().map(Endpoint::report).collect()
    }

    /// The chain that the first endpoint is on, if all of them are on wrong ones.
    pub(super) fn only_wrong_chain(&self) -> Option<u64> {
        let wrong = |report: EndpointReport| match report.state {
            EndpointState::WrongChain { got } => Some(got),
            EndpointState::Healthy | EndpointState::Lagging | EndpointState::Unreachable { .. } => None,
        };
        let got: Option<Vec<u64>> = self.reports().into_iter().map(wrong).collect();
        got?.first().copied()
    }

    pub(super) fn freshest_head(&self) -> u64 {
        self.shared.freshest_head.load(Ordering::Relaxed)
    }

    pub(super) fn note_head(&self, block: u64) {
        self.shared.freshest_head.fetch_max(block, Ordering::Relaxed);
    }

    pub(super) async fn ask_everyone<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[serde_json::Value],
    ) -> Vec<TransportResult<T>> {
        let ranked = self.shared.ranked();
        join_all(ranked.into_iter().map(|endpoint| endpoint.call(method, params))).await
    }
}

impl Service<RequestPacket> for Pool {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.ask(packet).await })
    }
}

// === impl Shared ===

impl Shared {
    async fn ask(&self, packet: RequestPacket) -> TransportResult<ResponsePacket> {
        let mut last = Err(TransportErrorKind::custom_str("no endpoint is on the right chain"));
        for endpoint in self.ranked() {
            match endpoint.ask(packet.clone()).await {
                Ok(answer) if is_about_the_endpoint(&answer) => last = Ok(answer),
                Ok(answer) => {
                    endpoint.note_answer();
                    return Ok(answer);
                }
                Err(error) => {
                    tracing::debug!(endpoint = endpoint.report().url.host_str(), %error, "endpoint did not answer");
                    endpoint.note_failure(&error);
                    // What a node said, however unhelpful, tells more than silence.
                    if last.is_err() {
                        last = Err(error);
                    }
                }
            }
        }
        last
    }

    fn ranked(&self) -> Vec<&Endpoint> {
        let mut ranked: Vec<_> =
            self.endpoints.iter().filter_map(|endpoint| Some((endpoint.rank()?, endpoint))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    fn is_well(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.rank().is_some_and(|(class, _)| class == 0))
    }

    async fn check_all(&self) {
        let checks = self.endpoints.iter().map(|endpoint| endpoint.check(self.chain_id, self.head_lag_max_s));
        join_all(checks).await;
        for endpoint in &self.endpoints {
            if endpoint.rank().is_some() {
                self.freshest_head.fetch_max(endpoint.report().head, Ordering::Relaxed);
            }
        }
    }
}

/// Whether a node's answer speaks of the node, not of the chain: a rate limit, or a block that it has not seen yet.
fn is_about_the_endpoint(answer: &ResponsePacket) -> bool {
    answer.iter_errors().any(|error| {
        let message = error.message.to_lowercase();
        let is_block_unknown = message.contains("block") && message.contains("not found");
        error.is_retry_err() || is_block_unknown || message.contains("header not found")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(error: &str) -> ResponsePacket {
        serde_json::from_str(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#)).expect("a valid answer")
    }

    #[test]
    fn a_proper_answer_of_the_chain_is_not_asked_for_elsewhere() {
        for error in [
            r#"{"code":3,"message":"execution reverted: Expired","data":"0x"}"#,
            r#"{"code":-32000,"message":"nonce too low: next nonce 5, tx nonce 4"}"#,
            r#"{"code":-32000,"message":"already known"}"#,
            r#"{"code":-32000,"message":"insufficient funds for gas * price + value"}"#,
            r#"{"code":-32601,"message":"the method eth_feeHistory does not exist/is not available"}"#,
        ] {
            assert!(!is_about_the_endpoint(&answer(error)), "{error}");
        }
    }

    #[test]
    fn an_endpoints_own_trouble_is_asked_for_elsewhere() {
        for error in [
            r#"{"code":-32005,"message":"limit exceeded"}"#,
            r#"{"code":429,"message":"Too Many Requests"}"#,
            r#"{"code":-32000,"message":"header not found"}"#,
            r#"{"code":-32000,"message":"block 0x1d4c not found"}"#,
        ] {
            assert!(is_about_the_endpoint(&answer(error)), "{error}");
        }
    }
}
