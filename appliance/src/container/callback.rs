//! The callback listener of one source: `POST /<token>/task/<task>` with the result as its body.
//!
//! It is reachable from inside the jail only. A wrong token and a task that nobody dispatched look the same from there.
//!
//! Invariants:
//! - A result that has come whole is delivered, whether the service waits for the answer or hangs up.
//! - What a jail can hold open here is bounded: [`CONNECTIONS_MAX`], each with time limits, each body with a size limit.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::Listener;
use axum::{Json, Router};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use work::TaskId;

use super::awaited::{Awaited, Claim, Failing, Reply, Returned};
use super::few::Few;
use crate::chain_of;
use crate::store::{Shelf, Store, StoreError};

/// Longest silence within one result.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Connections of one jail that are open at a time; more wait in the kernel's queue. Source: none; a run makes one.
const CONNECTIONS_MAX: usize = 64;

/// What the listener of one source needs.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) token: String,
    pub(super) awaited: Arc<Awaited>,
    pub(super) store: Arc<Store>,
    pub(super) result_bytes_max: u64,
}

/// Why a body was not taken.
enum Unusable {
    /// It broke off; the service may call again.
    Broken,
    /// It is what the service wanted to send, and cannot be used.
    Bad(StatusCode, String),
    /// There is no room for it here: not the service's fault.
    NoRoom(StoreError),
}

/// Serves callbacks until `stop`; then results that are on their way may still end.
pub(super) async fn serve(listener: TcpListener, desk: Desk, stop: CancellationToken) {
    serve_on(Few::new(listener, CONNECTIONS_MAX), desk, stop).await;
}

/// The same for any source of connections.
pub(super) async fn serve_on<L>(listener: L, desk: Desk, stop: CancellationToken)
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let routes = Router::new().route("/{token}/task/{task}", post(take)).with_state(desk);
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        warn!(%error, "callback listener ended");
    }
}

async fn take(
    State(desk): State<Desk>,
    Path((token, task)): Path<(String, String)>,
    body: Body,
) -> (StatusCode, Json<Value>) {
    let no = |status, why: &str| (status, Json(json!({ "error": why })));
    let unknown = || no(StatusCode::NOT_FOUND, "no task of this name was dispatched to this source");
    let Ok(task) = task.parse::<TaskId>() else { return unknown() };
    if token != desk.token {
        warn!(%task, "callback with a wrong token");
        return unknown();
    }
    let reply = match desk.awaited.claim(task).await {
        Claim::Open(reply) => reply,
        Claim::Answered => return no(StatusCode::CONFLICT, "this task has its result already"),
        Claim::Unknown => {
            warn!(%task, "callback for a task that was not dispatched");
            return unknown();
        }
    };
    // In a task of its own: this one is dropped when the service hangs up, and the claim would be lost with it.
    let delivered = tokio::spawn(async move { deliver(&desk, task, reply, body).await }).await;
    match delivered {
        Ok((StatusCode::OK, _)) => (StatusCode::OK, Json(json!({ "status": "accepted" }))),
        Ok((status, why)) => no(status, &why),
        Err(_) => no(StatusCode::INTERNAL_SERVER_ERROR, "the rig's own software failed here"),
    }
}

/// Takes the body of a claimed task and tells whoever waits. Returns the answer.
async fn deliver(desk: &Desk, task: TaskId, reply: Reply, body: Body) -> (StatusCode, String) {
    match keep(desk, task, body).await {
        Ok(returned) => {
            reply.deliver(Ok(returned));
            (StatusCode::OK, String::new())
        }
        Err(Unusable::Broken) => {
            desk.awaited.give_back(task, reply);
            (StatusCode::BAD_REQUEST, "the body broke off".to_owned())
        }
        Err(Unusable::Bad(status, why)) => {
            reply.deliver(Err(Failing::BadResult(why.clone())));
            (status, why)
        }
        Err(Unusable::NoRoom(error)) => {
            warn!(%task, error = chain_of(&error), "result was not stored");
            reply.deliver(Err(Failing::Gone(format!("the result was not stored: {}", chain_of(&error)))));
            (StatusCode::INSUFFICIENT_STORAGE, "the rig could not store the result".to_owned())
        }
    }
}

/// Streams a result into the store, and checks that it is JSON.
async fn keep(desk: &Desk, task: TaskId, body: Body) -> Result<Returned, Unusable> {
    let max = desk.result_bytes_max;
    let mut writing = desk.store.begin(Shelf::Task(task), max).await.map_err(Unusable::NoRoom)?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = tokio::time::timeout(IDLE_MAX, chunks.next()).await.map_err(|_| Unusable::Broken)? {
        let chunk = chunk.map_err(|_| Unusable::Broken)?;
        writing.write(&chunk).await.map_err(|error| match error {
            StoreError::TooBig { .. } => {
                let why = format!("the result has more than {max} bytes (result_bytes in rig.toml)");
                Unusable::Bad(StatusCode::PAYLOAD_TOO_LARGE, why)
            }
            error @ (StoreError::File { .. } | StoreError::Mismatch { .. }) => Unusable::NoRoom(error),
        })?;
    }
    let path = writing.look().await.map_err(Unusable::NoRoom)?;
    let parsed = tokio::task::spawn_blocking(move || is_json(&path)).await;
    if !parsed.is_ok_and(|is_json| is_json) {
        return Err(Unusable::Bad(StatusCode::UNPROCESSABLE_ENTITY, "the result is not JSON".to_owned()));
    }
    let (digest, bytes) = writing.finish(None).await.map_err(Unusable::NoRoom)?;
    Ok(Returned { digest, bytes })
}

fn is_json(path: &std::path::Path) -> bool {
    std::fs::File::open(path)
        .is_ok_and(|file| serde_json::from_reader::<_, serde::de::IgnoredAny>(io::BufReader::new(file)).is_ok())
}

#[cfg(test)]
mod tests;
