//! `bundle.toml` in a source directory: what it leaves to the compiler, and how it looks when that is filled in.
//!
//! A module of a source directory may say `source = "x.cu"` where a packed one says `file`. What is packed is the
//! author's own text with the entries of such modules filled in, so order and comments stay. Everything else is read by
//! the crate `bundle` when it is packed; here only what must be known before that is looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bundle::limits::{MANIFEST_BYTES_MAX, MODULES_MAX};
use bundle::{Arch, Version};
use thiserror::Error;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TomlError, value};

use super::files::{ReadError, read_text};

/// Name of the manifest, in a source directory as in a bundle.
pub(crate) const MANIFEST: &str = "bundle.toml";

/// The oldest GPUs that every compiler from CUDA 12 to 13 still makes PTX for.
const TARGET_DEFAULT: Arch = Arch::new(7, 5);

/// A manifest whose modules may still be sources.
#[derive(Debug)]
pub(crate) struct Manifest {
    document: DocumentMut,
    path: PathBuf,
    /// Of the author's text.
    lines: usize,
}

/// A module to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Which of the manifest's modules.
    at: usize,
    /// The module's name.
    pub(crate) name: String,
    /// A file beside the manifest.
    pub(crate) source: String,
    /// What it should become.
    pub(crate) becomes: Becomes,
    /// For which GPUs.
    pub(crate) target: Arch,
}

/// What a source becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// Text for the driver of any later GPU.
    Ptx,
    /// Code for one kind of GPU.
    Cubin,
}

/// Why a source directory is not understood.
#[derive(Debug, Error)]
pub(crate) enum ManifestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} is not TOML", .path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: TomlError,
    },
    #[error("{}: module {}: {why}", .path.display(), .number)]
    Module { path: PathBuf, number: usize, why: String },
    #[error("{}: {why}", .path.display())]
    Whole { path: PathBuf, why: String },
}

// === impl Manifest ===

impl Manifest {
    /// Reads the manifest of a source directory.
    pub(crate) fn read(dir: &Path) -> Result<Manifest, ManifestError> {
        let path = dir.join(MANIFEST);
        let text = read_text(&path, MANIFEST_BYTES_MAX)?;
        Manifest::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Manifest, ManifestError> {
        let mut document: DocumentMut =
            text.parse().map_err(|source| ManifestError::Syntax { path: path.clone(), source })?;
        let whole = |why: String| ManifestError::Whole { path: path.clone(), why };
        // `module = [{ .. }]` says the same as `[[module]]`.
        if let Some(item) = document.get_mut("module")
            && item.is_array()
        {
            let array = std::mem::take(item);
            *item = array.into_array_of_tables().map_or_else(|item| item, Item::ArrayOfTables);
        }
        let modules = document.get("module").and_then(Item::as_array_of_tables);
        let modules = modules.ok_or_else(|| whole("it has no [[module]]".to_owned()))?;
        if modules.len() > MODULES_MAX {
            return Err(whole(format!("it has {} modules; a bundle has at most {MODULES_MAX}", modules.len())));
        }
        Ok(Manifest { document, path, lines: text.lines().count() })
    }

    /// The modules to compile. With `cubin_for` every one of them becomes a cubin for that GPU, whatever it says.
    pub(crate) fn sources(&self, cubin_for: Option<Arch>) -> Result<Vec<Source>, ManifestError> {
        let mut sources = Vec::new();
        for (at, module) in self.modules().iter().enumerate() {
            let source = source(at, module, cubin_for);
            sources.extend(source.map_err(|why| ManifestError::Module {
                path: self.path.clone(),
                number: at + 1,
                why,
            })?);
        }
        Ok(sources)
    }

    /// The files that its other modules name: compiled already, or by something else.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let modules = self.modules().iter().filter(|module| !module.contains_key("source"));
        modules.filter_map(|module| module.get("file")?.as_str().map(str::to_owned)).collect()
    }

    /// Says of a compiled module what a packed one must say. What the author said already stays.
    pub(crate) fn fill(&mut self, source: &Source, isa: Option<Version>, min_driver: Version) {
        let modules = self.document.get_mut("module").and_then(Item::as_array_of_tables_mut);
        let module = modules.and_then(|modules| modules.get_mut(source.at)).expect("a source is one of its modules");
        module.remove("source");
        module.insert("file", value(source.file()));
        module.insert("kind", value(source.becomes.word()));
        module.insert("target", value(source.target.to_string()));
        match isa {
            Some(isa) if !module.contains_key("ptx_isa") => {
                module.insert("ptx_isa", value(isa.to_string()));
            }
            Some(_) => {}
            // With --target a module that was written for PTX becomes a cubin, which has none.
            None => {
                module.remove("ptx_isa");
            }
        }
        if !module.contains_key("min_driver") {
            module.insert("min_driver", value(min_driver.to_string()));
        }
    }

    /// As it is packed.
    pub(crate) fn text(&self) -> String {
        self.document.to_string()
    }

    /// How many lines the text has more than the author's.
    pub(crate) fn added_lines(&self) -> usize {
        self.text().lines().count().saturating_sub(self.lines)
    }

    fn modules(&self) -> &ArrayOfTables {
        let modules = self.document.get("module").and_then(Item::as_array_of_tables);
        modules.expect("reading refuses a manifest without modules")
    }
}

/// The module number `at` as a source; nothing if it is a file.
fn source(at: usize, module: &Table, cubin_for: Option<Arch>) -> Result<Option<Source>, String> {
    let Some(source) = text(module, "source")? else { return Ok(None) };
    if module.contains_key("file") {
        return Err("it has both `source` and `file`; keep the one that is meant".to_owned());
    }
    let name = text(module, "name")?.ok_or("it has no `name`")?;
    let target = text(module, "target")?.map(str::parse).transpose();
    let target = target.map_err(|error: bundle::VersionError| format!("`target`: {error}"))?;
    let (becomes, target) = match (cubin_for, becomes(module)?, target) {
        (Some(asked), _, _) => (Becomes::Cubin, asked),
        (None, becomes, Some(target)) => (becomes, target),
        (None, Becomes::Ptx, None) => (Becomes::Ptx, TARGET_DEFAULT),
        (None, Becomes::Cubin, None) => return Err("a cubin needs its `target`, such as \"sm_90\"".to_owned()),
    };
    Ok(Some(Source { at, name: name.to_owned(), source: source.to_owned(), becomes, target }))
}

fn becomes(module: &Table) -> Result<Becomes, String> {
    match text(module, "kind")? {
        None | Some("ptx") => Ok(Becomes::Ptx),
        Some("cubin") => Ok(Becomes::Cubin),
        Some("fatbin") => Err("a source becomes `ptx` or `cubin`; a fatbin is given as a `file`".to_owned()),
        Some(other) => Err(format!("`kind` is \"{other}\"; a source becomes \"ptx\" or \"cubin\"")),
    }
}

fn text<'a>(module: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match module.get(key) {
        None => Ok(None),
        Some(item) => item.as_str().map(Some).ok_or_else(|| format!("`{key}` is {}, not a string", item.type_name())),
    }
}

// === impl Source ===

impl Source {
    /// What the compiled module is called in the bundle.
    pub(crate) fn file(&self) -> String {
        format!("{}.{}", self.name, self.becomes.word())
    }
}

// === impl Becomes ===

impl Becomes {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Becomes::Ptx => "ptx",
            Becomes::Cubin => "cubin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(PathBuf::from("bundle.toml"), text)
    }

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    #[test]
    fn what_the_author_left_out_is_filled_in_and_the_rest_stays() {
        let mut manifest = manifest(
            "# A product.\nformat = 1\n\n[[module]]\nname = \"gemm\" # the only one\nsource = \"gemm.cu\"\n\n\
             [function.f]\nseconds = 2\n",
        )
        .expect("it is a manifest");
        let sources = manifest.sources(None).expect("its module is a source");
        manifest.fill(&sources[0], Some(version(8, 7)), version(12, 8));
        assert_eq!(
            manifest.text(),
            "# A product.\nformat = 1\n\n[[module]]\nname = \"gemm\" # the only one\nfile = \"gemm.ptx\"\n\
             kind = \"ptx\"\ntarget = \"sm_75\"\nptx_isa = \"8.7\"\nmin_driver = \"12.8\"\n\n[function.f]\nseconds = 2\n"
        );
    }

    #[test]
    fn what_the_author_said_stays() {
        let mut manifest = manifest(
            "module = [{ name = \"a\", source = \"a.cu\", target = \"sm_80\", ptx_isa = \"8.0\", min_driver = \"12.2\" }]\n",
        )
        .expect("it is a manifest");
        let sources = manifest.sources(None).expect("its module is a source");
        assert_eq!((sources[0].becomes, sources[0].target), (Becomes::Ptx, Arch::new(8, 0)));
        manifest.fill(&sources[0], Some(version(8, 7)), version(12, 8));
        for words in ["target = \"sm_80\"", "ptx_isa = \"8.0\"", "min_driver = \"12.2\"", "file = \"a.ptx\""] {
            assert!(manifest.text().contains(words), "{words} in {}", manifest.text());
        }
    }

    #[test]
    fn a_target_makes_every_source_a_cubin_and_leaves_files_alone() {
        let mut manifest = manifest(
            "[[module]]\nname = \"a\"\nsource = \"a.cu\"\nkind = \"ptx\"\nptx_isa = \"8.0\"\n\
             [[module]]\nname = \"b\"\nfile = \"b.fatbin\"\nkind = \"fatbin\"\n",
        )
        .expect("it is a manifest");
        assert_eq!(manifest.files(), BTreeSet::from(["b.fatbin".to_owned()]));
        let sources = manifest.sources(Some(Arch::new(9, 0))).expect("its first module is a source");
        assert_eq!(sources.len(), 1);
        manifest.fill(&sources[0], None, version(12, 8));
        let text = manifest.text();
        let module = text.split("[[module]]").nth(1).expect("it has two");
        for words in ["kind = \"cubin\"", "file = \"a.cubin\"", "target = \"sm_90\"", "min_driver = \"12.8\""] {
            assert!(module.contains(words), "{words} in {text}");
        }
        assert!(!text.contains("ptx") && text.contains("file = \"b.fatbin\""), "{text}");
    }

    #[test]
    fn a_module_that_cannot_be_compiled_is_named_with_its_fault() {
        for (text, says) in [
            ("format = 1\n", "no [[module]]"),
            ("[[module]\n", "not TOML"),
            ("[[module]]\nsource = \"a.cu\"\n", "module 1: it has no `name`"),
            ("[[module]]\nname = \"a\"\nsource = 3\n", "module 1: `source` is integer, not a string"),
            ("[[module]]\nname = \"a\"\nsource = \"a.cu\"\nfile = \"a.ptx\"\n", "both `source` and `file`"),
            ("[[module]]\nname = \"a\"\nsource = \"a.cu\"\nkind = \"fatbin\"\n", "given as a `file`"),
            ("[[module]]\nname = \"a\"\nsource = \"a.cu\"\nkind = \"spirv\"\n", "`kind` is \"spirv\""),
            ("[[module]]\nname = \"a\"\nsource = \"a.cu\"\ntarget = \"sm_90a\"\n", "`target`: a target is written"),
            ("[[module]]\nname = \"a\"\nsource = \"a.cu\"\nkind = \"cubin\"\n", "needs its `target`"),
        ] {
            let error = manifest(text).and_then(|manifest| manifest.sources(None)).expect_err(text);
            assert!(error.to_string().contains(says), "{says:?} is not in {error}");
        }
    }
}
