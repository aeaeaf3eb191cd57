//! What our own programs are made of, as Cargo resolved it.
//!
//! Invariants: only what is linked into a program counts (no build scripts' and no tests' dependencies); the answer is a
//! function of `Cargo.lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

/// A crate and its licence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// As in its manifest.
    pub name: String,
    /// Semantic.
    pub version: String,
    /// An SPDX expression, if the manifest has one.
    pub licence: Option<String>,
    /// Ours, not from a registry.
    pub is_ours: bool,
}

/// Why the crates are not known.
#[derive(Debug, thiserror::Error)]
pub enum CratesError {
    /// cargo is missing or failed.
    #[error("cargo metadata in {0} did not answer: {1}")]
    Cargo(String, String),
    /// Not cargo's answer.
    #[error("cargo metadata answered in another form")]
    Form(#[source] serde_json::Error),
    /// No such package in the workspace.
    #[error("the workspace has no package {0:?}")]
    Missing(String),
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Everything linked into the programs of each of `packages`, for the architecture of a rig. Errors: all.
pub fn of_workspace(workspace: &Path, packages: &[&str]) -> Result<BTreeMap<String, Vec<Crate>>, CratesError> {
    let failed = |words: String| CratesError::Cargo(workspace.display().to_string(), words);
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(workspace)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    read(&output.stdout, packages)
}

fn read(json: &[u8], packages: &[&str]) -> Result<BTreeMap<String, Vec<Crate>>, CratesError> {
    let metadata: Metadata = serde_json::from_slice(json).map_err(CratesError::Form)?;
    let by_id: BTreeMap<&str, &Package> = metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let closure = |name: &str| {
        let start = metadata.packages.iter().find(|package| package.name == name && package.source.is_none());
        let start = start.ok_or_else(|| CratesError::Missing(name.to_owned()))?;
        let mut seen = BTreeSet::from([&*start.id]);
        let mut open = vec![&*start.id];
        while let Some(id) = open.pop() {
            let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let linked = dependencies.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            open.extend(linked.map(|dependency| &*dependency.pkg).filter(|id| seen.insert(id)));
        }
        let mut crates: Vec<Crate> =
            seen.iter().filter_map(|id| by_id.get(id)).map(|package| crate_of(package)).collect();
        crates.sort();
        Ok((name.to_owned(), crates))
    };
    packages.iter().map(|name| closure(name)).collect()
}

fn crate_of(package: &Package) -> Crate {
    Crate {
        name: package.name.clone(),
        version: package.version.clone(),
        // Cargo once wrote "or" as a slash.
        licence: package.license.as_ref().map(|licence| licence.replace('/', " OR ")),
        is_ours: package.source.is_none(),
    }
}
