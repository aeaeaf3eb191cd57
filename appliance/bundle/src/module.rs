//! Modules: the files with code, what each exports, and where it runs.

mod cubin;
mod fatbin;
mod ptx;

use serde::{Deserialize, Serialize};

use crate::limits::{KERNEL_CHARS_MAX, KERNELS_MAX};
use crate::manifest::ModuleText;
use crate::version::{Arch, Version};

/// What a module's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// Machine code for one target.
    Cubin,
    /// Machine code for several targets.
    Fatbin,
}

/// A file with code.
#[derive(Clone, Debug)]
pub struct Module {
    name: String,
    file: String,
    kind: Kind,
    bytes: Vec<u8>,
    ptx_isa: Option<Version>,
    targets: Vec<Arch>,
    min_driver: Version,
    kernels: Vec<Kernel>,
}

/// A kernel that a module exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The exported name.
    pub name: String,
    /// Bytes of each argument, where the module says.
    pub parameters: Option<Vec<u32>>,
}

/// What a module's file says about itself.
struct Contents {
    ptx_isa: Option<Version>,
    targets: Vec<Arch>,
    kernels: Vec<Kernel>,
}

// === impl Module ===

impl Module {
    /// Reads the file of a `[[module]]` and holds it against what `bundle.toml` says. Errors: a sentence.
    pub(crate) fn check(text: &ModuleText, bytes: Vec<u8>) -> Result<Module, String> {
        let mut contents = match text.kind {
            Kind::Ptx => ptx::read(&bytes)?,
            Kind::Cubin => cubin::read(&bytes)?,
            Kind::Fatbin => fatbin::read(&bytes)?,
        };
        contents.check_kernels()?;
        contents.check_versions(text)?;
        Ok(Module {
            name: text.name.clone(),
            file: text.file.clone(),
            kind: text.kind,
            bytes,
            ptx_isa: contents.ptx_isa,
            targets: contents.targets,
            min_driver: text.min_driver,
            kernels: contents.kernels,
        })
    }

    /// Its name in the bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file in the archive.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What the file is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The PTX ISA; none for machine code.
    pub fn ptx_isa(&self) -> Option<Version> {
        self.ptx_isa
    }

    /// The target of PTX or of a cubin; none for a fatbin, which has [`Module::targets`].
    pub fn target(&self) -> Option<Arch> {
        match self.kind {
            Kind::Ptx | Kind::Cubin => self.targets.first().copied(),
            Kind::Fatbin => None,
        }
    }

    /// All targets, ascending.
    pub fn targets(&self) -> &[Arch] {
        &self.targets
    }

    /// Whether the module runs on a GPU of that compute capability.
    pub fn runs_on(&self, device: Arch) -> bool {
        self.targets.iter().any(|target| target.runs_on(self.kind, device))
    }

    /// The CUDA version that the driver must support.
    pub fn min_driver(&self) -> Version {
        self.min_driver
    }

    /// What it exports, in the order of the names.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

// === impl Contents ===

impl Contents {
    fn check_kernels(&mut self) -> Result<(), String> {
        if self.kernels.is_empty() {
            return Err("the file exports no kernel".to_owned());
        }
        if self.kernels.len() > KERNELS_MAX {
            return Err(format!("the file exports {} kernels, at most {KERNELS_MAX}", self.kernels.len()));
        }
        if let Some(kernel) = self.kernels.iter().find(|kernel| !is_kernel_name(&kernel.name)) {
            return Err(format!("the file exports {:?}: {KERNEL_NAME}", crate::expression::shown(&kernel.name)));
        }
        self.kernels.sort_by(|a, b| a.name.cmp(&b.name));
        match self.kernels.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(format!("the file exports `{}` twice", pair[0].name)),
            None => Ok(()),
        }
    }

    fn check_versions(&self, text: &ModuleText) -> Result<(), String> {
        match (self.ptx_isa, text.ptx_isa) {
            (None, Some(_)) => return Err("`ptx_isa` is for PTX only; take it out".to_owned()),
            (Some(own), Some(told)) if own == told => {}
            (Some(own), Some(told)) => return Err(format!("`ptx_isa` is {told}, the file's own .version is {own}")),
            (Some(own), None) => return Err(format!("`ptx_isa = \"{own}\"` is missing")),
            (None, None) => {}
        }
        match (text.kind, text.target, self.targets.as_slice()) {
            (Kind::Ptx | Kind::Cubin, Some(told), [own]) if *own == told => {}
            (Kind::Ptx | Kind::Cubin, Some(told), [own, ..]) => {
                return Err(format!("`target` is {told}, the file's own is {own}"));
            }
            (Kind::Ptx | Kind::Cubin, None, [own, ..]) => return Err(format!("`target = \"{own}\"` is missing")),
            (Kind::Fatbin, None, [_, ..]) => {}
            (Kind::Fatbin, Some(_), _) => return Err("a fatbin lists its targets itself; take `target` out".to_owned()),
            (_, _, []) => return Err("the file has no target".to_owned()),
        }
        for target in &self.targets {
            self.check_driver(*target, text.min_driver)?;
        }
        Ok(())
    }

    /// What code for `target` needs, `min_driver` must promise.
    fn check_driver(&self, target: Arch, min_driver: Version) -> Result<(), String> {
        let first = target.first_isa().ok_or_else(|| format!("target {target} is not known here"))?;
        let isa = self.ptx_isa.unwrap_or(first);
        if isa < first {
            return Err(format!("PTX ISA {isa} does not have target {target}; the first that does is {first}"));
        }
        let needed = isa.cuda_of_isa().ok_or_else(|| format!("PTX ISA {isa} is not known here"))?;
        if min_driver < needed {
            return Err(format!("`min_driver` is {min_driver}; the file needs a driver for CUDA {needed} or later"));
        }
        // Beyond any CUDA there is, it would only say that no rig may run it.
        let newest = Version::new(needed.major.max(NEWEST_CUDA_MAJOR), u32::MAX);
        if min_driver > newest {
            return Err(format!("`min_driver` is {min_driver}; there is no such CUDA"));
        }
        Ok(())
    }
}

/// The major version of the newest CUDA that this table-maker knew.
const NEWEST_CUDA_MAJOR: u32 = 13;

const KERNEL_NAME: &str = "a kernel is named with at most 256 letters, digits, `_` and `$`, and begins with no digit";

/// As C and CUDA's C++ names are written. `$` occurs in what compilers make up.
pub(crate) fn is_kernel_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    (1..=KERNEL_CHARS_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}
