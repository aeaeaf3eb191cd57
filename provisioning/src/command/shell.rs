//! `rig completions` and `rig man`: the command line as a shell and a reader want it.

use std::io::stdout;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig completions bash > ~/.local/share/bash-completion/completions/rig")]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

/// Write the manual pages into a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  rig man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Where to; made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct CompletionsAnswer {
    shell: String,
    script: String,
}

#[derive(Debug, Serialize)]
struct ManAnswer {
    pages: Vec<PathBuf>,
}

// === impl Completions ===

impl Completions {
    pub(crate) fn run(self, screen: Screen) -> Result<(), Failure> {
        let mut grammar = super::grammar();
        if !screen.json {
            clap_complete::generate(self.shell, &mut grammar, "rig", &mut stdout());
            return Ok(());
        }
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut grammar, "rig", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        let answer = CompletionsAnswer { shell: self.shell.to_string(), script };
        screen.answer(&answer, String::new);
        Ok(())
    }
}

// === impl Man ===

impl Man {
    pub(crate) fn run(self, screen: Screen) -> Result<(), Failure> {
        let write = || {
            std::fs::create_dir_all(&self.dir)?;
            clap_mangen::generate_to(super::grammar(), &self.dir)?;
            let files = std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path()));
            files.collect::<std::io::Result<Vec<PathBuf>>>()
        };
        let mut pages = write().map_err(|error| {
            Failure::new(Exit::Failed, format!("write manual pages into {}: {error}", self.dir.display()))
        })?;
        pages.retain(|page| page.extension().is_some_and(|extension| extension == "1"));
        pages.sort();
        let answer = ManAnswer { pages };
        screen.answer(&answer, || format!("{} pages in {}", answer.pages.len(), self.dir.display()));
        Ok(())
    }
}
