//! What a rotation came to.

use std::time::Duration;

use alloy::primitives::Address;
use serde::Serialize;
use signer::identity::pairing_code;

use super::remains::{Left, Remains, WHO_CAN};
use super::state::{Listed, Plan};
use crate::owner::Done;

/// What was done, what is left, and what comes next.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    old: String,
    new: Option<String>,
    code: Option<String>,
    owner: String,
    pub(super) announced: Option<Done>,
    pub(super) funded: Option<Done>,
    pub(super) sources: Vec<Moved>,
    pub(super) removed: Option<Done>,
    /// What the old key has still.
    left: Option<Left>,
    /// The vault holds nothing of the old key.
    pub(super) is_home: bool,
    pub(super) left_words: String,
    pub(super) next: String,
}

/// One source.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Moved {
    pub(super) source: Address,
    /// The new key is on its list.
    pub(super) registered: bool,
    is_active: bool,
    /// Why the new key is not on its list.
    why: Option<String>,
    pub(super) old: OldKey,
}

/// The old key on a source's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OldKey {
    /// It is on it. Without its pairing it takes no task.
    Listed,
    /// It is not on it.
    Gone,
}

// === impl Moved ===

impl Moved {
    pub(super) fn new(listed: &Listed, registered: bool, why: Option<String>) -> Moved {
        Moved { source: listed.source, registered, is_active: listed.is_active, why, old: OldKey::Listed }
    }

    /// Whether the old key's entry is not needed any more as a memory of what is to be moved.
    pub(super) fn may_leave(&self) -> bool {
        self.registered || !self.is_active
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn new(owner: Address, plan: &Plan) -> Answer {
        let new = plan.new.as_ref().map(|new| new.address);
        Answer {
            old: plan.old.to_string(),
            new: new.map(|new| new.to_string()),
            code: new.map(pairing_code),
            owner: owner.to_string(),
            announced: None,
            funded: None,
            sources: Vec::new(),
            removed: None,
            left: None,
            is_home: false,
            left_words: String::new(),
            next: String::new(),
        }
    }

    /// Takes in what the old key has at the end, after `waited`.
    pub(super) fn conclude(&mut self, remains: Remains, waited: Duration) {
        self.is_home = remains.is_home();
        self.left_words = remains.words();
        self.left = Some(remains.left());
        let command = match &self.new {
            Some(new) => format!("rig rotate {} {new} --wait-home 1d", self.old),
            None => format!("rig rotate {} --wait-home 1d", self.old),
        };
        let coming = match (self.is_home, waited.is_zero()) {
            (true, _) => "OLD has nothing in the vault any more.".to_owned(),
            (false, true) => format!(
                "{WHO_CAN} A rig that has the key does so by itself, now that it is removed: `{command}` waits for it. \
                 If the key is lost, that stake is stranded in the vault."
            ),
            (false, false) => format!(
                "It has not come home in that time. {WHO_CAN} `{command}` waits longer; if the key is lost, that \
                 stake is stranded in the vault."
            ),
        };
        self.next = match self.new {
            Some(_) => coming,
            None => format!(
                "{coming} Then raise the key's `generation` in the rig's settings, start it, and run \
                 `rig rotate {} NEW` with the address that it shows.",
                self.old
            ),
        };
    }

    pub(super) fn describe(&self) -> String {
        let mut lines = Vec::new();
        if let Some(new) = &self.new {
            lines.push(format!("{new} is paired with {} and takes the place of {}.", self.owner, self.old));
        }
        for moved in &self.sources {
            lines.push(match (&moved.why, moved.old) {
                (None, OldKey::Gone) => format!("Source {}: moved.", moved.source),
                (None, OldKey::Listed) => {
                    format!(
                        "Source {}: NEW is registered; OLD stays on the list, where it can do nothing.",
                        moved.source
                    )
                }
                (Some(why), _) => format!("Source {}: not moved: {why}.", moved.source),
            });
        }
        lines.push(match self.removed {
            Some(_) => format!("The pairing with {} is ended.", self.old),
            None => format!("{} was not paired any more.", self.old),
        });
        lines.push(format!("OLD has {}. {}", self.left_words, self.next));
        lines.join("\n")
    }
}
