//! The socket: who may ask, how many at once, and how long each may take.
//!
//! Invariants: a peer is judged by the kernel's word for its user id before a byte of it is read; one
//! connection can neither delay nor end another; a slow, silent or garbled peer costs one connection of
//! [`CONNECTIONS_MAX`] for at most [`IDLE_TIMEOUT`], and one frame of memory.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use signer::protocol::{Answer, FrameError, Request, read_length, read_message, write_message};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::desk::Desk;

/// Connections served at once. The provider needs one; the rest is room for `rig status` and for restarts.
const CONNECTIONS_MAX: usize = 16;

/// Longest silence between two requests. The client half reconnects by itself.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time from the first byte of a frame to its last. Both ends are on one machine.
const FRAME_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the peer to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait after an accept that failed for want of descriptors or memory, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The users that may ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peers {
    own: u32,
    allowed: Option<u32>,
}

/// The bound socket. It is removed when this is dropped.
pub(crate) struct Server {
    listener: UnixListener,
    peers: Peers,
    desk: Rc<Desk>,
    path: PathBuf,
}

/// A socket that cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("{step} socket {path}")]
    Socket {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} exists and is no socket: move it away or name another path")]
    NotASocket(PathBuf),
    #[error("{0} is served by another process: stop that one first")]
    InUse(PathBuf),
}

// === impl Peers ===

impl Peers {
    /// This process's own user, and `allowed`.
    pub(crate) fn new(allowed: Option<u32>) -> Self {
        Self { own: nix::unistd::geteuid().as_raw(), allowed }
    }

    fn admit(self, uid: u32) -> bool {
        uid == self.own || Some(uid) == self.allowed
    }
}

// === impl Server ===

impl Server {
    /// Binds `path`, in place of a socket that a dead process left. Errors: every variant of [`BindError`].
    /// Must be called inside the runtime.
    pub(crate) fn bind(path: &Path, peers: Peers, desk: Desk) -> Result<Self, BindError> {
        let at = |step| move |source| BindError::Socket { step, path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(at("examine")(source)),
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(BindError::InUse(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(at("remove"))?,
        }
        let listener = UnixListener::bind(path).map_err(at("bind"))?;
        // Anybody may connect; the user id decides. A group for two users would say the same less exactly.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(at("open"))?;
        Ok(Self { listener, peers, desk: Rc::new(desk), path: path.to_owned() })
    }

    /// Answers until `stop` is ready. An answer is written whole or not at all, so nothing needs a drain.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) {
        let connections = async {
            tokio::task::spawn_local(try_again(Rc::clone(&self.desk)));
            tokio::pin!(stop);
            let mut served = JoinSet::new();
            loop {
                tokio::select! {
                    () = &mut stop => return,
                    Some(_) = served.join_next() => {}
                    accepted = self.listener.accept() => match accepted {
                        Ok((stream, _)) => self.welcome(stream, &mut served).await,
                        Err(error) => {
                            tracing::warn!(%error, "connection not accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                }
            }
        };
        LocalSet::new().run_until(connections).await;
    }

    /// Turns away whom it must, and serves the rest each in a task of its own.
    async fn welcome(&self, mut stream: UnixStream, served: &mut JoinSet<()>) {
        match stream.peer_cred() {
            Ok(peer) if self.peers.admit(peer.uid()) => {}
            Ok(peer) => return tracing::warn!(uid = peer.uid(), "peer turned away"),
            Err(error) => return tracing::warn!(%error, "peer without credentials turned away"),
        }
        if served.len() >= CONNECTIONS_MAX {
            // A fresh socket's buffer is empty, so this never waits; the time-out is for the proof.
            let _ = timeout(ANSWER_TIMEOUT, write_message(&mut stream, &Answer::Busy)).await;
            return tracing::warn!("connection refused, all are taken");
        }
        let desk = Rc::clone(&self.desk);
        served.spawn_local(async move { converse(stream, &desk).await });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Tries a closed key again for as long as that may help.
async fn try_again(desk: Rc<Desk>) {
    while let Some(pause) = desk.pause() {
        tokio::time::sleep(pause).await;
        desk.retry();
    }
}

/// One peer's requests and answers, until it leaves or breaks the framing.
async fn converse(mut stream: UnixStream, desk: &Desk) {
    while let Some(request) = next(&mut stream).await {
        let (answer, is_in_step) = match request {
            Ok(request) => (desk.answer(&request), true),
            Err(FrameError::Stream(error)) => return tracing::debug!(%error, "connection lost"),
            Err(FrameError::Message(error)) => (malformed(&error.to_string()), true),
            Err(error @ FrameError::Length { .. }) => (malformed(&error.to_string()), false),
        };
        match timeout(ANSWER_TIMEOUT, write_message(&mut stream, &answer)).await {
            Ok(Ok(())) if is_in_step => {}
            Ok(Ok(())) => return,
            Ok(Err(error)) => return tracing::debug!(%error, "answer not delivered"),
            Err(_) => return tracing::warn!("answer not taken in time"),
        }
    }
}

/// The next request; `None` when the peer has left or was silent too long.
async fn next(stream: &mut UnixStream) -> Option<Result<Request, FrameError>> {
    timeout(IDLE_TIMEOUT, stream.readable()).await.ok()?.ok()?;
    let frame = async {
        match read_length(stream).await {
            Ok(Some(bytes)) => Some(read_message(stream, bytes).await),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    };
    match timeout(FRAME_TIMEOUT, frame).await {
        Ok(request) => request,
        Err(_) => Some(Err(FrameError::Stream(io::ErrorKind::TimedOut.into()))),
    }
}

fn malformed(why: &str) -> Answer {
    tracing::warn!("request malformed");
    Answer::Malformed { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signers_own_user_and_the_named_one_may_ask() {
        let named = Peers { own: 990, allowed: Some(991) };
        let alone = Peers { own: 990, allowed: None };
        for (peers, uid, expected) in [
            (named, 990, true),
            (named, 991, true),
            (named, 0, false),
            (named, 992, false),
            (alone, 991, false),
            (alone, 0, false),
        ] {
            assert_eq!(peers.admit(uid), expected, "{peers:?} {uid}");
        }
    }
}
