//! Where requests are answered: policy first, then the ledger of usage, then the key.
//!
//! Invariants: usage is entered before the signature exists, so that no order of failures signs for free;
//! every refusal is logged by the name of its rule.

use std::cell::RefCell;
use std::time::Instant;

use signer::policy::{Policy, Usage};
use signer::protocol::{Answer, Request};

use crate::key::Key;

/// The key, the policy and what was signed lately. Answers without waiting; lives on one thread.
pub(crate) struct Desk {
    key: Key,
    policy: Policy,
    usage: RefCell<Usage>,
    /// Zero of the monotonic clock that the sliding windows use; a wall clock could be set back.
    began: Instant,
}

// === impl Desk ===

impl Desk {
    pub(crate) fn new(key: Key, policy: Policy) -> Self {
        Self { key, policy, usage: RefCell::default(), began: Instant::now() }
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let tx = match request {
            Request::Identity => return Answer::Identity(self.key.identity()),
            Request::Sign { tx } => tx,
        };
        let now = self.began.elapsed();
        let mut usage = self.usage.borrow_mut();
        match self.policy.check(tx, now, &usage) {
            Ok(permit) => {
                usage.enter(&permit, now);
                let signed = self.key.sign(&permit);
                tracing::debug!(tx = %signed.hash, wei = permit.gas_wei(), "transaction signed");
                Answer::Signed(signed)
            }
            Err(refusal) => {
                tracing::warn!(error = %refusal, "transaction refused");
                Answer::Refused { rule: refusal.rule, why: refusal.why }
            }
        }
    }
}
