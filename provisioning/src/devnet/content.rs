//! The local network's content service: a pin API and a gateway over one folder.
//!
//! It speaks what OpenGPU's own speaks. `POST /file/create` takes one multipart part `file` and answers 201
//! `{"link": "http://127.0.0.1:PORT/ipfs/<cid>"}`; `GET /ipfs/<cid>` gives the bytes back under the content type that
//! they came with. Every refusal is JSON `{"error": …}`. Who posts to another address of this machine gets links to that
//! address: a virtual machine does not find this one at 127.0.0.1.
//!
//! Invariants: the CID is the one that `ipfs add` gives; a document is whole as soon as it has its name; memory does not
//! grow with its size.
//!
//! ```text
//!   DIR/<cid>         the bytes
//!   DIR/<cid>.type    their content type, written first
//!   DIR/incoming-N    being received; swept at the start
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, Multipart, Path as Segment, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chain::content::cid::{Cid, CidHasher};
use serde_json::json;
use thiserror::Error;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Biggest document that is taken, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How much of a document that is too big is still read, in bytes, so that the sender hears why instead of a reset.
const DISCARDED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Longest content type that is kept, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 200;

/// Multicodec of the documents' roots. Source: multicodec table.
const DAG_PB: u64 = 0x70;

/// What a document without a content type is.
const OCTETS: &str = "application/octet-stream";

/// Bytes read from disk at a time.
const READ_BYTES: usize = 64 * 1024;

/// Name of what is being received.
const INCOMING: &str = "incoming-";

#[derive(Debug)]
struct Store {
    dir: PathBuf,
    /// `http://127.0.0.1:PORT`, for who does not say which address was asked.
    origin: String,
    limit_bytes: u64,
    received: AtomicU64,
}

/// Why a request is refused.
#[derive(Debug, Error)]
enum Refusal {
    #[error("the body must be multipart/form-data: {0}")]
    NotAForm(MultipartRejection),
    #[error("the form broke off: {0}")]
    Broken(MultipartError),
    #[error("the form has no part named \"file\"")]
    NoFile,
    #[error("the document is bigger than {limit_bytes} bytes")]
    TooBig { limit_bytes: u64 },
    #[error("{0:?} is not a CID")]
    NotACid(String),
    #[error("no document {0}")]
    Unknown(Cid),
    #[error("the folder cannot be used: {0}")]
    Storage(#[from] io::Error),
}

/// Serves `dir` until `cancel`, then finishes what is under way. Links lead to the address that was posted to.
pub async fn serve(listener: TcpListener, dir: PathBuf, cancel: CancellationToken) {
    let served = async {
        let origin = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let store = Store::open(dir, origin, DOCUMENT_BYTES_MAX).await?;
        axum::serve(listener, router(store)).with_graceful_shutdown(cancel.cancelled_owned()).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "content service ended");
    }
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/file/create", post(create))
        .route("/ipfs/{cid}", get(read))
        // The store has its own limit, which answers in words.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(store))
}

async fn create(
    State(store): State<Arc<Store>>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, Refusal> {
    let mut form = form.map_err(Refusal::NotAForm)?;
    while let Some(field) = form.next_field().await.map_err(Refusal::Broken)? {
        if field.name() == Some("file") {
            let cid = store.receive(field).await?;
            let link = format!("{}/ipfs/{cid}", store.origin_for(&headers));
            return Ok((StatusCode::CREATED, Json(json!({ "link": link }))).into_response());
        }
    }
    Err(Refusal::NoFile)
}

async fn read(State(store): State<Arc<Store>>, Segment(cid): Segment<String>) -> Result<Response, Refusal> {
    let cid: Cid = cid.parse().map_err(|_| Refusal::NotACid(cid))?;
    let file = match File::open(store.path_of(&cid)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::Unknown(cid)),
        file => file?,
    };
    let bytes = file.metadata().await?.len();
    let kind = fs::read(store.type_path_of(&cid)).await.unwrap_or_default();
    let kind = HeaderValue::from_bytes(&kind).ok().filter(|kind| !kind.is_empty());
    let headers = [
        (header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static(OCTETS))),
        (header::CONTENT_LENGTH, bytes.into()),
    ];
    Ok((headers, Body::from_stream(chunks(file))).into_response())
}

fn chunks(file: File) -> impl futures::Stream<Item = io::Result<Bytes>> {
    futures::stream::try_unfold(file, async |mut file| {
        let mut bytes = vec![0; READ_BYTES];
        let read = file.read(&mut bytes).await?;
        bytes.truncate(read);
        Ok((read > 0).then(|| (bytes.into(), file)))
    })
}

// === impl Store ===

impl Store {
    async fn open(dir: PathBuf, origin: String, limit_bytes: u64) -> io::Result<Store> {
        fs::create_dir_all(&dir).await?;
        let mut files = fs::read_dir(&dir).await?;
        while let Some(file) = files.next_entry().await? {
            if file.file_name().to_string_lossy().starts_with(INCOMING) {
                fs::remove_file(file.path()).await?;
            }
        }
        Ok(Store { dir, origin, limit_bytes, received: AtomicU64::new(0) })
    }

    /// Where links lead for who sent `headers`.
    fn origin_for(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<SocketAddr>().ok());
        host.map_or_else(|| self.origin.clone(), |host| format!("http://{host}"))
    }

    /// A version 1 spelling of a classic name finds the same document, as on a real gateway.
    fn path_of(&self, cid: &Cid) -> PathBuf {
        let classic = if cid.codec() == DAG_PB { Cid::new_v0(*cid.hash()).ok() } else { None };
        self.dir.join(classic.unwrap_or(*cid).to_string())
    }

    fn type_path_of(&self, cid: &Cid) -> PathBuf {
        self.path_of(cid).with_extension("type")
    }

    /// Keeps one document and returns its name.
    async fn receive(&self, field: Field<'_>) -> Result<Cid, Refusal> {
        let kind =
            field.content_type().filter(|kind| kind.len() <= CONTENT_TYPE_BYTES_MAX).unwrap_or(OCTETS).to_owned();
        let incoming = self.dir.join(format!("{INCOMING}{}", self.received.fetch_add(1, Ordering::Relaxed)));
        let kept = match self.write(field, &incoming).await {
            Ok(cid) => self.keep(&incoming, &cid, &kind).await.map(|()| cid),
            Err(refusal) => Err(refusal),
        };
        if kept.is_err() {
            // If it stays, the next start sweeps it.
            let _ = fs::remove_file(&incoming).await;
        }
        kept
    }

    async fn write(&self, mut field: Field<'_>, incoming: &Path) -> Result<Cid, Refusal> {
        let mut file = File::create(incoming).await?;
        let mut hasher = CidHasher::classic();
        let mut size: u64 = 0;
        while let Some(bytes) = field.chunk().await.map_err(Refusal::Broken)? {
            size += bytes.len() as u64;
            if size <= self.limit_bytes {
                hasher.update(&bytes);
                file.write_all(&bytes).await?;
            } else if size > DISCARDED_BYTES_MAX {
                break;
            }
        }
        if size > self.limit_bytes {
            return Err(Refusal::TooBig { limit_bytes: self.limit_bytes });
        }
        file.flush().await?;
        file.sync_all().await?;
        Ok(hasher.finish().first())
    }

    async fn keep(&self, incoming: &Path, cid: &Cid, kind: &str) -> Result<(), Refusal> {
        fs::write(self.type_path_of(cid), kind).await?;
        fs::rename(incoming, self.path_of(cid)).await?;
        Ok(())
    }
}

// === impl Refusal ===

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Refusal::NotAForm(_) | Refusal::Broken(_) | Refusal::NoFile | Refusal::NotACid(_) => {
                StatusCode::BAD_REQUEST
            }
            Refusal::TooBig { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use chain::content::cid::cid_of;
    use chain::content::{Content, Gateways, PinError};
    use reqwest::multipart::{Form, Part};
    use tempfile::TempDir;

    use super::*;

    struct Service {
        origin: String,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Service {
        async fn up(dir: &TempDir) -> Service {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let origin = format!("http://{}", listener.local_addr().unwrap());
            let cancel = CancellationToken::new();
            let task = tokio::spawn(serve(listener, dir.path().to_owned(), cancel.clone()));
            Service { origin, cancel, task }
        }

        /// The same with a small limit.
        async fn small(dir: &TempDir, limit_bytes: u64) -> Service {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let origin = format!("http://{}", listener.local_addr().unwrap());
            let store = Store::open(dir.path().to_owned(), origin.clone(), limit_bytes).await.unwrap();
            let task = tokio::spawn(async { axum::serve(listener, router(store)).await.unwrap() });
            Service { origin, cancel: CancellationToken::new(), task }
        }

        fn content(&self) -> Content {
            let mut gateways = Gateways::new(format!("{}/file/create", self.origin).parse().unwrap());
            gateways.allow_private = true;
            Content::new(gateways).unwrap()
        }

        async fn down(self) {
            self.cancel.cancel();
            self.task.await.unwrap();
        }
    }

    async fn error_of(response: reqwest::Response) -> (u16, String) {
        let status = response.status().as_u16();
        let answer: serde_json::Value = response.json().await.unwrap();
        (status, answer["error"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn what_is_pinned_can_be_fetched_by_its_real_name_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7u8; 700_001];
        let service = Service::up(&dir).await;
        let link = service.content().pin("a.bin", "application/x-test", bytes.clone()).await.unwrap();
        assert_eq!(link.url.as_str(), format!("{}/ipfs/{}", service.origin, cid_of(&bytes)));
        assert_eq!(service.content().fetch(link.url.as_str(), 1 << 20).await.unwrap(), bytes);
        service.down().await;

        let service = Service::up(&dir).await;
        for name in [link.cid, Cid::new_v1(DAG_PB, *link.cid.hash())] {
            let answer = reqwest::get(format!("{}/ipfs/{name}", service.origin)).await.unwrap();
            assert_eq!(answer.headers()["content-type"], "application/x-test");
            assert_eq!(answer.content_length(), Some(700_001));
            assert_eq!(answer.bytes().await.unwrap(), bytes);
        }
        service.down().await;
    }

    #[tokio::test]
    async fn pinning_twice_gives_the_same_link() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::up(&dir).await;
        let pin = async || service.content().pin("a.json", "application/json", b"{}".to_vec()).await.unwrap();
        assert_eq!(pin().await, pin().await);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the bytes and their type");
        service.down().await;
    }

    #[tokio::test]
    async fn a_link_leads_to_the_address_that_was_posted_to() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::up(&dir).await;
        let check = async |host: &str, origin: &str| {
            let form = Form::new().part("file", Part::bytes(vec![1]));
            let post = reqwest::Client::new().post(format!("{}/file/create", service.origin)).multipart(form);
            let answer: serde_json::Value = post.header(header::HOST, host).send().await.unwrap().json().await.unwrap();
            assert_eq!(answer["link"], format!("{origin}/ipfs/{}", cid_of(&[1])), "{host}");
        };
        check("10.0.2.2:8080", "http://10.0.2.2:8080").await;
        for no_address in ["example.org", "10.0.2.2", "localhost:1"] {
            check(no_address, &service.origin).await;
        }
        service.down().await;
    }

    #[tokio::test]
    async fn a_document_over_the_limit_is_refused_in_words_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::small(&dir, 1000).await;
        let error = service.content().pin("a", "text/plain", vec![0; 5_000_000]).await.unwrap_err();
        assert!(
            matches!(&error, PinError::Refused { status, answer } if status.as_u16() == 413 && answer.contains("1000 bytes")),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(service.content().pin("a", "text/plain", vec![0; 1000]).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_makes_no_sense_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::up(&dir).await;
        let client = reqwest::Client::new();
        let create = || client.post(format!("{}/file/create", service.origin));

        let form = Form::new().part("document", Part::bytes(vec![1]));
        let (status, error) = error_of(create().multipart(form).send().await.unwrap()).await;
        assert_eq!((status, &*error), (400, "the form has no part named \"file\""));

        let (status, error) = error_of(create().body("{}").send().await.unwrap()).await;
        assert_eq!(status, 400);
        assert!(error.contains("multipart"), "{error}");

        let cut = create().header("content-type", "multipart/form-data; boundary=b");
        let cut = cut.body("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf");
        let (status, error) = error_of(cut.send().await.unwrap()).await;
        assert_eq!(status, 400);
        assert!(error.contains("broke off"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "half a document is none");
        service.down().await;
    }

    #[tokio::test]
    async fn an_unknown_name_is_404_and_no_name_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let service = Service::up(&dir).await;
        let get =
            async |path: &str| error_of(reqwest::get(format!("{}/ipfs/{path}", service.origin)).await.unwrap()).await;
        assert_eq!(get(&cid_of(b"nobody pinned this").to_string()).await.0, 404);
        for path in ["secret", "..%2fsecret", "%2e%2e%2fsecret", "incoming-0"] {
            assert_eq!(get(path).await.0, 400, "{path}");
        }
        service.down().await;
    }

    #[tokio::test]
    async fn what_was_being_received_is_swept_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("incoming-0"), "half").unwrap();
        Store::open(dir.path().to_owned(), String::new(), 1).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
