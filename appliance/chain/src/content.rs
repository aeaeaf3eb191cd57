//! The documents behind links: fetched, checked and published.
//!
//! The contracts store full URLs that strangers wrote. So: a link is only ever read, by `GET` over http or https; no
//! address inside a private network is contacted for a stranger ([`guard`]); every document has a size and a time; and
//! when a link carries a CID, the bytes are what the CID says or they are not taken ([`cid`]).
//!
//! Hosts that the owner configured (`publish`, `gateways`) are trusted to be where they are, so they may stand in a
//! private network. They are not trusted to be honest: their bytes are checked like all others.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use self::cid::Cid;
use self::guard::GuardedResolver;

pub mod cid;

pub mod guard;

mod link;

pub mod fetch;

pub mod pin;

pub use fetch::{Fault, FetchError, Try};
pub use pin::{Link, Payload, PinError};

/// Slowest transfer that is still waited for, in bytes per second. With the size limit it bounds the time of any transfer.
const SLOWEST_BYTES_PER_S: u64 = 64 * 1024;

/// Where documents are published and read, and how long that may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateways {
    /// The pin API, such as `https://capi.ogpuscan.io/file/create`.
    pub publish: Url,
    /// IPFS gateways that are asked when the host in a link fails or lies, in this order. With or without `/ipfs/`.
    #[serde(default)]
    pub gateways: Vec<Url>,
    /// Whether links may lead into private networks, and images come from registries on this machine. For the local
    /// network and for tests.
    #[serde(default)]
    pub allow_private: bool,
    /// Time to connect, in milliseconds.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// Longest silence within a transfer, in milliseconds.
    #[serde(default = "default_idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    /// Time for one small document from one host, in milliseconds; big ones get a second more per 64 KiB.
    #[serde(default = "default_total_timeout_ms")]
    pub total_timeout_ms: u64,
}

/// Reads and publishes documents. A cheap handle on shared connections.
#[derive(Clone, Debug)]
pub struct Content {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gateways: Gateways,
    /// For hosts that strangers named.
    guarded: Client,
    /// For hosts that the owner named.
    trusted: Client,
}

/// Why there is no [`Content`].
#[derive(Debug, Error)]
#[error("set up the HTTP client for documents")]
pub struct SetUpError(#[source] reqwest::Error);

// === impl Gateways ===

fn default_connect_timeout_ms() -> u64 {
    10_000
}

fn default_idle_timeout_ms() -> u64 {
    15_000
}

/// Source: the SDK gives a publish 30 s.
fn default_total_timeout_ms() -> u64 {
    30_000
}

impl Gateways {
    /// Publishes at `publish` and reads every document from the host in its link alone.
    pub fn new(publish: Url) -> Gateways {
        Gateways {
            publish,
            gateways: Vec::new(),
            allow_private: false,
            connect_timeout_ms: default_connect_timeout_ms(),
            idle_timeout_ms: default_idle_timeout_ms(),
            total_timeout_ms: default_total_timeout_ms(),
        }
    }

    /// Where the configured gateways would serve `cid`.
    fn urls_of(&self, cid: &Cid) -> Vec<Url> {
        let url_of = |gateway: &Url| {
            let mut url = gateway.clone();
            let base = url.path().trim_end_matches('/').trim_end_matches("/ipfs").to_owned();
            url.set_path(&format!("{base}/ipfs/{cid}"));
            url
        };
        self.gateways.iter().map(url_of).collect()
    }

    /// Time for at most `bytes` from or to one host.
    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_millis(self.total_timeout_ms) + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
    }
}

// === impl Content ===

impl Content {
    /// Prepares the connections; contacts nobody.
    ///
    /// Errors: the TLS stack or the machine's list of root certificates cannot be used.
    pub fn new(gateways: Gateways) -> Result<Content, SetUpError> {
        let client = || {
            Client::builder()
                .user_agent(concat!("opengpu-rig/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_millis(gateways.connect_timeout_ms))
                .read_timeout(Duration::from_millis(gateways.idle_timeout_ms))
                // Each hop is checked by us before it is taken.
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would resolve names behind our back.
                .no_proxy()
                .referer(false)
        };
        let trusted = client().build().map_err(SetUpError)?;
        let guarded = client().dns_resolver(GuardedResolver).build().map_err(SetUpError)?;
        Ok(Content { inner: Arc::new(Inner { gateways, guarded, trusted }) })
    }

    /// What it was set up with.
    pub fn gateways(&self) -> &Gateways {
        &self.inner.gateways
    }
}
