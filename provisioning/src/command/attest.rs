//! `rig attest`: whether a rig's keys are in a genuine TPM, and what that TPM measured.
//!
//! Invariants: nothing here speaks to a rig or to the network, files go in and a verdict comes out; the verdict is good
//! only if every check holds, and a check that could not be made does not hold.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use attest::evidence::{EvidenceFormat, Nonce};
use attest::{
    AttestationKey, Challenge, Document, EndorsementKey, Enrolment, Evidence, Fingerprint, Hex, KeyFault, Quote,
};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::screen::Screen;

mod roots;
mod verify;

/// Check the evidence of a rig's TPM.
///
/// Proves, as far as it can be proven, that a rig's keys are in a genuine TPM and cannot be copied, and shows what the
/// TPM measured at boot. Needs no TPM and no network.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, from a rig's enrolment to a verdict:
  rig attest challenge enrolment.json --out challenge.json > credential.json
      Give credential.json to the rig; its TPM alone can answer it.
  rig attest verify enrolment.json --roots makers/ --challenge challenge.json --answer answer.json
  rig attest verify enrolment.json --roots makers/ --challenge challenge.json --answer answer.json \\
      --quote quote.json --nonce \"$NONCE\" --pcr 7=\"$PCR7\"
      NONCE is what you had asked the rig to quote over, such as from: openssl rand -hex 32;
      PCR7 is the value that you expect there, as 64 hexadecimal digits")]
pub(crate) struct Attest {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Challenge(ChallengeArgs),
    Verify(VerifyArgs),
}

/// Make a challenge that only the rig's TPM can answer.
///
/// Prints the credential to give to the rig. What the answer must be goes to a file of yours; keep it secret and keep
/// it: with the rig's answer it proves, at any later time, that the attestation key is in that TPM.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig attest challenge enrolment.json --out challenge.json > credential.json")]
struct ChallengeArgs {
    /// The rig's enrolment, or evidence with one in it.
    #[arg(value_name = "ENROLMENT")]
    enrolment: PathBuf,
    /// Where to keep the challenge; a file that is not there yet.
    #[arg(long, value_name = "SECRET_FILE")]
    out: PathBuf,
}

/// Check evidence, line by line.
///
/// Ends with 0 only if every line holds. Without --challenge and --answer nothing shows that the attestation key is in a
/// TPM, so that line does not hold; without --nonce a quote may be an old one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig attest verify evidence.json --roots makers/ --challenge challenge.json --answer answer.json \\
      --nonce 5f0c…
  rig attest verify enrolment.json --pin 4be2… --challenge challenge.json --answer answer.json
      For a TPM without a certificate, such as in many processors: your word stands in for its maker's.
      Compare the fingerprint with the rig's own screen before you pin it.")]
struct VerifyArgs {
    /// The rig's evidence, or its enrolment alone.
    #[arg(value_name = "EVIDENCE")]
    evidence: PathBuf,
    /// Certificates of TPM makers that you trust: a file in PEM or DER, or a folder of such files.
    #[arg(long, value_name = "DIR|FILE", required_unless_present = "pin")]
    roots: Option<PathBuf>,
    /// The fingerprint of an endorsement key that you have confirmed yourself.
    #[arg(long, value_name = "FINGERPRINT")]
    pin: Option<Fingerprint>,
    /// The file that `rig attest challenge` wrote.
    #[arg(long, value_name = "SECRET_FILE", requires = "answer")]
    challenge: Option<PathBuf>,
    /// What the rig answered.
    #[arg(long, value_name = "FILE", requires = "challenge")]
    answer: Option<PathBuf>,
    /// A quote, where it is not in the evidence.
    #[arg(long, value_name = "FILE")]
    quote: Option<PathBuf>,
    /// What you had asked the rig to quote over.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    nonce: Option<Nonce>,
    /// What a PCR must be; may be given several times.
    #[arg(long = "pcr", value_name = "N=HEX", value_parser = pcr)]
    pcrs: Vec<(u8, [u8; 32])>,
    /// Earlier evidence of the same rig: its TPM must have gone on from there.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
}

// === impl Attest ===

impl Attest {
    pub(crate) fn run(self, screen: Screen) -> Result<(), Failure> {
        match self.action {
            Action::Challenge(challenge) => challenge.run(screen),
            Action::Verify(verify) => verify.run(screen),
        }
    }
}

impl ChallengeArgs {
    fn run(&self, screen: Screen) -> Result<(), Failure> {
        let enrolment = evidence(&self.enrolment)?.enrolment;
        let (ek, ak) = keys(&enrolment).map_err(|fault| Failure::new(Exit::Failed, fault))?;
        let (challenge, credential) = Challenge::make(&ek, &ak);
        keep(&self.out, challenge.print().as_bytes())?;
        screen.answer(&credential, || credential.print().to_string());
        let out = self.out.display();
        screen.note(&format!("The challenge is in {out}. Give the credential to the rig, and verify with its answer."));
        Ok(())
    }
}

fn keys(enrolment: &Enrolment) -> Result<(EndorsementKey, AttestationKey), KeyFault> {
    Ok((EndorsementKey::parse(enrolment.ek.as_bytes())?, AttestationKey::parse(enrolment.ak.as_bytes())?))
}

/// Writes a secret to a new file that only its owner can read. A file that is there may be the only copy of a challenge.
fn keep(path: &Path, secret: &[u8]) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(secret)?;
        file.sync_all()
    });
    written.map_err(|error| {
        let is_there = error.kind() == io::ErrorKind::AlreadyExists;
        let failure = unusable("write", path, error);
        if is_there { failure.next("name a file that is not there yet") } else { failure }
    })
}

/// Evidence from a file, where an enrolment alone is evidence without a quote.
fn evidence(path: &Path) -> Result<Evidence, Failure> {
    let json = read(path)?;
    let format = serde_json::from_slice(&json).ok().and_then(|json: Value| Some(json["format"].as_str()?.to_owned()));
    if format.is_some_and(|format| format.starts_with("rig-enrolment-")) {
        return Ok(Evidence { format: EvidenceFormat::V1, enrolment: parse(path, &json)?, quote: None });
    }
    parse(path, &json)
}

/// The evidence, with the quote of a file of its own put in.
fn with_quote(mut evidence: Evidence, path: Option<&Path>) -> Result<Evidence, Failure> {
    let Some(path) = path else { return Ok(evidence) };
    if evidence.quote.is_some() {
        return Err(Failure::new(Exit::Usage, "the evidence has a quote in it already, so --quote is one too many"));
    }
    evidence.quote = Some(document::<Quote>(path)?);
    Ok(evidence)
}

fn document<D: Document>(path: &Path) -> Result<D, Failure> {
    parse(path, &read(path)?)
}

fn parse<D: Document>(path: &Path, json: &[u8]) -> Result<D, Failure> {
    D::parse(json).map_err(|fault| unusable("use", path, fault))
}

/// A document's bytes, or one byte more than the longest has.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    read_at_most(path, attest::document::MAX_DOCUMENT)
}

fn read_at_most(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let file = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    file.map(|_| bytes).map_err(|error| unusable("read", path, error))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
struct Unusable {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn unusable(verb: &'static str, path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(Exit::Usage, Unusable { verb, path: path.to_owned(), source: source.into() })
}

fn nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex(text)?;
    Hex::new(bytes).map_err(|wrong| format!("`{text}` is no nonce: {wrong}"))
}

fn pcr(text: &str) -> Result<(u8, [u8; 32]), String> {
    let wrong = || format!("a PCR looks like 7=65caf8…, with 64 hexadecimal digits, not `{text}`");
    let (index, value) = text.split_once('=').ok_or_else(wrong)?;
    let index: u8 = index.parse().map_err(|_| wrong())?;
    if index >= attest::evidence::PCRS {
        return Err(format!("there is no PCR {index}; the last is {}", attest::evidence::PCRS - 1));
    }
    let value = hex(value)?.try_into().map_err(|_| wrong())?;
    Ok((index, value))
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{text}` is not pairs of hexadecimal digits");
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hex {
        return Err(wrong());
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_is_an_index_that_exists_and_a_sha256_value() {
        let value = "ab".repeat(32);
        assert_eq!(pcr(&format!("7={value}")), Ok((7, [0xab; 32])));
        for bad in
            ["7", "=", "7=", "7=ab", "seven=ab", "-1=ab", "256=ab", &format!("24={value}"), &format!("7={value}0")]
        {
            assert!(pcr(bad).is_err(), "{bad}");
        }
        assert!(pcr(&format!("7={}", "é".repeat(32))).is_err());
    }

    #[test]
    fn a_nonce_is_neither_guessable_nor_longer_than_a_tpm_takes() {
        assert!(nonce(&"00".repeat(16)).is_ok());
        for bad in ["00".repeat(15), "00".repeat(33), "0".repeat(33), "zz".repeat(16)] {
            assert!(nonce(&bad).is_err(), "{bad}");
        }
    }
}
