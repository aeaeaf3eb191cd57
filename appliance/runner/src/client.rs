//! Asks the runner; blocks until it has answered.
//!
//! A [`Client`] is a path and a few open connections, each of which serves one call at a time: share it freely, and
//! call it where blocking is allowed (`spawn_blocking`). No call is retried here that the runner may have heard: the
//! caller knows which are safe to repeat ([`prepare`](Client::prepare), [`start`](Client::start) and [`stop`](Client::stop) all are).

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::protocol::{
    CachedLayer, Confinement, Digest, Ending, Gpus, Launch, Launched, Measurement, Prepared, Refusal, Reply, Request,
    ServiceName, ServiceSpec, ServiceState, SourceName, SourcePlan, SourceState, Started,
};
use crate::wire::{self, WireError};

mod lines;

use lines::Lines;

/// How long an ordinary answer may take. The runner's own slowest ordinary step is a start, at 20 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an unpack may take: 32 GiB at a slow disk's 20 MB/s.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long making machine code may take. The runner ends a compiler that takes longer than 60 s.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(90);

/// What a launch takes besides waiting and running: a cold start of a driver takes seconds, a kill and its sweep too.
const LAUNCH_MORE: Duration = Duration::from_secs(60);

/// How long a measurement may take: two compilers of 60 s each, three workers that get warm and have a minute each.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The runner, as the provider sees it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    lines: Arc<Lines>,
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
        Self { socket: socket.into(), lines: Arc::default() }
    }

    /// The layers of an image that must be downloaded before [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the content store or the image.
    pub fn missing(&self, manifest: &Digest) -> Result<Vec<Digest>, ClientError> {
        match self.ask(&Request::Missing { manifest: manifest.clone() }, ANSWER_TIMEOUT)? {
            (Reply::Missing { layers }, _) => Ok(layers),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Unpacks and seals an image whose blobs are in the content store.
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

    /// Gives a source its network and its volumes; answers whether it had them already.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the plan, or about what is open already.
    pub fn open(&self, source: &SourceName, plan: SourcePlan) -> Result<bool, ClientError> {
        let request = Request::Open { source: source.clone(), plan: Box::new(plan) };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Opened { already }, _) => Ok(already),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Starts a prepared image as a service of an open source.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the spec, the image or a step of the jail.
    pub fn start(
        &self,
        source: &SourceName,
        service: &ServiceName,
        manifest: &Digest,
        spec: ServiceSpec,
    ) -> Result<Started, ClientError> {
        let (source, service, manifest) = (source.clone(), service.clone(), manifest.clone());
        let request = Request::Start { source, service, manifest, spec: Box::new(spec) };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Started(started), _) => Ok(started),
            _ => Err(ClientError::Misfit),
        }
    }

    /// A connected, non-blocking stream to `port` of a service.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotListening`] while the service has not opened its port.
    pub fn connect(&self, source: &SourceName, service: &ServiceName, port: u16) -> Result<TcpStream, ClientError> {
        let request = Request::Connect { source: source.clone(), service: service.clone(), port };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Connected {}, Some(fd)) => Ok(TcpStream::from(fd)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The source's callback listener, non-blocking. What arrived while nobody listened waits in it.
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

    /// What a service is doing, told when it has ended or `timeout` is over.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotRunning`] if it was never started.
    pub fn wait(
        &self,
        source: &SourceName,
        service: &ServiceName,
        timeout: Duration,
    ) -> Result<ServiceState, ClientError> {
        let (source, service) = (source.clone(), service.clone());
        let request = Request::Wait { source, service, timeout_ms: millis(timeout) };
        match self.ask(&request, ANSWER_TIMEOUT.saturating_add(timeout))? {
            (Reply::Waited { state }, _) => Ok(state),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Ends a service: SIGTERM, `grace`, SIGKILL. When this returns, nothing of it runs.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotRunning`] if there was nothing to stop.
    pub fn stop_service(
        &self,
        source: &SourceName,
        service: &ServiceName,
        grace: Duration,
    ) -> Result<Ending, ClientError> {
        let (source, service) = (source.clone(), service.clone());
        self.end(&Request::StopService { source, service, grace_ms: millis(grace) }, grace)
    }

    /// Ends all services of a source, and closes it. When this returns, nothing of it runs.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::NotOpen`] if there was nothing to stop.
    pub fn stop(&self, source: &SourceName, grace: Duration) -> Result<Ending, ClientError> {
        self.end(&Request::Stop { source: source.clone(), grace_ms: millis(grace) }, grace)
    }

    fn end(&self, request: &Request, grace: Duration) -> Result<Ending, ClientError> {
        match self.ask(request, ANSWER_TIMEOUT.saturating_add(grace))? {
            (Reply::Stopped { how }, _) => Ok(how),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Removes the volumes of a source that is not open.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn forget(&self, source: &SourceName) -> Result<(), ClientError> {
        match self.ask(&Request::Forget { source: source.clone() }, ANSWER_TIMEOUT)? {
            (Reply::Forgotten {}, _) => Ok(()),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Every source that the runner holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(&self) -> Result<BTreeMap<SourceName, SourceState>, ClientError> {
        Ok(self.overview()?.1)
    }

    /// How jails are limited on this machine, and every source that the runner holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn overview(&self) -> Result<(Confinement, BTreeMap<SourceName, SourceState>), ClientError> {
        match self.ask(&Request::List {}, ANSWER_TIMEOUT)? {
            (Reply::Sources { confinement, sources }, _) => Ok((confinement, sources)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The end of what a service printed. Kept after it has stopped, until it starts again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn logs(&self, source: &SourceName, service: &ServiceName) -> Result<String, ClientError> {
        let request = Request::Logs { source: source.clone(), service: service.clone() };
        match self.ask(&request, ANSWER_TIMEOUT)? {
            (Reply::Logs { text }, _) => Ok(text),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The sealed layers, how many there are, and their bytes on disk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn layers(&self) -> Result<(Vec<CachedLayer>, u64, u64), ClientError> {
        match self.ask(&Request::Layers {}, ANSWER_TIMEOUT)? {
            (Reply::Layers { layers, count, bytes }, _) => Ok((layers, count, bytes)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Removes sealed layers beyond the limits, or with `everything` all that nothing holds. Answers how many
    /// layers and bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn collect(&self, everything: bool) -> Result<(u64, u64), ClientError> {
        match self.ask(&Request::Collect { everything }, ANSWER_TIMEOUT)? {
            (Reply::Collected { layers, bytes }, _) => Ok((layers, bytes)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// The GPUs, and what there is to use them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn gpus(&self) -> Result<Gpus, ClientError> {
        match self.ask(&Request::Gpus {}, ANSWER_TIMEOUT)? {
            (Reply::Gpus(gpus), _) => Ok(gpus),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Has GPUs tried again that were given up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn retry_gpus(&self) -> Result<Gpus, ClientError> {
        match self.ask(&Request::RetryGpus {}, ANSWER_TIMEOUT)? {
            (Reply::Gpus(gpus), _) => Ok(gpus),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Machine code for `arch`, made from PTX, in sealed memory; and what the compiler took, in microseconds.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::BadPtx`] is the bundle's fault, [`Refusal::NoCompiler`] the machine's.
    pub fn compile(&self, arch: bundle::Arch, ptx: BorrowedFd<'_>) -> Result<(OwnedFd, u64), ClientError> {
        match self.ask_with(&Request::Compile { arch }, &[ptx], COMPILE_TIMEOUT)? {
            (Reply::Compiled { us }, Some(cubin)) => Ok((cubin, us)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Runs a function of a bundle. `fds` are the archive, the inputs, and the machine code of each PTX module, each
    /// [sealed](crate::memory). The outputs come in sealed memory if the job ran.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals are about the launch, or say that no GPU takes it.
    pub fn launch(&self, launch: Launch, fds: &[BorrowedFd<'_>]) -> Result<(Launched, Option<OwnedFd>), ClientError> {
        let within = Duration::from_secs(u64::from(launch.seconds)) + Duration::from_millis(launch.wait_ms);
        match self.ask_with(&Request::Launch(Box::new(launch)), fds, within + LAUNCH_MORE)? {
            (Reply::Launched(launched), outputs) => Ok((*launched, outputs)),
            _ => Err(ClientError::Misfit),
        }
    }

    /// Measures a GPU, or any that is idle. Takes some seconds, in which the GPU takes no job.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Refusal::GpuBusy`] if it has a job, [`Refusal::NoGpu`] if it is not offered.
    pub fn measure(&self, gpu: Option<gpu::GpuUuid>) -> Result<Measurement, ClientError> {
        match self.ask(&Request::Measure { gpu }, MEASURE_TIMEOUT)? {
            (Reply::Measured(measurement), _) => Ok(*measurement),
            _ => Err(ClientError::Misfit),
        }
    }

    fn ask(&self, request: &Request, timeout: Duration) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        self.ask_with(request, &[], timeout)
    }

    fn ask_with(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        if let Some(line) = self.lines.take() {
            // To nobody nothing was said: a runner that was started anew is asked on a new connection.
            if self.send(&line, request, fds, timeout).is_ok() {
                return self.receive(line, None);
            }
        }
        let line = lines::open(&self.socket, ANSWER_TIMEOUT)
            .map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        // A runner that refuses the peer answers without reading, so a failed send may still have a reply.
        let unsent = self.send(&line, request, fds, timeout).err();
        self.receive(line, unsent)
    }

    fn send(
        &self,
        line: &OwnedFd,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), WireError> {
        let limited = set_socket_timeout(line, Timeout::Recv, Some(timeout));
        limited.map_err(|source| WireError::Socket { operation: "limit", source })?;
        wire::send(line, request, fds)
    }

    fn receive(&self, line: OwnedFd, unsent: Option<WireError>) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        let received = wire::receive(&line).map_err(|error| unsent.unwrap_or(error))?;
        let (reply, fds) = received;
        match reply {
            // After these the runner hangs up.
            Reply::Refused {
                refusal: refusal @ (Refusal::NotAllowed { .. } | Refusal::Busy { .. } | Refusal::BadRequest { .. }),
            } => Err(ClientError::Refused(refusal)),
            Reply::Refused { refusal } => {
                self.lines.keep(line);
                Err(ClientError::Refused(refusal))
            }
            reply => {
                self.lines.keep(line);
                Ok((reply, fds.into_iter().next()))
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
