//! Where requests are answered: policy first, then the journal, then the usage, then the key.
//!
//! Invariants: journal and usage are entered before the signature exists, so that no order of failures signs twice or
//! for free; every refusal is logged by the name of its rule. One request is answered at a time: while the TPM works on
//! one, some hundred milliseconds on a chip, signatures wait, and so requests to it are counted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use alloy::consensus::TypedTransaction;
use signer::Signed;
use signer::policy::{Refusal, Rule};
use signer::protocol::{Answer, Request};

use crate::attestation;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::minutes::Minutes;

/// Requests to the TPM in any 60 seconds: a handshake now and then, an attestation each hour, and room for retries.
const TPM_CALLS_PER_MINUTE_MAX: usize = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// The key, the policy and what was signed so far. Lives on one thread.
pub(crate) struct Desk(RefCell<Inside>);

struct Inside {
    keeper: Keeper,
    minutes: Minutes,
    journal: Journal,
    /// When each request to the TPM in the last minute came, oldest first.
    tpm_calls: VecDeque<Instant>,
}

// === impl Desk ===

impl Desk {
    pub(crate) fn new(keeper: Keeper, minutes: Minutes, journal: Journal) -> Self {
        Self(RefCell::new(Inside { keeper, minutes, journal, tpm_calls: VecDeque::new() }))
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let mut inside = self.0.borrow_mut();
        let answer = match request {
            Request::Identity => Ok(inside.identify()),
            Request::Sign { tx } => inside.sign(tx).map(Answer::Signed),
            Request::Enrol { .. }
            | Request::Quote { .. }
            | Request::Activate { .. }
            | Request::TlsIdentity
            | Request::TlsSign { .. } => inside.attest(request),
        };
        answer.unwrap_or_else(|refusal| {
            tracing::warn!(error = %refusal, "request refused");
            Answer::Refused { rule: refusal.rule, why: refusal.why }
        })
    }

    /// How long to wait before [`Desk::retry`]; `None` as long as there is nothing to try.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.0.borrow().keeper.pause()
    }

    pub(crate) fn retry(&self) {
        self.0.borrow_mut().keeper.retry();
    }
}

// === impl Inside ===

impl Inside {
    fn identify(&self) -> Answer {
        self.keeper.identity().map_or_else(|| self.closed(), Answer::Identity)
    }

    fn closed(&self) -> Answer {
        Answer::Closed { state: self.keeper.state(), address: self.keeper.closed() }
    }

    fn sign(&mut self, tx: &TypedTransaction) -> Result<Signed, Refusal> {
        let now = self.minutes.now();
        let permit = self.keeper.policy()?.check(tx, now, self.minutes.usage())?;
        let entered = self.journal.enter(permit, now)?;
        self.minutes.enter(entered.permit(), now);
        let signed = self.keeper.sign(&entered)?;
        tracing::debug!(tx = %signed.hash, wei = entered.permit().gas_wei(), "transaction signed");
        Ok(signed)
    }

    fn attest(&mut self, request: &Request) -> Result<Answer, Refusal> {
        if self.keeper.identity().is_none() {
            return Ok(self.closed());
        }
        attestation::check(request)?;
        self.count_tpm_call()?;
        attestation::answer(&mut self.keeper, request)
    }

    fn count_tpm_call(&mut self) -> Result<(), Refusal> {
        let now = Instant::now();
        while self.tpm_calls.front().is_some_and(|at| now - *at >= MINUTE) {
            self.tpm_calls.pop_front();
        }
        match self.tpm_calls.len() {
            TPM_CALLS_PER_MINUTE_MAX.. => {
                let most = TPM_CALLS_PER_MINUTE_MAX;
                Err(Rule::TpmCallsPerMinute.broken(format!("{most} in the last minute, which is the most")))
            }
            _ => {
                self.tpm_calls.push_back(now);
                Ok(())
            }
        }
    }
}
