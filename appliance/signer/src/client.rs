//! The asking end: what the provider holds instead of a key.
//!
//! Invariants: one request is in flight at a time; a connection is put back only after a whole answer, so a
//! cancelled or failed call never leaves half a frame for the next one; a request on a connection that the
//! signer has closed meanwhile (idle, restarted) is sent once more on a fresh one, which is safe because
//! signing the same transaction gives the same bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy::consensus::TypedTransaction;
use alloy::primitives::{Address, keccak256};
use attest::evidence::Nonce;
use attest::{Credential, Enrolment, Quote};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::identity::{Identity, KeyState};
use crate::policy::Rule;
use crate::protocol::{Answer, FrameError, Request, Signed, TlsIdentity, read_length, read_message, write_message};

/// Longest wait for one answer. Signing takes well below a millisecond; the rest is a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for an answer of the TPM. Most take below a second; the first RSA key of a chip may take many.
pub(crate) const TPM_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the signer that mends itself. Share it by reference or in an `Arc`.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    idle: Mutex<Option<UnixStream>>,
}

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signer is not there, does not answer in time, or is busy. Nothing is known about the request, and
    /// sending it again is safe: retry.
    #[error("ask the signer at {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The policy forbids it. Final, unless [`Rule::passes_with_time`].
    #[error("the signer refused by rule {rule}: {why}")]
    Refused {
        /// The rule.
        rule: Rule,
        /// What was found and what would have been allowed.
        why: String,
    },
    /// The key is closed and there is no successor. Not final: the key may open, or its owner may rotate.
    #[error("the signer's key is closed, {state}")]
    Closed {
        /// Why.
        state: KeyState,
        /// The address of the closed key, where its file still tells.
        address: Option<Address>,
    },
    /// The TPM did not do it. Asking again is safe.
    #[error("the signer's TPM: {why}")]
    Tpm {
        /// What the TPM said.
        why: String,
    },
    /// The signer could not read the request, or it is too long to be sent. Final.
    #[error("the signer cannot read the request: {why}")]
    Malformed {
        /// What was wrong.
        why: String,
    },
    /// What answers at this path does not speak this protocol. Final: an operator must look.
    #[error("the answer of the signer at {path} makes no sense: {why}")]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
}

// === impl Client ===

impl Client {
    /// Connects to the signer's socket at `path`. Errors: [`Error::Unreachable`].
    pub async fn connect(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let stream = UnixStream::connect(&path).await.map_err(|source| unreachable(&path, source))?;
        Ok(Self { path, idle: Mutex::new(Some(stream)) })
    }

    /// The address that signs here and what protects its key. Errors: all but [`Error::Refused`].
    pub async fn identity(&self) -> Result<Identity, Error> {
        match self.ask(&Request::Identity).await? {
            Answer::Identity(identity) => Ok(identity),
            answer => Err(self.no_answer(answer)),
        }
    }

    /// Has `tx` signed as it is. Errors: every variant of [`Error`].
    pub async fn sign(&self, tx: TypedTransaction) -> Result<Signed, Error> {
        match self.ask(&Request::Sign { tx: Box::new(tx) }).await? {
            Answer::Signed(signed) if keccak256(&signed.raw) == signed.hash => Ok(signed),
            Answer::Signed(_) => Err(self.nonsense("the hash is not the hash of the signed bytes")),
            answer => Err(self.no_answer(answer)),
        }
    }

    /// The rig's keys and what its TPM says for them, over a verifier's nonce. Errors: every variant of [`Error`].
    pub async fn enrol(&self, nonce: Nonce) -> Result<Enrolment, Error> {
        match self.ask(&Request::Enrol { nonce }).await? {
            Answer::Enrolment(enrolment) => Ok(*enrolment),
            answer => Err(self.no_answer(answer)),
        }
    }

    /// What the TPM measured, over a verifier's nonce. Errors: every variant of [`Error`].
    pub async fn quote(&self, nonce: Nonce) -> Result<Quote, Error> {
        match self.ask(&Request::Quote { nonce }).await? {
            Answer::Quote(quote) => Ok(*quote),
            answer => Err(self.no_answer(answer)),
        }
    }

    /// The secret in a verifier's challenge. Errors: every variant of [`Error`].
    pub async fn activate(&self, credential: Credential) -> Result<attest::Answer, Error> {
        match self.ask(&Request::Activate { credential: Box::new(credential) }).await? {
            Answer::Activated(answer) => Ok(answer),
            answer => Err(self.no_answer(answer)),
        }
    }

    /// The public half of the TLS key, and a request for its certificate. Errors: every variant of [`Error`].
    pub async fn tls_identity(&self) -> Result<TlsIdentity, Error> {
        match self.ask(&Request::TlsIdentity).await? {
            Answer::TlsIdentity(identity) => Ok(identity),
            answer => Err(self.no_answer(answer)),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let mut idle = self.idle.lock().await;
        if let Some(stream) = idle.take() {
            match self.exchange(stream, request).await {
                Ok((answer, stream)) => return Ok(self.keep(&mut idle, answer, stream)),
                Err(Error::Unreachable { source, .. }) if has_hung_up(&source) => {}
                Err(error) => return Err(error),
            }
        }
        let fresh = UnixStream::connect(&self.path).await.map_err(|source| unreachable(&self.path, source))?;
        let (answer, stream) = self.exchange(fresh, request).await?;
        Ok(self.keep(&mut idle, answer, stream))
    }

    fn keep(&self, idle: &mut Option<UnixStream>, answer: Answer, stream: UnixStream) -> Answer {
        *idle = (answer != Answer::Busy).then_some(stream);
        answer
    }

    async fn exchange(&self, mut stream: UnixStream, request: &Request) -> Result<(Answer, UnixStream), Error> {
        let talk = async {
            let sent = write_message(&mut stream, request).await;
            // A signer that has no room answers and hangs up without reading, so a failed write may still
            // have an answer waiting. A request that cannot be framed was never sent.
            if let Err(error @ (FrameError::Length { .. } | FrameError::Message(_))) = sent {
                return Err(Error::Malformed { why: error.to_string() });
            }
            match read_length(&mut stream).await {
                Ok(Some(bytes)) => read_message(&mut stream, bytes).await.map_err(|error| self.frame(error)),
                Ok(None) => Err(unreachable(&self.path, io::ErrorKind::UnexpectedEof.into())),
                Err(error) => Err(self.frame(error)),
            }
        };
        match timeout(patience(request), talk).await {
            Ok(answer) => Ok((answer?, stream)),
            Err(_) => Err(unreachable(&self.path, io::ErrorKind::TimedOut.into())),
        }
    }

    /// The error that an answer without a result stands for.
    fn no_answer(&self, answer: Answer) -> Error {
        match answer {
            Answer::Refused { rule, why } => Error::Refused { rule, why },
            Answer::Malformed { why } => Error::Malformed { why },
            Answer::Busy => unreachable(&self.path, io::Error::new(io::ErrorKind::WouldBlock, "all connections taken")),
            Answer::Closed { state, address } => Error::Closed { state, address },
            Answer::Failed { why } => Error::Tpm { why },
            Answer::Identity(_)
            | Answer::Signed(_)
            | Answer::Enrolment(_)
            | Answer::Quote(_)
            | Answer::Activated(_)
            | Answer::TlsIdentity(_)
            | Answer::TlsSignature { .. } => self.nonsense("an answer to another question"),
        }
    }

    fn frame(&self, error: FrameError) -> Error {
        match error {
            FrameError::Stream(source) => unreachable(&self.path, source),
            FrameError::Length { .. } => self.nonsense(&error.to_string()),
            FrameError::Message(source) => self.nonsense(&source.to_string()),
        }
    }

    fn nonsense(&self, why: &str) -> Error {
        Error::Nonsense { path: self.path.clone(), why: why.to_owned() }
    }
}

// === impl Error ===

impl Error {
    /// True if asking the same again cannot help. False: retry, later if a rule says that time heals it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Closed { .. } | Self::Tpm { .. } => false,
            Self::Refused { rule, .. } => !rule.passes_with_time(),
            Self::Malformed { .. } | Self::Nonsense { .. } => true,
        }
    }
}

fn patience(request: &Request) -> Duration {
    match request {
        Request::Identity | Request::Sign { .. } => ANSWER_TIMEOUT,
        Request::Enrol { .. }
        | Request::Quote { .. }
        | Request::Activate { .. }
        | Request::TlsIdentity
        | Request::TlsSign { .. } => TPM_TIMEOUT,
    }
}

fn unreachable(path: &Path, source: io::Error) -> Error {
    Error::Unreachable { path: path.to_owned(), source }
}

/// The peer closed a connection that had been idle: the signer restarted, or tidied up.
fn has_hung_up(source: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
