//! The callback listener of one source: `POST /<token>/task/<task>` with the result as its body.
//!
//! It is reachable from inside the jail only. A wrong token and a task that nobody dispatched look the same from there.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use work::TaskId;

use super::awaited::{Awaited, Claim, Failing, Returned};
use crate::store::{Store, StoreError};

/// Longest silence within one result.
const IDLE_MAX: Duration = Duration::from_secs(60);

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
}

/// Serves callbacks until `stop`.
pub(super) async fn serve(listener: TcpListener, desk: Desk, stop: CancellationToken) {
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
    match keep(&desk, body).await {
        Ok(returned) => {
            let _ = reply.send(Ok(returned));
            (StatusCode::OK, Json(json!({ "status": "accepted" })))
        }
        Err(Unusable::Broken) => {
            desk.awaited.give_back(task, reply);
            no(StatusCode::BAD_REQUEST, "the body broke off")
        }
        Err(Unusable::Bad(status, why)) => {
            let _ = reply.send(Err(Failing::BadResult(why.clone())));
            no(status, &why)
        }
    }
}

/// Streams a result into the store, and checks that it is JSON.
async fn keep(desk: &Desk, body: Body) -> Result<Returned, Unusable> {
    let max = desk.result_bytes_max;
    let broken = |_: StoreError| Unusable::Broken;
    let mut writing = desk.store.begin(max).await.map_err(broken)?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = tokio::time::timeout(IDLE_MAX, chunks.next()).await.map_err(|_| Unusable::Broken)? {
        let chunk = chunk.map_err(|_| Unusable::Broken)?;
        writing.write(&chunk).await.map_err(|error| match error {
            StoreError::TooBig { .. } => {
                let why = format!("the result has more than {max} bytes (result_bytes in rig.toml)");
                Unusable::Bad(StatusCode::PAYLOAD_TOO_LARGE, why)
            }
            StoreError::File { .. } | StoreError::Mismatch { .. } => Unusable::Broken,
        })?;
    }
    let (digest, bytes) = writing.finish(None).await.map_err(broken)?;
    let path = desk.store.path(digest);
    let parsed = tokio::task::spawn_blocking(move || is_json(&path)).await;
    if parsed.is_ok_and(|is_json| is_json) {
        Ok(Returned { digest, bytes })
    } else {
        Err(Unusable::Bad(StatusCode::UNPROCESSABLE_ENTITY, "the result is not JSON".to_owned()))
    }
}

fn is_json(path: &std::path::Path) -> bool {
    std::fs::File::open(path)
        .is_ok_and(|file| serde_json::from_reader::<_, serde::de::IgnoredAny>(std::io::BufReader::new(file)).is_ok())
}
