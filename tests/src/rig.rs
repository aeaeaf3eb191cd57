//! A rig: the three real processes, from a `rig.toml`, on a devnet.
//!
//! It runs as a developer's rig does: plain processes in one folder. Killing and starting them again is what tests do
//! with it; everything it says comes from its own status socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use provisioning::devnet::{Ready, Role};
use runner::protocol::ServiceState;
use serde_json::Value;
use tempfile::TempDir;
use work::SourceId;

/// Between two looks at what a rig says.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a rig differs from the usual one.
#[derive(Clone, Debug)]
pub struct RigOptions {
    /// Endpoints of the chain; the devnet's own when empty.
    pub rpc_urls: Vec<String>,
    /// Depth at which a transaction counts as done.
    pub confirmations: u64,
    /// Lines of `[work]`, over the test's defaults.
    pub work: String,
    /// Lines of `[limits]`.
    pub limits: String,
    /// The content gateway that is published to; the devnet's own when empty.
    pub publish: String,
    /// The owner; the devnet's master when absent.
    pub owner: Option<Address>,
    /// Seconds that begun work has to finish in when the provider is asked to stop.
    pub drain_s: u64,
    /// Where the runner finds a driver's libraries before the loader's own; empty for none.
    pub libraries: Vec<PathBuf>,
    /// Where the signer finds a TPM, as its `--tpm` takes it; no TPM when empty. Never the one of this machine.
    pub tpm: String,
    /// Below which folder the signer finds the machine's parts; a machine without any when absent.
    pub hardware: Option<PathBuf>,
}

impl Default for RigOptions {
    fn default() -> RigOptions {
        RigOptions {
            rpc_urls: Vec::new(),
            confirmations: 1,
            work: "sources = \"any\"\nmax_runs = 8\nmax_runs_per_source = 8\nmax_waiting = 64".to_owned(),
            limits: String::new(),
            publish: String::new(),
            owner: None,
            drain_s: 20,
            libraries: Vec::new(),
            tpm: String::new(),
            hardware: None,
        }
    }
}

/// Three processes in one folder. Dropping it kills them.
#[derive(Debug)]
pub struct Rig {
    dir: TempDir,
    address: Address,
    signer: Child,
    runner: Child,
    provider: Option<Child>,
    drain_s: u64,
}

// === impl Rig ===

impl Rig {
    /// Starts a rig on `ready`. It returns when all three processes run; enrolment is what tests watch.
    pub fn start(ready: &Ready, options: &RigOptions) -> Result<Rig> {
        let dir = TempDir::with_prefix("rig-").context("make a folder for the rig")?;
        for made in ["signer", "runner", "content", "provider"] {
            std::fs::create_dir(dir.path().join(made))?;
        }
        std::fs::write(dir.path().join("signer.toml"), signer_toml(ready, options)?)?;
        std::fs::write(dir.path().join("rig.toml"), rig_toml(ready, options, dir.path())?)?;
        let (signer, address) = start_signer(dir.path(), options)?;
        let runner = start_runner(dir.path(), &options.libraries)?;
        let mut rig = Rig { dir, address, signer, runner, provider: None, drain_s: options.drain_s };
        rig.start_provider()?;
        Ok(rig)
    }

    /// The rig's account.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The rig's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the rig's folder behind when the rig is dropped, and returns where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// The provider's process id. Errors: it does not run.
    pub fn provider_pid(&self) -> Result<u32> {
        Ok(self.provider.as_ref().context("the provider does not run")?.id())
    }

    /// Starts the provider; its log goes to `provider.log`, appended.
    pub fn start_provider(&mut self) -> Result<()> {
        let mut command = Command::new(binary("rig-provider")?);
        command.arg("--drain-s").arg(self.drain_s.to_string());
        command.arg("--config").arg(self.dir.path().join("rig.toml"));
        self.provider = Some(spawn(command, self.dir.path(), "provider.log")?);
        Ok(())
    }

    /// Kills the provider as a power cut would.
    pub fn kill_provider(&mut self) -> Result<()> {
        if let Some(mut provider) = self.provider.take() {
            provider.kill()?;
            provider.wait()?;
        }
        Ok(())
    }

    /// Asks the provider to stop, and waits for it. Returns whether it ended well.
    pub fn drain_provider(&mut self) -> Result<bool> {
        let Some(mut provider) = self.provider.take() else { bail!("the provider does not run") };
        kill(Pid::from_raw(i32::try_from(provider.id())?), Signal::SIGTERM)?;
        Ok(provider.wait()?.success())
    }

    /// The signer's process id.
    pub fn signer_pid(&self) -> u32 {
        self.signer.id()
    }

    /// The process ids of signer, runner and, if it runs, provider.
    pub fn pids(&self) -> Vec<u32> {
        [Some(&self.signer), Some(&self.runner), self.provider.as_ref()].into_iter().flatten().map(Child::id).collect()
    }

    /// Asks all three processes to stop, at once as a shut-down does, and waits for them. Returns whether all ended well.
    pub fn stop(&mut self) -> Result<bool> {
        for pid in self.pids() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        let mut ended_well = true;
        for child in [self.provider.as_mut(), Some(&mut self.runner), Some(&mut self.signer)].into_iter().flatten() {
            ended_well &= child.wait()?.success();
        }
        Ok(ended_well)
    }

    /// What `rig status` is told.
    pub fn status(&self) -> Result<Value> {
        self.ask("{\"ask\":\"status\"}")
    }

    /// What `rig tasks` is told.
    pub fn tasks(&self) -> Result<Vec<Value>> {
        let mut answer = self.ask("{\"ask\":\"tasks\",\"limit\":10000}")?;
        match answer["tasks"].take() {
            Value::Array(tasks) => Ok(tasks),
            other => bail!("tasks are {other}"),
        }
    }

    /// The rig's row for one task, if it knows the task.
    pub fn task(&self, task: Address) -> Result<Option<Value>> {
        let name = task.to_string().to_lowercase();
        let is_it = |row: &Value| row["task"].as_str().is_some_and(|text| text.to_lowercase() == name);
        Ok(self.tasks()?.into_iter().find(is_it))
    }

    /// Waits until `is_so` of the status, and returns it. Errors: time is up; the newest status is in the message.
    pub fn wait_status(&self, what: &str, within: Duration, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(what, within, || {
            let status = self.status().unwrap_or(Value::Null);
            let so = is_so(&status);
            (so, status)
        })
    }

    /// Waits until a task's row says one of `stages`, and returns the row.
    pub fn wait_task(&self, task: Address, stages: &[&str], within: Duration) -> Result<Value> {
        self.wait(&format!("task {task} in {stages:?}"), within, || {
            let row = self.task(task).ok().flatten().unwrap_or(Value::Null);
            let so = row["stage"].as_str().is_some_and(|stage| stages.contains(&stage));
            (so, row)
        })
    }

    /// Waits until the rig serves `count` sources.
    pub fn wait_serving(&self, count: usize, within: Duration) -> Result<Value> {
        self.wait_status(&format!("{count} served sources"), within, |status| {
            let sources = status["sources"].as_array().map_or(&[][..], Vec::as_slice);
            sources.iter().filter(|source| source["stage"] == "serving").count() >= count
        })
    }

    /// Kills every process of a source, and waits until all of its services run anew.
    pub fn kill_source(&self, source: Address) -> Result<()> {
        let runner = runner::client::Client::new(self.dir.path().join("runner.sock"));
        let name = SourceId(source).to_string().parse()?;
        let pids = || -> Result<Vec<i32>> {
            let services = runner.list()?.remove(&name).map(|state| state.services).unwrap_or_default();
            let pid = |state: &ServiceState| match state {
                ServiceState::Running { pid, .. } => Some(*pid),
                ServiceState::Exited { .. } => None,
            };
            Ok(services.values().filter_map(pid).collect())
        };
        let before = pids()?;
        for pid in &before {
            kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
        }
        let anew = |now: &[i32]| now.len() == before.len() && now.iter().all(|pid| !before.contains(pid));
        let is_anew = || {
            let now = pids().unwrap_or_default();
            (anew(&now), Value::from(now))
        };
        self.wait("the source's services to run anew", Duration::from_secs(60), is_anew)?;
        Ok(())
    }

    /// The provider's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("provider.log")).unwrap_or_default()
    }

    /// The ledger, which only the provider writes.
    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("provider/ledger.db")
    }

    fn wait(&self, what: &str, within: Duration, look: impl Fn() -> (bool, Value)) -> Result<Value> {
        let began = Instant::now();
        loop {
            let (so, value) = look();
            if so {
                return Ok(value);
            }
            if began.elapsed() > within {
                let log = self.log();
                bail!("waited {within:?} for {what}; last seen {value}; the provider's log ends:\n{}", tail(&log));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn ask(&self, question: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(self.dir.path().join("provider.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "{question}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tasks = self.tasks().unwrap_or_default();
            eprintln!("the rig's tasks: {tasks:#?}\nthe provider's log ends:\n{}", tail(&self.log()));
        }
        let children = [self.provider.as_mut(), Some(&mut self.runner), Some(&mut self.signer)];
        for child in children.into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A binary of this workspace, beside the test that runs. Errors: it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("{name} is not built: run `cargo build --workspace` first"))
}

/// The last lines of a log.
fn tail(log: &str) -> &str {
    log.get(log.len().saturating_sub(4000)..).unwrap_or_default()
}

fn spawn(mut command: Command, dir: &Path, log: &str) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(log))?;
    command.stdin(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("start {:?}", command.get_program()))
}

fn start_signer(dir: &Path, options: &RigOptions) -> Result<(Child, Address)> {
    let mut command = Command::new(binary("rig-signer")?);
    command.args(["run", "--json", "--state"]).arg(dir.join("signer"));
    command.arg("--socket").arg(dir.join("signer.sock")).arg("--policy").arg(dir.join("signer.toml"));
    command.args(["--tpm", if options.tpm.is_empty() { "none" } else { &options.tpm }]);
    command.arg("--hardware").arg(options.hardware.clone().unwrap_or_else(|| dir.join("no-hardware")));
    command.stdout(Stdio::piped());
    let mut signer = spawn(command, dir, "signer.log")?;
    let mut line = String::new();
    BufReader::new(signer.stdout.take().context("the signer's output")?).read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).with_context(|| format!("the signer said {line:?}"))?;
    let address = said["address"].as_str().context("the signer names its address")?.parse()?;
    Ok((signer, address))
}

fn start_runner(dir: &Path, libraries: &[PathBuf]) -> Result<Child> {
    let mut command = Command::new(binary("rig-runner")?);
    command.args(["run", "--socket"]).arg(dir.join("runner.sock"));
    command.arg("--content").arg(dir.join("content")).arg("--state").arg(dir.join("runner"));
    // Where developers work there is often no cgroup v2; the attacks on it are tried in a guest that has it.
    command.arg("--rlimits-only");
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    let runner = spawn(command, dir, "runner.log")?;
    let began = Instant::now();
    while !dir.join("runner.sock").exists() {
        if began.elapsed() > Duration::from_secs(10) {
            bail!("the runner did not open its socket: {}", std::fs::read_to_string(dir.join("runner.log"))?);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(runner)
}

fn owner_of(ready: &Ready, options: &RigOptions) -> Result<Address> {
    match options.owner {
        Some(owner) => Ok(owner),
        None => Ok(ready.account(Role::Master).context("the devnet has a master")?.address),
    }
}

fn signer_toml(ready: &Ready, options: &RigOptions) -> Result<String> {
    let at = &ready.contracts;
    Ok(format!(
        "chain_id = {}\nowner = \"{}\"\nmax_gas = 16000000\nmax_fee_per_gas_wei = 2000000000000\n\
         max_calls_per_minute = 100000\nmax_gas_wei_per_day = 9000000000000000000\n\
         [contracts]\nnexus = \"{}\"\nterminal = \"{}\"\nvault = \"{}\"\n",
        ready.chain_id,
        owner_of(ready, options)?,
        at.nexus,
        at.terminal,
        at.vault
    ))
}

fn rig_toml(ready: &Ready, options: &RigOptions, dir: &Path) -> Result<String> {
    let at = &ready.contracts;
    // Through a proxy of a test the rig polls; the devnet's own WebSocket would tell it past the proxy.
    let ws_url = if options.rpc_urls.is_empty() { format!("ws_url = \"{}\"\n", ready.ws) } else { String::new() };
    let rpc_urls = if options.rpc_urls.is_empty() { vec![ready.rpc.to_string()] } else { options.rpc_urls.clone() };
    let publish = if options.publish.is_empty() { ready.ipfs_publish.to_string() } else { options.publish.clone() };
    let dir = dir.display();
    Ok(format!(
        "[owner]\naddress = \"{owner}\"\nname = \"test\"\n\
         [network]\nchain_id = {chain_id}\nrpc_urls = {rpc_urls:?}\n{ws_url}confirmations = {confirmations}\n\
         request_timeout_ms = 3000\n\
         [network.contracts]\nnexus = \"{nexus}\"\ncontroller = \"{controller}\"\nterminal = \"{terminal}\"\nvault = \"{vault}\"\n\
         [content]\npublish = \"{publish}\"\nallow_private = true\n\
         [work]\nfrom_block = 0\npoll_s = 2\n{work}\n\
         [limits]\n{limits}\n\
         [places]\nstate = \"{dir}/provider\"\ncontent = \"{dir}/content\"\nprovider_socket = \"{dir}/provider.sock\"\n\
         signer_socket = \"{dir}/signer.sock\"\nrunner_socket = \"{dir}/runner.sock\"\n",
        owner = owner_of(ready, options)?,
        chain_id = ready.chain_id,
        confirmations = options.confirmations,
        nexus = at.nexus,
        controller = at.controller,
        terminal = at.terminal,
        vault = at.vault,
        work = options.work,
        limits = options.limits,
    ))
}
