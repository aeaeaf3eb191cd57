//! Whom a pull may ask.
//!
//! A stranger chose the image's name, and a registry chooses where it sends us on. Invariants:
//! - Only public addresses are connected to, as for links ([`guard`]), with two exceptions that the owner makes: a
//!   registry that they list, at its own host and port; and, for images whose registry is this machine, loopback.
//! - Every hop is checked like the first, and by the address that is connected to.
//! - Never from TLS to none; a token goes to nobody but whom it was asked for.
//! - Where a pull may go is decided by the image's registry alone: a public one cannot send us to this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use chain::content::guard::{self, GuardedResolver, PrivateAddress};
use reqwest::header::{ACCEPT, LOCATION};
use reqwest::{Client, ClientBuilder, Response};
use thiserror::Error;
use url::{Host, Url};

use super::{PullError, Reference};

/// The longest silence in a transfer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Hosts that one request may be sent on to. Source: registries hand a blob's bytes over to one content network.
const REDIRECTS_MAX: usize = 5;

/// The name of this machine, which is not left to a name server.
const LOCALHOST: &str = "localhost";

/// Registries beyond the public internet with TLS, which anybody may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Registries that are asked without TLS and may stand in a private network, as an image's name writes them.
    pub plain: Vec<String>,
    /// Whether a registry may be this machine.
    pub loopback: bool,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Unanswered {
    /// The connection could not be made or did not hold.
    #[error("the request broke")]
    Broken(#[source] reqwest::Error),
    /// One redirect too many.
    #[error("it is sent on more than {REDIRECTS_MAX} times")]
    TooManyRedirects,
    /// A redirect to nowhere.
    #[error("it is sent on to a place that {0}")]
    BadRedirect(&'static str),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) accept: String,
    pub(super) token: Option<String>,
    /// Time for all of the answer, redirects included.
    pub(super) within: Duration,
}

/// The connections of all pulls.
#[derive(Debug)]
pub(super) struct Reach {
    allowed: Allowed,
    /// To public addresses, and to loopback where it is spelled as such.
    guarded: Client,
    /// To whatever host the owner listed.
    listed: Client,
}

// === impl Asking ===

impl Asking {
    /// Anything, without a token.
    pub(super) fn within(within: Duration) -> Asking {
        Asking { accept: "*/*".to_owned(), token: None, within }
    }
}

// === impl Reach ===

impl Reach {
    /// Prepares the connections; contacts nobody. Errors: the TLS stack cannot be used.
    pub(super) fn new(allowed: Allowed) -> reqwest::Result<Reach> {
        let this_machine = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        // Port 0 stands for the port of the URL.
        let this_machine = this_machine.map(|ip| SocketAddr::new(ip, 0));
        let guarded = client().dns_resolver(GuardedResolver).resolve_to_addrs(LOCALHOST, &this_machine).build()?;
        Ok(Reach { allowed, guarded, listed: client().build()? })
    }

    /// Whether the registry of `reference` is asked without TLS.
    pub(super) fn is_plain(&self, reference: &Reference) -> bool {
        reference.is_loopback() || self.lists(reference)
    }

    /// A GET for the image `reference`, sent on as often as it may be. Errors: nobody answers, or somebody may not
    /// be asked.
    pub(super) async fn get(
        &self,
        reference: &Reference,
        mut url: Url,
        mut asking: Asking,
    ) -> Result<Response, PullError> {
        let began = Instant::now();
        let asked = url.clone();
        let unanswered = |source| PullError::Unreachable { url: asked.to_string(), source };
        for _hop in 0..=REDIRECTS_MAX {
            let client = self.client(reference, &url).map_err(|at| refused(reference, &url, at))?;
            let left = asking.within.saturating_sub(began.elapsed());
            let request = client.get(url.clone()).timeout(left).header(ACCEPT, &asking.accept);
            let request = asking.token.iter().fold(request, |request, token| request.bearer_auth(token));
            let response = request.send().await.map_err(|error| match guard::refused_address(&error) {
                Some(at) => refused(reference, &url, at),
                None => unanswered(Unanswered::Broken(error)),
            })?;
            let Some(to) = target(&url, &response).map_err(|why| unanswered(Unanswered::BadRedirect(why)))? else {
                return Ok(response);
            };
            if to.origin() != url.origin() {
                asking.token = None;
            }
            url = to;
        }
        Err(unanswered(Unanswered::TooManyRedirects))
    }

    /// With which connections `url` may be asked for the image `reference`.
    fn client(&self, reference: &Reference, url: &Url) -> Result<&Client, PrivateAddress> {
        if is_itself(reference, url) && self.lists(reference) {
            return Ok(&self.listed);
        }
        match loopback(url) {
            Some(_) if reference.is_loopback() && (self.allowed.loopback || self.lists(reference)) => {}
            Some(ip) => return Err(PrivateAddress(ip)),
            None => guard::check_literal(url)?,
        }
        Ok(&self.guarded)
    }

    fn lists(&self, reference: &Reference) -> bool {
        self.allowed.plain.iter().any(|host| host == reference.registry())
    }
}

/// What is said when the owner's network begins at `ip`, where `url` leads. Only of the registry itself is said how to
/// allow it: whom it sends us to is nothing to allow.
fn refused(reference: &Reference, url: &Url, PrivateAddress(ip): PrivateAddress) -> PullError {
    let why = if !is_itself(reference, url) {
        format!("it leads the rig to {ip}, which is not on the public internet")
    } else if reference.is_loopback() {
        format!("its registry is this machine ({ip}), which content.allow_private = true would allow")
    } else {
        format!(
            "its registry is at {ip}, which is not on the public internet; if it is yours, list {:?} in \
             limits.plain_registries",
            reference.registry()
        )
    };
    PullError::Refused { image: reference.to_string(), why }
}

/// Whether `url` is at the host and port of the image's registry.
fn is_itself(reference: &Reference, url: &Url) -> bool {
    let endpoint = reference.endpoint();
    url.host_str().zip(url.port_or_known_default()).is_some_and(|(host, port)| {
        endpoint.eq_ignore_ascii_case(&format!("{host}:{port}"))
            || (url.port().is_none() && endpoint.eq_ignore_ascii_case(host))
    })
}

fn client() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("opengpu-rig/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(IDLE_TIMEOUT)
        // Each hop is checked by us before it is taken.
        .redirect(reqwest::redirect::Policy::none())
        // A proxy would resolve names behind our back.
        .no_proxy()
        .referer(false)
}

/// The address of this machine that `url` spells out, if it does.
fn loopback(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Domain(name) => (name == LOCALHOST).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Host::Ipv4(ip) => ip.is_loopback().then_some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => ip.is_loopback().then_some(IpAddr::V6(ip)),
    }
}

/// Where an answer of `from` sends us on, if it does. Errors: completes "a place that".
fn target(from: &Url, response: &Response) -> Result<Option<Url>, &'static str> {
    // 300 and 304 are no redirects for a plain `GET`.
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).ok_or("it does not name")?;
    let to = from.join(to).map_err(|_| "is no URL")?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err("has no TLS"),
        (_, "http" | "https") if to.host().is_some() => Ok(Some(to)),
        _ => Err("is no web address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(plain: &[&str], loopback: bool) -> Reach {
        let plain = plain.iter().map(ToString::to_string).collect();
        Reach::new(Allowed { plain, loopback }).expect("clients")
    }

    fn may(reach: &Reach, image: &str, url: &str) -> bool {
        let (reference, url) = (image.parse().expect("a reference"), url.parse().expect("a URL"));
        reach.client(&reference, &url).is_ok()
    }

    #[test]
    fn only_this_machine_and_what_is_listed_is_asked_without_tls() {
        let reach = reach(&["10.0.0.7:5000"], true);
        for (image, is_plain) in [
            ("127.0.0.1:5000/a", true),
            ("localhost/a", true),
            ("10.0.0.7:5000/a", true),
            ("10.0.0.7/a", false),
            ("0.0.0.0:5000/a", false),
            ("localhost.evil.example/a", false),
            ("a", false),
        ] {
            assert_eq!(reach.is_plain(&image.parse().expect("a reference")), is_plain, "{image}");
        }
    }

    #[test]
    fn where_a_pull_may_go_is_decided_by_its_own_registry() {
        let (home, bare) = (reach(&[], true), reach(&[], false));
        for url in ["http://127.0.0.1:1/", "http://localhost/", "https://[::1]/", "http://127.1:7/"] {
            assert!(may(&home, "127.0.0.1:5000/a", url), "{url}");
            assert!(!may(&home, "public.example/a", url), "{url}");
            assert!(!may(&bare, "127.0.0.1:5000/a", url), "{url}");
        }
        let (far, url) = ("public.example/a".parse().expect("one"), "https://10.0.0.1/token".parse().expect("one"));
        let said = refused(&far, &url, PrivateAddress(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))).to_string();
        assert!(said.contains("10.0.0.1") && !said.contains("limits."), "no registry talks its way in: {said}");
        for url in ["http://10.0.0.1/", "http://169.254.169.254/", "http://0/", "http://[::ffff:127.0.0.1]/"] {
            assert!(!may(&home, "127.0.0.1:5000/a", url), "{url}");
        }
        let listed = reach(&["10.0.0.7:5000", "127.0.0.1:5000"], false);
        assert!(may(&listed, "10.0.0.7:5000/a", "http://10.0.0.7:5000/v2/"));
        assert!(may(&listed, "127.0.0.1:5000/a", "http://127.0.0.1:5000/v2/"));
        assert!(
            may(&listed, "10.0.0.7:5000/a", "https://public.example/blob"),
            "a name is checked when it is resolved"
        );
        for (image, url) in [
            ("10.0.0.7:5000/a", "http://10.0.0.7:22/"),
            ("10.0.0.7:5000/a", "http://10.0.0.8:5000/"),
            ("10.0.0.7:5000/a", "http://127.0.0.1:5000/"),
            ("public.example/a", "http://10.0.0.7:5000/v2/"),
            ("127.0.0.1:5001/a", "http://127.0.0.1:5000/"),
        ] {
            assert!(!may(&listed, image, url), "{image} {url}");
        }
    }
}
