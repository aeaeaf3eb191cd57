//! A runner without jails: it speaks the real protocol on a real socket, and what it calls a jail is loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use runner::protocol::{
    CALLBACK_HOST, CALLBACK_PORT, Confinement, Ending, Exit, Health, Prepared, Refusal, Reply, Request, RunNumber,
    ServiceName, ServiceSpec, ServiceState, SourceName, SourcePlan, SourceState, Started,
};
use runner::wire;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};

use crate::fake_gpus::FakeGpus;

/// The runner. It serves until the test ends.
pub(crate) struct FakeRunner {
    inner: Arc<Mutex<Inner>>,
    socket: PathBuf,
}

struct Inner {
    sources: BTreeMap<SourceName, Open>,
    /// Sources whose volumes are there.
    volumes: BTreeSet<SourceName>,
    /// Where the services of all jails listen.
    service: Option<SocketAddr>,
    /// How each service is from its start, if not untested.
    health: BTreeMap<ServiceName, Health>,
    /// How each service ends as soon as it starts.
    ends: BTreeMap<ServiceName, Exit>,
    /// Services in the order of their starts.
    started: Vec<String>,
    /// The images that were cleared away, so many starts ago.
    cleared_away: u32,
    gpus: FakeGpus,
}

struct Open {
    plan: SourcePlan,
    callbacks: TcpListener,
    jails: BTreeMap<ServiceName, Jail>,
}

struct Jail {
    spec: Box<ServiceSpec>,
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
        let inner = Arc::new(Mutex::new(Inner {
            sources: BTreeMap::new(),
            volumes: BTreeSet::new(),
            service: None,
            health: BTreeMap::new(),
            ends: BTreeMap::new(),
            started: Vec::new(),
            cleared_away: 0,
            gpus: FakeGpus::default(),
        }));
        let serving = inner.clone();
        // Threads without an end but that of the test's process: the client blocks, so no runtime is needed.
        std::thread::spawn(move || {
            while let Ok(peer) = accept_with(&at, SocketFlags::CLOEXEC) {
                let serving = serving.clone();
                std::thread::spawn(move || while answer(&peer, &serving).is_some() {});
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

    /// Every service ends by itself.
    pub(crate) fn kill(&self) {
        for jail in self.lock().sources.values_mut().flat_map(|open| open.jails.values_mut()) {
            jail.exit = Some(Exit::Signal(9));
        }
    }

    /// One service ends by itself.
    pub(crate) fn end(&self, service: &str, exit: Exit) {
        let name = named(service);
        for jail in self.lock().sources.values_mut().filter_map(|open| open.jails.get_mut(&name)) {
            jail.exit = Some(exit);
        }
    }

    /// From now on a service ends like this whenever it is started; `None`: it does not.
    pub(crate) fn ends_at_once(&self, service: &str, exit: Option<Exit>) {
        let mut inner = self.lock();
        match exit {
            Some(exit) => drop(inner.ends.insert(named(service), exit)),
            None => drop(inner.ends.remove(&named(service))),
        }
    }

    /// From now on a service's health test says this.
    pub(crate) fn is(&self, service: &str, health: Health) {
        self.lock().health.insert(named(service), health);
    }

    /// The next start finds that the image was cleared away.
    pub(crate) fn clears_away(&self) {
        self.lock().cleared_away = 1;
    }

    /// Services in the order of their starts.
    pub(crate) fn started(&self) -> Vec<String> {
        self.lock().started.clone()
    }

    /// Looks at the GPUs, or changes them.
    pub(crate) fn gpus<T>(&self, look: impl FnOnce(&mut FakeGpus) -> T) -> T {
        look(&mut self.lock().gpus)
    }

    /// Whether a source has volumes.
    pub(crate) fn has_volumes(&self, source: &str) -> bool {
        self.lock().volumes.contains(&source.parse::<SourceName>().expect("a name"))
    }

    /// Where a callback URL leads on this machine.
    pub(crate) fn reachable(&self, source: &str, url: &str) -> String {
        let inner = self.lock();
        let open = inner.sources.iter().find(|(name, _)| name.to_string() == source).expect("it is open").1;
        let at = open.callbacks.local_addr().expect("an address");
        let inside = format!("http://{CALLBACK_HOST}:{CALLBACK_PORT}");
        format!("http://{at}{}", url.strip_prefix(&inside).expect("it leads to the callback listener"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

fn named(service: &str) -> ServiceName {
    service.parse().expect("a name")
}

/// Answers one request; nothing once the peer has hung up.
fn answer(peer: &OwnedFd, inner: &Mutex<Inner>) -> Option<()> {
    let (request, mut given) = wire::receive::<Request>(peer).ok()?;
    let mut inner = inner.lock().expect("no holder panics");
    let answered = inner.gpus.take(request, &mut given).unwrap_or_else(|request| inner.take(request));
    let (reply, fd) = answered.unwrap_or_else(|refusal| (Reply::Refused { refusal }, None));
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
    wire::send(peer, &reply, &fds).ok()
}

// === impl Inner ===

impl Inner {
    fn take(&mut self, request: Request) -> Result<(Reply, Option<OwnedFd>), Refusal> {
        let reply = match request {
            Request::Missing { .. } => Reply::Missing { layers: Vec::new() },
            Request::Prepare { .. } => Reply::Prepared(Prepared { bytes: 1, entries: 1, already: false }),
            Request::Open { source, plan } => Reply::Opened { already: self.open(source, *plan)? },
            Request::Start { source, service, manifest, spec } => {
                if self.cleared_away > 0 {
                    self.cleared_away -= 1;
                    return Err(Refusal::NotPrepared { manifest });
                }
                Reply::Started(self.start(&source, service, spec)?)
            }
            Request::Connect { source, service, port } => {
                let stream = self.service.and_then(|at| TcpStream::connect(at).ok());
                let stream = stream.ok_or(Refusal::NotListening { source_name: source, service, port })?;
                stream.set_nonblocking(true).expect("a socket");
                return Ok((Reply::Connected {}, Some(stream.into())));
            }
            Request::Listener { source } => {
                let listener = self.opened(&source)?.callbacks.try_clone().expect("a descriptor");
                return Ok((Reply::Listening {}, Some(listener.into())));
            }
            Request::Wait { source, service, .. } => {
                let state = self.states().remove(&source).and_then(|mut state| state.services.remove(&service));
                Reply::Waited { state: state.ok_or(Refusal::NotRunning { source_name: source, service })? }
            }
            Request::StopService { source, service, .. } => {
                let gone = self.opened(&source)?.jails.remove(&service);
                gone.ok_or(Refusal::NotRunning { source_name: source, service })?;
                Reply::Stopped { how: Ending::Terminated }
            }
            Request::Stop { source, .. } => {
                self.opened(&source)?;
                self.sources.remove(&source);
                Reply::Stopped { how: Ending::Terminated }
            }
            Request::Forget { source } => {
                self.volumes.remove(&source);
                Reply::Forgotten {}
            }
            Request::List {} => Reply::Sources { confinement: Confinement::RlimitsOnly, sources: self.states() },
            Request::Logs { .. } => Reply::Logs { text: "pulling manifest\n 1%\r 2%\r 3%\r".into() },
            Request::Layers {} => Reply::Layers { layers: Vec::new(), count: 0, bytes: 0 },
            Request::Collect { .. } => Reply::Collected { layers: 2, bytes: 30 },
            Request::Gpus {}
            | Request::RetryGpus {}
            | Request::Compile { .. }
            | Request::Launch(_)
            | Request::Measure { .. } => {
                return Err(Refusal::Internal { detail: "it is for the GPUs to answer".into() });
            }
        };
        Ok((reply, None))
    }

    fn open(&mut self, source: SourceName, plan: SourcePlan) -> Result<bool, Refusal> {
        self.volumes.insert(source.clone());
        match self.sources.get(&source) {
            Some(open) if open.plan == plan => Ok(true),
            Some(_) => Err(Refusal::RunsDifferently { source_name: source, difference: "plan".into() }),
            None => {
                let callbacks = TcpListener::bind("127.0.0.1:0").expect("a free port");
                callbacks.set_nonblocking(true).expect("a socket");
                self.sources.insert(source, Open { plan, callbacks, jails: BTreeMap::new() });
                Ok(false)
            }
        }
    }

    fn opened(&mut self, source: &SourceName) -> Result<&mut Open, Refusal> {
        self.sources.get_mut(source).ok_or_else(|| Refusal::NotOpen { source_name: source.clone() })
    }

    fn start(&mut self, source: &SourceName, service: ServiceName, spec: Box<ServiceSpec>) -> Result<Started, Refusal> {
        let exit = self.ends.get(&service).copied();
        let run = RunNumber(self.started.len() as u64 + 1);
        let open = self.opened(source)?;
        match open.jails.get(&service) {
            Some(jail) if jail.exit.is_none() && jail.spec != spec => {
                Err(Refusal::RunsDifferently { source_name: source.clone(), difference: "read_only".into() })
            }
            Some(jail) if jail.exit.is_none() => Ok(Started { run: jail.run, already: true }),
            Some(_) | None => {
                open.jails.insert(service.clone(), Jail { spec, exit, run });
                self.started.push(service.to_string());
                Ok(Started { run, already: false })
            }
        }
    }

    fn states(&self) -> BTreeMap<SourceName, SourceState> {
        let state = |name: &ServiceName, jail: &Jail| match jail.exit {
            None => {
                let health = self.health.get(name).copied().unwrap_or(Health::Untested);
                ServiceState::Running { pid: 1, since_unix: 0, health, memory_bytes: None }
            }
            Some(exit) => {
                let log_tail = "killed\u{1b}[31m by a test".into();
                ServiceState::Exited { exit, out_of_memory: false, log_tail }
            }
        };
        let source = |open: &Open| SourceState {
            services: open.jails.iter().map(|(name, jail)| (name.clone(), state(name, jail))).collect(),
            received_bytes: 1_300_000_000,
            sent_bytes: 0,
        };
        self.sources.iter().map(|(name, open)| (name.clone(), source(open))).collect()
    }
}
