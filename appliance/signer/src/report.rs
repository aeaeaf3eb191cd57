//! What the signer says of its key on stdout: once, when it starts or is asked.

use std::io::{self, Write};
use std::path::Path;

use alloy::primitives::Address;
use identity::Outcome;
use signer::identity::pairing_code;
use signer::{Identity, KeyState};

use crate::keeper::{state_of, tier_of};

/// Who signs, or why nobody does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// Who signs; `None` if the key is closed and has no successor.
    pub(crate) identity: Option<Identity>,
    /// Whether the key is open.
    pub(crate) state: KeyState,
    /// The address of the closed key, where its file still tells.
    pub(crate) closed: Option<Address>,
}

// === impl Report ===

impl Report {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let (state, closed) = (state_of(outcome.state), outcome.replaces.map(Address::from));
        let identity = outcome.active.as_ref().map(|opened| Identity {
            address: opened.address.into(),
            tier: tier_of(opened.tier),
            fields: opened.fields,
            state,
            replaces: closed,
        });
        Self { identity, state, closed }
    }

    /// As JSON one line; with a `socket` one line as well; else some lines, of which the first is the address alone.
    pub(crate) fn say(&self, json: bool, socket: Option<&Path>) -> io::Result<()> {
        let text = match json {
            true => format!("{}\n", self.json(socket)),
            false => self.text(socket),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn json(&self, socket: Option<&Path>) -> serde_json::Value {
        let address = self.identity.map(|identity| identity.address);
        let mut said = serde_json::json!({
            "address": address,
            "tier": self.identity.map(|identity| identity.tier),
            "fields": self.identity.map(|identity| identity.fields),
            "state": self.state,
            "replaces": self.closed,
            "pairing_code": address.map(pairing_code),
        });
        if let Some(socket) = socket {
            said["socket"] = serde_json::json!(socket);
        }
        said
    }

    fn text(&self, socket: Option<&Path>) -> String {
        let Self { identity, state, closed } = self;
        let old = closed.map_or_else(String::new, |address| format!(" in place of {address}"));
        match (identity, socket) {
            (Some(identity), Some(socket)) => {
                let (address, kept, code, at) =
                    (identity.address, identity.kept(), identity.pairing_code(), socket.display());
                format!("{address} (tier {kept}, {state}{old}, pairing code {code}) on {at}\n")
            }
            (Some(identity), None) => {
                let (address, kept, code) = (identity.address, identity.kept(), identity.pairing_code());
                format!("{address}\npairing code {code}\ntier {kept}\n{state}{old}\n{}", next(*state))
            }
            (None, Some(socket)) => format!("no key ({state}) on {}\n", socket.display()),
            (None, None) => format!("no key\n{state}{old}\n{}", next(*state)),
        }
    }
}

fn next(state: KeyState) -> String {
    match state.next() {
        "" => String::new(),
        next => format!("{next}\n"),
    }
}
