//! `rig cuda build`.

use std::fs;
use std::path::PathBuf;

use bundle::{Arch, BundleError};
use clap::Args;
use serde::Serialize;

use super::shown::Shown;
use crate::cuda::build::{BuildError, Built, Order, build};
use crate::cuda::nvrtc::NvrtcError;
use crate::cuda::toolkit::{ENV_TOOLKIT, INSTALL, ToolkitError};
use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// Make a bundle of a directory with `bundle.toml` and CUDA C++.
///
/// Each module with `source = "x.cu"` is compiled with NVRTC: to PTX, which runs on its `target` and every later GPU, or
/// with `kind = "cubin"` for that GPU alone. What such a module leaves out is filled in: `file`, `kind` (ptx), `target`
/// (sm_75), `ptx_isa` and `min_driver`. Kernels are exported with `extern "C" __global__`. Headers beside the sources
/// (.h, .cuh, .hpp, .inl) can be included by name. The same sources and compiler give the same bundle, byte for byte.
///
/// Neither a GPU nor a driver is needed. The compiler is looked for below --toolkit, below $CUDA_HOME, below
/// /usr/local/cuda, and where the loader finds libraries. `mma.h` needs the package nvidia-cuda-nvcc-cu12 as well.
///
/// `rig cuda check` shows the bundle again, and `rig source publish --bundle` offers it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig cuda build kernels/render
  rig cuda build kernels/render --target sm_90 --out render-sm_90.bundle
  pip install --target cuda nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12
  rig cuda build kernels/render --toolkit cuda")]
pub(crate) struct Build {
    /// The directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where to write the bundle; otherwise NAME.bundle in the current directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make every source a cubin for this GPU, whatever its module says. A bundle is for one target, or carries PTX.
    #[arg(long = "target", value_name = "sm_XX")]
    targets: Vec<Arch>,
    /// A directory with NVIDIA's compiler and headers: an installation of CUDA, or unpacked wheels.
    #[arg(long, value_name = "DIR", env = ENV_TOOLKIT)]
    toolkit: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Answer {
    file: PathBuf,
    /// CUDA version of the compiler; none if nothing was compiled.
    compiler: Option<String>,
    warnings: Vec<String>,
    #[serde(flatten)]
    shown: Shown,
}

// === impl Build ===

impl Build {
    pub(super) fn run(self, screen: Screen) -> Result<(), Failure> {
        let target = match self.targets.as_slice() {
            [] => None,
            [one] => Some(*one),
            [..] => {
                let words = format!("a bundle has modules for one target, not for {}", self.targets.len());
                return Err(Failure::new(Exit::Usage, words).next("build one bundle per target, or ship PTX"));
            }
        };
        let built = {
            let waiting = screen.wait("reading");
            build(&Order { dir: self.dir, target, toolkit: self.toolkit }, |what| waiting.say(what))?
        };
        let Built { bundle, archive, compiler, warnings } = built;
        let file = self.out.unwrap_or_else(|| PathBuf::from(format!("{}.bundle", bundle.name())));
        fs::write(&file, &archive)
            .map_err(|error| Failure::new(Exit::Failed, format!("write {}: {error}", file.display())))?;
        for warning in &warnings {
            screen.note(warning);
        }
        let compiler = compiler.map(|version| version.to_string());
        let answer = Answer { file, compiler, warnings, shown: Shown::of(&bundle, archive.len()) };
        screen.answer(&answer, || format!("{}\nwritten to {}", answer.shown.text(screen), answer.file.display()));
        Ok(())
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        let (exit, next) = match &error {
            BuildError::Toolkit(ToolkitError::Open(_)) => (
                Exit::Usage,
                Some("check that the library is whole and for this machine, or name another toolkit".to_owned()),
            ),
            BuildError::Toolkit(_) => (Exit::Usage, Some(INSTALL.to_owned())),
            BuildError::Compile(NvrtcError::Compiler { .. }) => {
                (Exit::Usage, Some("check that the toolkit is whole and knows the target, or name another".to_owned()))
            }
            BuildError::Compile(NvrtcError::Open { .. } | NvrtcError::TooLarge { .. }) => (Exit::Failed, None),
            BuildError::Compile(NvrtcError::Source { .. } | NvrtcError::Zero { .. })
            | BuildError::Manifest(_)
            | BuildError::Elsewhere { .. }
            | BuildError::Read(_)
            | BuildError::Headers { .. }
            | BuildError::Isa { .. } => (Exit::Usage, None),
            BuildError::Bundle { added_lines, source, .. } => (Exit::Usage, shifted(source, *added_lines)),
        };
        let failure = Failure::new(exit, error);
        match next {
            Some(step) => failure.next(step),
            None => failure,
        }
    }
}

/// What the author must know to find a line that was counted in the packed manifest.
fn shifted(error: &BundleError, added_lines: usize) -> Option<String> {
    match error {
        BundleError::UnknownKey { .. } | BundleError::Syntax { .. } if added_lines > 0 => Some(format!(
            "the modules' entries were filled in: what stands below them is {added_lines} lines further up in the \
             source's bundle.toml"
        )),
        BundleError::UnknownKey { .. }
        | BundleError::Syntax { .. }
        | BundleError::TooLong { .. }
        | BundleError::NotCanonical { .. }
        | BundleError::Format { .. }
        | BundleError::Place { .. } => None,
    }
}
