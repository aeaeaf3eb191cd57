//! The page over real connections, and under people who ask badly.

use std::net::SocketAddr;
use std::path::Path;

use http_body_util::{BodyExt, Empty};
use proptest::prelude::*;
use signer::KeyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use super::*;
use crate::face::{GpuRow, NoticeRow, SourceRow, samples};

const WITHIN: Duration = Duration::from_secs(30);

/// A served page.
struct Served {
    at: SocketAddr,
    _change: watch::Sender<Arc<Face>>,
    _stop: DropGuard,
}

impl Served {
    async fn start(face: Face) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = listener.local_addr().expect("an address");
        let (change, shown) = watch::channel(Arc::new(face));
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, shown, stop.clone()));
        Served { at, _change: change, _stop: stop.drop_guard() }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.expect("connects")
    }

    /// Sends bytes and reads to the end, however it comes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        let read = async {
            while let Ok(count @ 1..) = stream.read(&mut part).await {
                answer.extend_from_slice(&part[..count]);
            }
        };
        tokio::time::timeout(WITHIN, read).await.expect("it ends in time");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The answer to one request, without a network.
fn ask(method: &str, target: &str, host: Option<&[u8]>, face: &Face) -> Response<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    answer(&request.body(Empty::<Bytes>::new()).expect("a request"), face)
}

fn body(answer: Response<Full<Bytes>>) -> String {
    let bytes = futures::executor::block_on(answer.into_body().collect()).expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn page_of(face: &Face) -> String {
    body(ask("GET", "/", Some(b"192.0.2.7"), face))
}

#[tokio::test]
async fn the_page_and_its_facts_are_served() {
    let served = Served::start(samples::paired()).await;
    let answer = served.say(b"GET / HTTP/1.1\r\nHost: attic.local\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("content-security-policy: default-src 'none'"));
    for words in ["attic", "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf", "RTX 4090", "1284 paid", "up 12 d 0 h"] {
        assert!(answer.contains(words), "{words}");
    }
    assert!(answer.contains("<dt>Machine</dt><dd>1210 of 7935 MiB of memory used, 38 processes</dd>"), "{answer}");
    let answer = served.say(b"GET /status.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    let json = answer.split_once("\r\n\r\n").expect("a body").1;
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["address"], "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
    assert_eq!((&json["tier"], &json["state"]), (&serde_json::json!("B"), &serde_json::json!("open")));
    let machine =
        serde_json::json!({ "uptime_s": 1_036_800, "memory_used_mib": 1210, "memory_mib": 7935, "processes": 38 });
    assert_eq!(json["machine"], machine);
}

#[test]
fn nothing_but_reading_two_places_is_possible() {
    let face = samples::paired();
    let check = |method: &str, target: &str, expected: u16| {
        let answer = ask(method, target, Some(b"192.0.2.7"), &face);
        assert_eq!(answer.status().as_u16(), expected, "{method} {target}");
    };
    check("GET", "/", 200);
    check("GET", "/?x=1", 200);
    check("GET", "/status.json", 200);
    for target in ["/status", "/index.html", "//", "/../etc/passwd", "/%2e", "/status.json/"] {
        check("GET", target, 404);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"] {
        check(method, "/", 405);
        check(method, "/status.json", 405);
    }
}

#[test]
fn a_name_that_is_not_this_rigs_reads_nothing() {
    let face = samples::paired();
    let check = |host: &[u8], expected: u16| {
        let answer = ask("GET", "/status.json", Some(host), &face);
        assert_eq!(answer.status().as_u16(), expected, "{}", String::from_utf8_lossy(host));
        assert_eq!(body(answer).contains("0x7E5F"), expected == 200);
    };
    for host in ["192.0.2.7", "192.0.2.7:80", "[fe80::1]", "[::1]:8080", "attic", "ATTIC:80", "attic.local", "x.LOCAL"]
    {
        check(host.as_bytes(), 200);
    }
    for host in [
        "evil.example",
        "attic.evil.example",
        "192.0.2.7.evil.example",
        "local",
        ".local",
        "attic.local.evil.example",
        "",
        "a b",
        "user@attic",
        "attic.local@evil.example",
        "::1",
        "[attic]",
        "[]",
        "0x7f000001",
        "1",
        "localhost",
    ] {
        check(host.as_bytes(), 421);
    }
    check(b"\xff\xfe", 421);
    assert_eq!(ask("GET", "/", None, &face).status().as_u16(), 400);
    let elsewhere = ask("GET", "http://evil.example/", Some(b"attic"), &face);
    assert_eq!(elsewhere.status().as_u16(), 421);
    let twice = Request::builder().uri("/").header(HOST, "attic").header(HOST, "evil.example");
    let twice = answer(&twice.body(Empty::<Bytes>::new()).expect("a request"), &face);
    assert_eq!(twice.status().as_u16(), 400);
}

/// Every place of a face that somebody else has a word in, filled with `text`.
fn said_everywhere(text: &str) -> Face {
    let mut face = samples::troubled(KeyState::DiskMoved);
    let said = || text.to_owned();
    (face.trouble, face.silence, face.phase) = (Some(said()), Some(said()), Some(said()));
    (face.gas, face.stake, face.replaces) = (Some(said()), Some(said()), Some(said()));
    face.gpus = vec![GpuRow { model: said(), state: said() }];
    face.sources = vec![SourceRow { address: said(), stage: said(), why: Some(said()) }];
    face.sources_known = 1;
    face.notices = vec![NoticeRow { what: said(), next: vec![said(), said()] }];
    face
}

/// The tags of a page, without what stands in them beside their name, and without the one that backticks become.
fn tags(page: &str) -> Vec<&str> {
    let tags = page.split('<').skip(1).map(|tag| tag.split([' ', '>']).next().unwrap_or_default());
    tags.filter(|tag| !matches!(*tag, "code" | "/code")).collect()
}

#[test]
fn no_text_of_anybody_becomes_a_tag_or_an_attribute() {
    let expected = page_of(&said_everywhere("plain words"));
    for text in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onload='x",
        "</style><b>",
        "<!--",
        "]]>",
        "&lt;b&gt;",
        "javascript:alert(1)",
        "\u{0}\u{1b}[2J\u{9f}",
        "<SVG/ONLOAD=x>",
        "</title></head>",
        "{{7*7}}",
    ] {
        let page = page_of(&said_everywhere(text));
        assert_eq!(tags(&page), tags(&expected), "{text}");
        assert!(!page.contains(text) || !text.contains(['<', '"', '\'', '&', '\u{1b}']), "{text}");
        assert!(!page.contains('\u{1b}') && !page.contains('\u{0}'));
    }
}

#[test]
fn a_notice_is_on_the_page_and_among_the_facts() {
    let notice = boot::notices::Notice::new("wifi", "No <password>.", "Write it:\n`open = true`\n");
    let face = samples::paired().with_notices(&[notice]);
    let page = page_of(&face);
    assert!(page.contains("<h2>Notice</h2><p>No &lt;password&gt;.<br>Write it:<br><code>open = true</code></p>"));
    let json = body(ask("GET", "/status.json", Some(b"attic"), &face));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["notices"][0]["what"], "No <password>.");
}

#[test]
fn what_stands_in_backticks_is_a_command_and_stays_text() {
    let check = |text: &str, expected: &str| {
        let page = page_of(&said_everywhere(text));
        assert!(page.contains(&format!("<dt>Phase</dt><dd>{expected}</dd>")), "{text}: {page}");
    };
    check("run `rig pair` now", "run <code>rig pair</code> now");
    check("`a` `b", "<code>a</code> `b");
    check("`<b>`", "<code>&lt;b&gt;</code>");
    check("``", "<code></code>");
}

#[test]
fn a_page_asks_for_nothing_and_its_style_is_the_one_that_is_allowed() {
    let face = samples::paired();
    let answered = ask("GET", "/", Some(b"attic"), &face);
    let policy = answered.headers()["content-security-policy"].to_str().expect("ASCII").to_owned();
    for rule in ["default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'", "form-action 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = body(answered);
    for foreign in ["<script", "http://", "https://", "src=", "href=", "@import", "url(", "style=", " on"] {
        let is_word = foreign == " on" && !page.contains(" onclick") && !page.contains(" onload");
        assert!(is_word || !page.contains(foreign), "{foreign}");
    }
    use base64::Engine as _;
    use sha2::Digest as _;
    let style = page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).expect("a style").0;
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(style));
    assert!(policy.contains(&hash), "{policy}");
}

#[tokio::test]
async fn a_head_that_is_too_long_or_no_http_is_left_and_the_next_reader_is_served() {
    let served = Served::start(samples::fresh()).await;
    let long = format!("GET / HTTP/1.1\r\nHost: attic\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    let many = format!("GET / HTTP/1.1\r\nHost: attic\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
    for bytes in [long.as_bytes(), many.as_bytes(), b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let answer = served.say(bytes).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = served.say(b"GET / HTTP/1.1\r\nHost: attic\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn readers_who_say_nothing_take_all_places_and_lose_them_in_time() {
    let served = Served::start(samples::fresh()).await;
    let mut silent = Vec::new();
    for number in 0..2 * CONNECTIONS_MAX {
        let mut stream = served.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("writes");
        }
        silent.push(stream);
    }
    let answer = served.say(b"GET / HTTP/1.1\r\nHost: attic\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Writes the page of sample data to the file that `RIG_PAGE_SAMPLE` names, for whoever wants to look at it.
#[test]
fn a_sample_page_can_be_looked_at() {
    let page = page_of(&samples::paired());
    assert!(page.len() < 32 * 1024, "{} bytes", page.len());
    if let Some(path) = std::env::var_os("RIG_PAGE_SAMPLE") {
        let folder = Path::new(&path);
        for (name, face) in [
            ("paired.html", samples::paired()),
            ("fresh.html", samples::fresh()),
            ("troubled.html", samples::troubled(KeyState::TpmCleared)),
        ] {
            std::fs::write(folder.join(name), page_of(&face)).expect("writes");
        }
        let card = crate::card::card(&samples::fresh()) + &crate::card::card(&samples::troubled(KeyState::TpmCleared));
        std::fs::write(folder.join("card.txt"), card).expect("writes");
    }
}

proptest! {
    #[test]
    fn whatever_is_said_the_page_keeps_its_shape(text in "\\PC{0,200}", wild in any::<String>()) {
        let expected = page_of(&said_everywhere("plain words"));
        for text in [text, wild] {
            let page = page_of(&said_everywhere(&text));
            prop_assert_eq!(tags(&page), tags(&expected));
        }
    }
}
