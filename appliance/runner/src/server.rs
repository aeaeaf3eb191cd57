//! Answers the provider: one thread per connection, one request at a time on it.
//!
//! Invariants: nobody is heard before the kernel has said who they are; at most [`CONNECTIONS_MAX`] are served
//! at once.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use runner::protocol::{Refusal, Reply, Request};
use runner::wire::{self, WireError};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recv,
    shutdown, socket_with,
};

use crate::direct::{Direct, Late};
use crate::sources::Sources;

/// The most connections that are served at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to send its first or its next request, or to take its reply.
const TALK_TIMEOUT: Duration = Duration::from_secs(10);

/// The runner's socket.
#[derive(Debug)]
pub(crate) struct Server {
    socket: OwnedFd,
    allowed: Vec<u32>,
    sources: Arc<Sources>,
    direct: Arc<Late>,
    serving: Arc<AtomicUsize>,
}

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub(crate) struct ListenError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
struct Served(Arc<AtomicUsize>);

type Answer = Result<(Reply, Option<Arc<OwnedFd>>), Refusal>;

// === impl ListenError ===

impl ListenError {
    /// What wraps the error of `operation` on `path`.
    fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { operation, path, source }
    }
}

// === impl Server ===

impl Server {
    /// Listens at `path`, in place of an earlier runner. Root may always ask; `allowed` are the other uids, and
    /// the first of them owns the socket, whose mode keeps everyone else out.
    pub(crate) fn listen(
        path: &Path,
        allowed: &[u32],
        sources: Arc<Sources>,
        direct: Arc<Late>,
    ) -> Result<Self, ListenError> {
        let failed = |operation| ListenError::at(operation, path);
        let socket = bind_closed(path)?;
        if let Some(owner) = allowed.first() {
            chown(path, Some(*owner), None).map_err(failed("give away"))?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed("open up"))?;
        let backlog = i32::try_from(CONNECTIONS_MAX).unwrap_or(i32::MAX);
        listen(&socket, backlog).map_err(|errno| failed("listen at")(errno.into()))?;
        let mut allowed = allowed.to_vec();
        allowed.push(0);
        Ok(Self { socket, allowed, sources, direct, serving: Arc::default() })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Accepts one connection and leaves it to a thread of its own.
    pub(crate) fn accept(&self) {
        let accepted = accept_with(&self.socket, SocketFlags::CLOEXEC).and_then(|client| {
            set_socket_timeout(&client, Timeout::Recv, Some(TALK_TIMEOUT))?;
            set_socket_timeout(&client, Timeout::Send, Some(TALK_TIMEOUT))?;
            let uid = socket_peercred(&client)?.uid.as_raw();
            Ok((client, uid))
        });
        let (client, uid) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                return;
            }
        };
        if !self.allowed.contains(&uid) {
            tracing::warn!(uid, "a stranger is turned away");
            return refuse(&client, Refusal::NotAllowed { uid });
        }
        let served = Served(self.serving.clone());
        if served.0.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            return refuse(&client, Refusal::Busy { limit: CONNECTIONS_MAX });
        }
        let (sources, direct) = (self.sources.clone(), self.direct.clone());
        let serve = move || {
            let _served = served;
            serve(&client, &sources, &direct);
        };
        if let Err(error) = std::thread::Builder::new().name("client".to_owned()).spawn(serve) {
            tracing::error!(%error, "a client cannot be served");
        }
    }
}

// === impl Served ===

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refuse(client: &OwnedFd, refusal: Refusal) {
    // A socket that is closed with something unread resets its peer, which would lose the refusal: so nothing
    // more is let in, and what came is read. A client that does not wait for its refusal has missed nothing.
    let _ = shutdown(client, Shutdown::Read);
    let mut unread = [MaybeUninit::uninit(); 1];
    while recv(client, &mut unread[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC).is_ok_and(|(_, read)| read > 0) {}
    let _ = wire::send(client, &Reply::Refused { refusal }, &[]);
}

fn serve(client: &OwnedFd, sources: &Arc<Sources>, direct: &Late) {
    loop {
        let answer = match wire::receive(client) {
            Ok((request, fds)) => answer(request, fds, sources, direct.now()),
            Err(error @ (WireError::Json(_) | WireError::TooLarge)) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                return refuse(client, Refusal::BadRequest { detail: format!("{error}{cause}") });
            }
            // Gone, or silent for too long.
            Err(_) => return,
        };
        let sent = match &answer {
            Ok((reply, fd)) => {
                let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
                wire::send(client, reply, &fds)
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "a request is refused");
                wire::send(client, &Reply::Refused { refusal: refusal.clone() }, &[])
            }
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "a reply is lost");
            return;
        }
    }
}

/// Descriptors that a request does not use are closed.
fn answer(request: Request, fds: Vec<OwnedFd>, sources: &Arc<Sources>, direct: &Direct) -> Answer {
    let reply = match request {
        Request::Missing { manifest } => Reply::Missing { layers: sources.missing(&manifest)? },
        Request::Prepare { source, manifest } => Reply::Prepared(sources.prepare(&source, &manifest)?),
        Request::Open { source, plan } => Reply::Opened { already: sources.open(&source, *plan)? },
        Request::Start { source, service, manifest, spec } => {
            Reply::Started(sources.start(&source, &service, &manifest, *spec)?)
        }
        Request::Connect { source, service, port } => {
            let stream = sources.connect(&source, &service, port)?;
            return Ok((Reply::Connected {}, Some(Arc::new(stream.into()))));
        }
        Request::Listener { source } => return Ok((Reply::Listening {}, Some(sources.listener(&source)?))),
        Request::Wait { source, service, timeout_ms } => {
            Reply::Waited { state: sources.wait(&source, &service, timeout_ms)? }
        }
        Request::StopService { source, service, grace_ms } => {
            Reply::Stopped { how: sources.stop_service(&source, &service, grace_ms)? }
        }
        Request::Stop { source, grace_ms } => Reply::Stopped { how: sources.stop(&source, grace_ms)? },
        Request::Forget { source } => {
            sources.forget(&source)?;
            Reply::Forgotten {}
        }
        Request::List {} => Reply::Sources { confinement: sources.confinement(), sources: sources.list()? },
        Request::Logs { source, service } => Reply::Logs { text: sources.logs(&source, &service)? },
        Request::Layers {} => sources.cached()?,
        Request::Collect { everything } => sources.collect(everything)?,
        Request::Gpus {} => Reply::Gpus(direct.gpus()),
        Request::Measure { gpu } => Reply::Measured(Box::new(direct.measure(sources, gpu.as_ref())?)),
        Request::RetryGpus {} => Reply::Gpus(direct.retry()),
        Request::Compile { arch } => {
            let [ptx] = <[OwnedFd; 1]>::try_from(fds)
                .map_err(|_| Refusal::BadLaunch { detail: "PTX comes as one descriptor".to_owned() })?;
            let (cubin, us) = direct.compile(sources, arch, ptx)?;
            return Ok((Reply::Compiled { us }, Some(Arc::new(cubin))));
        }
        Request::Launch(launch) => {
            let (launched, outputs) = direct.launch(*launch, fds)?;
            return Ok((Reply::Launched(Box::new(launched)), outputs.map(Arc::new)));
        }
    };
    Ok((reply, None))
}

/// A socket bound to `path`, in place of what is there, which nobody but the owner can reach.
fn bind_closed(path: &Path) -> Result<OwnedFd, ListenError> {
    let failed = |operation| ListenError::at(operation, path);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| failed("name")(errno.into()))?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("make")(errno.into()))?;
    // The file is born with the mode of its socket. A `chmod` after `bind` would leave a moment, and an umask around it
    // would be that of all threads.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))
        .map_err(|errno| failed("close")(errno.into()))?;
    bind(&socket, &address).map_err(|errno| failed("bind")(errno.into()))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_socket_is_born_closed_to_all_but_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.sock");
        let _socket = bind_closed(&path).expect("it binds");
        assert_eq!(mode(&path), 0o600);
    }

    // Once, binding changed the umask, which all threads share: what another made in that moment for jails was closed to
    // them, and a GPU was given up because its canary could not reach /etc.
    #[test]
    fn binding_takes_no_rights_from_what_other_threads_make_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let bound = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..2_000 {
                    bind_closed(&folder.path().join("runner.sock")).expect("it binds");
                }
                bound.store(true, Ordering::Release);
            });
            let mut made = 0_u32;
            while !bound.load(Ordering::Acquire) {
                let other = folder.path().join(made.to_string());
                std::fs::create_dir(&other).expect("a folder in it");
                let mode = mode(&other);
                std::fs::remove_dir(&other).expect("it is empty");
                assert_eq!(mode & 0o055, 0o055, "folder {made}");
                made += 1;
            }
        });
    }
}
