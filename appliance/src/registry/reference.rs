//! The name of an image: `[registry/]repository[:tag][@sha256:…]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// The longest reference that is read, in bytes. Source: the distribution specification allows 255 for a repository and
/// 128 for a tag.
const REFERENCE_BYTES_MAX: usize = 600;

/// How much of a text that names no image its error repeats, in characters.
const TEXT_CHARS_SHOWN: usize = 80;

/// The registry of a reference that names none, and where it answers.
const DEFAULT_REGISTRY: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// The name of an image, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A text that names no image.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} names no image: {why}")]
pub struct ReferenceError {
    /// Cut short; it is written escaped, since whoever reads it may be a terminal.
    text: String,
    why: &'static str,
}

// === impl Reference ===

impl Reference {
    /// `host[:port]` of the registry, as written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `host[:port]` that is asked.
    pub fn endpoint(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY.0 { DEFAULT_REGISTRY.1 } else { &self.registry }
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest if there is one, else the tag, else `latest`.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Whether the registry is this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let bad = |why| ReferenceError { text: text.chars().take(TEXT_CHARS_SHOWN).collect(), why };
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(bad("it is too long"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| super::parse_digest(digest).is_none()) {
            return Err(bad("what follows `@` is no sha256 digest"));
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| tag.is_empty() || tag.len() > 128 || !tag.chars().all(is_tag)) {
            return Err(bad("its tag has characters that no tag has"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY.0, name.to_owned()),
            None => (DEFAULT_REGISTRY.0, format!("library/{name}")),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if registry.is_empty() || !registry.chars().all(is_host) {
            return Err(bad("its registry is no host name"));
        }
        if repository
            .split('/')
            .any(|part| part.is_empty() || !part.chars().all(is_repository) || part.starts_with('.'))
        {
            return Err(bad("its repository is empty or has characters that no repository has"));
        }
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn is_tag(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

fn is_repository(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_as_every_client_does() {
        let hex = "a".repeat(64);
        for (text, registry, repository, version) in [
            ("python", "docker.io", "library/python", "latest"),
            ("openchat/text2text:1.2", "docker.io", "openchat/text2text", "1.2"),
            ("127.0.0.1:5000/a/b:x", "127.0.0.1:5000", "a/b", "x"),
            ("localhost/a", "localhost", "a", "latest"),
            (&format!("ghcr.io/a/b:x@sha256:{hex}"), "ghcr.io", "a/b", &format!("sha256:{hex}")),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(
                (reference.registry(), reference.repository(), reference.version()),
                (registry, repository, version)
            );
        }
    }

    #[test]
    fn a_text_that_could_lead_elsewhere_is_refused() {
        for text in
            ["", "a//b", "a/../b", "A/b", "a:b c", "a@sha256:12", "ho st.x/a", "x.y/%2e%2e", "a?b", &"a".repeat(700)]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
