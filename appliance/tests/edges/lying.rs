//! A registry on loopback that serves one image, and lies as it is told.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What comes instead of the truth.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Honest,
    Bytes(Vec<u8>),
    /// Chunks without end.
    Endless,
    Status(u16),
    /// On to this URL.
    Elsewhere(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answer: Answer,
    /// So many transfers break off in the middle first.
    pub(crate) broken_times: u32,
}

/// An image as the registry holds it: index, manifest, config and layers.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) index: Vec<u8>,
    pub(crate) index_answer: Answer,
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_answer: Answer,
    /// The config first.
    pub(crate) blobs: Vec<Blob>,
    /// What the token service answers, if a token is needed; `sesame` opens.
    pub(crate) token: Option<Bytes>,
    /// Where it says that its token service is, if not here.
    pub(crate) realm: Option<String>,
    asked: u32,
    asked_for_blobs: u32,
}

pub(crate) struct Lying {
    port: u16,
    image: Shared,
}

type Shared = Arc<Mutex<Image>>;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

// === impl Image ===

impl Image {
    pub(crate) fn honest() -> Image {
        Image::of(&[b"layer one", b"layer two"])
    }

    pub(crate) fn of(layers: &[&[u8]]) -> Image {
        let all = std::iter::once(&b"{\"os\":\"linux\"}"[..]).chain(layers.iter().copied());
        let blob = |bytes: &[u8]| Blob { bytes: bytes.to_vec(), answer: Answer::Honest, broken_times: 0 };
        let blobs: Vec<Blob> = all.map(blob).collect();
        let describe = |blob: &Blob, kind: &str| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": sha256(&blob.bytes), "size": blob.bytes.len() })
        };
        let layers: Vec<_> = blobs[1..].iter().map(|blob| describe(blob, "layer.v1.tar")).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe(&blobs[0], "config.v1+json"),
            "layers": layers,
        });
        let mut image = Image {
            index: Vec::new(),
            index_answer: Answer::Honest,
            manifest: Vec::new(),
            manifest_answer: Answer::Honest,
            blobs,
            token: None,
            realm: None,
            asked: 0,
            asked_for_blobs: 0,
        };
        image.set_manifest(manifest.to_string().into_bytes());
        image
    }

    /// The manifest's text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.manifest.clone()).expect("text")
    }

    /// Another manifest, and an index that names it.
    pub(crate) fn set_manifest(&mut self, manifest: Vec<u8>) {
        let entry = |os: &str, digest: String| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": manifest.len(), "platform": { "os": os, "architecture": "amd64" },
            })
        };
        let manifests = [entry("windows", sha256(b"another")), entry("linux", sha256(&manifest))];
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        });
        self.index = index.to_string().into_bytes();
        self.manifest = manifest;
    }
}

// === impl Lying ===

impl Lying {
    pub(crate) async fn serve(image: Image) -> Lying {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let image = Arc::new(Mutex::new(image));
        let routes = Router::new()
            .route("/v2/a/b/manifests/{version}", get(manifest))
            .route("/v2/a/b/blobs/{digest}", get(blob))
            .route("/token", get(token))
            .with_state((port, image.clone()));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Lying { port, image }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The name of an image here.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    pub(crate) fn blob_url(&self, bytes: &[u8]) -> String {
        format!("http://127.0.0.1:{}/v2/a/b/blobs/{}", self.port, sha256(bytes))
    }

    pub(crate) fn image(&self) -> Image {
        self.lock().clone()
    }

    pub(crate) fn change(&self, edit: impl FnOnce(&mut Image)) {
        edit(&mut self.lock());
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> u32 {
        self.lock().asked
    }

    /// Requests for blobs so far.
    pub(crate) fn asked_for_blobs(&self) -> u32 {
        self.lock().asked_for_blobs
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().expect("no holder panics")
    }
}

type Here = State<(u16, Shared)>;

/// Counts a request, and answers it with a challenge if it brings no token where one is needed.
fn enter(image: &mut Image, port: u16, headers: &HeaderMap) -> Option<Response> {
    image.asked += 1;
    let is_open = image.token.is_none() || headers.get(header::AUTHORIZATION).is_some_and(|v| v == "Bearer sesame");
    let realm = image.realm.clone().unwrap_or_else(|| format!("http://127.0.0.1:{port}/token"));
    let challenge = format!("Bearer realm=\"{realm}\",service=\"here\"");
    (!is_open).then(|| (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response())
}

async fn manifest(State((port, image)): Here, Path(version): Path<String>, headers: HeaderMap) -> Response {
    let mut image = image.lock().expect("no holder panics");
    if let Some(no) = enter(&mut image, port, &headers) {
        return no;
    }
    if version == sha256(&image.manifest) {
        return say(&image.manifest_answer, &image.manifest);
    }
    say(&image.index_answer, &image.index)
}

async fn blob(State((port, image)): Here, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    let mut image = image.lock().expect("no holder panics");
    if let Some(no) = enter(&mut image, port, &headers) {
        return no;
    }
    image.asked_for_blobs += 1;
    let Some(blob) = image.blobs.iter_mut().find(|blob| sha256(&blob.bytes) == digest) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if blob.broken_times > 0 {
        blob.broken_times -= 1;
        let half = Bytes::copy_from_slice(&blob.bytes[..blob.bytes.len() / 2]);
        let broken = stream::iter([Ok(half), Err(std::io::Error::other("broken off"))]);
        return Body::from_stream(broken).into_response();
    }
    say(&blob.answer, &blob.bytes)
}

async fn token(State((_, image)): Here) -> Response {
    image.lock().expect("no holder panics").token.clone().unwrap_or_default().into_response()
}

fn say(answer: &Answer, truth: &[u8]) -> Response {
    match answer {
        Answer::Honest => truth.to_vec().into_response(),
        Answer::Bytes(bytes) => bytes.clone().into_response(),
        Answer::Endless => {
            let chunk = Bytes::from_static(&[b' '; 16 * 1024]);
            Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()))).into_response()
        }
        Answer::Status(status) => StatusCode::from_u16(*status).expect("a status").into_response(),
        Answer::Elsewhere(url) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url.clone())]).into_response(),
    }
}
