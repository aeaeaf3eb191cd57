//! The status page: what people on the local network can read of this rig, and change nothing.
//!
//! Invariants:
//! - `GET /` and `GET /status.json` are answered, nothing else is; a request's body is never read.
//! - A page of somebody else cannot read ours through a name that it points at this machine: [`Host`] must be an address,
//!   the rig's own name, or a `.local` name.
//! - Connections, their heads and their time are bounded. A page has no script and fetches nothing: its policy says so to
//!   the browser, and [`html`] escapes every text.

mod head;
mod html;
mod qr;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::head::Host;
use crate::face::Face;
use crate::face::keep::Shown;

/// Connections that are served at a time; more wait in the kernel's queue. A household has fewer readers.
pub const CONNECTIONS_MAX: usize = 32;

/// Time that a reader has to send its request's head.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(2);

/// The longest head of a request, in bytes. Browsers send about one thousand.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Lines of a head.
const HEADERS_MAX: usize = 64;

/// Time for one whole connection: nobody reads ten kilobytes for longer.
const TALK_MAX: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the page until `stop`.
pub async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shown, stop) = (shown.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = talk(stream, &shown) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a reader of the status page was not taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request and its answer.
async fn talk(stream: TcpStream, shown: &Shown) {
    let service = service_fn(|request| {
        let answer = answer(&request, &shown.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).keep_alive(false);
    let talk = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(TALK_MAX, talk).await {
        Ok(Ok(())) => {}
        // Strangers speak as they like; it is worth no warning.
        Ok(Err(error)) => debug!(%error, "a reader of the status page broke off"),
        Err(_) => debug!("a reader of the status page was too slow"),
    }
}

/// What is said to one request about the rig `face`.
pub fn answer<B: Body>(request: &Request<B>, face: &Face) -> Response<Full<Bytes>> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return words(StatusCode::BAD_REQUEST, "a request names one host");
    };
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if !std::iter::once(host.as_bytes()).chain(target).all(|host| Host::is_ours(host, &face.name)) {
        return words(StatusCode::MISDIRECTED_REQUEST, "ask by this rig's address, its name or its .local name");
    }
    if request.method() != Method::GET {
        let mut answer = words(StatusCode::METHOD_NOT_ALLOWED, "this page is only read");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match request.uri().path() {
        "/" => head::dressed(StatusCode::OK, "text/html; charset=utf-8", html::page(face)),
        "/status.json" => {
            let json = serde_json::to_string(face).expect("a face is texts and numbers");
            head::dressed(StatusCode::OK, "application/json", json)
        }
        _ => words(StatusCode::NOT_FOUND, "there is / and /status.json"),
    }
}

fn words(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    head::dressed(status, "text/plain; charset=utf-8", format!("{words}\n"))
}

#[cfg(test)]
mod tests;
