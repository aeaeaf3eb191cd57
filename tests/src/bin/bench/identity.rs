//! What a key in a process of its own, sealed to a TPM, costs beside a key in the program that uses it.
//!
//! The TPM is an emulator, bound by the processor; a chip takes tens to hundreds of milliseconds where it takes one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use alloy::consensus::{SignableTransaction, TxEip1559, TypedTransaction};
use alloy::primitives::{Address, TxKind, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use anyhow::{Context, Result, ensure};
use chain::abi::{Nexus, ResponseParams};
use serde_json::Value;
use signer::Client;
use swtpm::Emulator;
use tempfile::TempDir;
use testbed::rig::binary;

use crate::{Figure, handshake, say};

const NEXUS: Address = Address::repeat_byte(0x11);
const ROUNDS: u64 = 400;
const STARTS: usize = 15;

/// `rig-signer`, and what it was started on. Dropping it kills it.
pub(crate) struct Signer {
    child: Child,
    /// The address that it signs for.
    pub(crate) address: Address,
    /// From the start of the process to the line that says that it is ready, in milliseconds.
    ready_ms: f64,
}

/// A key's home: a state folder, a machine, and a TPM or none.
pub(crate) struct Home {
    dir: TempDir,
    tpm: Option<Emulator>,
}

// === impl Home ===

impl Home {
    /// A new one. `parts`: whether the machine has parts to bind a key to.
    pub(crate) fn new(tpm: bool, parts: bool) -> Result<Home> {
        let dir = TempDir::with_prefix("bench-")?;
        std::fs::create_dir(dir.path().join("machine"))?;
        if parts {
            testbed::hardware::machine(&dir.path().join("machine"), 1)?;
        }
        let owner = Address::repeat_byte(0xa1);
        let policy = format!(
            "chain_id = 1\nowner = \"{owner}\"\nmax_gas = 5000000\nmax_fee_per_gas_wei = 200000000000\n\
             max_calls_per_minute = 1000000\nmax_gas_wei_per_day = 9000000000000000000\n[contracts]\n\
             nexus = \"{NEXUS}\"\nterminal = \"{}\"\nvault = \"{}\"\n",
            Address::repeat_byte(0x22),
            Address::repeat_byte(0x33)
        );
        std::fs::write(dir.path().join("signer.toml"), policy)?;
        let tpm = tpm.then(Emulator::start);
        Ok(Home { dir, tpm })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("signer.sock")
    }

    /// Starts the signer, and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Result<Signer> {
        let began = Instant::now();
        let dir = self.dir.path();
        let log = std::fs::File::create(dir.join("signer.log"))?;
        let mut child = Command::new(binary("rig-signer")?)
            .args(["run", "--json", "--allow-swap", "--state"])
            .arg(dir.join("state"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--policy")
            .arg(dir.join("signer.toml"))
            .args(["--tpm", &self.tpm.as_ref().map_or_else(|| "none".to_owned(), Emulator::place)])
            .arg("--hardware")
            .arg(dir.join("machine"))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the signer's output")?).read_line(&mut line)?;
        let ready_ms = began.elapsed().as_secs_f64() * 1e3;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("the signer said {line:?}"))?;
        let address = said["address"].as_str().context("the signer names its address")?.parse()?;
        Ok(Signer { child, address, ready_ms })
    }
}

// === impl Signer ===

impl Signer {
    /// Resident memory, in MiB.
    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib / 1024.0).context("the kernel tells the resident memory")
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All figures.
pub(crate) async fn measure() -> Result<Vec<Figure>> {
    say("signing through the socket, and in the program itself");
    let mut figures = signing().await?;
    say("starting signers of each kind, in turns");
    figures.extend(starting()?);
    say("TLS handshakes with the rig's key, and with one in the program itself");
    figures.extend(handshake::measure().await?);
    say("the size of the program");
    figures.extend(sizes()?);
    Ok(figures)
}

async fn signing() -> Result<Vec<Figure>> {
    let home = Home::new(true, true)?;
    let signer = home.start()?;
    let client = Client::connect(home.socket()).await?;
    let own = PrivateKeySigner::random();
    let (mut calls, mut responses, mut inside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let call = attempt(signer.address, round);
        let began = Instant::now();
        client.sign(call.clone()).await?;
        calls.push(began.elapsed().as_secs_f64() * 1e3);

        let began = Instant::now();
        client.sign(response(signer.address, round)).await?;
        responses.push(began.elapsed().as_secs_f64() * 1e3);

        let began = Instant::now();
        own.sign_hash_sync(&call.signature_hash())?;
        inside.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let resident = vec![signer.resident_mib()?];
    let bound = "secp256k1 on one core, and two switches between processes";
    Ok(vec![
        figure("a call signed through the signer's socket", "ms", calls, bound),
        figure("a response, written to the journal first", "ms", responses, "fsync of this disk"),
        figure("the same signed in the program itself, no policy", "ms", inside, "secp256k1 on one core"),
        figure("rig-signer: memory after these", "MiB", resident, "resident set; all of it locked"),
    ])
}

fn starting() -> Result<Vec<Figure>> {
    let homes = [Home::new(true, true)?, Home::new(false, true)?, Home::new(false, false)?];
    let mut took = [const { Vec::new() }; 3];
    for home in &homes {
        home.start()?;
    }
    for _ in 0..STARTS {
        for (home, took) in homes.iter().zip(&mut took) {
            took.push(home.start()?.ready_ms);
        }
    }
    let [sealed, bound, plain] = took;
    Ok(vec![
        figure(
            "start to ready: key sealed to a TPM (tier B)",
            "ms",
            sealed,
            "the emulator: storage key, session, unseal",
        ),
        figure("start to ready: key bound to parts (tier N)", "ms", bound, "Argon2id, 19 MiB for each part"),
        figure("start to ready: key in a plain file", "ms", plain, "process start, locking memory"),
    ])
}

fn sizes() -> Result<Vec<Figure>> {
    let mib = |path: &Path| -> Result<f64> {
        let bytes = std::fs::metadata(path)?.len();
        ensure!(bytes > 0, "{} is empty", path.display());
        Ok(u32::try_from(bytes / 1024).map(f64::from)? / 1024.0)
    };
    let own = mib(&binary("rig-signer")?)?;
    let mut figures = vec![figure("rig-signer: size, as it is built here", "MiB", vec![own], "alloy's types, tokio")];
    if let Some(path) = std::env::var_os("RIG_BENCH_STATIC_SIGNER") {
        let size = mib(Path::new(&path))?;
        figures.push(figure("rig-signer: size, static and stripped", "MiB", vec![size], "the same, and the C library"));
    }
    Ok(figures)
}

fn figure(what: &str, unit: &'static str, samples: Vec<f64>, bound: &'static str) -> Figure {
    Figure { what: what.to_owned(), unit, samples, bound }
}

fn attempt(own: Address, nonce: u64) -> TypedTransaction {
    let call = Nexus::attemptCall { task: task(nonce), provider: own, suggestedPayment: U256::from(1) };
    transaction(nonce, call.abi_encode())
}

fn response(own: Address, nonce: u64) -> TypedTransaction {
    let data = format!("link/{nonce}");
    let params = ResponseParams { task: task(nonce), provider: own, data, payment: U256::from(1) };
    transaction(nonce, Nexus::submitResponseCall { _responseParams: params }.abi_encode())
}

fn task(number: u64) -> Address {
    Address::left_padding_from(&(number + 1).to_be_bytes())
}

fn transaction(nonce: u64, input: Vec<u8>) -> TypedTransaction {
    TypedTransaction::from(TxEip1559 {
        chain_id: 1,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 1,
        max_priority_fee_per_gas: 0,
        to: TxKind::Call(NEXUS),
        input: input.into(),
        ..TxEip1559::default()
    })
}
