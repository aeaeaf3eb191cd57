//! What several tests need: an emulator with a connection, a vendor, and frames that the crate has no word for.

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use swtpm::Emulator;
use tpm::policy::{self, PolicyDigest, Steps};
use tpm::{Authorized, CounterLimit, EcPoint, EcSignature, Fault, Meaning, PcrValues, Pcrs, Place, Tpm};

pub(crate) const SECRET: [u8; 32] = *b"the scalar of a provider's key..";
pub(crate) const OWNER: u32 = 0x4000_0001;
pub(crate) const LOCKOUT: u32 = 0x4000_000a;
pub(crate) const PLATFORM: u32 = 0x4000_000c;

pub(crate) fn place(emulator: &Emulator) -> Place {
    emulator.place().parse().expect("a place")
}

pub(crate) fn open(emulator: &Emulator) -> Tpm {
    Tpm::open(&place(emulator)).expect("the emulator answers")
}

pub(crate) fn emulator() -> (Emulator, Tpm) {
    let emulator = Emulator::start();
    let tpm = open(&emulator);
    (emulator, tpm)
}

/// The refusal's command, code and meaning.
pub(crate) fn refusal<T>(outcome: Result<T, Fault>) -> (&'static str, u32, Meaning) {
    match outcome {
        Err(Fault::Refused { command, code }) => (command, code.raw(), Fault::Refused { command, code }.meaning()),
        Err(fault) => panic!("{fault}: {fault:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// What is open in the TPM now.
pub(crate) fn handles(tpm: &mut Tpm) -> Vec<u32> {
    tpm.open_handles().expect("the handles")
}

/// Whoever approves policies.
pub(crate) struct Vendor(SigningKey);

impl Vendor {
    pub(crate) fn new(seed: u8) -> Self {
        Self(SigningKey::from_slice(&[seed; 32]).expect("a scalar"))
    }

    pub(crate) fn point(&self) -> EcPoint {
        EcPoint::from(self.0.verifying_key())
    }

    /// Approves `steps` with `values`, for `policy_ref`.
    pub(crate) fn approve<'a>(&self, steps: Steps, values: &PcrValues, policy_ref: &'a [u8]) -> Authorized<'a> {
        let approved = steps.digest(values);
        let digest = policy::approval(&approved, policy_ref);
        let signature: Signature = self.0.sign_prehash(&digest).expect("a signature");
        let signature = EcSignature::from_bytes(&signature.to_bytes().into());
        Authorized { vendor: self.point(), policy_ref, approved, steps, signature, then: None }
    }
}

/// A counter at the usual index that may show at most this.
pub(crate) fn at_most(at_most: u64) -> Option<CounterLimit> {
    Some(CounterLimit { index: tpm::RELEASE_COUNTER, at_most })
}

/// The digest under which a secret is sealed for `vendor`, and, for tier S, the machine's PCR 7.
pub(crate) fn sealed_for(vendor: &Vendor, policy_ref: &[u8], then: Option<&PcrValues>) -> PolicyDigest {
    let authorized = PolicyDigest::EMPTY.authorize(&vendor.point(), policy_ref);
    then.map_or(authorized, |values| authorized.pcr(values))
}

pub(crate) const MEASURED: Pcrs = Pcrs::of([11, 12]);

// Frames by hand.

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
}

/// One entry of an authorisation area: a password, or a session without proof.
pub(crate) fn authorisation(session: u32, proof: &[u8]) -> Vec<u8> {
    [&session.to_be_bytes()[..], &[0, 0, 1], &sized(proof)].concat()
}

pub(crate) fn password(words: &[u8]) -> Vec<u8> {
    authorisation(0x4000_0009, words)
}

/// Sends a command; gives the code, and what follows the header.
pub(crate) fn raw(
    tpm: &mut Tpm,
    code: u32,
    handles: &[u32],
    authorisations: &[Vec<u8>],
    parameters: &[u8],
) -> (u32, Vec<u8>) {
    let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
    let area = authorisations.concat();
    let size = |bytes: usize| u32::try_from(bytes).expect("short").to_be_bytes();
    let mut body = [&code.to_be_bytes()[..], &handles].concat();
    if !area.is_empty() {
        body.extend([&size(area.len())[..], &area].concat());
    }
    body.extend(parameters);
    let tag = if area.is_empty() { [0x80, 1] } else { [0x80, 2] };
    let frame = [&tag[..], &size(6 + body.len()), &body].concat();
    let answer = tpm.exchange(&frame).expect("an answer");
    (u32::from_be_bytes(answer[6..10].try_into().expect("a code")), answer[10..].to_vec())
}

pub(crate) fn must(outcome: (u32, Vec<u8>)) -> Vec<u8> {
    assert_eq!(outcome.0, 0, "refused with {:#x}", outcome.0);
    outcome.1
}

/// TPM2_Clear by the platform.
pub(crate) fn clear(tpm: &mut Tpm) {
    must(raw(tpm, 0x126, &[PLATFORM], &[password(&[])], &[]));
}

/// TPM2_HierarchyChangeAuth.
pub(crate) fn set_password(tpm: &mut Tpm, hierarchy: u32, words: &[u8]) {
    must(raw(tpm, 0x129, &[hierarchy], &[password(&[])], &sized(words)));
}

/// TPM2_StartAuthSession: a policy session without salt. `kind`: 1 policy, 3 trial.
pub(crate) fn session(tpm: &mut Tpm, kind: u8) -> u32 {
    let parameters = [&sized(&[7; 32])[..], &[0, 0, kind, 0, 0x10, 0, 0x0b]].concat();
    let answer = must(raw(tpm, 0x176, &[0x4000_0007, 0x4000_0007], &[], &parameters));
    u32::from_be_bytes(answer[..4].try_into().expect("a handle"))
}

/// TPM2_Unseal with this authorisation.
pub(crate) fn unseal_with(tpm: &mut Tpm, object: u32, authorisation: Vec<u8>) -> u32 {
    raw(tpm, 0x15e, &[object], &[authorisation], &[]).0
}

/// TPM2_FlushContext.
pub(crate) fn flush(tpm: &mut Tpm, handle: u32) {
    must(raw(tpm, 0x165, &[], &[], &handle.to_be_bytes()));
}

/// TPML_PCR_SELECTION of PCRs 11 and 12 with SHA-256.
pub(crate) fn measured() -> Vec<u8> {
    vec![0, 0, 0, 1, 0, 0x0b, 3, 0, 0x18, 0]
}
