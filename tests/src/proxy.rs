//! A JSON-RPC endpoint that fails as asked, in front of one that does not.
//!
//! A test gives it a plan of [`Fault`]s and changes the plan while it runs. Invariants:
//! * A call that no fault matches is forwarded as it came; a packet without faulty calls goes in one piece, so a batch is
//!   still answered by one node at one moment.
//! * Every fault counts what it hit, so a test awaits that it happened ([`Injected::hit`]) instead of a while.
//! * Of the faults that match a call, the one that was injected first strikes.

mod fault;
mod replica;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::{B256, hex, keccak256};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

pub use self::fault::{Calls, Fault, Injected, Times};
use self::fault::{Kind, Plan};

/// Transactions that are remembered; no test offers as many.
const OFFERED_KEPT: usize = 10_000;

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub url: Url,
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    upstream: Mutex<Url>,
    plan: Plan,
    is_closed: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    offered: Mutex<Vec<B256>>,
}

// === impl Proxy ===

impl Proxy {
    /// Starts a proxy without faults in front of `upstream`, on a free port of 127.0.0.1.
    pub async fn start(upstream: &Url) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            client: reqwest::Client::new(),
            upstream: Mutex::new(upstream.clone()),
            plan: Plan::default(),
            is_closed: AtomicBool::new(false),
            counts: Mutex::default(),
            offered: Mutex::default(),
        });
        let server = Mutex::new(Some(serve(listener, shared.clone())));
        let url = format!("http://{address}/").parse().expect("the parts make a URL");
        Proxy { url, address, shared, server }
    }

    /// Lets `fault` strike `calls`, so many `times`.
    pub fn inject(&self, calls: Calls, fault: Fault, times: Times) -> Injected {
        self.shared.plan.inject(calls, fault, times)
    }

    /// Ends every fault.
    pub fn lift_all(&self) {
        self.shared.plan.lift_all();
    }

    /// Forwards to another node from now on.
    pub fn point_to(&self, upstream: &Url) {
        *lock(&self.shared.upstream) = upstream.clone();
    }

    /// Closes the port and breaks every connection: the machine is gone.
    pub async fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.abort();
            // It ends by being aborted.
            let _ = server.await;
        }
    }

    /// Listens again, on the same port.
    pub async fn reopen(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the port was ours a moment ago");
        self.shared.is_closed.store(false, Ordering::SeqCst);
        *lock(&self.server) = Some(serve(listener, self.shared.clone()));
    }

    /// How often `method` was called, faults included.
    pub fn count(&self, method: &str) -> u64 {
        lock(&self.shared.counts).get(method).copied().unwrap_or(0)
    }

    /// The hashes of the raw transactions that were offered, in that order, faults included.
    pub fn offered(&self) -> Vec<B256> {
        lock(&self.shared.offered).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        if let Some(server) = lock(&self.server).take() {
            server.abort();
        }
    }
}

/// A URL at which nobody listens.
pub fn dead_url() -> Url {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    format!("http://{address}/").parse().expect("the parts make a URL")
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    let routes = Router::new().route("/", post(take)).with_state(shared);
    tokio::spawn(async move {
        // An error here is a listener that broke; the test sees it as an endpoint that does not answer.
        let _ = axum::serve(listener, routes).await;
    })
}

async fn take(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    if shared.is_closed.load(Ordering::SeqCst) {
        return broken();
    }
    let Ok(packet) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "not JSON").into_response();
    };
    let calls = match &packet {
        Value::Array(calls) => calls.clone(),
        single => vec![single.clone()],
    };
    calls.iter().for_each(|call| shared.note(call));
    let faults: Vec<Option<Fault>> = calls.iter().map(|call| shared.plan.strike(method_of(call))).collect();
    if let Some(fault) = faults.iter().flatten().find(|fault| fault.kind() == Kind::Packet) {
        return shared.fail(fault, &packet).await;
    }
    if faults.iter().all(Option::is_none) {
        return match shared.forward(&packet).await {
            Ok(answer) => Json(answer).into_response(),
            Err(_) => broken(),
        };
    }
    let mut answers = Vec::with_capacity(calls.len());
    for (call, fault) in calls.iter().zip(faults) {
        match shared.answer(call, fault).await {
            Ok(answer) => answers.push(answer),
            Err(_) => return broken(),
        }
    }
    match packet {
        Value::Array(_) => Json(Value::Array(answers)).into_response(),
        _ => Json(answers.swap_remove(0)).into_response(),
    }
}

// === impl Shared ===

impl Shared {
    /// A fault of the whole answer.
    async fn fail(&self, fault: &Fault, packet: &Value) -> Response {
        match fault {
            Fault::Status(code) => {
                let status = StatusCode::from_u16(*code).expect("a test names a real status");
                (status, "<html><body>upstream is unwell</body></html>").into_response()
            }
            Fault::Garbage => {
                ([(header::CONTENT_TYPE, "application/json")], "{\"jsonrpc\":\"2.0\",\"id\":").into_response()
            }
            Fault::BreakOff => broken(),
            Fault::DoneInSilence => {
                // Whatever comes of it, nobody is told.
                let _ = self.forward(packet).await;
                std::future::pending().await
            }
            Fault::Silence => std::future::pending().await,
            _ => unreachable!("{fault:?} is a fault of one call"),
        }
    }

    /// One call, with a fault of one call or none.
    async fn answer(&self, call: &Value, fault: Option<Fault>) -> reqwest::Result<Value> {
        match fault {
            None => self.forward(call).await,
            Some(Fault::Swallow) => Ok(result_of(call, json!(raw_hash(call)))),
            Some(Fault::SayFailed) => {
                self.forward(call).await?;
                Ok(error_of(call, -32000, "upstream: context deadline exceeded"))
            }
            Some(Fault::Refuse { code, message }) => Ok(error_of(call, code, message)),
            Some(Fault::Null) => Ok(result_of(call, Value::Null)),
            Some(Fault::ChainId(id)) => Ok(result_of(call, json!(format!("{id:#x}")))),
            Some(Fault::Twice) => {
                self.forward(call).await?;
                self.forward(call).await
            }
            Some(Fault::Lag(blocks)) => replica::answer(self, call, blocks).await,
            Some(fault) => unreachable!("{fault:?} is a fault of a whole packet"),
        }
    }

    async fn forward(&self, packet: &Value) -> reqwest::Result<Value> {
        let upstream = lock(&self.upstream).clone();
        self.client.post(upstream).json(packet).send().await?.json().await
    }

    fn note(&self, call: &Value) {
        let method = method_of(call);
        *lock(&self.counts).entry(method.to_owned()).or_default() += 1;
        let mut offered = lock(&self.offered);
        if method == "eth_sendRawTransaction" && offered.len() < OFFERED_KEPT {
            offered.push(raw_hash(call));
        }
    }
}

/// Headers that promise a body, and then the connection is gone.
fn broken() -> Response {
    Response::new(Body::from_stream(stream::iter([Err::<&str, _>(std::io::Error::other("cut"))])))
}

fn method_of(call: &Value) -> &str {
    call["method"].as_str().unwrap_or_default()
}

fn raw_hash(call: &Value) -> B256 {
    let raw = call["params"][0].as_str().unwrap_or_default();
    keccak256(hex::decode(raw).unwrap_or_default())
}

fn result_of(call: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": call["id"], "result": result })
}

fn error_of(call: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": call["id"], "error": { "code": code, "message": message } })
}

/// Nothing is held while a lock is, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
