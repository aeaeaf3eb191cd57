//! A content gateway and pin API that fails as asked, in front of the devnet's own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// Far above what a test publishes.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As the devnet's own.
    Well,
    /// Every connection breaks.
    Gone,
    /// Every answer is this status.
    Status(u16),
    /// Every document is this one, whatever was asked for.
    Lying(&'static str),
}

/// A running gateway. Dropping it stops it.
#[derive(Debug)]
pub struct Gateway {
    origin: Url,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Url,
    client: reqwest::Client,
    mood: Mutex<Mood>,
    asked: watch::Sender<u64>,
}

// === impl Gateway ===

impl Gateway {
    /// Starts a well gateway in front of the service whose gateway is `upstream`.
    pub async fn start(upstream: &Url) -> Gateway {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let upstream = upstream.join("/").expect("a URL has an origin");
        let (asked, _) = watch::channel(0);
        let shared = Arc::new(Shared { upstream, client: reqwest::Client::new(), mood: Mutex::new(Mood::Well), asked });
        let routes = Router::new().fallback(take).layer(DefaultBodyLimit::max(BYTES_MAX)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            // An error here is a listener that broke; the test sees it as a gateway that does not answer.
            let _ = axum::serve(listener, routes).await;
        });
        let origin = format!("http://{address}/").parse().expect("the parts make a URL");
        Gateway { origin, shared, server }
    }

    /// Changes how it behaves from now on.
    pub fn turn(&self, mood: Mood) {
        *self.shared.mood() = mood;
    }

    /// The pin API of this gateway.
    pub fn publish(&self) -> Url {
        self.origin.join("file/create").expect("a path")
    }

    /// A link of the devnet's own gateway, as a link of this one.
    pub fn instead_of(&self, link: &str) -> String {
        let path = link.parse::<Url>().expect("a link").path().to_owned();
        self.origin.join(&path).expect("a path").to_string()
    }

    /// Waits until it was asked `times` times more.
    pub async fn asked(&self, times: u64) {
        let mut asked = self.shared.asked.subscribe();
        let goal = *asked.borrow() + times;
        let reached = asked.wait_for(|asked| *asked >= goal);
        let reached = tokio::time::timeout(std::time::Duration::from_secs(60), reached).await;
        assert!(reached.is_ok(), "the gateway is asked");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn forward(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> reqwest::Result<Response> {
        let url = self.upstream.join(uri.path()).expect("a path");
        let mut request = self.client.request(method, url).body(body);
        if let Some(kind) = headers.get(header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let answer = request.send().await?;
        let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
        let mut response = (status, answer.bytes().await?).into_response();
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        Ok(response)
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mood = *shared.mood();
    let response = match mood {
        Mood::Well => shared.forward(method, &uri, headers, body).await.unwrap_or_else(|_| broken()),
        Mood::Gone => broken(),
        Mood::Status(code) => StatusCode::from_u16(code).expect("a test names a real status").into_response(),
        Mood::Lying(document) => document.into_response(),
    };
    shared.asked.send_modify(|asked| *asked += 1);
    response
}

fn broken() -> Response {
    Response::new(Body::from_stream(stream::iter([Err::<&str, _>(std::io::Error::other("cut"))])))
}
