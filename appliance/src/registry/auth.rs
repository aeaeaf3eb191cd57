//! The registry's challenge for a token: `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`.
//! Anonymous pulls only: the rig has no account anywhere.

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::reach::{Asking, Reach, Unanswered};
use super::{PullError, Reference};

/// The largest answer of a token service that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// What a registry wants to see a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

// === impl Challenge ===

impl Challenge {
    pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
        let (scheme, text) = headers.get(WWW_AUTHENTICATE)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let field = |name: &str| {
            text.split(',')
                .filter_map(|pair| pair.trim().split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.trim_matches('"').to_owned()))
        };
        Some(Challenge { realm: field("realm")?, service: field("service") })
    }

    /// Asks for a token to pull from the repository of `reference`.
    pub(super) async fn token(&self, reach: &Reach, reference: &Reference) -> Result<String, PullError> {
        let url = self.realm.clone();
        if !(url.starts_with("https://") || reference.is_loopback()) {
            let why = "its registry wants the token fetched without TLS".to_owned();
            return Err(PullError::Refused { image: reference.to_string(), why });
        }
        let scope = format!("repository:{}:pull", reference.repository());
        let mut asked = url::Url::parse(&url).map_err(|source| PullError::Nonsense {
            url: url.clone(),
            what: "token realm",
            source: Box::new(source),
        })?;
        asked.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = &self.service {
            asked.query_pairs_mut().append_pair("service", service);
        }
        let unreachable = |source| PullError::Unreachable { url: url.clone(), source: Unanswered::Broken(source) };
        let mut response = reach.get(reference, asked, Asking::within(super::DOCUMENT_MAX)).await?;
        if response.status() != StatusCode::OK {
            return Err(PullError::Status { url: url.clone(), status: response.status() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > TOKEN_BYTES_MAX {
                let why = "its token service sent more than a token".to_owned();
                return Err(PullError::Refused { image: reference.to_string(), why });
            }
        }
        let nonsense = |source: serde_json::Error| PullError::Nonsense {
            url: url.clone(),
            what: "token",
            source: Box::new(source),
        };
        let token: Token = serde_json::from_slice(&body).map_err(nonsense)?;
        token.token.or(token.access_token).ok_or_else(|| PullError::Refused {
            image: reference.to_string(),
            why: "its token service sent no token".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_and_anything_else_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Challenge::of(&headers), None);
        let text = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"x\"";
        headers.insert(WWW_AUTHENTICATE, text.parse().expect("a header"));
        let challenge = Challenge::of(&headers).expect("a challenge");
        assert_eq!(challenge.realm, "https://auth.example/token");
        assert_eq!(challenge.service.as_deref(), Some("registry.example"));
        headers.insert(WWW_AUTHENTICATE, "Basic realm=\"x\"".parse().expect("a header"));
        assert_eq!(Challenge::of(&headers), None);
    }
}
