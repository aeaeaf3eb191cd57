//! The heads: whose page a request asks for, and what a browser may do with the answer.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use hyper::http::uri::Authority;
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

use super::html;
use crate::settings::RigName;

/// What the browser is told that the page needs: its own style, by its hash, and nothing else in the world.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(html::STYLE));
    let style = format!("style-src 'sha256-{hash}'");
    let policy = format!("default-src 'none'; {style}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    HeaderValue::try_from(policy).expect("ASCII")
});

/// Whose page is asked for.
pub(super) struct Host;

// === impl Host ===

impl Host {
    /// Whether this `Host` is one that only points here on purpose: an address, the rig's name, or a `.local` name. Any
    /// other name may belong to somebody whose page wants to read ours.
    pub(super) fn is_ours(host: &[u8], name: &RigName) -> bool {
        let Ok(authority) = Authority::try_from(host) else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let is_v6 = || host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::parse::<Ipv6Addr>);
        host.parse::<std::net::Ipv4Addr>().is_ok()
            || matches!(is_v6(), Some(Ok(_)))
            || host.eq_ignore_ascii_case(name.as_str())
            || host.to_ascii_lowercase().strip_suffix(".local").is_some_and(|label| !label.is_empty())
    }
}

/// An answer with all that a browser has to know of it.
pub(super) fn dressed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let text = HeaderValue::from_static;
    headers.insert(CONTENT_TYPE, text(kind));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(CACHE_CONTROL, text("no-store"));
    headers.insert(REFERRER_POLICY, text("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, text("nosniff"));
    headers.insert(X_FRAME_OPTIONS, text("DENY"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), text("same-origin"));
    answer
}
