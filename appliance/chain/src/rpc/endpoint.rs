//! One endpoint: how it is asked, and what it is known to be.
//!
//! Invariants: an answer is read up to [`RESPONSE_BYTES_MAX`] and never followed to another address; the state changes
//! only through [`Endpoint::check`], [`Endpoint::note_failure`] and [`Endpoint::note_answer`].

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::{
    primitives::U64,
    rpc::json_rpc::{Id, Request, RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportResult},
};
use futures::future::BoxFuture;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;
use url::Url;

/// A batch of 100 receipts or of a full range of logs stays far below this.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of a body that is an error, this much is kept for the message.
const EXCERPT_CHARS: usize = 200;

/// What an endpoint is, as far as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointState {
    /// Right chain, fresh head.
    Healthy,
    /// Right chain, but its head is older than the network's `head_lag_max_s`. Used when nobody is healthy.
    Lagging,
    /// Answers for another chain. Final.
    WrongChain {
        /// The chain id that it named.
        got: u64,
    },
    /// Did not answer, or not with JSON-RPC. Used when nobody else is left.
    Unreachable {
        /// What went wrong, for people.
        why: String,
    },
}

/// What is known of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReport {
    /// Its address; the path may hold an access token, so show [`Url::host_str`] to people.
    pub url: Url,
    /// What it is.
    pub state: EndpointState,
    /// Number of its newest block when it was last checked.
    pub head: u64,
    /// That block's time, Unix seconds.
    pub head_time_s: u64,
    /// How long the last check took.
    pub latency_ms: u64,
    /// Requests in a row that it has not answered.
    pub failures: u32,
}

/// One endpoint and its state.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: reqwest::Client,
    url: Url,
    report: Mutex<EndpointReport>,
}

/// The least of a block that a check needs; nodes differ in the rest.
#[derive(Debug, Deserialize)]
struct Head {
    number: U64,
    timestamp: U64,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(client: reqwest::Client, url: Url) -> Self {
        let state = EndpointState::Unreachable { why: "not asked yet".to_owned() };
        let report = EndpointReport { url: url.clone(), state, head: 0, head_time_s: 0, latency_ms: 0, failures: 0 };
        Self { client, url, report: Mutex::new(report) }
    }

    pub(super) fn report(&self) -> EndpointReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where this endpoint stands among the others, lower first; `None` if it may not be asked.
    pub(super) fn rank(&self) -> Option<(u8, u32)> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let class = match report.state {
            EndpointState::Healthy => 0,
            EndpointState::Lagging => 1,
            EndpointState::Unreachable { .. } => 2,
            EndpointState::WrongChain { .. } => return None,
        };
        Some((class, report.failures))
    }

    /// Posts one packet. An error here is weather; whatever the node itself says comes back as an answer.
    pub(super) fn ask(&self, packet: RequestPacket) -> BoxFuture<'static, TransportResult<ResponsePacket>> {
        let request = self.client.post(self.url.clone()).json(&packet);
        Box::pin(async move {
            let mut response = request.send().await.map_err(weather)?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(weather)? {
                if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                    return Err(TransportErrorKind::custom_str("answer is larger than 64 MiB"));
                }
                body.extend_from_slice(&chunk);
            }
            let excerpt = || String::from_utf8_lossy(&body).chars().take(EXCERPT_CHARS).collect::<String>();
            match serde_json::from_slice::<ResponsePacket>(&body) {
                // Some nodes put a proper JSON-RPC error into an HTTP error.
                Ok(answer) if status.is_success() || answer.is_error() => Ok(answer),
                Ok(_) => Err(TransportErrorKind::http_error(status.as_u16(), excerpt())),
                Err(_) if !status.is_success() => Err(TransportErrorKind::http_error(status.as_u16(), excerpt())),
                Err(source) => Err(TransportError::deser_err(source, excerpt())),
            }
        })
    }

    /// Asks for chain id and head, and settles what this endpoint is. `head_lag_max_s` is in seconds.
    pub(super) async fn check(&self, chain_id: u64, head_lag_max_s: u64) {
        if self.rank().is_none() {
            return;
        }
        let began = Instant::now();
        let seen = self.look().await;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.latency_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match seen {
            Ok((got, _)) if got != chain_id => {
                tracing::error!(endpoint = self.url.host_str(), got, want = chain_id, "endpoint is on another chain");
                report.state = EndpointState::WrongChain { got };
            }
            Ok((_, head)) => {
                report.head = head.number.to();
                report.head_time_s = head.timestamp.to();
                report.failures = 0;
                let is_fresh = now_s().saturating_sub(report.head_time_s) <= head_lag_max_s;
                report.state = if is_fresh { EndpointState::Healthy } else { EndpointState::Lagging };
            }
            Err(error) => {
                report.failures = report.failures.saturating_add(1);
                report.state = EndpointState::Unreachable { why: error.to_string() };
            }
        }
    }

    async fn look(&self) -> TransportResult<(u64, Head)> {
        let chain_id: U64 = self.call("eth_chainId", &[]).await?;
        let head = self.call("eth_getBlockByNumber", &["latest".into(), false.into()]).await?;
        Ok((chain_id.to(), head))
    }

    /// One call to this endpoint alone.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &[serde_json::Value],
    ) -> TransportResult<T> {
        let request = Request::new(method, Id::Number(1), params);
        let request = request.serialize().map_err(TransportError::ser_err)?;
        let answer = self.ask(RequestPacket::Single(request)).await?;
        match answer.first_payload() {
            Some(payload) if payload.is_success() => {
                let text = payload.as_success().map_or("null", |raw| raw.get());
                serde_json::from_str(text).map_err(|source| TransportError::deser_err(source, text))
            }
            Some(payload) => match payload.as_error() {
                Some(error) => Err(TransportError::ErrorResp(error.clone())),
                None => Err(TransportError::NullResp),
            },
            None => Err(TransportError::NullResp),
        }
    }

    /// A request that this endpoint did not answer.
    pub(super) fn note_failure(&self, why: &TransportError) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.failures = report.failures.saturating_add(1);
        if !matches!(report.state, EndpointState::WrongChain { .. }) {
            report.state = EndpointState::Unreachable { why: why.to_string() };
        }
    }

    /// A request that it answered. Its state waits for the next check: an answer says nothing about its head.
    pub(super) fn note_answer(&self) {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }
}

/// Builds the client that all endpoints share. `timeout` is for one whole request.
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// `without_url`: the path may hold an access token, and this text is logged.
fn weather(error: reqwest::Error) -> TransportError {
    TransportErrorKind::custom(error.without_url())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
