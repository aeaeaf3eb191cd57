//! Asks the runner; blocks until it has answered.
//!
//! Each call opens one connection and closes it, so a [`Client`] is only a path: share it freely, and call it
//! where blocking is allowed (`spawn_blocking`). No call is retried here: the caller knows which are safe to
//! repeat ([`prepare`](Client::prepare), [`start`](Client::start) and [`stop`](Client::stop) all are).

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::protocol::{
    Digest, Ending, Prepared, Refusal, Reply, Request, ServiceSpec, SourceName, SourceState, Started,
};
use crate::wire::{self, WireError};

/// How long an ordinary answer may take. The runner's own slowest ordinary step is a start, at 20 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an unpack may take: 32 GiB at a slow disk's 20 MB/s.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The runner, as the provider sees it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A question without the answer that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The runner is not there; the supervisor restarts it, so ask again later.
    #[error("connect to the runner at {}", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: rustix::io::Errno,
    },
    /// The conversation broke; whether the request was carried out is unknown.
    #[error("talk to the runner")]
    Wire(#[from] WireError),
    /// The runner said no.
    #[error("the runner refused")]
    Refused(#[source] Refusal),
    /// The runner answered another question.
    #[error("the runner's answer does not fit the question")]
    Misfit,
}

// === impl Client ===

impl Client {
    /// A client of the runner that listens at `socket`. Does not connect.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Unpacks an image whose blobs are in the content store.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the content store or the image.
    pub fn prepare(&self, source: &SourceName, manifest: &Digest) -> Result<Prepared, ClientError> {
        let request = Request::Prepare { source: source.clone(), manifest: manifest.clone() };
        match self.ask(&request, PREPARE_TIMEOUT)? {
            (Reply::Prepared(prepared), _) => Ok(prepared),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Starts a prepared image.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the spec, the image or a step of the jail.
    pub fn start(&self, source: &SourceName, manifest: &Digest, service: ServiceSpec) -> Result<Started, ClientError> {
        let (source, manifest) = (source.clone(), manifest.clone());
        let request = Request::Start { source, manifest, service: Box::new(service) };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Started(started), _) => Ok(started),
            _ => Err(ClientError::Misfit),
        }
    }

    /// A connected, non-blocking stream to `127.0.0.1:port` inside the jail.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotListening`] while the service has not opened its port.
    pub fn connect(&self, source: &SourceName, port: u16) -> Result<TcpStream, ClientError> {
        let request = Request::Connect { source: source.clone(), port };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Connected {}, Some(fd)) => Ok(TcpStream::from(fd)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The jail's callback listener, non-blocking. What arrived while nobody listened waits in it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn listener(&self, source: &SourceName) -> Result<TcpListener, ClientError> {
        let request = Request::Listener { source: source.clone() };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Listening {}, Some(fd)) => Ok(TcpListener::from(fd)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Ends a service: SIGTERM, `grace`, SIGKILL. When this returns, nothing of it runs.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotRunning`] if there was nothing to stop.
    pub fn stop(&self, source: &SourceName, grace: Duration) -> Result<Ending, ClientError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Stop { source: source.clone(), grace_ms };
        match self.ask(&request, ANSWER_TIMEOUT.saturating_add(grace))? {
            (Reply::Stopped { how }, _) => Ok(how),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Every source that the runner holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(&self) -> Result<BTreeMap<SourceName, SourceState>, ClientError> {
        match self.ask(&Request::List {}, ANSWER_TIMEOUT)? {
            (Reply::Sources { sources }, _) => Ok(sources),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The end of what a source printed. Kept after the source has stopped, until it starts again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn logs(&self, source: &SourceName) -> Result<String, ClientError> {
        let request = Request::Logs { source: source.clone() };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Logs { text }, _) => Ok(text),
            _ => Err(ClientError::Misfit),
        }
    }

    fn ask(&self, request: &Request, timeout: Duration) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        let socket =
            self.open(timeout).map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        // A runner that refuses the peer answers without reading, so a failed send may still have a reply.
        let sent = wire::send(&socket, request, &[]);
        match wire::receive(&socket) {
            Ok((Reply::Refused { refusal }, _)) => Err(ClientError::Refused(refusal)),
            Ok((reply, fds)) => Ok((reply, fds.into_iter().next())),
            Err(error) => Err(sent.err().unwrap_or(error).into()),
        }
    }

    fn open(&self, timeout: Duration) -> rustix::io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.socket)?)?;
        set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_TIMEOUT))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
        Ok(socket)
    }
}
