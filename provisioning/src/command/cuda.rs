//! `rig cuda`: CUDA bundles on their author's machine.

use clap::Subcommand;

use crate::exit::Failure;
use crate::screen::Screen;

mod build;
mod check;
mod shown;

#[derive(Debug, Subcommand)]
pub(crate) enum Cuda {
    Build(build::Build),
    Check(check::Check),
}

// === impl Cuda ===

impl Cuda {
    pub(crate) fn run(self, screen: Screen) -> Result<(), Failure> {
        match self {
            Cuda::Build(build) => build.run(screen),
            Cuda::Check(check) => check.run(screen),
        }
    }
}
