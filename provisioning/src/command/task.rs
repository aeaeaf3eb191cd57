//! `rig task`: work for a source, and its result.

use clap::Subcommand;

use crate::exit::Failure;
use crate::screen::Screen;

mod publish;
mod result;

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    Publish(Box<publish::Publish>),
    Result(result::TaskResult),
}

// === impl Task ===

impl Task {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self {
            Task::Publish(publish) => publish.run(screen).await,
            Task::Result(result) => result.run(screen).await,
        }
    }
}
