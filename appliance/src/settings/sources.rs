//! What holds for a source: the rig-wide `[jail]`, and `[[source]]` where one is different.
//!
//! Default deny: a source that is not listed is allowed no exception, and reaches its own services and the callback
//! only. Most of today's sources fetch a model when they start and need `network = "internet"`; that is for the owner to
//! say, as it lets a stranger's code speak from the owner's address.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use work::SourceId;

use crate::compose::Exceptions;

/// What every source's jail is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jail {
    /// What services reach.
    pub network: NetworkPolicy,
    /// The most that one named volume may hold, in bytes.
    pub volume_bytes_max: u64,
}

/// What the services of a source reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPolicy {
    /// Nobody, not even the callback: a source that answers by callback cannot serve so.
    None,
    /// The source's own services and the callback.
    #[default]
    Internal,
    /// Public hosts too; never private, link-local or metadata addresses.
    Internet,
}

/// One `[[source]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedSource {
    /// Which.
    pub address: SourceId,
    /// What it may be run without.
    #[serde(default)]
    pub allow: Exceptions,
    /// In place of [`Jail::network`].
    pub network: Option<NetworkPolicy>,
    /// In place of [`Jail::volume_bytes_max`].
    pub volume_bytes_max: Option<u64>,
}

/// What holds for one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// What it may be run without.
    pub allow: Exceptions,
    /// What its services reach.
    pub network: NetworkPolicy,
    /// The most that one of its named volumes may hold, in bytes.
    pub volume_bytes_max: u64,
}

/// What holds for each source.
#[derive(Clone, Debug)]
pub struct SourcePolicies {
    jail: Jail,
    listed: BTreeMap<SourceId, ListedSource>,
}

// === impl Jail ===

impl Default for Jail {
    fn default() -> Jail {
        Jail { network: NetworkPolicy::default(), volume_bytes_max: 64 << 30 }
    }
}

// === impl SourcePolicies ===

impl SourcePolicies {
    /// `jail` for all, `listed` for some.
    pub fn new(jail: Jail, listed: Vec<ListedSource>) -> SourcePolicies {
        SourcePolicies { jail, listed: listed.into_iter().map(|source| (source.address, source)).collect() }
    }

    /// What holds for `source`.
    pub fn of(&self, source: SourceId) -> SourceSettings {
        let listed = self.listed.get(&source);
        SourceSettings {
            allow: listed.map(|listed| listed.allow.clone()).unwrap_or_default(),
            network: listed.and_then(|listed| listed.network).unwrap_or(self.jail.network),
            volume_bytes_max: listed.and_then(|listed| listed.volume_bytes_max).unwrap_or(self.jail.volume_bytes_max),
        }
    }
}

/// Reads `[[source]]`, each address once: with two tables for one source nobody knows which one holds.
pub(super) fn listed_once<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ListedSource>, D::Error> {
    let listed = Vec::<ListedSource>::deserialize(from)?;
    for (at, source) in listed.iter().enumerate() {
        if listed[..at].iter().any(|earlier| earlier.address == source.address) {
            return Err(D::Error::custom(format!("[[source]] {} stands here twice", source.address)));
        }
    }
    Ok(listed)
}
