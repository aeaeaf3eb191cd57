//! The callback listener before services that lie, hang up, repeat themselves or never end.

use std::net::SocketAddr;
use std::path::PathBuf;

use alloy_primitives::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use super::*;

const RESULT_BYTES_MAX: u64 = 1 << 20;

/// A callback listener on loopback, as the jail would see it.
struct Jail {
    at: SocketAddr,
    awaited: Arc<Awaited>,
    store: Arc<Store>,
    dir: tempfile::TempDir,
    _stop: DropGuard,
}

impl Jail {
    async fn open() -> Jail {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(dir.path()).expect("a store"));
        let awaited = Arc::new(Awaited::with_ahead(Duration::from_millis(200)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let desk = Desk {
            token: "right".into(),
            awaited: awaited.clone(),
            store: store.clone(),
            result_bytes_max: RESULT_BYTES_MAX,
        };
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, desk, stop.clone()));
        Jail { at, awaited, store, dir, _stop: stop.drop_guard() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    async fn post(&self, path: &str, body: &'static str) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let answer = client.post(self.url(path)).body(body).send().await.expect("an answer");
        answer.status().as_u16()
    }

    /// Sends bytes as they are, and returns the open stream.
    async fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.at).await.expect("connects");
        stream.write_all(text.as_bytes()).await.expect("writes");
        stream
    }

    fn files(&self, dir: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join(dir)) else { return Vec::new() };
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }
}

fn task() -> TaskId {
    TaskId(Address::repeat_byte(7))
}

fn path_of(task: TaskId) -> String {
    format!("/right/task/{task}")
}

#[tokio::test]
async fn a_result_under_the_right_token_reaches_the_store_and_whoever_waits() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    assert_eq!(jail.post(&path_of(task()), r#"{"result": 7}"#).await, 200);
    let returned = waiting.returned().await.expect("a result");
    assert_eq!(returned.bytes, 13);
    let held = jail.store.read(Shelf::Task(task()), returned.digest, 100).await.expect("is stored");
    assert_eq!(held, br#"{"result": 7}"#);
}

#[tokio::test]
async fn a_wrong_token_and_a_task_that_nobody_dispatched_look_the_same() {
    let jail = Jail::open().await;
    let _waiting = jail.awaited.expect(task());
    let other = TaskId(Address::repeat_byte(8));
    for path in [
        format!("/wrong/task/{}", task()),
        format!("//task/{}", task()),
        "/right/task/0x12".to_owned(),
        "/right/task/..%2f..%2fetc".to_owned(),
        path_of(other),
        "/".to_owned(),
    ] {
        assert_eq!(jail.post(&path, "{}").await, 404, "{path}");
    }
    assert_eq!(jail.post(&path_of(task()), "{}").await, 200, "the task can still be called back");
}

#[tokio::test]
async fn the_first_result_stays_whatever_comes_second() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    assert_eq!(jail.post(&path_of(task()), "1").await, 200);
    assert_eq!(jail.post(&path_of(task()), "22").await, 409);
    assert_eq!(waiting.returned().await.expect("a result").bytes, 1);
    assert_eq!(jail.files(&format!("tasks/{}", task())).len(), 1);
}

#[tokio::test]
async fn an_endless_result_is_cut_off_at_the_bound_and_the_run_is_told() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", path_of(task()));
    let mut stream = jail.raw(&head).await;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let mut sent_bytes = 0;
    while sent_bytes < 200 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent_bytes += chunk.len();
    }
    assert!(sent_bytes < 32 << 20, "the listener reads no further than the bound, it took {sent_bytes} bytes");
    let failing = waiting.returned().await.expect_err("no result");
    assert!(matches!(failing, Failing::BadResult(why) if why.contains("1048576") && why.contains("result_bytes")));
    assert_eq!(jail.files("incoming").len(), 0);
    assert_eq!(jail.files(&format!("tasks/{}", task())).len(), 0);
}

#[tokio::test]
async fn an_announced_result_over_the_bound_is_answered_413() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let body = vec![b' '; 1 + (1 << 20)];
    let answer = client.post(jail.url(&path_of(task()))).body(body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 413);
    assert!(matches!(waiting.returned().await, Err(Failing::BadResult(_))));
}

#[tokio::test]
async fn a_result_that_is_not_json_is_refused_and_not_kept() {
    for body in ["", "<html>", "{} {}", "{", "NaN", "{\"a\": 1,}"] {
        let jail = Jail::open().await;
        let mut waiting = jail.awaited.expect(task());
        assert_eq!(jail.post(&path_of(task()), body).await, 422, "{body}");
        let failing = waiting.returned().await.expect_err("no result");
        assert!(matches!(failing, Failing::BadResult(why) if why.contains("not JSON")));
        assert_eq!(jail.files(&format!("tasks/{}", task())).len(), 0);
        assert_eq!(jail.files("incoming").len(), 0);
    }
}

#[tokio::test]
async fn a_result_nested_without_end_is_looked_at_without_a_deep_stack() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let body = "[".repeat(500_000);
    let answer = client.post(jail.url(&path_of(task()))).body(body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 422);
    assert!(matches!(waiting.returned().await, Err(Failing::BadResult(_))));
}

#[tokio::test]
async fn a_result_that_breaks_off_can_be_sent_again() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{\"half", path_of(task()));
    drop(jail.raw(&head).await);
    // The second waits for the first to be given back, as a callback waits for its dispatch.
    let mut answer = 409;
    while answer == 409 {
        answer = jail.post(&path_of(task()), "{}").await;
    }
    assert_eq!(answer, 200);
    assert_eq!(waiting.returned().await.expect("a result").bytes, 2);
    assert_eq!(jail.files("incoming").len(), 0);
}

#[tokio::test]
async fn a_service_that_hangs_up_after_its_last_byte_is_heard() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    let text = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}", path_of(task()));
    drop(jail.raw(&text).await);
    let returned = tokio::time::timeout(Duration::from_secs(10), waiting.returned()).await.expect("in time");
    assert_eq!(returned.expect("a result").bytes, 2);
}

#[tokio::test]
async fn a_callback_ahead_of_its_dispatch_is_taken() {
    let jail = Jail::open().await;
    let text = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}", path_of(task()));
    let mut early = jail.raw(&text).await;
    let mut waiting = jail.awaited.expect(task());
    assert_eq!(waiting.returned().await.expect("a result").bytes, 2);
    let mut answer = [0; 12];
    early.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_store_without_room_is_not_the_sources_fault() {
    let jail = Jail::open().await;
    let mut waiting = jail.awaited.expect(task());
    std::fs::remove_dir_all(jail.dir.path().join("incoming")).expect("removes");
    assert_eq!(jail.post(&path_of(task()), "{}").await, 507);
    let failing = waiting.returned().await.expect_err("no result");
    assert!(matches!(failing, Failing::Gone(why) if why.contains("not stored")));
}
