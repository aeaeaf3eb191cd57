//! `rig image lock`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use image::definition::Definition;
use image::lock::Lock as Locked;
use image::resolve::{Wanted, resolve};
use serde::Serialize;

use super::build::{cache_of, mirrors_of, repository_of};
use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// Choose the newest packages for the image, and write them down.
///
/// apt decides, in a folder of its own: this machine's packages and sources play no part. The locks are written into
/// image/release/, one line for each package, to be looked through and committed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rig image lock && git diff image/release
  rig image lock --flavour nvidia --mirror https://mirror.example/debian")]
pub(crate) struct Lock {
    /// Only this flavour's own packages, not those of all flavours.
    #[arg(long, value_name = "NAME")]
    flavour: Option<String>,
    /// A Debian mirror, instead of this machine's; its security archive is beside it, at URL-security.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The repository, if this is not run in it.
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Where to keep what is fetched; otherwise target/image/cache in the repository.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Answer {
    locks: Vec<Written>,
}

#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    packages: usize,
    changed: usize,
}

// === impl Lock ===

impl Lock {
    pub(super) fn run(self, screen: Screen) -> Result<(), Failure> {
        let repository = repository_of(self.source)?;
        let (mirrors, cache) = (mirrors_of(self.mirror.as_deref())?, cache_of(self.cache, &repository));
        let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, chain(error));
        let all = Definition::flavours(&repository).map_err(|error| failed(&error))?;
        let flavours = match &self.flavour {
            Some(one) => vec![one.clone()],
            None => all,
        };
        let mut work: Vec<(PathBuf, String, BTreeMap<String, Wanted>)> = Vec::new();
        for (at, flavour) in flavours.iter().enumerate() {
            let definition = Definition::read(&repository, flavour).map_err(|error| failed(&error))?;
            if at == 0 && self.flavour.is_none() {
                work.push((definition.release_lock(), definition.debian().to_owned(), definition.release_sets()));
            }
            if let Some(path) = definition.flavour_lock() {
                work.push((path, definition.debian().to_owned(), definition.flavour_sets()));
            }
        }
        let mut locks = Vec::new();
        for (file, debian, sets) in work {
            let waiting = screen.wait(format!("asking apt about {} sets of packages", sets.len()));
            let lock = resolve(&mirrors, &debian, &cache, &sets).map_err(|error| failed(&error))?;
            drop(waiting);
            let before = Locked::read(&file).unwrap_or_default();
            let (packages, changed) = (count(&lock), differing(&lock, &before));
            fs::write(&file, lock.to_text())
                .map_err(|error| Failure::new(Exit::Failed, format!("write {}: {error}", file.display())))?;
            locks.push(Written { file, packages, changed });
        }
        let answer = Answer { locks };
        screen.answer(&answer, || {
            let line = |lock: &Written| {
                format!("{}: {} packages, {} changed", lock.file.display(), lock.packages, lock.changed)
            };
            answer.locks.iter().map(line).collect::<Vec<_>>().join("\n")
        });
        Ok(())
    }
}

fn count(lock: &Locked) -> usize {
    lock.sets.values().map(Vec::len).sum()
}

/// Packages of `lock` that `before` does not have just so.
fn differing(lock: &Locked, before: &Locked) -> usize {
    let is_known = |set: &String, package| before.sets.get(set).is_some_and(|packages| packages.contains(package));
    lock.sets.iter().map(|(set, packages)| packages.iter().filter(|package| !is_known(set, package)).count()).sum()
}

/// The words of `error` and of what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
