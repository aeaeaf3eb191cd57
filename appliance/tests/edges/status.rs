//! The provider's socket under people and programs that ask badly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use appliance::cache::Cache;
use appliance::gpus::Gpus;
use appliance::identity::Seen;
use appliance::provider::Parcel;
use appliance::status::{self, Others, Question};
use appliance::store::Store;
use serde_json::{Value, json};
use signer::{Identity, Tier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fake_gpus::gpus;
use crate::fake_runner::FakeRunner;

const WITHIN: Duration = Duration::from_secs(20);

/// The socket before a desk that answers every question with the question's limit.
struct Socket {
    path: PathBuf,
    runner: FakeRunner,
    _dir: tempfile::TempDir,
    _stop: DropGuard,
}

/// A signer that has said once who it is.
fn seen() -> watch::Receiver<Seen> {
    let state = signer::KeyState::TpmCleared;
    let replaces = Some(Address::repeat_byte(1));
    let identity = Identity { address: Address::ZERO, tier: Tier::N, fields: 5, state, replaces };
    watch::channel(Seen::first(identity)).1
}

impl Socket {
    async fn open() -> Socket {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("provider.sock");
        let (desk, mut parcels) = mpsc::channel(4);
        let runner = FakeRunner::serve(dir.path());
        let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
        let stop = CancellationToken::new();
        tokio::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            let cache = Arc::new(Cache::new(runner.client(), store));
            let others = Others { cache, gpus: Gpus::new(runner.client(), false), seen: seen() };
            async move { status::serve(&path, desk, others, stop).await }
        });
        tokio::spawn(async move {
            while let Some(parcel) = parcels.recv().await {
                let Parcel::Asked(question, reply) = parcel else { panic!("only questions come") };
                let limit = match question {
                    Question::Status => 0,
                    Question::Tasks { limit, .. } => limit,
                };
                let _ = reply.send(json!({ "limit": limit }));
            }
        });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        Socket { path, runner, _dir: dir, _stop: stop.drop_guard() }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("connects")
    }

    /// Sends bytes, and reads to the end. The server may close before it has read them all.
    async fn ask(&self, bytes: &[u8]) -> Value {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.expect("in time");
        match read {
            Ok(_) => serde_json::from_slice(&answer).expect("an answer is JSON"),
            Err(_) => json!({ "error": "closed" }),
        }
    }
}

#[tokio::test]
async fn a_question_is_answered_and_the_limit_has_a_default() {
    let socket = Socket::open().await;
    assert_eq!(socket.ask(b"{\"ask\":\"status\"}\n").await["limit"], 0);
    assert_eq!(socket.ask(b"{\"ask\":\"tasks\"}\n").await["limit"], 50);
    assert_eq!(socket.ask(b"{\"ask\":\"tasks\",\"limit\":7,\"refused\":true}\n").await["limit"], 7);
}

#[tokio::test]
async fn the_status_says_who_signs_how_it_is_kept_and_what_to_do() {
    let socket = Socket::open().await;
    let status = socket.ask(b"{\"ask\":\"status\"}\n").await;
    let identity = &status["identity"];
    assert_eq!(status["phase_text"], "waiting under a new address until the owner runs `rig rotate`");
    for (key, expected) in [
        ("tier", json!("N")),
        ("fields", json!(5)),
        ("kept", json!("N (software, bound to 5 parts: clone detection)")),
        ("code", json!(signer::identity::pairing_code(Address::ZERO))),
        ("state", json!("tpm-cleared")),
        ("state_code", json!("ID-02")),
        ("next", json!("run `rig rotate` on your own machine to move to the new key")),
        ("replaces", json!("0x0101010101010101010101010101010101010101")),
        ("silence", json!(null)),
    ] {
        assert_eq!(identity[key], expected, "{key}");
    }
}

#[tokio::test]
async fn the_cache_is_shown_and_cleared_without_the_book() {
    let socket = Socket::open().await;
    let shown = socket.ask(b"{\"ask\":\"cache\"}\n").await;
    assert_eq!((&shown["count"], &shown["blobs"]["count"]), (&json!(0), &json!(0)), "{shown}");
    for question in [&b"{\"ask\":\"clean\"}\n"[..], b"{\"ask\":\"clean\",\"all\":true}\n"] {
        let cleaned = socket.ask(question).await;
        assert_eq!(cleaned["removed"]["layers"], json!({ "count": 2, "bytes": 30 }), "{cleaned}");
    }
}

#[tokio::test]
async fn the_gpus_are_shown_as_the_runner_sees_them_and_tried_again_when_asked() {
    let socket = Socket::open().await;
    let shown = socket.ask(b"{\"ask\":\"gpus\"}\n").await;
    assert_eq!((&shown["why"], &shown["gpus"]), (&json!("no driver"), &json!([])), "{shown}");
    let there = gpus(&[(8, 9)]);
    socket.runner.gpus(|fake| fake.report = Some(there.clone()));
    for (question, retries) in [("{\"ask\":\"gpus\",\"retry\":false}\n", 0), ("{\"ask\":\"gpus\",\"retry\":true}\n", 1)]
    {
        let shown = socket.ask(question.as_bytes()).await;
        assert_eq!(shown, serde_json::to_value(&there).expect("JSON"));
        assert_eq!(socket.runner.gpus(|fake| fake.retries), retries, "{question}");
    }
    for (question, says) in [
        (&b"{\"ask\":\"measure\"}\n"[..], "each has a job"),
        (b"{\"ask\":\"measure\",\"gpu\":\"GPU-0\"}\n", "GPU-0 has a job"),
        (b"{\"ask\":\"measure\",\"gpu\":\"all\"}\n", "is not the UUID of a GPU"),
    ] {
        let answer = socket.ask(question).await;
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(says)), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_question_is_answered_with_an_error() {
    let socket = Socket::open().await;
    for garbage in [
        &b"\n"[..],
        b"hello\n",
        b"{\"ask\":\"money\"}\n",
        b"{\"ask\":\"tasks\",\"limit\":-1}\n",
        b"{\"ask\":\"tasks\",\"all\":true}\n",
        b"\xff\xfe\x00\n",
        &[b'x'; 5000],
        &[b'['; 5000],
    ] {
        assert!(socket.ask(garbage).await["error"].is_string(), "{garbage:?}");
    }
    assert_eq!(socket.ask(b"{\"ask\":\"status\"}\n").await["limit"], 0);
}

#[tokio::test]
async fn half_a_question_keeps_nobody_else_waiting_and_is_left_in_time() {
    let socket = Socket::open().await;
    let mut halves = Vec::new();
    for _ in 0..8 {
        let mut half = socket.connect().await;
        half.write_all(b"{\"ask\":").await.expect("writes");
        halves.push(half);
    }
    assert_eq!(socket.ask(b"{\"ask\":\"status\"}\n").await["limit"], 0);
    for mut half in halves {
        let mut rest = Vec::new();
        let left = tokio::time::timeout(WITHIN, half.read_to_end(&mut rest)).await.expect("in time");
        assert_eq!(left.expect("it is closed"), 0);
    }
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_are_all_answered() {
    let socket = Socket::open().await;
    let asked = (0..100).map(|number| {
        let socket = &socket;
        async move {
            let question = format!("{{\"ask\":\"tasks\",\"limit\":{number}}}\n");
            assert_eq!(socket.ask(question.as_bytes()).await["limit"], number);
        }
    });
    futures::future::join_all(asked).await;
}

#[tokio::test]
async fn a_socket_that_a_crash_left_is_replaced() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("provider.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    let (desk, _parcels) = mpsc::channel(1);
    let stop = CancellationToken::new();
    stop.cancel();
    let store = Arc::new(Store::open(&dir.path().join("content")).expect("a store"));
    let runner = runner::client::Client::new(dir.path().join("none.sock"));
    let cache = Arc::new(Cache::new(runner.clone(), store));
    let others = Others { cache, gpus: Gpus::new(runner, true), seen: seen() };
    status::serve(&path, desk, others, stop).await.expect("serves");
}
