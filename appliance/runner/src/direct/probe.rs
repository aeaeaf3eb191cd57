//! Asks `rig-cuda probe` what this machine has for CUDA: a process of its own, because what it loads is the driver's.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cuda::messages::Probe;

/// How long the driver may take to begin: a cold one takes seconds for each GPU.
const PROBE_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest answer that is read, in bytes; a machine with every library and 16 GPUs says some ten thousand.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs the program once, outside any jail, with the runner's own environment: the loader's search is the machine's.
pub(super) fn probe(program: &Path) -> anyhow::Result<Probe> {
    let mut child = Command::new(program)
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}; --cuda-worker names another program", program.display()))?;
    // What it says fits the pipe unless something is wrong; then it waits for us, and the time is over.
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for the probe")? {
            break status;
        }
        if Instant::now() >= deadline {
            // It is not waited for: what hangs in a driver does not die of being killed.
            let _ = child.kill();
            bail!("the driver did not begin within {} s; is a GPU hanging?", PROBE_TIMEOUT.as_secs());
        }
        std::thread::sleep(PAUSE);
    };
    let mut answer = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).context("read the probe's answer")?;
    }
    if !status.success() {
        bail!("{} probe ended with {status}", program.display());
    }
    serde_json::from_str(&answer).context("understand the probe's answer; are both programs of one release?")
}
