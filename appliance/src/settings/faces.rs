//! Where the rig shows itself: its name, its page on the local network, its voice there. All of it is off by default; the
//! image of a rig switches it on for an owner who says nothing.

use std::fmt;
use std::net::SocketAddr;

use alloy_primitives::Address;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest name of a rig, in characters. It is part of a host name, whose labels hold 63, and of lines of 80.
const NAME_MAX: usize = 32;

/// What people call a rig: letters, digits and hyphens inside, so that it is also a host name's label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RigName(String);

/// The page that people on the local network can read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusPage {
    /// Whether there is one at all. Where the image serves it by itself, an owner says no here.
    pub enabled: bool,
    /// Where it is served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// What the local network is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lan {
    /// Whether the rig says by mDNS that it is here.
    pub announce: bool,
    /// The only network interface to speak on; `None`: all of them.
    pub interface: Option<String>,
}

// === impl StatusPage ===

impl StatusPage {
    /// Where it is to be served.
    pub fn at(&self) -> Option<SocketAddr> {
        self.listen.filter(|_| self.enabled)
    }
}

impl Default for StatusPage {
    fn default() -> StatusPage {
        StatusPage { enabled: true, listen: None }
    }
}

// === impl RigName ===

impl RigName {
    /// The name of a rig that was given none: from the address that it signs as.
    pub fn of(address: Address) -> RigName {
        RigName(format!("rig-{}", hex::encode(&address[..3])))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RigName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RigName, D::Error> {
        let text = String::deserialize(from)?;
        let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || sign == b'-';
        let is_name = (1..=NAME_MAX).contains(&text.len())
            && text.bytes().all(is_sign)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !is_name {
            let rule = "letters, digits and hyphens inside, such as \"attic\"";
            return Err(D::Error::custom(format!("a rig's name is 1 to {NAME_MAX} {rule}, not {text:?}")));
        }
        Ok(RigName(text))
    }
}
