//! `rig image`: the image that a rig starts from.

use clap::Subcommand;

use crate::exit::Failure;
use crate::screen::Screen;

mod build;
mod keys;
mod lock;
mod sign;
mod verify;
mod vm;

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    Lock(lock::Lock),
    Build(Box<build::Build>),
    Keys(keys::MakeKeys),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Vm(Box<vm::Vm>),
}

// === impl Image ===

impl Image {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self {
            Image::Lock(lock) => lock.run(screen),
            Image::Build(build) => build.run(screen),
            Image::Keys(keys) => keys.run(screen),
            Image::Sign(sign) => sign.run(screen),
            Image::Verify(verify) => verify.run(screen),
            Image::Vm(vm) => vm.run(screen).await,
        }
    }
}
