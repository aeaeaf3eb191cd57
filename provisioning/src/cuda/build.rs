//! From a source directory to a bundle: compile, fill in, pack.
//!
//! Invariants: sources and headers reach the compiler by their names alone, so no path of this machine can come out of
//! it (`__FILE__`, assertions); the archive was parsed when it was packed.

use std::fs;
use std::path::{Path, PathBuf};

use bundle::limits::ARCHIVE_BYTES_MAX;
use bundle::{Arch, Bundle, BundleError, Version};
use thiserror::Error;

use super::files::{ReadError, read_file, read_text};
use super::manifest::{Becomes, MANIFEST, Manifest, ManifestError, Source};
use super::nvrtc::{NvrtcError, Program, Wanted};
use super::toolkit::{Toolkit, ToolkitError};

/// A kernel's source is some pages; the compiler takes seconds for a megabyte of it.
const SOURCE_BYTES_MAX: usize = 4 << 20;

/// Headers beside the sources.
const HEADERS_MAX: usize = 64;

/// What a header's name ends with.
const HEADER_ENDINGS: [&str; 4] = ["h", "cuh", "hpp", "inl"];

/// How far into a PTX text its header may stand, in lines: comments come before it.
const PTX_HEADER_LINES_MAX: usize = 64;

/// What to build.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The source directory.
    pub(crate) dir: PathBuf,
    /// The one kind of GPU to build for; otherwise as the manifest says.
    pub(crate) target: Option<Arch>,
    /// Where the compiler is; otherwise it is looked for.
    pub(crate) toolkit: Option<PathBuf>,
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) bundle: Bundle,
    pub(crate) archive: Vec<u8>,
    /// The compiler's version of CUDA, if it was needed.
    pub(crate) compiler: Option<Version>,
    /// What the compiler warned of, one text for each source.
    pub(crate) warnings: Vec<String>,
}

/// Why nothing was built.
#[derive(Debug, Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Toolkit(#[from] ToolkitError),
    #[error(transparent)]
    Compile(#[from] NvrtcError),
    #[error("{file:?} is no name of a file beside {MANIFEST}: write its name alone, without a folder")]
    Elsewhere { file: String },
    #[error("{} has more than {HEADERS_MAX} headers", .dir.display())]
    Headers { dir: PathBuf },
    #[error(
        "{name}: the compiler's PTX has no version that is known here ({given}); use an older toolkit or a newer rig"
    )]
    Isa { name: String, given: String },
    #[error("what {} comes to is no bundle", .dir.display())]
    Bundle {
        dir: PathBuf,
        /// How many lines the packed manifest has more than the author's.
        added_lines: usize,
        #[source]
        source: BundleError,
    },
}

/// Builds it. Blocks while the compiler works. `doing` is told what is done next.
pub(crate) fn build(order: &Order, doing: impl Fn(String)) -> Result<Built, BuildError> {
    let mut manifest = Manifest::read(&order.dir)?;
    let sources = manifest.sources(order.target)?;
    let mut files = manifest
        .files()
        .into_iter()
        .map(|file| Ok((read_file(&beside(&order.dir, &file)?, ARCHIVE_BYTES_MAX)?, file)))
        .collect::<Result<Vec<_>, BuildError>>()?;
    let mut warnings = Vec::new();
    let mut compiler = None;
    if !sources.is_empty() {
        doing("opening the compiler".to_owned());
        let toolkit = Toolkit::find(order.toolkit.as_deref())?;
        let version = *compiler.insert(toolkit.version()?);
        let headers = headers(&order.dir)?;
        for source in &sources {
            doing(format!("compiling {} for {}", source.source, source.target));
            let text = read_text(&beside(&order.dir, &source.source)?, SOURCE_BYTES_MAX)?;
            let compiled = toolkit.nvrtc.compile(&program(source, &text, &headers, &options(source, &toolkit)))?;
            let (isa, min_driver) = needs(source, &compiled.bytes, version)?;
            manifest.fill(source, isa, min_driver);
            files.push((compiled.bytes, source.file()));
            warnings.extend(Some(compiled.log).filter(|log| !log.is_empty()));
        }
    }
    doing("packing".to_owned());
    let (bundle, archive) = pack(&manifest, files).map_err(|source| BuildError::Bundle {
        dir: order.dir.clone(),
        added_lines: manifest.added_lines(),
        source,
    })?;
    Ok(Built { bundle, archive, compiler, warnings })
}

fn pack(manifest: &Manifest, mut files: Vec<(Vec<u8>, String)>) -> Result<(Bundle, Vec<u8>), BundleError> {
    // The archive's order. A file that is there twice, given and compiled, is refused by its reader.
    files.sort_by(|(_, one), (_, other)| one.cmp(other));
    let text = manifest.text();
    let modules = files.iter().map(|(bytes, name)| (name.as_str(), bytes.as_slice()));
    let all: Vec<_> = std::iter::once((MANIFEST, text.as_bytes())).chain(modules).collect();
    let archive = bundle::pack(&all)?;
    Ok((Bundle::parse(&archive)?, archive))
}

fn program<'a>(
    source: &'a Source,
    text: &'a str,
    headers: &'a [(String, String)],
    options: &'a [String],
) -> Program<'a> {
    let output = match source.becomes {
        Becomes::Ptx => Wanted::Ptx,
        Becomes::Cubin => Wanted::Cubin,
    };
    Program { name: &source.source, source: text, headers, options, output }
}

fn options(source: &Source, toolkit: &Toolkit) -> Vec<String> {
    let number = source.target.number();
    let architecture = match source.becomes {
        Becomes::Ptx => format!("--gpu-architecture=compute_{number}"),
        Becomes::Cubin => format!("--gpu-architecture=sm_{number}"),
    };
    let mut options = vec![architecture, "--std=c++17".to_owned()];
    options.extend(toolkit.include_options());
    options
}

/// The language that a compiled module is in, and the CUDA version that a driver must support to take it.
fn needs(source: &Source, bytes: &[u8], compiler: Version) -> Result<(Option<Version>, Version), BuildError> {
    match source.becomes {
        Becomes::Ptx => {
            let given = ptx_version(bytes).unwrap_or_default();
            let isa: Option<Version> = given.parse().ok();
            let needs = isa.and_then(|isa| Some((Some(isa), isa.cuda_of_isa()?)));
            needs.ok_or_else(|| BuildError::Isa { name: source.source.clone(), given: given.to_owned() })
        }
        // Drivers of the same major version mostly take it too, but none promises to know the GPU.
        Becomes::Cubin => Ok((None, compiler)),
    }
}

/// What follows `.version` in a PTX text.
fn ptx_version(ptx: &[u8]) -> Option<&str> {
    let lines = ptx.split(|byte| *byte == b'\n').take(PTX_HEADER_LINES_MAX);
    let mut lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
    lines.find_map(|line| line.trim().strip_prefix(".version")).map(str::trim)
}

/// The headers in a source directory, by name.
fn headers(dir: &Path) -> Result<Vec<(String, String)>, BuildError> {
    let fault = |source| ReadError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| HEADER_ENDINGS.contains(&ending)) && path.is_file() {
            names.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        }
        if names.len() > HEADERS_MAX {
            return Err(BuildError::Headers { dir: dir.to_owned() });
        }
    }
    names.sort();
    names.into_iter().map(|name| Ok((name.clone(), read_text(&dir.join(&name), SOURCE_BYTES_MAX)?))).collect()
}

/// Where a file of the directory is. A bundle is built from its own directory alone.
fn beside(dir: &Path, file: &str) -> Result<PathBuf, BuildError> {
    let is_name = Path::new(file).file_name().is_some_and(|name| name == file);
    if is_name { Ok(dir.join(file)) } else { Err(BuildError::Elsewhere { file: file.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_without_a_folder() {
        let dir = Path::new("bundles/gemm");
        assert!(beside(dir, "gemm.cu").is_ok_and(|path| path == Path::new("bundles/gemm/gemm.cu")));
        for file in ["", ".", "..", "/etc/passwd", "../gemm.cu", "sub/gemm.cu", "gemm.cu/", "./gemm.cu"] {
            assert!(beside(dir, file).is_err(), "{file}");
        }
    }

    #[test]
    fn the_version_of_a_ptx_text_is_behind_its_comments() {
        assert_eq!(ptx_version(b"//\n// by a compiler\n\n.version 8.7\n.target sm_75\n"), Some("8.7"));
        assert_eq!(ptx_version(b".target sm_75\n"), None);
    }
}
