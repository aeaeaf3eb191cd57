//! The main job, shown: a client that others wrote publishes tasks, a rig without Docker runs them, its owner is paid.

mod bundles;
mod vm;

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use alloy_primitives::utils::format_ether;
use anyhow::{Context, Result, bail, ensure};
use chain::rpc::Rpc;
use clap::{Parser, ValueEnum};
use provisioning::devnet::{Ready, Role};
use serde_json::{Value, json};
use swtpm::Emulator;
use testbed::client::{Client, Offer};
use testbed::registry::{Pushed, Registry};
use testbed::rig::{Rig, RigOptions, binary};
use work::{ProviderId, TaskId};

/// Longest wait for the rig to be paired and to serve both sources.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Longest wait for a response.
const RESPONSE_WITHIN: Duration = Duration::from_secs(60);

/// One of each kind: a container for each delivery method, two services, a bundle for each delivery method.
const SOURCES: usize = 5;

/// One coin, in wei.
const COIN: u128 = 1_000_000_000_000_000_000;

/// Runs the whole story once: local network, registry, source, rig, tasks in both delivery methods.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Run this compose file as the source of two services, as it is but for its image references: the service that
    /// answers on ${PORT} gets the source image, any other the store's.
    #[arg(long, value_name = "FILE")]
    compose: Option<PathBuf>,
    /// What the rig's key is bound to: B, a TPM, which is a real emulator here; or N, the parts of a machine without one.
    #[arg(long, value_name = "TIER", default_value = "B")]
    tier: Tier,
    /// Leave the rig's folder and print where it is; with --vm, leave the stick.
    #[arg(long)]
    keep: bool,
    /// Boot the image itself in a virtual machine, from a stick, as the owner of a new one does.
    #[arg(long, conflicts_with_all = ["compose", "tier"])]
    vm: bool,
    /// One source, one boot, one task.
    #[arg(long, requires = "vm")]
    short: bool,
    /// The raw image to boot; built when absent.
    #[arg(long, value_name = "RAW", requires = "vm")]
    image: Option<PathBuf>,
    /// The vendor's key that its manifest is checked with; target/image/keys/release.pub when absent, and no key if that
    /// is not there.
    #[arg(long, value_name = "FILE", requires = "vm")]
    key: Option<PathBuf>,
    /// Where the programs are that the image is built with; a release build when absent.
    #[arg(long, value_name = "DIR", requires = "vm", conflicts_with = "image")]
    programs: Option<PathBuf>,
}

/// The tiers that any machine can show.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Tier {
    /// A TPM.
    B,
    /// No TPM.
    N,
}

/// One task of the demonstration.
struct Row {
    task: Address,
    method: &'static str,
    function: &'static str,
    payment_wei: u128,
    wanted: Value,
    seconds: f64,
    status: String,
}

/// A local network in its own process, as `rig devnet up` starts it. Dropping it stops it.
struct Devnet {
    child: Child,
    ready: Ready,
    file: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.vm { vm::run(&arguments) } else { run_here(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_here(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let scratch = tempfile::TempDir::with_prefix("demo-")?;
    say("starting the local network");
    let devnet = Devnet::up(scratch.path())?;
    say("starting an image registry, and pushing the source image");
    let registry = Registry::start().await?;
    let pushed = registry.push_handler().await?;
    let client = Client::start(&devnet.ready, 100 * COIN).await?;
    say("publishing one source for each delivery method, with the official SDK");
    let offer = |delivery| Offer { image: &pushed.reference, service: "", delivery, min_payment_wei: COIN / 1000 };
    let first = client.publish_source(&offer("FIRST_RESPONSE")).await?;
    let manual = client.publish_source(&offer("MANUAL_CONFIRMATION")).await?;
    say("publishing a source of two services, one of which keeps a volume");
    let compose = match &arguments.compose {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
        None => include_str!("../../../source/two-services.yml").to_owned(),
    };
    let store = registry.push_store().await?;
    let pinned = |pushed: &Pushed| format!("{}@{}", pushed.reference, pushed.digest);
    let compose = pointed_at(&compose, &pinned(&pushed), &pinned(&store));
    let town = client.publish_compose(compose, "FIRST_RESPONSE", COIN / 1000).await?;
    let driver = bundles::driver()?;
    say(match &driver {
        None => "compiling a path tracer for the GPU, and publishing it for each delivery method",
        Some(_) => "no GPU is here, so a driver that is not there will run a path tracer; compiling and publishing it",
    });
    let tracers = bundles::publish(&client, scratch.path()).await?;

    say("starting a rig, and pairing it with its owner");
    let libraries = driver.as_ref().map(testbed::driver::Driver::libraries).transpose()?.unwrap_or_default();
    let tpm = match arguments.tier {
        Tier::B => Some(Emulator::start()),
        Tier::N => None,
    };
    let hardware = scratch.path().join("machine");
    testbed::hardware::machine(&hardware, 1)?;
    let place = tpm.as_ref().map(Emulator::place).unwrap_or_default();
    let options = RigOptions { libraries, tpm: place, hardware: Some(hardware), ..RigOptions::default() };
    let mut rig = Rig::start(&devnet.ready, &options)?;
    pair(&devnet, &rig, scratch.path())?;
    say("the rig pulls the images, seals their layers, starts all sources, and registers to them");
    rig.wait_serving(SOURCES, READY_WITHIN)?;

    let owner_before = client.vault_wei("master").await?;
    let rpc = Rpc::connect(devnet.ready.network()).await?;
    let mut rows = publish(&client, &rpc, &rig, first, manual).await?;
    check_payloads(&client, &rig, &rows).await?;
    rows.extend(two_services(&client, &rpc, &rig, town).await?);
    rows.extend(bundles::trace(&client, &rpc, &rig, tracers).await?);
    let owner_after = client.vault_wei("master").await?;
    let paid = owner_after - owner_before;
    let wanted: u128 = rows.iter().map(|row| row.payment_wei).sum();
    show(arguments, &rows, &devnet.ready, paid)?;
    rig_says(&rig)?;
    ensure!(paid == wanted, "the owner was paid {paid} wei for work worth {wanted} wei");
    if arguments.keep {
        say(&format!("the rig's folder stays at {}", rig.keep().display()));
    }
    say("every payload is right, and the owner's vault balance rose by exactly the payments");
    Ok(())
}

/// Publishes three tasks for each method, and follows each while the next are published. Each answer differs, because
/// the network refuses equal payloads.
async fn publish(client: &Client, rpc: &Rpc, rig: &Rig, first: Address, manual: Address) -> Result<Vec<Row>> {
    let jobs: [(&'static str, Value, Value, u128); 3] = [
        ("add", json!({ "a": 2, "b": 40 }), json!({ "sum": 42 }), COIN),
        ("echo", json!({ "text": "paid work" }), json!({ "text": "paid work", "length": 9 }), COIN / 4),
        ("slow", json!({ "seconds": 1.0, "tag": "x" }), json!({ "seconds": 1.0, "tag": "x" }), 2 * COIN),
    ];
    let mut answers = Vec::new();
    let mut rows = Vec::new();
    for (source, method) in [(first, "first-response"), (manual, "manual")] {
        for (function, data, wanted, payment_wei) in jobs.clone() {
            let (data, wanted) = if method == "manual" { apart(data, wanted) } else { (data, wanted) };
            let task = client.publish_task(source, function, &data, payment_wei, 600).await?;
            answers.push(tokio::spawn(answered(rpc.clone(), ProviderId(rig.address()), TaskId(task), Instant::now())));
            rows.push(Row { task, method, function, payment_wei, wanted, seconds: 0.0, status: String::new() });
        }
    }
    for (row, answer) in rows.iter_mut().zip(answers) {
        row.seconds = answer.await?.with_context(|| format!("the rig says {:?}", rig.task(row.task)))?.as_secs_f64();
        if row.method == "manual" {
            client.confirm(row.task).await?;
        }
        row.status = client.status(row.task).await?.to_lowercase();
        ensure!(row.status == "finalized", "task {} is {}", row.task, row.status);
    }
    Ok(rows)
}

/// Has the handler ask its sister service, kills both, and asks again: the volume must have kept what it was told.
async fn two_services(client: &Client, rpc: &Rpc, rig: &Rig, source: Address) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut told = 0;
    for text in ["before the restart", "after the restart"] {
        if told > 0 {
            say("killing every process of the source of two services; the rig starts it again");
            rig.kill_source(source)?;
            rig.wait_serving(SOURCES, READY_WITHIN)?;
        }
        let data = json!({ "text": text });
        let published = Instant::now();
        let task = client.publish_task(source, "remember", &data, COIN, 600).await?;
        let took = answered(rpc.clone(), ProviderId(rig.address()), TaskId(task), published).await;
        let seconds = took.with_context(|| format!("the rig says {:?}", rig.task(task)))?.as_secs_f64();
        let status = client.status(task).await?.to_lowercase();
        let responses = client.responses(task).await?;
        let payload = &responses.first().context("there is a response")?.0;
        let counts = payload["counts"].as_array().context("the answer has counts")?;
        for count in counts {
            told += 1;
            ensure!(*count == told, "the store counted {counts:?}, {told} was wanted: {payload}");
        }
        ensure!(!counts.is_empty(), "the handler found no store: {payload}");
        let (method, function) = ("two services", "remember");
        rows.push(Row { task, method, function, payment_wei: COIN, wanted: payload.clone(), seconds, status });
    }
    Ok(rows)
}

/// The compose file with its images' references replaced, and nothing else.
fn pointed_at(compose: &str, main: &str, other: &str) -> String {
    let is_service = |line: &str| {
        let name = line.trim_start();
        line.len() - name.len() == 2 && name.ends_with(':') && !name.starts_with('#')
    };
    // A file is its blocks, each of which begins with the name of a service or a volume.
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in compose.lines() {
        if is_service(line) {
            blocks.push(Vec::new());
        }
        blocks.last_mut().expect("there is a first one").push(line);
    }
    let mut text = String::new();
    for block in blocks {
        let image = if block.iter().any(|line| line.contains("${PORT}")) { main } else { other };
        for line in block {
            match line.trim_start().strip_prefix("image:") {
                Some(_) => {
                    let indent = &line[..line.len() - line.trim_start().len()];
                    text.push_str(&format!("{indent}image: {image}\n"));
                }
                None => text.push_str(&format!("{line}\n")),
            }
        }
    }
    text
}

/// Time from `published` until the chain shows the rig's response.
async fn answered(rpc: Rpc, rig: ProviderId, task: TaskId, published: Instant) -> Result<Duration> {
    loop {
        // The node may show half of a block that it is just making; the next look shows all of it.
        let trouble = match chain::read::task(&rpc, rig, task).await {
            Ok(reading) if reading.my_response.is_some() => return Ok(published.elapsed()),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if published.elapsed() > RESPONSE_WITHIN {
            bail!("no response to {task} within {RESPONSE_WITHIN:?}; the newest look: {trouble:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same job with another answer.
fn apart(mut data: Value, mut wanted: Value) -> (Value, Value) {
    if data.get("a").is_some() {
        data["a"] = 3.into();
        wanted["sum"] = 43.into();
    } else if data.get("text").is_some() {
        data["text"] = "more work".into();
        wanted["text"] = "more work".into();
    } else {
        data["tag"] = "y".into();
        wanted["tag"] = "y".into();
    }
    (data, wanted)
}

async fn check_payloads(client: &Client, rig: &Rig, rows: &[Row]) -> Result<()> {
    for row in rows {
        let responses = client.responses(row.task).await?;
        let [(payload, true)] = responses.as_slice() else {
            bail!("task {} has responses {responses:?}, one confirmed response was wanted", row.task);
        };
        ensure!(*payload == row.wanted, "task {} was answered {payload}, {} was wanted", row.task, row.wanted);
        rig.wait_task(row.task, &["settled"], Duration::from_secs(30))?;
    }
    Ok(())
}

fn show(arguments: &Arguments, rows: &[Row], ready: &Ready, paid: u128) -> Result<()> {
    let owner = ready.account(Role::Master).context("the network has a master")?.address;
    if arguments.json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({ "task": row.task, "method": row.method, "function": row.function, "status": row.status,
                    "seconds": row.seconds, "paid_wei": row.payment_wei.to_string(), "paid_to": owner })
            })
            .collect();
        println!("{}", json!({ "tasks": rows, "paid_wei": paid.to_string() }));
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n{:<42}  {:<14}  {:<8}  {:<9}  {:>7}  {:>6}  paid to",
        "task", "method", "function", "status", "seconds", "coins"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:<42}  {:<14}  {:<8}  {:<9}  {:>7.2}  {:>6}  {owner}",
            row.task.to_string(),
            row.method,
            row.function,
            row.status,
            row.seconds,
            format_ether(row.payment_wei).trim_end_matches('0').trim_end_matches('.')
        )?;
    }
    writeln!(
        out,
        "\nthe owner's vault balance rose by {} coins",
        format_ether(paid).trim_end_matches('0').trim_end_matches('.')
    )?;
    Ok(())
}

/// What the rig's owner sees.
fn rig_says(rig: &Rig) -> Result<()> {
    let socket = rig.dir().join("provider.sock");
    for words in [&["status"][..], &["gpu"], &["tasks", "--limit", "12"]] {
        println!("\n$ rig {}", words.join(" "));
        let told = Command::new(binary("rig")?).args(words).arg("--rig").arg(&socket).status()?;
        ensure!(told.success(), "rig {} failed", words.join(" "));
    }
    Ok(())
}

/// Pairs the rig as its owner does, with `rig pair`.
fn pair(devnet: &Devnet, rig: &Rig, scratch: &Path) -> Result<()> {
    let key = devnet.ready.account(Role::Master).context("the network has a master")?.key;
    let key_file = scratch.join("owner.key");
    std::fs::write(&key_file, format!("{key}\n"))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key_file, private)?;
    let paired = Command::new(binary("rig")?)
        .args(["pair", &rig.address().to_string(), "--gas", "1", "--wait", "60s", "--devnet"])
        .arg(&devnet.file)
        .arg("--key-file")
        .arg(&key_file)
        .env("HOME", scratch)
        .env("XDG_STATE_HOME", scratch)
        .output()?;
    ensure!(paired.status.success(), "rig pair: {}", String::from_utf8_lossy(&paired.stderr));
    Ok(())
}

/// The moment at which the program began to measure.
fn start() -> &'static Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now)
}

/// Progress for people: on standard error, and only the words when that is no terminal.
fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[2m[{:>5.1} s]\x1b[0m {what}", start().elapsed().as_secs_f64());
    } else {
        eprintln!("[{:>5.1} s] {what}", start().elapsed().as_secs_f64());
    }
}

// === impl Devnet ===

impl Devnet {
    fn up(scratch: &Path) -> Result<Devnet> {
        let mut child = Command::new(binary("rig")?)
            .args(["devnet", "up", "--json", "--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the network's output")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).with_context(|| format!("the local network said {line:?}"))?;
        let file = scratch.join("devnet.json");
        std::fs::write(&file, &line)?;
        Ok(Devnet { child, ready, file })
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}
