//! The machine as one call of this crate sees it: its directory, its fields, its TPM.
//!
//! Invariants: the TPM is asked only when something needs it, over one connection; a fault is logged where it is met
//! and goes on as its meaning.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tpm::{Authorized, Blob, Fault, Meaning, Place, RELEASE_COUNTER, Route, Srk, Tpm};
use zeroize::Zeroizing;

use crate::approval::{Approval, Approvals, DOCUMENT_BYTES_MAX, Rule, VendorKey};
use crate::binding::{self, Bound};
use crate::fields::{self, Fields};
use crate::file::{Body, Damage, KeyFile, Sealed};
use crate::life::{self, KeyState, Trial};
use crate::secret::Scalar;
use crate::store::{Locked, Store, at};
use crate::{IdentityError, Options, Tier, Wish, firmware};

/// How long a TPM is waited for that the firmware lists and the kernel does not show yet: its driver tests it first.
const DRIVER_MAX: Duration = Duration::from_secs(15);
const DRIVER_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Rig<'a> {
    pub(crate) options: &'a Options,
    pub(crate) store: Store,
    pub(crate) locked: Locked,
    pub(crate) fields: Fields,
    /// Whether parts that may be fields have yet to show themselves.
    pub(crate) is_awaiting_parts: bool,
    bench: Bench,
}

enum Bench {
    Unasked,
    Here(Box<Tpm>),
    Gone(Meaning),
}

/// Why a key file gives no key.
pub(crate) enum Shut {
    /// The file is not what was written.
    Damaged(Damage),
    /// What has to open it does not.
    Trial(Trial),
}

// === impl Rig ===

impl<'a> Rig<'a> {
    /// Takes the directory's lock, and reads the fields. Errors: `NoVendor`, and those of the directory.
    pub(crate) fn new(options: &'a Options) -> Result<Self, IdentityError> {
        if let Wish::Exactly(tier) = options.wish
            && tier.needs_approval()
            && options.vendor.is_none()
        {
            return Err(IdentityError::NoVendor { wish: options.wish });
        }
        let store = Store::prepare(&options.state)?;
        let locked = store.lock()?;
        let fields = fields::read(&options.hardware);
        let is_awaiting_parts = firmware::is_young(&options.hardware) && fields::awaits_gpus(&options.hardware);
        Ok(Self { options, store, locked, fields, is_awaiting_parts, bench: Bench::Unasked })
    }

    /// The connection. Errors: why there is none.
    pub(crate) fn tpm(&mut self) -> Result<&mut Tpm, Meaning> {
        if let Bench::Unasked = self.bench {
            self.bench = match &self.options.tpm {
                None => Bench::Gone(Meaning::Absent),
                Some(place) => match connect(place, firmware::lists_tpm(&self.options.hardware)) {
                    Ok(tpm) => Bench::Here(Box::new(tpm)),
                    Err(fault) => Bench::Gone(met("open the TPM", &fault)),
                },
            };
        }
        match &mut self.bench {
            Bench::Here(tpm) => Ok(tpm),
            Bench::Gone(meaning) => Err(*meaning),
            Bench::Unasked => Err(Meaning::Failing),
        }
    }

    /// Asks the TPM something. Errors: what its refusal means.
    pub(crate) fn ask<T>(
        &mut self,
        step: &'static str,
        question: impl FnOnce(&mut Tpm) -> Result<T, Fault>,
    ) -> Result<T, Meaning> {
        question(self.tpm()?).map_err(|fault| met(step, &fault))
    }

    /// The scalar of a sealed key. What passes at once is tried again once, over a new connection.
    pub(crate) fn unseal(&mut self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Shut> {
        let blob = Blob::from_bytes(&sealed.blob).map_err(|_| Shut::Damaged(Damage::Part { part: "blob" }))?;
        let first = self.unseal_once(sealed.tier, &blob);
        match first {
            Err(Trial::Tpm(Meaning::HandleGone | Meaning::Retry | Meaning::PcrChanged | Meaning::Failing)) => {
                self.bench = Bench::Unasked;
                self.unseal_once(sealed.tier, &blob).map_err(Shut::Trial)
            }
            first => first.map_err(Shut::Trial),
        }
    }

    fn unseal_once(&mut self, tier: Tier, blob: &Blob) -> Result<Zeroizing<Vec<u8>>, Trial> {
        let Some(rule) = Rule::of(tier) else {
            let opened =
                self.ask("unseal the key", |tpm| under_srk(tpm, |tpm, srk| tpm.unseal(srk, blob, &Route::CommandCode)));
            return opened.map_err(Trial::Tpm);
        };
        let Some(vendor) = self.options.vendor else {
            tracing::error!(%tier, "no vendor's key for PCR policies is configured");
            return Err(Trial::Tpm(Meaning::NotApproved));
        };
        let approval = self.approved(&rule, &vendor)?;
        let measured = approval.measured();
        let steps = rule.steps(measured.counter_max);
        let opened = self.ask("unseal the key", |tpm| {
            let authorized = Authorized {
                vendor: vendor.point(),
                policy_ref: rule.policy_ref.as_bytes(),
                approved: steps.digest(&measured.values),
                steps,
                signature: approval.signature(),
                then: (!rule.literal.is_empty()).then_some(rule.literal),
            };
            under_srk(tpm, |tpm, srk| tpm.unseal(srk, blob, &Route::Authorized(authorized)))
        });
        opened.map_err(Trial::Tpm)
    }

    /// The vendor's approval of what booted here.
    fn approved(&mut self, rule: &Rule, vendor: &VendorKey) -> Result<Approval, Trial> {
        let values = match self.tpm().map_err(Trial::Tpm)?.pcrs(&rule.pcrs) {
            Err(Fault::NoSha256Bank) => return Err(Trial::NoBank),
            values => values.map_err(|fault| Trial::Tpm(met("read the measurements", &fault)))?,
        };
        let approvals = approvals(self.options).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "approvals not usable");
            Approvals::default()
        });
        approvals.find(vendor, rule.tier, &values).cloned().ok_or_else(|| {
            let measured: Vec<_> = values.iter().map(|(pcr, value)| format!("{pcr}:{}", hex::encode(value))).collect();
            tracing::warn!(tier = %rule.tier, measured = measured.join(" "), "no approval of what booted");
            Trial::Tpm(Meaning::NotApproved)
        })
    }

    /// Whether a key can be sealed at `tier`. Errors: why not.
    pub(crate) fn is_fit_for(&mut self, tier: Tier) -> Result<(), KeyState> {
        let probe = self.ask("probe the TPM", Tpm::probe).map_err(life::unborn)?;
        tracing::debug!(?probe, "TPM probed");
        if !probe.p256 {
            tracing::error!("the TPM has no P-256");
            return Err(KeyState::TpmFailing);
        }
        let Some(rule) = Rule::of(tier) else { return Ok(()) };
        if !probe.sha256_bank {
            return Err(KeyState::NoSha256Bank);
        }
        if tier == Tier::S && !firmware::has_secure_boot(&self.options.hardware) {
            tracing::error!("no tier S: Secure Boot is off, or EFI's variables cannot be read");
            return Err(KeyState::SoftwareNotApproved);
        }
        let vendor = self.options.vendor.ok_or(KeyState::SoftwareNotApproved)?;
        let approval = self.approved(&rule, &vendor).map_err(state_of)?;
        let limit = approval.measured().counter_max;
        let counter = self.ask("find the counter", |tpm| tpm.define_counter(RELEASE_COUNTER)).map_err(life::unborn)?;
        if counter > limit {
            tracing::warn!(counter, limit, "the counter is beyond what the running release may have");
            return Err(KeyState::SoftwareRolledBack);
        }
        Ok(())
    }

    /// A key file of `tier` for this TPM, opened once. Errors: `Random`; inside, why the TPM would not.
    pub(crate) fn seal(
        &mut self,
        tier: Tier,
        scalar: &Scalar,
        generation: u32,
    ) -> Result<Result<KeyFile, KeyState>, IdentityError> {
        let evidence = match binding::bind(&self.fields) {
            // The key is thrown away: only whether it would come back is of interest.
            Ok((bound, _)) => bound.to_bytes(),
            Err(binding::BindError::TooFewFields { .. }) => Vec::new(),
            Err(binding::BindError::Random(source)) => return Err(IdentityError::Random(source.into())),
        };
        let sealed = self.seal_with(tier, scalar, evidence);
        Ok(sealed.map(|sealed| KeyFile::new(scalar.address(), generation, Body::Sealed(sealed))).map_err(state_of))
    }

    fn seal_with(&mut self, tier: Tier, scalar: &Scalar, evidence: Vec<u8>) -> Result<Sealed, Trial> {
        let (rule, vendor) = (Rule::of(tier), self.options.vendor);
        let sealed = self.ask("seal the key", |tpm| {
            let policy = match (rule, vendor) {
                (None, _) | (Some(_), None) => tpm::PolicyDigest::EMPTY.unseal_only(),
                (Some(rule), Some(vendor)) => {
                    let literal = if rule.literal.is_empty() { Default::default() } else { tpm.pcrs(&rule.literal)? };
                    rule.policy(&vendor, &literal)
                }
            };
            let ek = Sha256::digest(tpm.ek_name()?).into();
            let blob = under_srk(tpm, |tpm, srk| tpm.seal(srk, scalar.bytes(), &policy))?.to_bytes();
            Ok(Sealed { tier, ek, evidence, blob })
        });
        let sealed = sealed.map_err(Trial::Tpm)?;
        match self.unseal(&sealed) {
            Ok(opened) if opened[..] == scalar.bytes()[..] => Ok(sealed),
            Ok(_) | Err(Shut::Damaged(_)) => {
                tracing::error!("the TPM gave back something else than it sealed");
                Err(Trial::Tpm(Meaning::Failing))
            }
            Err(Shut::Trial(trial)) => Err(trial),
        }
    }

    /// Whether this is the TPM with the endorsement key `ek`. `None`: it does not say.
    pub(crate) fn same_ek(&mut self, ek: [u8; 32]) -> Option<bool> {
        let name = self.ask("read the endorsement key", Tpm::ek_name).ok()?;
        Some(Sha256::digest(name)[..] == ek)
    }

    /// Whether this is the machine of `evidence`. `None`: there was or is too little to tell.
    pub(crate) fn same_machine(&self, evidence: &[u8]) -> Option<bool> {
        let bound = Bound::parse(evidence).ok()?;
        match binding::open(&bound, &self.fields) {
            Ok(_) => Some(true),
            Err(_) if usize::from(self.fields.count()) < binding::FIELDS_MIN => None,
            Err(_) => Some(false),
        }
    }

    /// What cannot be: the file is held by our lock, and was there a moment ago.
    pub(crate) fn lost(&self, name: &str) -> IdentityError {
        at("find", &self.options.state.join(name))(io::ErrorKind::NotFound.into())
    }

    pub(crate) fn into_tpm(self) -> Option<Tpm> {
        match self.bench {
            Bench::Here(tpm) => Some(*tpm),
            Bench::Unasked | Bench::Gone(_) => None,
        }
    }
}

/// The vendor's approvals. A file that is not there is an empty one. Errors: `Approvals`, `File`.
pub(crate) fn approvals(options: &Options) -> Result<Approvals, IdentityError> {
    let Some(path) = &options.approvals else { return Ok(Approvals::default()) };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Approvals::default()),
        opened => opened.map_err(at("open", path))?,
    };
    let mut document = Vec::new();
    let limit = u64::try_from(DOCUMENT_BYTES_MAX + 1).expect("a bound of some KiB");
    file.take(limit).read_to_end(&mut document).map_err(at("read", path))?;
    let unusable = |source| IdentityError::Approvals { path: path.clone(), source: Box::new(source) };
    Approvals::parse(&document).map_err(unusable)
}

/// Connects, and waits for the driver of a device that `is_listed`.
fn connect(place: &Place, is_listed: bool) -> Result<Tpm, Fault> {
    let deadline = Instant::now() + DRIVER_MAX;
    loop {
        match (Tpm::open(place), place) {
            (Err(Fault::Absent { .. }), Place::Device(_)) if is_listed && Instant::now() < deadline => {
                std::thread::sleep(DRIVER_PAUSE);
            }
            (opened, _) => return opened,
        }
    }
}

/// Does something under the storage root key, and leaves no object in the TPM.
///
/// Another program may have put a key of our template in the place for one since, and then what was made under the
/// other looks as if the TPM had been cleared: so what the persistent key refuses is tried under the one made again.
pub(crate) fn under_srk<T>(tpm: &mut Tpm, act: impl Fn(&mut Tpm, &Srk) -> Result<T, Fault>) -> Result<T, Fault> {
    let srk = tpm.srk()?;
    let is_persistent = srk.is_persistent();
    let refused = match under(tpm, srk, &act) {
        Err(fault) if is_persistent && fault.meaning() == Meaning::Integrity => fault,
        done => return done,
    };
    match tpm.srk_made_again() {
        Ok(srk) => under(tpm, srk, &act),
        // As in a TPM that others own: what the persistent key said stands.
        Err(_) => Err(refused),
    }
}

fn under<T>(tpm: &mut Tpm, srk: Srk, act: impl Fn(&mut Tpm, &Srk) -> Result<T, Fault>) -> Result<T, Fault> {
    let done = act(tpm, &srk);
    let flushed = tpm.flush_srk(srk);
    let done = done?;
    flushed.map(|()| done)
}

fn state_of(trial: Trial) -> KeyState {
    match trial {
        Trial::Opened => KeyState::Open,
        Trial::NoBank => KeyState::NoSha256Bank,
        Trial::Unbound => KeyState::BindingBroken,
        Trial::Tpm(meaning) => life::unborn(meaning),
    }
}

fn met(step: &'static str, fault: &Fault) -> Meaning {
    let meaning = fault.meaning();
    tracing::warn!(step, error = fault as &dyn std::error::Error, ?meaning, "TPM fault");
    meaning
}
