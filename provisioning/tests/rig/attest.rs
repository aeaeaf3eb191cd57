//! `rig attest` on the files of an emulated rig.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::stage::{Ended, Stage, utf8};

const NONCE: &str = "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5";
const PCR11: &str = "11=daf6d3e6ad66990aba2fae6e6c61f18b2d48f0ca6c29d2cfa19ab41f5a865231";

/// A rig's files, as its owner has them.
struct Files {
    stage: Stage,
    evidence: String,
    roots: String,
    challenge: String,
    answer: String,
}

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/attest/tests/golden");
    fs::read(folder.join(name)).unwrap()
}

// === impl Files ===

impl Files {
    fn new() -> Files {
        let stage = Stage::new();
        fs::create_dir(stage.path("makers")).unwrap();
        stage.file("makers/README", "not a certificate");
        stage.file("makers/maker.pem", golden("maker.pem"));
        let roots = utf8(&stage.path("makers")).to_owned();
        let [evidence, challenge, answer] =
            ["evidence.json", "challenge.json", "answer.json"].map(|name| stage.file(name, golden(name)));
        Files { stage, evidence, roots, challenge, answer }
    }

    /// `rig attest verify` with everything, and what `more` adds.
    fn verify(&self, more: &[&str]) -> Ended {
        let Files { evidence, roots, challenge, answer, .. } = self;
        let all = ["attest", "verify", evidence, "--roots", roots, "--challenge", challenge, "--answer", answer];
        self.stage.rig(&[&all[..], more].concat())
    }

    /// The evidence with what is at `pointer` replaced.
    fn with(&self, pointer: &str, value: Value) -> String {
        let mut json: Value = serde_json::from_slice(&golden("evidence.json")).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        self.stage.file("changed.json", json.to_string())
    }
}

#[test]
fn evidence_that_holds_is_told_line_by_line_with_what_it_does_not_say() {
    let files = Files::new();
    let ended = files.verify(&["--nonce", NONCE, "--pcr", PCR11]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    for words in [
        "holds        the endorsement key is one: fingerprint ",
        "its certificate is by `CN=a maker`",
        "holds        the TPM answered a challenge: the attestation key is in it",
        "covers PCR 0, 7, 11, 12",
        "PCR 11: as expected",
        "a TPM of CN=a maker holds this rig's keys, and signed these measurements now.",
        "anything about GPUs",
    ] {
        assert!(ended.stdout.contains(words), "{words:?} is not in {}", ended.stdout);
    }
    let json = files.verify(&["--nonce", NONCE, "--pcr", PCR11, "--json"]).json();
    assert_eq!(json["is_vouched_by_maker"], json!(true));
    let outcomes = json["checks"].as_array().unwrap();
    assert!(outcomes.iter().all(|check| check["outcome"] == "holds"), "{json}");
    let before = files.verify(&["--nonce", NONCE, "--before", &files.evidence]);
    assert!(before.stdout.contains("the TPM's counters and clock went on"), "{before:?}");
}

#[test]
fn what_does_not_hold_or_was_not_shown_is_no_success() {
    let files = Files::new();
    let check = |ended: Ended, words: &[&str]| {
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        for words in words {
            assert!(ended.stderr.contains(words), "{words:?} is not in {}", ended.stderr);
        }
    };
    let Files { evidence, roots, challenge, answer, stage } = &files;
    check(
        files.verify(&[]),
        &["not shown    the quote is signed over its PCRs, now: without --nonce it may be an old one"],
    );
    check(files.verify(&["--nonce", &"00".repeat(32)]), &["answers another nonce"]);
    let other = format!("11={}", "00".repeat(32));
    check(files.verify(&["--nonce", NONCE, "--pcr", &other]), &["FAILS        PCR 11: PCR 11 is daf6"]);
    let uncovered = format!("4={}", "00".repeat(32));
    check(files.verify(&["--nonce", NONCE, "--pcr", &uncovered]), &["does not cover PCR 4"]);
    let without = stage.rig(&["attest", "verify", evidence, "--roots", roots, "--nonce", NONCE]);
    check(without, &["the attestation key may be software", "next: make a challenge with `rig attest challenge`"]);
    let pin = "00".repeat(32);
    check(files.verify(&["--nonce", NONCE, "--pin", &pin]), &["another TPM than the pinned 0000"]);
    let verify = |changed: &str, more: &[&str]| {
        let all = ["attest", "verify", changed, "--challenge", challenge, "--answer", answer];
        stage.rig(&[&all[..], more].concat())
    };
    let tls = serde_json::from_slice::<Value>(&golden("evidence.json")).unwrap()["enrolment"]["tls"].clone();
    let changed = files.with("/enrolment/ak", tls);
    check(
        verify(&changed, &["--roots", roots]),
        &["FAILS        the attestation key is one: the attestation key is not restricted"],
    );
    let bare = files.with("/enrolment/certificates", json!([]));
    let unpinned = verify(&bare, &["--roots", roots, "--nonce", NONCE]);
    let fingerprint = unpinned.stderr.split("--pin ").nth(1).unwrap().trim().to_owned();
    check(unpinned, &["the TPM has no certificate of its maker", "next: if the rig's own screen shows"]);
    let pinned = verify(&bare, &["--pin", &fingerprint, "--nonce", NONCE]);
    assert_eq!(pinned.code, Some(0), "{pinned:?}");
    for words in ["holds (pin)", "weaker than a maker's certificate", "that the key is in a TPM at all"] {
        assert!(pinned.stdout.contains(words), "{pinned:?}");
    }
}

#[test]
fn a_challenge_is_kept_secret_and_never_overwritten() {
    let files = Files::new();
    let out = files.stage.path("new.json");
    let challenge = ["attest", "challenge", &files.evidence, "--out", utf8(&out)];
    let made = files.stage.rig(&challenge);
    assert_eq!(made.code, Some(0), "{made:?}");
    let credential: Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(credential["format"], "rig-credential-1");
    let kept: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(kept["format"], "rig-challenge-1");
    assert!(!made.stdout.contains(kept["secret"].as_str().unwrap()), "the secret stays");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let again = files.stage.rig(&challenge);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.stderr.contains("next: name a file that is not there yet"), "{again:?}");
    // An answer to another challenge.
    let Files { stage, evidence, roots, answer, .. } = &files;
    let all = ["attest", "verify", evidence, "--roots", roots, "--challenge", utf8(&out), "--answer", answer];
    let wrong = stage.rig(&all);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("the answer is not the secret of this challenge"), "{wrong:?}");
}

#[test]
fn files_that_are_none_are_named() {
    let files = Files::new();
    let Files { stage, evidence, roots, challenge, .. } = &files;
    let check = |arguments: &[&str], words: &[&str]| {
        let ended = stage.rig(&[&["attest"], arguments].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        for words in words {
            assert!(ended.stderr.contains(words), "{words:?} is not in {ended:?}");
        }
    };
    let garbage = stage.file("garbage.json", "{");
    let long = stage.file("long.json", " ".repeat(70_000));
    let newer = stage.file("newer.json", "{\"format\":\"rig-enrolment-2\"}");
    check(&["verify", "/nowhere", "--roots", roots], &["cannot read /nowhere"]);
    check(&["verify", &garbage, "--roots", roots], &["cannot use", "garbage.json", "line 1 column 1"]);
    check(&["verify", &long, "--roots", roots], &["65537 bytes"]);
    check(&["verify", &newer, "--roots", roots], &["unknown variant `rig-enrolment-2`"]);
    check(&["verify", evidence, "--roots", "/nowhere"], &["cannot read /nowhere"]);
    check(&["verify", evidence, "--roots", &garbage], &["no certificate in it"]);
    let empty = stage.path("empty");
    fs::create_dir(&empty).unwrap();
    check(&["verify", evidence, "--roots", utf8(&empty)], &["no file that ends with .pem"]);
    check(&["verify", evidence], &["--roots"]);
    check(&["verify", evidence, "--roots", roots, "--challenge", challenge], &["--answer"]);
    check(&["verify", evidence, "--roots", roots, "--nonce", "00"], &["1 bytes, where 16 to 32 belong"]);
    check(&["verify", evidence, "--roots", roots, "--pcr", "24=00"], &["there is no PCR 24"]);
    check(&["verify", evidence, "--roots", roots, "--quote", evidence], &["one too many"]);
    check(&["challenge", &garbage, "--out", utf8(&stage.path("out"))], &["garbage.json"]);
    assert!(!stage.path("out").exists());
}
