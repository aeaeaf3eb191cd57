//! Where packages come from: a Debian mirror and its security archive.
//!
//! Invariants: neither address is written anywhere in the repository. They are those of the machine's own apt, or the one
//! that the person names; what comes from them is checked against the lock, so a bad mirror can only fail the build.

use std::process::Command;

use thiserror::Error;
use url::Url;

use crate::lock::Suite;

/// Schemes that apt's own client understands, and files for an archive on a disk.
const SCHEMES: [&str; 3] = ["http", "https", "file"];

/// The base addresses; each ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    main: Url,
    security: Url,
}

/// Why there is no mirror.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the words of each are its documentation")]
pub enum MirrorsError {
    #[error("ask apt for this machine's mirrors: apt-get does not start")]
    Start(#[source] std::io::Error),
    #[error("this machine's apt names no Debian mirror; name one with --mirror URL")]
    None,
    #[error("{text:?} is no address of a mirror; it looks like https://mirror.example/debian")]
    Url {
        text: String,
        #[source]
        source: url::ParseError,
    },
    #[error("a mirror over {scheme:?} is not understood; use http, https or file")]
    Scheme { scheme: String },
}

// === impl Mirrors ===

impl Mirrors {
    /// The mirrors that this machine's apt is set up with. Its release does not matter: Debian keeps all of them in one
    /// archive. If there is no security archive among them, it is taken to be beside the main one.
    pub fn of_this_machine() -> Result<Mirrors, MirrorsError> {
        let format = "$(REPO_URI) $(LABEL)";
        let asked = Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output();
        let asked = asked.map_err(MirrorsError::Start)?;
        Mirrors::among(&String::from_utf8_lossy(&asked.stdout))
    }

    /// The mirror at `text`, with the security archive beside it as Debian's own mirrors have it: `URL-security`.
    pub fn at(text: &str) -> Result<Mirrors, MirrorsError> {
        let text = text.trim_end_matches('/');
        Ok(Mirrors { main: base(text)?, security: base(&format!("{text}-security"))? })
    }

    /// The base address of `suite`; it ends with a slash.
    pub fn url(&self, suite: Suite) -> &Url {
        match suite {
            Suite::Main => &self.main,
            Suite::Security => &self.security,
        }
    }

    /// Reads lines of `ADDRESS LABEL`, as apt prints them.
    fn among(lines: &str) -> Result<Mirrors, MirrorsError> {
        let labelled = |label: &str| {
            let mut pairs = lines.lines().filter_map(|line| line.split_once(' '));
            pairs.find(|(_, found)| found.trim() == label).map(|(url, _)| url)
        };
        let beside = Mirrors::at(labelled("Debian").ok_or(MirrorsError::None)?)?;
        let security = labelled("Debian-Security").map(base).transpose()?;
        Ok(Mirrors { security: security.unwrap_or(beside.security), main: beside.main })
    }
}

fn base(text: &str) -> Result<Url, MirrorsError> {
    let text = format!("{}/", text.trim_end_matches('/'));
    let url = Url::parse(&text).map_err(|source| MirrorsError::Url { text: text.clone(), source })?;
    match SCHEMES.contains(&url.scheme()) {
        true => Ok(url),
        false => Err(MirrorsError::Scheme { scheme: url.scheme().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, main: &str, security: &str) {
        let mirrors = Mirrors::among(lines).expect(lines);
        assert_eq!((mirrors.main.as_str(), mirrors.security.as_str()), (main, security), "{lines}");
    }

    #[test]
    fn the_mirrors_are_those_of_apt() {
        let both =
            "http://d.example/debian/ Debian\nhttp://d.example/debian/ Debian\nhttp://s.example/sec/ Debian-Security";
        check(both, "http://d.example/debian/", "http://s.example/sec/");
        check(
            "https://n.example Node\nhttp://d.example/debian/ Debian",
            "http://d.example/debian/",
            "http://d.example/debian-security/",
        );
    }

    #[test]
    fn a_machine_without_debian_is_told_to_name_a_mirror() {
        for lines in ["", "\n", "https://n.example/ Node", "Debian"] {
            assert!(matches!(Mirrors::among(lines), Err(MirrorsError::None)), "{lines:?}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for text in ["", "mirror", "/srv/debian", "ftp://d.example/debian", "ssh://d.example/"] {
            assert!(Mirrors::at(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Mirrors::at("https://d.example/debian//").expect("whole").main.as_str(),
            "https://d.example/debian/"
        );
    }
}
