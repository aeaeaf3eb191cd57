//! The rig's TLS key as a client key of rustls. Needs the feature `tls`.
//!
//! The key is in the signer, or in its TPM; what is here asks for signatures over the signer's socket.
//!
//! Invariants: TLS 1.3 and ECDSA with P-256 and SHA-256 only; no session is resumed, since a resumed one proves nothing
//! about the key; the certificate that is shown has this key in it.
//!
//! A handshake waits for the signer on the thread that drives it: some milliseconds with a key in software, up to a
//! second with one in a TPM. Drive connections on a thread of their own, and keep them.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::Bytes;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, OtherError, RootCertStore, SignatureAlgorithm, SignatureScheme, version};

use crate::client::TPM_TIMEOUT;
use crate::identity::KeyState;
use crate::protocol::{Answer, FrameError, Request, TlsIdentity, frame, read_length_blocking, read_message_blocking};

/// The key behind the signer's socket, for rustls.
#[derive(Debug)]
pub struct RigKey {
    socket: Arc<Path>,
    identity: TlsIdentity,
}

/// One signature that rustls is about to ask for.
#[derive(Debug)]
struct RigSigner {
    socket: Arc<Path>,
}

/// Why the signer gave no signature, or the configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The signer is not there, or does not answer in time.
    #[error("ask the signer at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The stream of frames is broken.
    #[error("talk to the signer at {}", socket.display())]
    Frame {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        #[source]
        source: FrameError,
    },
    /// The key is closed and there is no successor.
    #[error("the signer's key is closed, {0}")]
    Closed(KeyState),
    /// The signer said no.
    #[error("the signer gives no TLS signature: {0}")]
    Refused(String),
    /// The certificate is for another key, or is none.
    #[error("the certificate does not fit the rig's TLS key")]
    Certificate(#[source] rustls::Error),
    /// The provider of cryptography lacks something that TLS 1.3 needs.
    #[error("configure TLS 1.3")]
    Configure(#[source] rustls::Error),
}

/// A client that shows `certificates` (its own first) and trusts servers of `roots`.
/// Errors: [`TlsError::Certificate`], [`TlsError::Configure`].
pub fn client_config(
    key: RigKey,
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
) -> Result<ClientConfig, TlsError> {
    let certified = CertifiedKey::new(certificates, Arc::new(key));
    certified.keys_match().map_err(TlsError::Certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    let mut config = builder
        .map_err(TlsError::Configure)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.resumption = Resumption::disabled();
    Ok(config)
}

// === impl RigKey ===

impl RigKey {
    /// Asks the signer at `socket` for the public half. Blocks. Errors: all but those of configuring.
    pub fn connect(socket: &Path) -> Result<Self, TlsError> {
        match ask(socket, &Request::TlsIdentity)? {
            Answer::TlsIdentity(identity) => Ok(Self { socket: socket.into(), identity }),
            answer => Err(refused(answer)),
        }
    }

    /// PKCS#10 request, DER, for a certificate of this key.
    pub fn request(&self) -> &[u8] {
        &self.identity.csr
    }
}

impl SigningKey for RigKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let socket = Arc::clone(&self.socket);
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(RigSigner { socket }) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&self.identity.spki[..]))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

// === impl RigSigner ===

impl Signer for RigSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let request = Request::TlsSign { message: Bytes::copy_from_slice(message) };
        match ask(&self.socket, &request) {
            Ok(Answer::TlsSignature { der }) => Ok(der.to_vec()),
            Ok(answer) => Err(other(refused(answer))),
            Err(error) => Err(other(error)),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

// === impl TlsError ===

impl TlsError {
    /// Whether the certificate is of another key: ask for a new one.
    pub fn is_foreign_certificate(&self) -> bool {
        matches!(self, Self::Certificate(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)))
    }
}

fn other(error: TlsError) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(error)))
}

/// One request on a connection of its own: handshakes are rare, and a kept connection would be closed when idle.
fn ask(socket: &Path, request: &Request) -> Result<Answer, TlsError> {
    let unreachable = |source| TlsError::Unreachable { socket: socket.to_owned(), source };
    let broken = |source| TlsError::Frame { socket: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(TPM_TIMEOUT)).map_err(unreachable)?;
    stream.set_write_timeout(Some(TPM_TIMEOUT)).map_err(unreachable)?;
    // A signer without room answers and hangs up unheard, so that a failed write may have an answer waiting.
    let sent = stream.write_all(&frame(request).map_err(broken)?);
    match read_length_blocking(&mut stream).map_err(broken)? {
        Some(bytes) => read_message_blocking(&mut stream, bytes).map_err(broken),
        None => Err(unreachable(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))),
    }
}

fn refused(answer: Answer) -> TlsError {
    match answer {
        Answer::Closed { state, address: _ } => TlsError::Closed(state),
        Answer::Refused { rule, why } => TlsError::Refused(format!("rule {rule}: {why}")),
        Answer::Failed { why } | Answer::Malformed { why } => TlsError::Refused(why),
        Answer::Busy => TlsError::Refused("all connections are taken, try again".to_owned()),
        Answer::Identity(_)
        | Answer::Signed(_)
        | Answer::Enrolment(_)
        | Answer::Quote(_)
        | Answer::Activated(_)
        | Answer::TlsIdentity(_)
        | Answer::TlsSignature { .. } => TlsError::Refused("an answer to another question".to_owned()),
    }
}
