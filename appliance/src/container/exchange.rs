//! One HTTP request on a stream that leads into a jail. Everything that comes back is bounded.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// Time for one whole exchange. Source: the framework answers 202 at once; a description takes milliseconds.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);

/// Headers that an answer may have.
const HEADERS_MAX: usize = 64;

/// Bytes of headers that an answer may have.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// What is asked.
pub(super) enum Method {
    /// Nothing but the path.
    Get,
    /// A JSON body.
    Post(Vec<u8>),
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum ExchangeError {
    #[error("use the stream into the jail")]
    Stream(#[source] io::Error),
    #[error("speak HTTP with the source")]
    Http(#[source] hyper::Error),
    #[error("read the source's answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the source did not answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("`{0}` is no path")]
    Path(String),
}

/// Sends one request and reads the answer, of at most `max` bytes.
/// Errors: what broke, within [`EXCHANGE_MAX`] in any case.
pub(super) async fn exchange(
    stream: TcpStream,
    method: Method,
    path: &str,
    max: usize,
) -> Result<Answer, ExchangeError> {
    exchange_within(EXCHANGE_MAX, stream, method, path, max).await
}

async fn exchange_within(
    within: Duration,
    stream: TcpStream,
    method: Method,
    path: &str,
    max: usize,
) -> Result<Answer, ExchangeError> {
    let late = Err(ExchangeError::TooSlow(within));
    tokio::time::timeout(within, converse(stream, method, path, max)).await.unwrap_or(late)
}

async fn converse(stream: TcpStream, method: Method, path: &str, max: usize) -> Result<Answer, ExchangeError> {
    stream.set_nonblocking(true).map_err(ExchangeError::Stream)?;
    let stream = tokio::net::TcpStream::from_std(stream).map_err(ExchangeError::Stream)?;
    converse_on(stream, method, path, max).await
}

/// The same on any stream of bytes, without a bound on its time.
pub(super) async fn converse_on(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    path: &str,
    max: usize,
) -> Result<Answer, ExchangeError> {
    let mut client = http1::Builder::new();
    client.max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(ExchangeError::Http)?;
    let (verb, body) = match method {
        Method::Get => ("GET", Vec::new()),
        Method::Post(body) => ("POST", body),
    };
    let request = Request::builder()
        .method(verb)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| ExchangeError::Path(path.to_owned()))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(ExchangeError::Http)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), max).collect().await.map_err(ExchangeError::Body)?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    // The connection may end before its last bytes are taken out of it. Whatever breaks it, `talk` hears of.
    let drive = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = talk => answer,
        never = drive => never,
    }
}

#[cfg(test)]
mod tests;
