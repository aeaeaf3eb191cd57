//! `rig status`, `rig tasks` and `rig cache`, against a socket that answers like a provider.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use serde_json::{Value, json};

use crate::stage::{Ended, Stage};

/// Runs `rig` with a run directory in which a provider gives `answer`; returns the question too.
fn asked(arguments: &[&str], answer: &Value) -> (Ended, Value) {
    let stage = Stage::new();
    let listener = UnixListener::bind(stage.path("provider.sock")).unwrap();
    let line = format!("{answer}\n");
    let provider = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut question).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        serde_json::from_str(&question).unwrap()
    });
    let run_dir = stage.path("");
    let ended = stage.rig(&[arguments, &["--rig", run_dir.to_str().unwrap()]].concat());
    (ended, provider.join().unwrap())
}

#[test]
fn status_shows_what_the_rig_says_and_passes_over_what_it_does_not_know() {
    let answer = json!({
        "address": "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        "owner": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "phase": "serving",
        "phase_text": "serving its sources",
        "gas_wei": "250000000000000000",
        "lockup_wei": "1000000000000000000",
        "head": { "block": 1234, "age_s": 2 },
        "endpoints": [{ "url": "http://127.0.0.1:8545/", "state": "healthy" }],
        "sources": [{ "source": "0x00000000000000000000000000000000000000aa", "stage": "serving", "why": null,
                      "environment": "cpu", "usual_run_ms": 150 }],
        "jobs": { "open": 1, "waiting": 2, "running": 3, "responded": 4, "settled": 5 },
        "draining": true,
        "version": "0.1.0",
        "from_the_future": { "deep": [1, 2, 3] },
    });
    let (ended, question) = asked(&["status"], &answer);
    assert_eq!(question, json!({ "ask": "status" }));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let expected = [
        "serving its sources, draining",
        "0.25 coin",
        "1234, 2 s old",
        "1 open, 2 waiting, 3 running, 4 responded, 5 settled",
        "150 ms",
    ];
    for words in expected {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    let (ended, _) = asked(&["status", "--json"], &answer);
    assert_eq!(ended.json(), answer);
}

#[test]
fn tasks_shows_reasons_and_asks_for_no_more_than_it_was_told_to() {
    let answer = json!({ "tasks": [{ "task": "0x01", "stage": "refused", "why": "pays too little",
                                     "payment_wei": "1000", "paid_wei": null }] });
    let (ended, question) = asked(&["tasks", "--limit", "7", "--refused"], &answer);
    assert_eq!(question, json!({ "ask": "tasks", "limit": 7, "refused": true }));
    assert!(ended.stdout.contains("pays too little") && ended.stdout.contains("0.000000000000001 coin"), "{ended:?}");
    let (ended, _) = asked(&["tasks"], &json!({ "tasks": [] }));
    assert_eq!(ended.stdout, "No tasks yet.\n");
}

#[test]
fn what_a_source_was_given_and_what_is_being_done_for_it_is_shown() {
    let answer = json!({
        "confinement": "rlimits_only",
        "sources": [{
            "source": "0xaa", "stage": "preparing", "network": "internet", "exceptions": ["ignore-runtime"],
            "notes": ["`services.a.logging` is ignored: the rig keeps a bounded log"],
            "doing": { "doing": "pulling", "image": "a", "bytes": 1_200_000_000_u64, "of_bytes": 3_400_000_000_u64,
                       "layer": 3, "layers": 7 },
        }],
    });
    let (ended, _) = asked(&["status"], &answer);
    for words in [
        "limited per process only",
        "internet  ignore-runtime",
        "pulling 1.2 GB of 3.4 GB (layer 3 of 7)",
        "0xaa: `services.a.logging` is ignored",
    ] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    let ran = json!({ "tasks": [{ "task": "0x01", "stage": "settled", "network": "internal",
                                  "exceptions": ["ignore-runtime", "volume-for-bind"] }] });
    let (ended, _) = asked(&["tasks"], &ran);
    assert!(ended.stdout.contains("internal  ignore-runtime volume-for-bind"), "{}", ended.stdout);
}

#[test]
fn the_cache_is_shown_and_cleared() {
    let digest = format!("sha256:{}", "0123456789ab".repeat(6));
    let answer = json!({
        "layers": [{ "digest": &digest[..71], "bytes": 67_108_864, "last_used_unix": 0, "held": true }],
        "count": 1, "bytes": 67_108_864, "blobs": { "count": 2, "bytes": 4_096 },
    });
    let (ended, question) = asked(&["cache"], &answer);
    assert_eq!(question, json!({ "ask": "cache" }));
    for words in ["0123456789ab  67.1 MB", "days ago", "yes", "1 sealed layers, 67.1 MB; 2 blobs, 4.0 kB"] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    let removed =
        json!({ "removed": { "layers": { "count": 3, "bytes": 1_500_000 }, "blobs": { "count": 0, "bytes": 0 } } });
    for (words, all) in [(&["cache", "clean"][..], false), (&["cache", "clean", "--all"][..], true)] {
        let (ended, question) = asked(words, &removed);
        assert_eq!(question, json!({ "ask": "clean", "all": all }));
        assert_eq!(ended.stdout, "Removed 3 sealed layers (1.5 MB) and 0 blobs (0 B).\n");
    }
    let (ended, _) = asked(&["cache", "--json"], &answer);
    assert_eq!(ended.json(), answer);
    let (ended, _) = asked(&["cache"], &json!({ "error": "no answer", "next": "look at the runner" }));
    assert!(ended.stderr.contains("no answer") && ended.stderr.contains("look at the runner"), "{ended:?}");
}

#[test]
fn a_rig_that_refuses_or_talks_nonsense_is_reported() {
    let (ended, _) = asked(&["status"], &json!({ "error": "unknown question" }));
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("the rig refuses: unknown question"), "{ended:?}");
    let (ended, _) = asked(&["tasks"], &json!("fine"));
    assert_eq!(ended.code, Some(0), "an answer without tasks has none: {ended:?}");
}
