//! A signer process for one test: fresh directory, sound policy, killed at the end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use alloy::consensus::{TxEip1559, TypedTransaction};
use alloy::primitives::{Address, TxKind, U256, address, keccak256};
use alloy::sol;
use alloy::sol_types::SolCall;
use signer::protocol::Answer;
use tempfile::TempDir;

pub(crate) const OWNER: Address = address!("0x00000000000000000000000000000000000000a1");
pub(crate) const NEXUS: Address = address!("0x00000000000000000000000000000000000000b1");
pub(crate) const TERMINAL: Address = address!("0x00000000000000000000000000000000000000b2");
pub(crate) const VAULT: Address = address!("0x00000000000000000000000000000000000000b3");
pub(crate) const STRANGER: Address = address!("0x00000000000000000000000000000000000000ee");
pub(crate) const CHAIN_ID: u64 = 31337;

/// The user that a signer runs as when a test wants to be somebody else.
pub(crate) const NOBODY: u32 = 65534;

/// Longest wait for anything that a test awaits. Reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

sol! {
    struct ResponseParams {
        address task;
        address provider;
        string data;
        uint256 payment;
    }

    function submitResponse(ResponseParams responseParams);
    function attempt(address task, address provider, uint256 suggestedPayment);
    function announceMaster(address master);
    function claim();
}

/// Where one signer lives: `state/` for the key, `socket`, `signer.toml`, an empty `hardware/`, and what it says on
/// stderr. It has no TPM unless it is given one, whatever machine the test runs on.
pub(crate) struct Home {
    dir: TempDir,
    uid: Option<u32>,
    tpm: String,
}

/// A running signer.
pub(crate) struct Running {
    child: Child,
    /// Zero if nobody signs.
    pub(crate) address: Address,
    /// The line that it began with.
    pub(crate) said: serde_json::Value,
}

// === impl Home ===

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a directory"), uid: None, tpm: "none".to_owned() };
        fs::create_dir(home.path("hardware")).expect("a directory");
        home.allow_calls(1000);
        home
    }

    /// A home whose signer has the TPM at `place`.
    pub(crate) fn with_tpm(place: &str) -> Self {
        let mut home = Self::new();
        home.put_tpm(place);
        home
    }

    /// The signers that are started from now on have the TPM at `place`.
    pub(crate) fn put_tpm(&mut self, place: &str) {
        place.clone_into(&mut self.tpm);
    }

    /// A home whose signer runs as [`NOBODY`]. `None` unless the test may change users.
    pub(crate) fn of_nobody() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let mut home = Self::new();
        // The directory that the build writes to may be closed to others.
        fs::copy(env!("CARGO_BIN_EXE_rig-signer"), home.path("rig-signer")).expect("copy the binary");
        fs::set_permissions(home.path("rig-signer"), fs::Permissions::from_mode(0o755)).expect("chmod");
        chown(home.dir.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        home.uid = Some(NOBODY);
        Some(home)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Asks for the key of this generation.
    pub(crate) fn ask_generation(&self, generation: u32) {
        self.allow_calls(1000);
        let policy = fs::read_to_string(self.path("signer.toml")).expect("the policy");
        fs::write(self.path("signer.toml"), format!("{policy}[identity]\ngeneration = {generation}\n")).expect("write");
    }

    /// Writes a policy that allows so many signatures in a minute.
    pub(crate) fn allow_calls(&self, calls: u32) {
        let policy = format!(
            "chain_id = {CHAIN_ID}\nowner = \"{OWNER}\"\nmax_gas = 1_000_000\nmax_fee_per_gas_wei = 10_000_000_000\n\
             max_calls_per_minute = {calls}\nmax_gas_wei_per_day = 1_000_000_000_000_000_000\n\
             [contracts]\nnexus = \"{NEXUS}\"\nterminal = \"{TERMINAL}\"\nvault = \"{VAULT}\"\n"
        );
        fs::write(self.path("signer.toml"), policy).expect("write the policy");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.uid {
            None => Command::new(env!("CARGO_BIN_EXE_rig-signer")),
            Some(_) => Command::new(self.path("rig-signer")),
        };
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command.args(arguments).arg("--state").arg(self.path("state"));
        command.arg("--tpm").arg(&self.tpm).arg("--hardware").arg(self.path("hardware"));
        command.env_remove("JOURNAL_STREAM").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// The command of a signer that serves. Development machines may have no right to lock memory.
    pub(crate) fn run_command(&self) -> Command {
        let mut command = self.command(&["run", "--json", "--allow-swap"]);
        command.arg("--socket").arg(self.socket()).arg("--policy").arg(self.path("signer.toml"));
        command
    }

    /// Starts a signer and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Running {
        self.start_as(self.run_command())
    }

    /// As [`Home::start`], with `--allow-uid`.
    pub(crate) fn start_allowing(&self, uid: u32) -> Running {
        let mut command = self.run_command();
        command.arg("--allow-uid").arg(uid.to_string());
        self.start_as(command)
    }

    /// Starts a signer under another program, as whose arguments its own are given.
    pub(crate) fn start_under(&self, program: &str, arguments: &[&str]) -> Running {
        let inner = self.run_command();
        let mut command = Command::new(program);
        command.args(arguments).arg(inner.get_program()).args(inner.get_args());
        command.env_remove("JOURNAL_STREAM").env_remove("RUST_LOG").stdin(Stdio::null());
        self.start_as(command)
    }

    fn start_as(&self, mut command: Command) -> Running {
        let log = fs::File::create(self.path("stderr")).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("start rig-signer");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("read stdout");
        let said: serde_json::Value = match serde_json::from_str(&line) {
            Ok(said) => said,
            Err(_) => panic!("not ready: {}", self.log()),
        };
        assert_eq!(said["socket"], self.socket().to_str().expect("a path in UTF-8"));
        let address = said["address"].as_str().map_or(Address::ZERO, |text| text.parse().expect("an address"));
        Running { child, address, said }
    }

    /// Runs `rig-signer address` to its end.
    pub(crate) fn address(&self) -> Address {
        let output = self.command(&["address", "--allow-swap"]).output().expect("run rig-signer");
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().next().expect("a first line").parse().expect("an address")
    }

    /// The tasks that were answered, in order. Panics if the journal is damaged.
    pub(crate) fn journal(&self) -> Vec<Address> {
        let bytes = fs::read(self.path("state/responses.journal")).expect("the journal");
        let (records, rest) = bytes.as_chunks::<64>();
        assert!(rest.is_empty() && records[0].starts_with(b"RIGRESP\x01"), "the journal has whole records");
        for record in records {
            assert_eq!(record[56..], keccak256(&record[..56])[..8], "the journal has sound records");
        }
        records[1..].iter().map(|record| Address::from_slice(&record[..20])).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("stderr")).expect("the log")
    }

    /// A connection without the client half, for peers that do not keep to the protocol.
    pub(crate) fn dial(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Waits for an end that somebody else asked for.
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().expect("wait")
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        self.child.wait().expect("wait")
    }

    /// A call that the policy allows, made unique by `nonce`.
    pub(crate) fn attempt(&self, nonce: u64) -> TxEip1559 {
        let input = attemptCall { task: STRANGER, provider: self.address, suggestedPayment: U256::from(nonce) };
        TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 300_000,
            max_fee_per_gas: 3_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(NEXUS),
            input: input.abi_encode().into(),
            ..TxEip1559::default()
        }
    }

    /// The response `data` to `task`, for a price per gas.
    pub(crate) fn response(&self, task: Address, data: &str, fee_gwei: u64) -> TxEip1559 {
        let (data, payment) = (data.to_owned(), U256::from(5));
        let answer = ResponseParams { task, provider: self.address, data, payment };
        let input = submitResponseCall { responseParams: answer }.abi_encode().into();
        let max_fee_per_gas = u128::from(fee_gwei) * 1_000_000_000;
        TxEip1559 { max_fee_per_gas, input, ..self.attempt(0) }
    }

    pub(crate) fn honest(&self, nonce: u64) -> TypedTransaction {
        self.attempt(nonce).into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `json` as one frame.
pub(crate) fn send(stream: &mut UnixStream, json: &[u8]) {
    let length = u32::try_from(json.len()).expect("a frame").to_le_bytes();
    stream.write_all(&[&length, json].concat()).expect("send");
}

/// The next answer, or `None` if the signer hung up.
pub(crate) fn receive(stream: &mut UnixStream) -> Option<Answer> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut json).expect("a whole answer");
    Some(serde_json::from_slice(&json).expect("an answer"))
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Inodes of the sockets that process `pid` holds. `None` if the kernel does not let this user look.
pub(crate) fn socket_inodes(pid: u32) -> Option<Vec<String>> {
    let mut inodes = Vec::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).ok()? {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        let text = target.to_string_lossy().into_owned();
        inodes.extend(text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    Some(inodes)
}
