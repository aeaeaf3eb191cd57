//! Publishing a document: one multipart `POST` to the pin API.
//!
//! Invariant: a [`Link`] is only returned when the service answered 200 or 201 with a link whose CID, if it has one,
//! names the very bytes that were sent. Pinning the same bytes twice gives the same link, so a caller that does not know
//! whether it was heard asks again. There is no retry in here: the book decides when to try again.

use std::path::PathBuf;

use reqwest::multipart::{Form, Part};
use reqwest::{Body, Response, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::bytes::Bytes;
use url::Url;

use super::Content;
use super::cid::{Cid, CidHasher, Mismatch, Names};
use super::link::{check_web, named_cid};

/// Longest answer of the pin API that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How much of an answer an error repeats, in characters.
const ANSWER_CHARS_SHOWN: usize = 300;

/// Bytes read from a file at a time for hashing.
const READ_BYTES: usize = 256 * 1024;

/// What to publish.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file that nobody writes to meanwhile.
    File(PathBuf),
}

/// A published document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it can be read, as the service wrote it.
    pub url: Url,
    /// What it is: the CID in the link, or the one of `ipfs add` when the link has none.
    pub cid: Cid,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Why a document is not published.
#[derive(Debug, Error)]
pub enum PinError {
    /// The service will never take it.
    #[error("pin service refused the document with {status}: {answer}")]
    Refused {
        /// 4xx.
        status: StatusCode,
        /// Its words, cut to 300 characters.
        answer: String,
    },
    /// The service is in trouble.
    #[error("pin service answered {status}: {answer}")]
    Unavailable {
        /// 5xx, 408, 425 or 429.
        status: StatusCode,
        /// Its words, cut to 300 characters.
        answer: String,
    },
    /// The connection could not be made or did not hold.
    #[error("reach pin service {url}")]
    Unreachable {
        /// The pin API.
        url: Url,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// It took too long as a whole.
    #[error("pin service took longer than {limit_ms} ms")]
    TooSlow {
        /// The time it had.
        limit_ms: u128,
    },
    /// The answer is not what a pin API answers.
    #[error("pin service answered {status} with {answer:?}, which {why}")]
    BadAnswer {
        /// The status of the answer.
        status: StatusCode,
        /// Its words, cut to 300 characters.
        answer: String,
        /// What is wrong with them.
        why: &'static str,
    },
    /// The service published something else.
    #[error("pin service was sent {got} and answered with a link to {wanted}", got = .0.got, wanted = .0.wanted)]
    OtherContent(Box<Mismatch>),
    /// The document cannot be read.
    #[error("read document {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The content type is not one.
    #[error("content type {given:?}")]
    ContentType {
        /// The content type.
        given: String,
        /// Why it is not one.
        #[source]
        source: reqwest::Error,
    },
}

#[derive(Deserialize)]
struct Answer {
    link: String,
}

// === impl Content ===

impl Content {
    /// Publishes `payload` under the file name `name`. Source: SDK `ipfs/publish.py`.
    ///
    /// Errors: [`PinError::is_final`] says whether trying again can help.
    pub async fn pin(&self, name: &str, content_type: &str, payload: impl Into<Payload>) -> Result<Link, PinError> {
        let payload = payload.into();
        let (names, bytes) = payload.name().await?;
        let part = payload.part(bytes).await?.file_name(name.to_owned()).mime_str(content_type);
        let part = part.map_err(|source| PinError::ContentType { given: content_type.to_owned(), source })?;
        let time = self.inner.gateways.time_for(bytes);
        let posted = tokio::time::timeout(time, self.post(Form::new().part("file", part))).await;
        let (status, answer) = posted.map_err(|_| PinError::TooSlow { limit_ms: time.as_millis() })??;
        let url = link_in(status, &answer)?;
        let cid = named_cid(&url).unwrap_or(names.first());
        names.check(&cid).map_err(PinError::OtherContent)?;
        Ok(Link { url, cid, bytes })
    }

    async fn post(&self, form: Form) -> Result<(StatusCode, Vec<u8>), PinError> {
        let url = &self.inner.gateways.publish;
        let broken = |source: reqwest::Error| PinError::Unreachable { url: url.clone(), source: source.without_url() };
        let response = self.inner.trusted.post(url.clone()).multipart(form).send().await.map_err(broken)?;
        let status = response.status();
        let answer = read_some(response).await.map_err(broken)?;
        Ok((status, answer))
    }
}

/// Reads at most [`ANSWER_BYTES_MAX`]; what comes after is not waited for.
async fn read_some(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX {
        let Some(bytes) = response.chunk().await? else { break };
        answer.extend_from_slice(&bytes);
    }
    answer.truncate(ANSWER_BYTES_MAX);
    Ok(answer)
}

/// The link in an answer, or what the answer means instead.
fn link_in(status: StatusCode, answer: &[u8]) -> Result<Url, PinError> {
    let shown = || String::from_utf8_lossy(answer).chars().take(ANSWER_CHARS_SHOWN).collect();
    let bad = |why| PinError::BadAnswer { status, answer: shown(), why };
    match status {
        StatusCode::OK | StatusCode::CREATED => {}
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            return Err(PinError::Unavailable { status, answer: shown() });
        }
        _ if status.is_client_error() => return Err(PinError::Refused { status, answer: shown() }),
        _ if status.is_server_error() => return Err(PinError::Unavailable { status, answer: shown() }),
        _ => return Err(bad("is neither 200 nor 201")),
    }
    let Answer { link } = serde_json::from_slice(answer).map_err(|_| bad("is not JSON with a link"))?;
    let url = Url::parse(&link).map_err(|_| bad("has a link that is not a URL"))?;
    check_web(&url).map_err(|_| bad("has a link that cannot be followed"))?;
    Ok(url)
}

// === impl PinError ===

impl PinError {
    /// Whether asking again would end the same.
    pub fn is_final(&self) -> bool {
        match self {
            PinError::Refused { .. } | PinError::ContentType { .. } | PinError::Unreadable { .. } => true,
            PinError::Unavailable { .. }
            | PinError::Unreachable { .. }
            | PinError::TooSlow { .. }
            | PinError::BadAnswer { .. }
            | PinError::OtherContent(_) => false,
        }
    }
}

// === impl Payload ===

impl Payload {
    /// Every name of the content, and its size in bytes.
    async fn name(&self) -> Result<(Names, u64), PinError> {
        let mut hasher = CidHasher::every();
        match self {
            Payload::Bytes(bytes) => {
                hasher.update(bytes);
                Ok((hasher.finish(), bytes.len() as u64))
            }
            Payload::File(path) => {
                let unreadable = |source| PinError::Unreadable { path: path.clone(), source };
                let mut file = File::open(path).await.map_err(unreadable)?;
                let mut buffer = vec![0; READ_BYTES];
                let mut size = 0;
                loop {
                    match file.read(&mut buffer).await.map_err(unreadable)? {
                        0 => return Ok((hasher.finish(), size)),
                        read => {
                            hasher.update(&buffer[..read]);
                            size += read as u64;
                        }
                    }
                }
            }
        }
    }

    async fn part(self, bytes: u64) -> Result<Part, PinError> {
        let body = match self {
            Payload::Bytes(all) => Body::from(all),
            Payload::File(path) => match File::open(&path).await {
                Ok(file) => Body::from(file),
                Err(source) => return Err(PinError::Unreadable { path, source }),
            },
        };
        Ok(Part::stream_with_length(body, bytes))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload::Bytes(bytes.into())
    }
}

impl From<PathBuf> for Payload {
    fn from(path: PathBuf) -> Payload {
        Payload::File(path)
    }
}
