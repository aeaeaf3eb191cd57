//! A source: the container image behind a kind of task, and what the rig makes of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, ProviderId, SourceId, Wei};
use crate::step::Trouble;
use crate::task::Delivery;

/// A set of environments. Source: the `imageEnvironments` bit mask (CPU 1, NVIDIA 2, AMD 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environments(pub u8);

/// One environment of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Needs no accelerator.
    Cpu,
    /// Needs an NVIDIA GPU.
    Nvidia,
    /// Needs an AMD GPU.
    Amd,
}

impl Environment {
    /// Best first: an accelerator earns more than a processor.
    pub const BY_PREFERENCE: [Environment; 3] = [Environment::Nvidia, Environment::Amd, Environment::Cpu];

    /// The contract's bit for it.
    pub fn bit(self) -> u8 {
        match self {
            Environment::Cpu => 1,
            Environment::Nvidia => 2,
            Environment::Amd => 4,
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Environment::Cpu => "cpu",
            Environment::Nvidia => "nvidia",
            Environment::Amd => "amd",
        })
    }
}

impl Environments {
    /// Whether it is one of them.
    pub fn has(self, environment: Environment) -> bool {
        self.0 & environment.bit() != 0
    }

    /// The best environment that both sides have.
    pub fn best_common(self, ours: Environments) -> Option<Environment> {
        Environment::BY_PREFERENCE.into_iter().find(|e| self.has(*e) && ours.has(*e))
    }
}

impl FromIterator<Environment> for Environments {
    fn from_iter<I: IntoIterator<Item = Environment>>(all: I) -> Self {
        Environments(all.into_iter().fold(0, |bits, e| bits | e.bit()))
    }
}

impl fmt::Display for Environments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            Environment::BY_PREFERENCE.into_iter().filter(|e| self.has(*e)).map(|e| e.to_string()).collect();
        if names.is_empty() {
            return f.write_str("nothing known");
        }
        f.write_str(&names.join("+"))
    }
}

/// What the chain says of a source at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReading {
    /// The source's contract.
    pub id: SourceId,
    /// Who published it.
    pub client: ProviderId,
    /// False once the client has inactivated it.
    pub is_active: bool,
    /// Link of the metadata document that names the compose files.
    pub metadata_url: String,
    /// The environments it has an image for.
    pub environments: Environments,
    /// The least payment of its tasks, in wei.
    pub min_payment_wei: Wei,
    /// The lockup that it asks of a provider, in wei.
    pub min_lockup_wei: Wei,
    /// The longest life of its tasks, in seconds.
    pub max_expiry_s: u64,
    /// How its tasks are paid.
    pub delivery: Delivery,
    /// Unix seconds of its last update.
    pub updated_at: u64,
    /// Whether the contract lists this rig as a registrant.
    pub is_registered: bool,
}

/// Where a source stands on this rig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub enum SourceStage {
    /// Not served, for a reason that a new reading may lift.
    Refused {
        /// Why, in words for the owner.
        why: String,
    },
    /// To be fetched, checked, unpacked and started.
    Preparing,
    /// Running, and not yet on the contract's list.
    Registering,
    /// Running and registered: its tasks can be taken.
    Serving,
    /// Registered, and stopped because memory was short: prepared again when a task of it is worth it.
    Resting,
    /// To be stopped: no longer active, or no longer ours.
    Stopping,
}

/// Whom a source's services may talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Nobody.
    None,
    /// Each other and the callback.
    Internal,
    /// Public addresses too.
    Internet,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reach::None => "none",
            Reach::Internal => "internal",
            Reach::Internet => "internet",
        })
    }
}

/// What a source's container was given: it stands in the receipt of whatever it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Whom it may talk to.
    pub network: Reach,
    /// What it has beyond other sources, because the owner allowed it by name.
    pub exceptions: Vec<String>,
    /// Manifests of its images, in the order in which its services start.
    pub images: Vec<Digest>,
    /// The kernel bundle that serves it in place of containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest>,
    /// The environment whose compose file runs, where it is not the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

/// Why a source cannot be prepared, until it is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// `updated_at` of the reading that cannot be prepared.
    pub updated_at: u64,
    /// Why, in words for the owner.
    pub why: String,
}

/// A source as the book holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The newest reading.
    pub reading: SourceReading,
    /// The environment in which it runs here.
    pub environment: Environment,
    /// Where it stands.
    pub stage: SourceStage,
    /// Whether the owner took it down; lifted when the contract lists the rig anew.
    pub is_removed: bool,
    /// `updated_at` of the reading that the running container was made from.
    pub prepared_from: Option<u64>,
    /// Unix seconds at which its container was seen to come up last; 0 before the first time.
    #[serde(default)]
    pub up_at: u64,
    /// The functions that the running container says it has; `None` while unknown.
    pub functions: Option<BTreeSet<String>>,
    /// What the running container was given, or the last one that ran.
    #[serde(default)]
    pub conditions: Option<Conditions>,
    /// What of its compose file is not followed, in words for the owner.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether volumes of it may stand on this rig: from the first try to prepare it until it is forgotten.
    #[serde(default)]
    pub has_volumes: bool,
    /// Whether the step that the stage awaits has been handed out.
    pub is_asked: bool,
    /// How often the awaited step has fallen through in a row.
    pub tries: u32,
    /// How often its container has ended by itself since it last gave a result.
    #[serde(default)]
    pub falls: u32,
    /// Unix seconds before which the awaited step is not tried again.
    pub not_before: u64,
    /// The newest trouble, if the last try fell through.
    pub trouble: Option<Trouble>,
    /// The update at which preparing it was given up for good; lifted by a newer update and by a start.
    #[serde(default)]
    pub given_up: Option<GivenUp>,
    /// Smoothed run time of its tasks, in milliseconds; `None` before the first.
    pub usual_run_ms: Option<u64>,
}
