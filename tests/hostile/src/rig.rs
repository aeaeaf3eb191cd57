//! A runner of its own for each test, in a directory of its own.
//!
//! The binary is `$RIG_RUNNER`, or the `rig-runner` that the same build put beside the tests. `$RIG_CGROUP` names a
//! cgroup v2 directory below which each runner gets a directory of its own; without it the runner is told to do
//! without cgroups. `$RIG_STATE_DIR` names where state is kept, for machines whose `/tmp` is memory.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runner::client::{Client, ClientError};
use runner::protocol::{
    Digest, Exit, Limits, NetworkPolicy, Refusal, ServiceName, ServiceSpec, ServiceState, SourceName, SourcePlan,
    Started,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::observed::{Observed, awaits_its_plan, children};
use crate::oci::{self, Pack};

/// How long anything here may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The service of a source that has one.
pub const MAIN: &str = "main";

/// The configuration of the images that [`Rig::prepared`] makes.
pub const CONFIG: &str = r#"{"Env":["LD_PRELOAD=/none","FROM_IMAGE=1"]}"#;

/// How a runner is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    programs: Vec<(String, PathBuf)>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    sealer: Option<String>,
    state: Option<PathBuf>,
    ignored: Option<String>,
}

/// A runner, and everything that it may touch.
#[derive(Debug)]
pub struct Rig {
    /// Of this runner.
    pub client: Client,
    setup: Setup,
    // Socket and content; and the state, unless that is elsewhere.
    dir: tempfile::TempDir,
    state: tempfile::TempDir,
    cgroup: Option<PathBuf>,
    runner: Child,
    /// A file and no pipe: what the runner wrote before it answered is here when the answer is.
    journal: File,
}

/// How a service ended, and the end of what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// As the runner reports it.
    pub exit: Exit,
    /// The kernel killed it for its memory.
    pub out_of_memory: bool,
    /// As the runner's list shows it.
    pub log_tail: String,
}

// === impl Setup ===

impl Setup {
    /// Puts a program of this host into the images that [`Rig::prepared`] makes, at `path`.
    #[must_use]
    pub fn program(mut self, path: &str, program: impl Into<PathBuf>) -> Self {
        self.programs.push((path.to_owned(), program.into()));
        self
    }

    /// Adds options to the runner's command line.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// Sets a variable of the runner's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the runner, and nobody else, find this script where `mkfs.erofs` is.
    #[must_use]
    pub fn sealer(mut self, script: &str) -> Self {
        self.sealer = Some(script.to_owned());
        self
    }

    /// Starts the runner with these signals ignored, such as `QUIT,HUP`.
    #[must_use]
    pub fn ignoring(mut self, signals: &str) -> Self {
        self.ignored = Some(signals.to_owned());
        self
    }

    /// Keeps the runner's state below this directory, whatever `$RIG_STATE_DIR` says.
    #[must_use]
    pub fn state_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state = Some(dir.into());
        self
    }

    /// Starts the runner; returns when it listens. It gets the network namespace of the calling thread.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(self) -> Rig {
        assert!(rustix::process::geteuid().is_root(), "these tests make jails, which takes root");
        let dir = tempfile::tempdir().expect("a directory");
        let place = self.state.clone().or_else(|| std::env::var_os("RIG_STATE_DIR").map(PathBuf::from));
        let place = place.unwrap_or_else(|| dir.path().to_owned());
        let state = tempfile::tempdir_in(place).expect("a directory for state");
        std::fs::create_dir_all(dir.path().join("content/blobs/sha256")).expect("mkdir");
        let cgroup = cgroup_of_its_own();
        let journal = tempfile::tempfile().expect("a file");
        let runner = start_runner(&self, dir.path(), state.path(), cgroup.as_deref(), &journal);
        Rig { client: Client::new(dir.path().join("runner.sock")), setup: self, dir, state, cgroup, runner, journal }
    }
}

// === impl Rig ===

impl Rig {
    /// A runner whose images hold some programs of this host: `sh`, `cat`, `sleep`, `true`.
    #[must_use]
    pub fn new() -> Self {
        Setup::default().start()
    }

    /// The same, with more options on the runner's command line.
    #[must_use]
    pub fn with(options: &[&str]) -> Self {
        Setup::default().options(options).start()
    }

    /// A path in this rig's own directory.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The content store.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        self.path("content")
    }

    /// How many runs have a directory, as the runner sees it: the place is in memory, and in no other mount namespace.
    ///
    /// # Panics
    /// If the runner does not run.
    #[must_use]
    pub fn runs(&self) -> usize {
        let seen = format!("/proc/{}/root{}", self.runner_pid(), self.state("runs").display());
        let names = std::fs::read_dir(seen).expect("the runs").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)).count()
    }

    /// A path in the runner's state directory.
    #[must_use]
    pub fn state(&self, below: &str) -> PathBuf {
        self.state.path().join("state").join(below)
    }

    /// The runner's own cgroup directory, if this machine's tests use cgroups.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }

    /// The runner dies without a word, and everything that it started with it.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill_runner(&mut self) {
        self.runner.kill().expect("kill -9");
        self.runner.wait().expect("reap");
    }

    /// Another runner takes the place of one that has ended, in the same directories.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_runner(&mut self) {
        let cgroup = self.cgroup.as_deref();
        self.runner = start_runner(&self.setup, self.dir.path(), self.state.path(), cgroup, &self.journal);
    }

    /// The same, with another setup from now on.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_runner_as(&mut self, setup: Setup) {
        self.setup = setup;
        self.start_runner();
    }

    /// Waits until the runner has ended by itself; answers its exit code.
    ///
    /// # Panics
    /// If it cannot be reaped.
    pub fn runner_ended(&mut self) -> Option<i32> {
        self.runner.wait().expect("reap").code()
    }

    /// The runner's process.
    #[must_use]
    pub fn runner_pid(&self) -> u32 {
        self.runner.id()
    }

    /// The process that makes the jails: the runner's one child.
    ///
    /// # Panics
    /// If the runner has none, or several.
    #[must_use]
    pub fn spawner_pid(&self) -> u32 {
        match children(self.runner_pid())[..] {
            [spawner] => spawner,
            ref others => panic!("the runner has children {others:?}"),
        }
    }

    /// Waits until the child for the next start has been made, after which the runner does nothing unless it is asked.
    ///
    /// # Panics
    /// If it is not made.
    pub fn settle(&self) {
        let waits = || children(self.spawner_pid()).into_iter().any(awaits_its_plan);
        wait_for("a child made in advance", || waits().then_some(()));
    }

    /// How many mounts of sealed layers there are where the runner makes them.
    ///
    /// # Panics
    /// If the runner does not live.
    #[must_use]
    pub fn mounted_layers(&self) -> usize {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.runner_pid())).expect("mounts");
        mounts.lines().filter(|line| line.contains(" - erofs ")).count()
    }

    /// What the runner has written to its journal so far.
    #[must_use]
    pub fn journal(&self) -> String {
        written(&self.journal)
    }

    /// What the machine holds now.
    #[must_use]
    pub fn observed(&self) -> Observed {
        Observed::of(self)
    }

    /// An image of this host's programs and the setup's own, unpacked for `source`.
    ///
    /// # Panics
    /// If the runner refuses it.
    #[must_use]
    pub fn prepared(&self, source: &SourceName) -> Digest {
        self.prepared_with(source, &[])
    }

    /// The same, with more layers on top.
    ///
    /// # Panics
    /// If the runner refuses it.
    #[must_use]
    pub fn prepared_with(&self, source: &SourceName, above: &[Vec<u8>]) -> Digest {
        let programs = oci::host_programs(&self.setup.programs);
        let mut layers = vec![(programs.as_slice(), Pack::Plain)];
        layers.extend(above.iter().map(|tar| (tar.as_slice(), Pack::Gzip)));
        let manifest = oci::image(&self.content(), &layers, CONFIG);
        self.client.prepare(source, &manifest).expect("prepare");
        manifest
    }

    /// Opens `source` with one service, [`MAIN`], and the internal network.
    ///
    /// # Panics
    /// If the runner refuses it.
    pub fn open(&self, source: &SourceName) {
        self.client.open(source, plan(&[MAIN])).expect("open");
    }

    /// Starts [`MAIN`] of an open source.
    ///
    /// # Panics
    /// If the runner refuses it.
    pub fn start(&self, source: &SourceName, manifest: &Digest, spec: ServiceSpec) -> Started {
        self.client.start(source, &service(MAIN), manifest, spec).expect("start")
    }

    /// Prepares, opens, and starts [`MAIN`]; answers the image.
    ///
    /// # Panics
    /// If the runner refuses it.
    pub fn run(&self, source: &SourceName, spec: ServiceSpec) -> Digest {
        let manifest = self.prepared(source);
        self.open(source);
        self.start(source, &manifest, spec);
        manifest
    }

    /// What a service is doing, as the runner reports it.
    ///
    /// # Panics
    /// If the runner does not know it.
    #[must_use]
    pub fn service_state(&self, source: &SourceName, service: &ServiceName) -> ServiceState {
        let mut state = self.client.list().expect("list").remove(source).expect("a source");
        state.services.remove(service).expect("a service")
    }

    /// The first process of [`MAIN`]'s jail, as the host numbers it.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn jail_pid(&self, source: &SourceName) -> u32 {
        match self.service_state(source, &service(MAIN)) {
            ServiceState::Running { pid, .. } => u32::try_from(pid).expect("a pid"),
            ServiceState::Exited { exit, log_tail, .. } => panic!("it has ended with {exit:?}: {log_tail}"),
        }
    }

    /// Waits until [`MAIN`] has ended.
    ///
    /// # Panics
    /// If it does not end within [`PATIENCE`].
    #[must_use]
    pub fn ended(&self, source: &SourceName) -> Ended {
        self.service_ended(source, &service(MAIN))
    }

    /// Waits until a service has ended.
    ///
    /// # Panics
    /// If it does not end within [`PATIENCE`].
    #[must_use]
    pub fn service_ended(&self, source: &SourceName, service: &ServiceName) -> Ended {
        wait_for("the service to end", || match self.service_state(source, service) {
            ServiceState::Exited { exit, out_of_memory, log_tail } => Some(Ended { exit, out_of_memory, log_tail }),
            ServiceState::Running { .. } => None,
        })
    }

    /// What [`MAIN`] has printed, or the end of it.
    ///
    /// # Panics
    /// If the runner does not know it.
    #[must_use]
    pub fn log(&self, source: &SourceName) -> String {
        self.client.logs(source, &service(MAIN)).expect("logs")
    }

    /// Waits until [`MAIN`] has printed `text`; answers all that it has printed.
    ///
    /// # Panics
    /// If it does not print it within [`PATIENCE`].
    pub fn printed(&self, source: &SourceName, text: &str) -> String {
        wait_for(text, || Some(self.log(source)).filter(|log| log.contains(text)))
    }

    /// Everything that the next caller of the source's callback listener sends, until it closes.
    ///
    /// # Panics
    /// If nobody calls within [`PATIENCE`].
    #[must_use]
    pub fn callback(&self, source: &SourceName) -> String {
        callback(&self.client.listener(source).expect("the listener"))
    }

    /// Panics unless the runner still answers and another source still runs: the end of every attack.
    ///
    /// # Panics
    /// See above.
    pub fn still_works(&self) {
        let bystander = name("bystander");
        let layer = oci::Layer::new().file("bystander", 0o755, &oci::program_that_exits(7)).finish();
        let manifest = oci::image(&self.content(), &[(layer.as_slice(), Pack::Plain)], "{}");
        self.client.prepare(&bystander, &manifest).expect("prepare a bystander");
        self.open(&bystander);
        self.start(&bystander, &manifest, spec(&["/bystander"]));
        assert_eq!(self.ended(&bystander).exit, Exit::Code(7), "a bystander");
        self.client.stop(&bystander, Duration::ZERO).expect("stop a bystander");
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.runner.kill();
        let _ = self.runner.wait();
        // A test that passes shows nothing of it.
        eprint!("{}", self.journal());
        if let Some(cgroup) = &self.cgroup {
            remove_cgroup(cgroup);
        }
    }
}

/// A directory of the unified hierarchy that nobody else uses; made here, filled by the runner.
fn cgroup_of_its_own() -> Option<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let parent = PathBuf::from(std::env::var_os("RIG_CGROUP")?);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    // Whoever gave the directory may have done it already; if it cannot be done, the runner says what is missing.
    let _ = std::fs::write(parent.join("cgroup.subtree_control"), "+memory +pids +cpu +io");
    let cgroup = parent.join(format!("rig-{}-{number}", std::process::id()));
    std::fs::create_dir(&cgroup).expect("a cgroup");
    Some(cgroup)
}

fn remove_cgroup(cgroup: &Path) {
    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
    let deadline = Instant::now() + Duration::from_secs(5);
    while remove_below(cgroup).is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_below(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

fn start_runner(setup: &Setup, dir: &Path, state: &Path, cgroup: Option<&Path>, journal: &File) -> Child {
    let binary = binary("rig-runner", "RIG_RUNNER");
    let mut command = match (&setup.sealer, &setup.ignored) {
        (Some(script), _) => with_sealer(script, &dir.join("sealer"), &binary),
        (None, Some(signals)) => with_ignored(signals, &binary),
        (None, None) => Command::new(binary),
    };
    command
        .arg("run")
        .args(["--socket".as_ref(), dir.join("runner.sock").as_os_str()])
        .args(["--content".as_ref(), dir.join("content").as_os_str()])
        .args(["--state".as_ref(), state.join("state").as_os_str()]);
    match cgroup {
        Some(cgroup) => command.args(["--cgroup".as_ref(), cgroup.as_os_str()]),
        None => command.arg("--rlimits-only"),
    };
    // That it listens is said at this level.
    command.env("RIG_LOG", "info");
    command.args(&setup.options).envs(setup.environment.iter().cloned()).env_remove("JOURNAL_STREAM");
    let before = written(journal).len();
    let mut runner = command.stderr(journal.try_clone().expect("duplicate")).spawn().expect("start the runner");
    wait_for("the runner to listen", || {
        let ended = runner.try_wait().expect("a status");
        let said = written(journal);
        assert!(ended.is_none(), "the runner did not start: {said}");
        said[before..].contains("the runner listens").then_some(())
    });
    runner
}

/// All of a journal. Nothing of where its writer writes is changed.
fn written(journal: &File) -> String {
    let mut bytes = vec![0; usize::try_from(journal.metadata().expect("metadata").len()).expect("it fits")];
    journal.read_exact_at(&mut bytes, 0).expect("read");
    String::from_utf8(bytes).expect("text")
}

/// A command that executes `binary` with these signals ignored.
fn with_ignored(signals: &str, binary: &Path) -> Command {
    let mut command = Command::new("env");
    command.arg(format!("--ignore-signal={signals}")).arg(binary);
    command
}

/// A command that executes `binary` in a mount namespace of its own, where `script`, written to `file`, covers
/// `mkfs.erofs`.
fn with_sealer(script: &str, file: &Path, binary: &Path) -> Command {
    std::fs::write(file, script).expect("write a sealer");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let place = ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs"].iter().find(|path| Path::new(path).exists());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", r#"mount --bind "$0" "$1" && shift && exec "$@""#]);
    command.arg(file).arg(place.expect("mkfs.erofs of erofs-utils")).arg(binary);
    command
}

/// A binary of the same build: tests lie in `deps`, one directory below the binaries. `variable` overrides it.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn binary(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    beside.unwrap_or_else(|| panic!("{name} is not beside {}; build it, or set {variable}", test.display()))
}

/// A source's name.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn name(name: &str) -> SourceName {
    name.parse().expect("a name")
}

/// A service's name.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn service(name: &str) -> ServiceName {
    name.parse().expect("a name")
}

/// A plan with these services and the internal network, and nothing else.
#[must_use]
pub fn plan(services: &[&str]) -> SourcePlan {
    SourcePlan {
        network: NetworkPolicy::Internal,
        services: services.iter().map(|name| service(name)).collect(),
        aliases: Vec::new(),
        published: Vec::new(),
        volumes: Vec::new(),
    }
}

/// A service that runs `command`, with limits that fit many tests side by side.
#[must_use]
pub fn spec(command: &[&str]) -> ServiceSpec {
    let command = Some(command.iter().map(ToString::to_string).collect());
    let limits = Limits { scratch_bytes: 64 << 20, tmp_bytes: 64 << 20, ..Limits::default() };
    ServiceSpec { command, limits, ..ServiceSpec::default() }
}

/// What the runner refused with.
///
/// # Panics
/// If it did not refuse.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Refusal {
    match answer {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Everything that a process in a jail sends to the callback listener, until it closes.
///
/// # Panics
/// If nobody calls within [`PATIENCE`].
#[must_use]
pub fn callback(listener: &TcpListener) -> String {
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&listener.as_fd(), PollFlags::IN)], Some(&patience));
    assert_eq!(ready.expect("poll"), 1, "no callback came");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_nonblocking(false).expect("wait for the rest");
    stream.set_read_timeout(Some(PATIENCE)).expect("but not for ever");
    std::io::read_to_string(stream).expect("text")
}

/// Asks again until there is an answer; for states of which no descriptor tells.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
