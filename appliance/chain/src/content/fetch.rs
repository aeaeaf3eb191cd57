//! Reading a document from the first host that serves it honestly.
//!
//! The host in the link is asked first, then each configured gateway when the link carries a CID. Invariants: at most
//! `limit_bytes` are taken in, whatever a host announces; at most [`REDIRECTS_MAX`] redirects are followed, and each hop
//! is checked like the first; bytes under a CID are what the CID says. A document that arrives in a file is complete,
//! checked and synced before it has the file's name.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode};
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio_util::bytes::Bytes;
use url::Url;

use super::Content;
use super::cid::{Cid, CidHasher, Mismatch};
use super::guard::{self, PrivateAddress};
use super::link::{Document, check_web};

/// Redirects that are followed from one host. Gateways need one (path form to host form), file hosts two.
pub const REDIRECTS_MAX: usize = 3;

/// How much of a bad link an error repeats, in characters.
const LINK_CHARS_SHOWN: usize = 200;

/// Why a document could not be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The link can never be followed.
    #[error("link {link:?} {why}")]
    BadLink {
        /// The link, cut to 200 characters.
        link: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody served it.
    #[error("nobody served {link}: {}", list(tries))]
    NotServed {
        /// The link.
        link: String,
        /// Everyone that was asked, in order.
        tries: Vec<Try>,
    },
    /// It could not be kept.
    #[error("write document to {}", path.display())]
    Storage {
        /// Where to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// One host that was asked, and what it did.
#[derive(Debug)]
pub struct Try {
    /// The URL asked.
    pub url: Url,
    /// What went wrong.
    pub fault: Fault,
}

/// What one host did wrong.
#[derive(Debug, Error)]
pub enum Fault {
    /// The link leads into a private network.
    #[error("address {0} is not on the public internet")]
    Private(std::net::IpAddr),
    /// The answer was not 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// The document is bigger than the caller takes.
    #[error("sent more than {limit_bytes} bytes")]
    TooBig {
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// The host lies: the bytes are not what the CID says.
    #[error("served {0}")]
    OtherContent(Box<Mismatch>),
    /// The CID is of a kind that cannot be checked from the bytes alone.
    #[error("CID {0} names no plain SHA-256 file, so the bytes cannot be checked")]
    Uncheckable(Cid),
    /// One redirect too many.
    #[error("redirected more than {REDIRECTS_MAX} times")]
    TooManyRedirects,
    /// A redirect to nowhere.
    #[error("redirected to {to:?}, which {why}")]
    BadRedirect {
        /// The target as the host wrote it, cut to 200 characters.
        to: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It took too long as a whole.
    #[error("took longer than {limit_ms} ms")]
    TooSlow {
        /// The time it had.
        limit_ms: u128,
    },
    /// The connection could not be made or did not hold.
    #[error("request broke")]
    Broken(#[source] reqwest::Error),
}

/// Whom to ask, and whether the owner configured that host.
struct Door {
    url: Url,
    is_ours: bool,
}

/// Where the bytes go.
enum Sink {
    Memory(Vec<u8>),
    File { path: PathBuf, file: File },
}

/// Why one try ended: the host's doing, or our own disk's.
enum Halt {
    Fault(Fault),
    Storage(FetchError),
}

// === impl Content ===

impl Content {
    /// Reads a document of at most `limit_bytes` into memory.
    ///
    /// Errors: [`FetchError::is_final`] says whether trying again can help.
    pub async fn fetch(&self, link: &str, limit_bytes: u64) -> Result<Bytes, FetchError> {
        match self.fetch_into(Sink::Memory(Vec::new()), link, limit_bytes).await? {
            Sink::Memory(bytes) => Ok(bytes.into()),
            Sink::File { .. } => unreachable!("a sink keeps its kind"),
        }
    }

    /// Reads a document of at most `limit_bytes` into `file` and returns its size in bytes.
    ///
    /// The bytes gather in `<file>.part`, which takes the name `file` once they are complete, checked and synced. One
    /// caller at a time may fetch to one `file`.
    pub async fn fetch_to(&self, link: &str, file: &Path, limit_bytes: u64) -> Result<u64, FetchError> {
        let part = part_of(file);
        let storage = |source| FetchError::Storage { path: file.to_owned(), source };
        let sink = Sink::File { path: part.clone(), file: File::create(&part).await.map_err(storage)? };
        let fetched = self.fetch_into(sink, link, limit_bytes).await;
        let kept = match fetched {
            Ok(Sink::File { file: whole, .. }) => keep(whole, &part, file).await.map_err(storage),
            Ok(Sink::Memory(_)) => unreachable!("a sink keeps its kind"),
            Err(error) => Err(error),
        };
        if kept.is_err() {
            // Whether or not it can be removed, it is overwritten by the next try.
            let _ = tokio::fs::remove_file(&part).await;
        }
        kept
    }

    async fn fetch_into(&self, mut sink: Sink, link: &str, limit_bytes: u64) -> Result<Sink, FetchError> {
        let document = Document::parse(link).map_err(|why| FetchError::BadLink { link: shown(link), why })?;
        let mut tries = Vec::new();
        for Door { url, is_ours } in self.doors(&document) {
            let time = self.inner.gateways.time_for(limit_bytes);
            let one = self.fetch_from(&mut sink, Door { url: url.clone(), is_ours }, document.cid, limit_bytes);
            let fault = match tokio::time::timeout(time, one).await {
                Ok(Ok(())) => return Ok(sink),
                Ok(Err(Halt::Storage(error))) => return Err(error),
                Ok(Err(Halt::Fault(fault))) => fault,
                Err(_elapsed) => Fault::TooSlow { limit_ms: time.as_millis() },
            };
            tracing::debug!(%url, error = %fault, "document not served");
            tries.push(Try { url, fault });
            sink.empty().await?;
        }
        if tries.is_empty() {
            return Err(FetchError::BadLink { link: shown(link), why: "names no host, and no gateway is configured" });
        }
        Err(FetchError::NotServed { link: shown(link), tries })
    }

    /// Everyone to ask, in order.
    fn doors(&self, document: &Document) -> Vec<Door> {
        let ours = document.cid.map(|cid| self.inner.gateways.urls_of(&cid)).unwrap_or_default();
        let mut doors = Vec::with_capacity(ours.len() + 1);
        if let Some(url) = &document.url {
            doors.push(Door { url: url.clone(), is_ours: ours.contains(url) });
        }
        for url in ours {
            if doors.iter().all(|known| known.url != url) {
                doors.push(Door { url, is_ours: true });
            }
        }
        doors
    }

    async fn fetch_from(&self, sink: &mut Sink, door: Door, wanted: Option<Cid>, limit_bytes: u64) -> Result<(), Halt> {
        let hasher = match &wanted {
            Some(cid) => Some(CidHasher::expecting(cid).ok_or(Fault::Uncheckable(*cid))?),
            None => None,
        };
        let response = self.follow(door).await?;
        let hasher = drain(response, sink, hasher, limit_bytes).await?;
        if let (Some(wanted), Some(hasher)) = (wanted, hasher) {
            hasher.finish().check(&wanted).map_err(Fault::OtherContent)?;
        }
        Ok(())
    }

    /// Asks at `door` and follows redirects. Only the first hop can be ours; where it sends us, a stranger chose.
    async fn follow(&self, door: Door) -> Result<Response, Fault> {
        let Door { mut url, mut is_ours } = door;
        for _hop in 0..=REDIRECTS_MAX {
            let response = self.ask(url.clone(), is_ours).await?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                status if !is_redirect(status) => return Err(Fault::Status(status)),
                _ => (url, is_ours) = (target(&url, &response)?, false),
            }
        }
        Err(Fault::TooManyRedirects)
    }

    async fn ask(&self, url: Url, is_ours: bool) -> Result<Response, Fault> {
        if is_ours || self.inner.gateways.allow_private {
            return Ok(self.inner.trusted.get(url).send().await?);
        }
        guard::check_literal(&url)?;
        Ok(self.inner.guarded.get(url).send().await?)
    }
}

/// Takes the body in, hashing it as it passes.
async fn drain(
    mut response: Response,
    sink: &mut Sink,
    mut hasher: Option<CidHasher>,
    limit_bytes: u64,
) -> Result<Option<CidHasher>, Halt> {
    let too_big = || Halt::Fault(Fault::TooBig { limit_bytes });
    if response.content_length().is_some_and(|announced| announced > limit_bytes) {
        return Err(too_big());
    }
    let mut left = limit_bytes;
    while let Some(bytes) = response.chunk().await.map_err(Fault::from)? {
        left = u64::try_from(bytes.len()).ok().and_then(|taken| left.checked_sub(taken)).ok_or_else(too_big)?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        sink.write(&bytes).await.map_err(Halt::Storage)?;
    }
    Ok(hasher)
}

/// 304 and 300 are no redirects for a plain `GET`.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn target(from: &Url, response: &Response) -> Result<Url, Fault> {
    let to = response.headers().get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let to = to.unwrap_or_default();
    let bad = |why| Fault::BadRedirect { to: shown(&to), why };
    let url = from.join(&to).map_err(|_| bad("is not a URL"))?;
    check_web(&url).map_err(bad)?;
    Ok(url)
}

/// Gives the complete part its name, durably.
async fn keep(mut whole: File, part: &Path, file: &Path) -> std::io::Result<u64> {
    // Flushing is what reports a write that failed in the background; syncing alone would not.
    whole.flush().await?;
    whole.sync_all().await?;
    let bytes = whole.metadata().await?.len();
    tokio::fs::rename(part, file).await?;
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder).await?.sync_all().await?;
    }
    Ok(bytes)
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn shown(link: &str) -> String {
    link.chars().take(LINK_CHARS_SHOWN).collect()
}

fn list(tries: &[Try]) -> String {
    tries.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

// === impl FetchError ===

impl FetchError {
    /// Whether asking again would end the same: a link that cannot be followed, or a document that everyone says is too
    /// big. A host that is away, lies or does not have it (yet) may be better tomorrow.
    pub fn is_final(&self) -> bool {
        match self {
            FetchError::BadLink { .. } => true,
            FetchError::NotServed { tries, .. } => tries.iter().all(|one| one.fault.is_final()),
            FetchError::Storage { .. } => false,
        }
    }
}

// === impl Fault ===

impl Fault {
    fn is_final(&self) -> bool {
        match self {
            Fault::Private(_) | Fault::TooBig { .. } | Fault::Uncheckable(_) => true,
            Fault::Status(_)
            | Fault::OtherContent(_)
            | Fault::TooManyRedirects
            | Fault::BadRedirect { .. }
            | Fault::TooSlow { .. }
            | Fault::Broken(_) => false,
        }
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Fault {
        match guard::refused_address(&error) {
            Some(refused) => refused.into(),
            // The URL stands beside the fault already.
            None => Fault::Broken(error.without_url()),
        }
    }
}

impl From<PrivateAddress> for Fault {
    fn from(PrivateAddress(ip): PrivateAddress) -> Fault {
        Fault::Private(ip)
    }
}

// === impl Halt ===

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Halt {
        Halt::Fault(fault)
    }
}

// === impl Try ===

impl fmt::Display for Try {
    /// The whole chain of causes, since a list of tries has no single source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url.host_str().unwrap_or("?"), self.fault)?;
        let mut cause = std::error::Error::source(&self.fault);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

// === impl Sink ===

impl Sink {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        match self {
            Sink::Memory(all) => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Sink::File { path, file } => {
                file.write_all(bytes).await.map_err(|source| FetchError::Storage { path: path.clone(), source })
            }
        }
    }

    /// Forgets what a failed try left.
    async fn empty(&mut self) -> Result<(), FetchError> {
        match self {
            Sink::Memory(all) => {
                all.clear();
                Ok(())
            }
            Sink::File { path, file } => {
                // Flushed first, so that no write still under way lands in the next try's bytes.
                let emptied = async { file.flush().await.and(file.set_len(0).await).and(file.rewind().await) };
                emptied.await.map(|_start| ()).map_err(|source| FetchError::Storage { path: path.clone(), source })
            }
        }
    }
}
