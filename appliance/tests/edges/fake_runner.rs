//! A runner without jails: it speaks the real protocol on a real socket, and what it calls a jail is loopback.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use runner::protocol::{
    CALLBACK_HOST, CALLBACK_PORT, Ending, Exit, Prepared, Refusal, Reply, Request, RunNumber, ServiceSpec, SourceName,
    SourceState, Started,
};
use runner::wire;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};

/// The runner. It serves until the test ends.
pub(crate) struct FakeRunner {
    inner: Arc<Mutex<Inner>>,
    socket: PathBuf,
}

struct Inner {
    jails: BTreeMap<SourceName, Jail>,
    /// Where the services of all jails listen.
    service: Option<SocketAddr>,
    started: u64,
}

struct Jail {
    spec: Box<ServiceSpec>,
    callbacks: TcpListener,
    exit: Option<Exit>,
    run: RunNumber,
}

// === impl FakeRunner ===

impl FakeRunner {
    pub(crate) fn serve(dir: &Path) -> FakeRunner {
        let path = dir.join("runner.sock");
        let at = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&at, &SocketAddrUnix::new(&path).expect("a short path")).expect("binds");
        listen(&at, 64).expect("listens");
        let inner = Arc::new(Mutex::new(Inner { jails: BTreeMap::new(), service: None, started: 0 }));
        let serving = inner.clone();
        // One thread, and no end but that of the test's process: the client blocks, so no runtime is needed.
        std::thread::spawn(move || {
            while let Ok(peer) = accept_with(&at, SocketFlags::CLOEXEC) {
                answer(&peer, &serving);
            }
        });
        FakeRunner { inner, socket: path }
    }

    pub(crate) fn client(&self) -> runner::client::Client {
        runner::client::Client::new(&self.socket)
    }

    /// The services of all jails listen here from now on.
    pub(crate) fn open_port(&self, at: SocketAddr) {
        self.lock().service = Some(at);
    }

    /// The service of every jail ends by itself.
    pub(crate) fn kill(&self) {
        for jail in self.lock().jails.values_mut() {
            jail.exit = Some(Exit::Signal(9));
        }
    }

    /// Jails started and not stopped.
    pub(crate) fn runs(&self) -> usize {
        self.lock().jails.len()
    }

    /// Where a callback URL leads on this machine.
    pub(crate) fn reachable(&self, source: &str, url: &str) -> String {
        let inner = self.lock();
        let jail = inner.jails.iter().find(|(name, _)| name.to_string() == source).expect("a jail").1;
        let at = jail.callbacks.local_addr().expect("an address");
        let inside = format!("http://{CALLBACK_HOST}:{CALLBACK_PORT}");
        format!("http://{at}{}", url.strip_prefix(&inside).expect("it leads to the callback listener"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

fn answer(peer: &OwnedFd, inner: &Mutex<Inner>) {
    let Ok((request, _)) = wire::receive::<Request>(peer) else { return };
    let mut inner = inner.lock().expect("no holder panics");
    let (reply, fd) = inner.take(request);
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
    let _ = wire::send(peer, &reply, &fds);
}

// === impl Inner ===

impl Inner {
    fn take(&mut self, request: Request) -> (Reply, Option<OwnedFd>) {
        let refused = |refusal| (Reply::Refused { refusal }, None);
        match request {
            Request::Prepare { .. } => (Reply::Prepared(Prepared { bytes: 1, entries: 1, already: false }), None),
            Request::Start { source, service, .. } => match self.jails.get(&source) {
                Some(jail) if jail.exit.is_none() && jail.spec != service => {
                    refused(Refusal::RunsDifferently { source_name: source, difference: "environment".into() })
                }
                Some(jail) if jail.exit.is_none() => (Reply::Started(Started { run: jail.run, already: true }), None),
                Some(_) | None => (Reply::Started(self.start(source, service)), None),
            },
            Request::Connect { source, port } => match self.service.map(TcpStream::connect) {
                Some(Ok(stream)) => {
                    stream.set_nonblocking(true).expect("a socket");
                    (Reply::Connected {}, Some(stream.into()))
                }
                Some(Err(_)) | None => refused(Refusal::NotListening { source_name: source, port }),
            },
            Request::Listener { source } => {
                let listener = self.jails[&source].callbacks.try_clone().expect("a descriptor");
                (Reply::Listening {}, Some(listener.into()))
            }
            Request::Stop { source, .. } => match self.jails.remove(&source) {
                Some(_) => (Reply::Stopped { how: Ending::Terminated }, None),
                None => refused(Refusal::NotRunning { source_name: source }),
            },
            Request::List {} => (Reply::Sources { sources: self.states() }, None),
            Request::Logs { .. } => (Reply::Logs { text: String::new() }, None),
        }
    }

    fn start(&mut self, source: SourceName, spec: Box<ServiceSpec>) -> Started {
        self.started += 1;
        let run = RunNumber(self.started);
        let callbacks = TcpListener::bind("127.0.0.1:0").expect("a free port");
        callbacks.set_nonblocking(true).expect("a socket");
        self.jails.insert(source, Jail { spec, callbacks, exit: None, run });
        Started { run, already: false }
    }

    fn states(&self) -> BTreeMap<SourceName, SourceState> {
        let state = |jail: &Jail| match jail.exit {
            None => SourceState::Running { pid: 1, since_unix: 0 },
            Some(exit) => SourceState::Exited { exit, log_tail: "killed\u{1b}[31m by a test".into() },
        };
        self.jails.iter().map(|(name, jail)| (name.clone(), state(jail))).collect()
    }
}
