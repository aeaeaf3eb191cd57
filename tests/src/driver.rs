//! A driver for GPUs that are not there, beside the real compiler of PTX: what a rig needs to run bundles where no GPU is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fake_gpu_script::{Gpu, Script, install};
use tempfile::TempDir;

/// The driver's libraries in a folder of their own. Dropping it removes them.
#[derive(Debug)]
pub struct Driver {
    dir: TempDir,
}

// === impl Driver ===

impl Driver {
    /// One healthy GPU with little memory, because all of it is scanned before the GPU is offered.
    /// Errors: the libraries are not built, or cannot be copied.
    pub fn healthy() -> Result<Driver> {
        let gpu = Gpu { vram_bytes: 192 << 20, ..Gpu::numbered(0) };
        Driver::with(&Script { gpus: vec![gpu], ..Script::default() })
    }

    /// The machine that `script` describes.
    /// Errors: the libraries are not built, or cannot be copied.
    pub fn with(script: &Script) -> Result<Driver> {
        let driver = Driver { dir: TempDir::with_prefix("driver-")? };
        driver.change(script)?;
        Ok(driver)
    }

    /// Puts another machine's driver in its place, also for what has it open already.
    /// Errors: the libraries are not built, or cannot be copied.
    pub fn change(&self, script: &Script) -> Result<()> {
        let cuda = fake_gpu_script::built("fake_cuda").context("run `cargo build --workspace` first")?;
        let nvml = fake_gpu_script::built("fake_nvml").context("run `cargo build --workspace` first")?;
        install(self.dir.path(), &cuda, &nvml, script)?;
        Ok(())
    }

    /// Where the runner is to look: here, and where the compiler is.
    /// Errors: the compiler is not where `tests/setup.sh` puts it.
    pub fn libraries(&self) -> Result<Vec<PathBuf>> {
        let compiler = toolkit()?.join("nvidia/nvjitlink/lib");
        Ok(vec![self.dir.path().to_owned(), compiler])
    }
}

/// The compilers of CUDA C++ and of PTX that `tests/setup.sh` fetches. Errors: it was not run.
pub fn toolkit() -> Result<PathBuf> {
    let given = std::env::var_os("RIG_CUDA_TOOLKIT").map(PathBuf::from);
    let toolkit = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-toolkit"));
    if toolkit.join("nvidia").is_dir() {
        Ok(toolkit)
    } else {
        bail!("{} is not there: run tests/setup.sh", toolkit.display())
    }
}

/// The bundle that `rig cuda build` makes of a folder of `tests/bundles`.
/// Errors: what the command says.
pub fn built(name: &str, out: &Path) -> Result<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name);
    let file = out.join(format!("{name}.bundle"));
    let built = std::process::Command::new(crate::rig::binary("rig")?)
        .args(["cuda", "build"])
        .arg(source)
        .arg("--out")
        .arg(&file)
        .arg("--toolkit")
        .arg(toolkit()?)
        .output()?;
    if !built.status.success() {
        bail!("rig cuda build {name}: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(std::fs::read(file)?)
}
