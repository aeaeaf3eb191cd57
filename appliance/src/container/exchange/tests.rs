//! One exchange with services that speak HTTP badly or not at all.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::TcpStream as Stream;

use super::*;

const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a test gives one exchange: far more than an honest one needs.
const WITHIN: Duration = Duration::from_secs(20);

/// A service on loopback that reads one request head and then does as told.
async fn service<F: Future<Output = ()> + Send>(act: impl FnOnce(Stream) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).await.expect("reads");
            head.extend_from_slice(&some[..read]);
        }
        act(stream).await;
    });
    at
}

async fn get(at: SocketAddr) -> Result<Answer, ExchangeError> {
    let stream = TcpStream::connect(at).expect("connects");
    exchange_within(WITHIN, stream, Method::Get, "/openapi.json", ANSWER_BYTES_MAX).await
}

/// A service that sends `text` once and hangs up.
async fn says(text: impl Into<Vec<u8>>) -> Result<Answer, ExchangeError> {
    let text = text.into();
    let act = |mut stream: Stream| async move {
        let _ = stream.write_all(&text).await;
    };
    get(service(act).await).await
}

/// A service that sends `first`, then `again` for ever; returns the outcome and how much of it was taken.
async fn repeats(first: &'static [u8], again: &'static [u8]) -> (Result<Answer, ExchangeError>, usize) {
    let (told, heard) = tokio::sync::oneshot::channel();
    let act = move |mut stream: Stream| async move {
        let mut taken_bytes = 0;
        if stream.write_all(first).await.is_ok() {
            while taken_bytes < 100 << 20 && stream.write_all(again).await.is_ok() {
                taken_bytes += again.len();
            }
        }
        let _ = told.send(taken_bytes);
    };
    let at = service(act).await;
    let outcome = get(at).await;
    (outcome, heard.await.expect("the service ends"))
}

#[tokio::test]
async fn an_honest_answer_is_read_whether_its_end_is_counted_chunked_or_the_hang_up() {
    for text in [
        "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.0 202 Accepted\r\n\r\n{}",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let answer = says(text).await.expect(text);
        assert_eq!((answer.status, &answer.body[..]), (202, &b"{}"[..]), "{text}");
    }
}

/// A connection that ends with its answer must not hide it: the input would be sent, and run, twice.
#[tokio::test]
async fn an_answer_that_closes_the_connection_is_an_answer_every_time() {
    for _ in 0..200 {
        for text in [
            "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        ] {
            assert_eq!(says(text).await.expect("an answer").status / 100, 2);
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    for text in [
        "",
        "hello\r\n\r\n",
        "HTTP/0.9 200\r\n\r\n",
        "<html>an answer of the nineties</html>",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/1.1 99999 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
    ] {
        assert!(says(text).await.is_err(), "{text}");
    }
    assert!(says(b"\0\xff\xfe\x01".repeat(1000)).await.is_err());
}

#[tokio::test]
async fn a_hundred_thousand_headers_are_an_error() {
    let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100_000));
    assert!(matches!(says(text).await, Err(ExchangeError::Http(_))));
}

#[tokio::test]
async fn an_endless_header_is_cut_off() {
    let (outcome, taken_bytes) = repeats(b"HTTP/1.1 200 OK\r\na: ", &[b'x'; 8192]).await;
    assert!(matches!(outcome, Err(ExchangeError::Http(_))));
    assert!(taken_bytes < 16 << 20, "{taken_bytes}");
}

#[tokio::test]
async fn an_endless_body_is_cut_off_however_it_is_framed() {
    for (head, again) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 8192][..]),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", &[b'x'; 8192]),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"8\r\nxxxxxxxx\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;name=value\r\nx\r\n"),
    ] {
        let (outcome, taken_bytes) = repeats(head, again).await;
        assert!(matches!(outcome, Err(ExchangeError::Body(_))));
        assert!(taken_bytes < 16 << 20, "{taken_bytes}");
    }
}

#[tokio::test]
async fn a_service_that_never_answers_or_never_ends_is_left_in_time() {
    for (head, again) in [
        (&b""[..], None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", None),
        (b"", Some(&b"HTTP/1.1 100 Continue\r\n\r\n"[..])),
        (b"", Some(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    ] {
        let act = move |mut stream: Stream| async move {
            let _ = stream.write_all(head).await;
            match again {
                Some(again) => while stream.write_all(again).await.is_ok() {},
                None => drop(stream.read(&mut [0; 1]).await),
            }
        };
        let stream = TcpStream::connect(service(act).await).expect("connects");
        let within = Duration::from_millis(300);
        let outcome = exchange_within(within, stream, Method::Get, "/", ANSWER_BYTES_MAX).await;
        assert!(matches!(outcome, Err(ExchangeError::TooSlow(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_none_is_refused_before_anything_is_sent() {
    let at = service(|_| async {}).await;
    let stream = TcpStream::connect(at).expect("connects");
    let outcome = exchange_within(WITHIN, stream, Method::Post(b"{}".to_vec()), "/run/a b\r\nx: y", 10).await;
    assert!(matches!(outcome, Err(ExchangeError::Path(_))));
}
