//! `rig attest verify`: one line for each check.
//!
//! Invariants: a check that needs what an earlier one did not yield is left open, and an open check is not a good one;
//! the claim at the end is made only if every line holds, and comes from the verifier, never from here.

use std::time::{SystemTime, UNIX_EPOCH};

use attest::evidence::PCRS;
use attest::{
    Anchors, Answer, AttestFault, AttestationKey, Challenge, Claim, EndorsementKey, Evidence, Examined, Fingerprint,
    Measured, Motion, Stamp, Storage, TlsKey, Voucher,
};
use serde::Serialize;

use super::{VerifyArgs, document, evidence, roots, with_quote};
use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Holds,
    /// By the owner's word and not by a maker's.
    HoldsByPin,
    Fails,
    /// Nothing to check it with.
    Open,
}

#[derive(Debug, Serialize)]
struct Check {
    what: String,
    outcome: Outcome,
    words: String,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

#[derive(Debug, Serialize)]
struct Verdict {
    checks: Vec<Check>,
    #[serde(flatten)]
    claim: Claim,
}

/// What the files hold, read and not judged.
struct Given {
    evidence: Evidence,
    anchors: Anchors,
    answered: Option<(Challenge, Answer)>,
    before: Option<Evidence>,
    now: i64,
}

// === impl VerifyArgs ===

impl VerifyArgs {
    pub(super) fn run(&self, screen: Screen) -> Result<(), Failure> {
        let given = self.given()?;
        let mut checks = Checks::default();
        let ak = self.enrolment(&given, &mut checks);
        let measured = ak.as_ref().and_then(|ak| self.quote(&given, ak, &mut checks));
        if let (Some(ak), Some(before)) = (&ak, &given.before) {
            checks.say("the TPM went on from where it was", moved(&given.evidence, before, ak));
        }
        let claim = if checks.all_hold() { claim(&given, measured.as_ref()) } else { None };
        match claim {
            Some(claim) => {
                let verdict = Verdict { checks: checks.0, claim };
                screen.answer(&verdict, || format!("{}\n\n{}", lines(&verdict.checks), verdict.claim));
                Ok(())
            }
            None => {
                screen.note(&lines(&checks.0));
                Err(checks.failure(&given))
            }
        }
    }

    fn given(&self) -> Result<Given, Failure> {
        let evidence = with_quote(evidence(&self.evidence)?, self.quote.as_deref())?;
        let roots = self.roots.as_deref().map(roots::load).transpose()?.unwrap_or_default();
        let anchors = Anchors { roots, pinned: self.pin.into_iter().collect() };
        let answered = match (&self.challenge, &self.answer) {
            (Some(challenge), Some(answer)) => Some((document(challenge)?, document(answer)?)),
            _ => None,
        };
        let before = self.before.as_deref().map(super::evidence).transpose()?;
        // A clock before 1970 or after the end of time makes every certificate invalid, as it should.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Given { evidence, anchors, answered, before, now: i64::try_from(now).unwrap_or(i64::MAX) })
    }

    /// Everything about the keys. Returns the attestation key where it is one.
    fn enrolment(&self, given: &Given, checks: &mut Checks) -> Option<AttestationKey> {
        let enrolment = &given.evidence.enrolment;
        let ek = checks.parsed("the endorsement key is one", EndorsementKey::parse(enrolment.ek.as_bytes()), |ek| {
            format!("fingerprint {}", Fingerprint::of(ek))
        });
        match &ek {
            Some(ek) => {
                let vouched = given.anchors.vouch(ek, &enrolment.certificates, given.now);
                checks.vouched(vouched, self.pin.filter(|pin| *pin != Fingerprint::of(ek)));
            }
            None => checks.open(VOUCHED, "there is no endorsement key to vouch for"),
        }
        let signs = |_: &AttestationKey| "by its attributes, it signs only what its TPM made".to_owned();
        let ak = checks.parsed("the attestation key is one", AttestationKey::parse(enrolment.ak.as_bytes()), signs);
        let stays = |_: &TlsKey| "by its attributes, made in a TPM and never to leave it".to_owned();
        let tls = checks.parsed("the TLS key is one", TlsKey::parse(enrolment.tls.as_bytes()), stays);
        let certified = "the attestation key certifies the TLS key";
        match (&ak, &tls) {
            (Some(ak), Some(tls)) => {
                let said = ak.certifies(tls, &enrolment.certified, enrolment.nonce.as_bytes());
                checks.say(certified, said.map(|_| "it is where the attestation key is".to_owned()));
            }
            (None, _) | (_, None) => checks.open(certified, "one of the two is not such a key"),
        }
        if let Some(tls) = &tls {
            let said = tls.requested(enrolment.request.as_bytes());
            checks.say("the certificate request is the TLS key's", said.map(|()| "signed by it".to_owned()));
        }
        let answered = "the TPM answered a challenge";
        match (&given.answered, &ek, &ak) {
            (Some((challenge, answer)), Some(ek), Some(ak)) => {
                let said = challenge.settle(ek, ak, answer);
                checks.say(answered, said.map(|()| "the attestation key is in it".to_owned()));
            }
            (None, ..) => {
                checks.open(answered, "without --challenge and --answer the attestation key may be software");
            }
            (Some(_), ..) => checks.open(answered, "one of the two keys is not such a key"),
        }
        ak
    }

    fn quote(&self, given: &Given, ak: &AttestationKey, checks: &mut Checks) -> Option<Measured> {
        let what = "the quote is signed over its PCRs, now";
        let Some(quote) = &given.evidence.quote else {
            if self.nonce.is_some() || !self.pcrs.is_empty() {
                checks.open(what, "there is no quote in the evidence");
            }
            return None;
        };
        let nonce = self.nonce.as_ref().unwrap_or(&quote.nonce);
        let measured = match ak.quotes(quote, nonce.as_bytes()) {
            Ok(measured) => measured,
            Err(fault) => {
                checks.say(what, Err::<String, _>(fault));
                return None;
            }
        };
        match self.nonce {
            Some(_) => checks.say(what, Ok::<_, AttestFault>(covered(&measured))),
            None => checks.open(what, "without --nonce it may be an old one"),
        }
        for (index, expected) in &self.pcrs {
            let said = measured.expects(*index, expected).map(|()| "as expected".to_owned());
            checks.say(&format!("PCR {index}"), said);
        }
        Some(measured)
    }
}

const VOUCHED: &str = "somebody vouches for the endorsement key";

// === impl Checks ===

impl Checks {
    fn push(&mut self, what: &str, outcome: Outcome, words: String) {
        self.0.push(Check { what: what.to_owned(), outcome, words });
    }

    fn open(&mut self, what: &str, why: &str) {
        self.push(what, Outcome::Open, why.to_owned());
    }

    fn say<E: std::error::Error>(&mut self, what: &str, said: Result<String, E>) {
        match said {
            Ok(words) => self.push(what, Outcome::Holds, words),
            Err(fault) => self.push(what, Outcome::Fails, chain(&fault)),
        }
    }

    fn parsed<T, E: std::error::Error>(
        &mut self,
        what: &str,
        parsed: Result<T, E>,
        words: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let said = parsed.as_ref().map(words);
        self.say(what, said.map_err(|fault| Words(chain(fault))));
        parsed.ok()
    }

    /// `other_pin` is the owner's pin where it is not this TPM's.
    fn vouched(&mut self, vouched: Result<Voucher, attest::ChainFault>, other_pin: Option<Fingerprint>) {
        if let Some(pin) = other_pin {
            return self.push(VOUCHED, Outcome::Fails, format!("this is another TPM than the pinned {pin}"));
        }
        match vouched {
            Ok(Voucher::Maker(maker)) => {
                let model = maker.model.map_or_else(String::new, |model| format!(", as {model}"));
                let words = format!("its certificate is by `{}`{model}, under `{}`", maker.issuer, maker.root);
                self.push(VOUCHED, Outcome::Holds, words);
            }
            Ok(Voucher::Owner(_)) => {
                let words = "nobody but you, who pinned it: weaker than a maker's certificate";
                self.push(VOUCHED, Outcome::HoldsByPin, words.to_owned());
            }
            Err(fault) => self.push(VOUCHED, Outcome::Fails, chain(&fault)),
        }
    }

    fn all_hold(&self) -> bool {
        self.bad().next().is_none()
    }

    fn bad(&self) -> impl Iterator<Item = &Check> {
        self.0.iter().filter(|check| matches!(check.outcome, Outcome::Fails | Outcome::Open))
    }

    fn failure(&self, given: &Given) -> Failure {
        let bad: Vec<String> = self.bad().map(|check| format!("{}: {}", check.what, check.words)).collect();
        let words = format!("{} of {} checks do not hold: {}", bad.len(), self.0.len(), bad.join("; "));
        let failure = Failure::new(Exit::Failed, words);
        let ek = EndorsementKey::parse(given.evidence.enrolment.ek.as_bytes());
        match ek {
            Ok(ek) if given.evidence.enrolment.certificates.is_empty() && given.anchors.pinned.is_empty() => {
                let fingerprint = Fingerprint::of(&ek);
                failure.next(format!(
                    "if the rig's own screen shows the same fingerprint, repeat with --pin {fingerprint}"
                ))
            }
            _ if self.bad().all(|check| check.outcome == Outcome::Open) => {
                failure.next("make a challenge with `rig attest challenge`, and give what it asks for")
            }
            _ => failure.next("do not trust this rig with anything until you know why"),
        }
    }
}

/// An error that is words already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(String);

/// A fault and what lies behind it, in one line.
fn chain(fault: &dyn std::error::Error) -> String {
    let mut words = fault.to_string();
    let mut source = fault.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

fn lines(checks: &[Check]) -> String {
    let mark = |outcome| match outcome {
        Outcome::Holds => "holds      ",
        Outcome::HoldsByPin => "holds (pin)",
        Outcome::Fails => "FAILS      ",
        Outcome::Open => "not shown  ",
    };
    let lines: Vec<String> =
        checks.iter().map(|check| format!("{}  {}: {}", mark(check.outcome), check.what, check.words)).collect();
    lines.join("\n")
}

fn covered(measured: &Measured) -> String {
    let indices: Vec<String> =
        (0..PCRS).filter(|index| measured.pcrs.get(*index).is_some()).map(|index| index.to_string()).collect();
    format!("covers PCR {}", indices.join(", "))
}

/// The verifier's own claim, from the verifier's own order of checks.
fn claim(given: &Given, measured: Option<&Measured>) -> Option<Claim> {
    let examined = Examined::of(&given.evidence.enrolment, &given.anchors, given.now, None).ok()?;
    let (challenge, answer) = given.answered.as_ref()?;
    let enrolled = examined.activate(challenge, answer).ok()?;
    Some(enrolled.claim(measured))
}

/// How the TPM's counters moved since `before`. Both looks must be signed by `ak`.
fn moved(now: &Evidence, before: &Evidence, ak: &AttestationKey) -> Result<String, Words> {
    let words = |fault: AttestFault| Words(chain(&fault));
    let earlier = latest(before, ak).map_err(words)?;
    let later = latest(now, ak).map_err(words)?;
    let storage = if before.enrolment.tls == now.enrolment.tls { Storage::Same } else { Storage::Other };
    let motion = earlier.clock.until(&later.clock, storage);
    match motion {
        Motion::Onward => Ok(motion.words().to_owned()),
        Motion::Cleared | Motion::SetBack | Motion::ClearedOrSetBack => Err(Words(motion.words().to_owned())),
    }
}

/// The stamp of the quote, or of the certification where there is none.
fn latest(evidence: &Evidence, ak: &AttestationKey) -> Result<Stamp, AttestFault> {
    if let Some(quote) = &evidence.quote {
        return ak.quotes(quote, quote.nonce.as_bytes()).map(|measured| measured.stamp);
    }
    let enrolment = &evidence.enrolment;
    // A TLS key that cannot be read certifies nothing; its fault was said on a line of its own.
    let tls = TlsKey::parse(enrolment.tls.as_bytes()).map_err(|_| AttestFault::Signature)?;
    ak.certifies(&tls, &enrolment.certified, enrolment.nonce.as_bytes())
}
