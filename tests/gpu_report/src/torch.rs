//! PyTorch, where it is: a child that does products in turns with everything else.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// What the child runs.
const PROGRAM: &str = include_str!("torch.py");

/// How long the import and the first context may take: a cold disk takes most of it.
const STARTS_WITHIN: Duration = Duration::from_secs(90);

/// How long one order may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A Python with PyTorch.
#[derive(Debug)]
pub(crate) struct Torch {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
    /// Which PyTorch.
    pub(crate) version: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Began { torch: String, cuda: Option<String> },
    Took { ms: f64 },
    Failed { error: String },
}

// === impl Torch ===

impl Torch {
    /// Starts it. Errors: why there is none.
    pub(crate) fn start() -> Result<Self> {
        let mut looks = Command::new("python3");
        looks.args(["-c", "import importlib.util as u; exit(u.find_spec('torch') is None)"]);
        let found = looks.stdin(Stdio::null()).stderr(Stdio::null()).status().context("there is no python3")?;
        anyhow::ensure!(found.success(), "python3 has no module torch");
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start python3")?;
        let orders = child.stdin.take().context("python3 without standard input")?;
        let printed = child.stdout.take().context("python3 without standard output")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut torch = Self { child, orders, lines, version: String::new() };
        match torch.line(STARTS_WITHIN)? {
            Line::Began { torch: version, cuda } => {
                torch.version = format!("{version}, CUDA {}", cuda.unwrap_or_default())
            }
            Line::Took { .. } => bail!("PyTorch answered before it was asked"),
            Line::Failed { error } => bail!("{error}"),
        }
        Ok(torch)
    }

    /// Milliseconds of one launch.
    pub(crate) fn time(&mut self, order: &str) -> Result<f64> {
        writeln!(self.orders, "{order}").context("ask PyTorch")?;
        match self.line(ANSWERS_WITHIN)? {
            Line::Took { ms } => Ok(ms),
            Line::Failed { error } => bail!("{error}"),
            Line::Began { .. } => bail!("PyTorch began again"),
        }
    }

    fn line(&self, within: Duration) -> Result<Line> {
        let line = self.lines.recv_timeout(within);
        let line = line.with_context(|| format!("PyTorch did not answer within {} s, or ended", within.as_secs()))?;
        serde_json::from_str(&line).with_context(|| format!("understand PyTorch's answer {line:?}"))
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
