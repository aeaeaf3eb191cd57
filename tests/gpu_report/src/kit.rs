//! What was built beforehand: programs, bundles, and machine code of their PTX.
//!
//! ```text
//! KIT/bin/            rig-runner, rig-cuda, gpu-report
//! KIT/lib/            libnvJitLink, unless it was left out
//! KIT/bundles/        NAME.bundle with PTX, NAME.sm_XX.bundle with machine code
//! KIT/cubins/         DIGEST.sm_XX.cubin: what the linker made of the PTX with this digest
//! KIT/nested.txt      what `rig cuda build` said to a kernel that starts kernels
//! ```
//!
//! Invariant: a bundle with machine code for this very GPU comes before one with PTX, so that a machine without a linker
//! can do everything too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bundle::{Arch, Bundle, Digest, Kind, Parameters};

use crate::worker::compile;

/// A kit, and the GPU that it is used on.
#[derive(Debug)]
pub(crate) struct Kit {
    dir: PathBuf,
    arch: Arch,
    compiled: RefCell<BTreeMap<Digest, Vec<u8>>>,
}

/// A bundle that is ready to run on the GPU.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) bundle: Bundle,
    pub(crate) archive: Vec<u8>,
    /// Of each PTX module, in order.
    pub(crate) cubins: Vec<Vec<u8>>,
}

/// A function of a bundle, with all that a worker is given.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) archive: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) function: String,
    pub(crate) parameters: Parameters,
    pub(crate) inputs: Vec<u8>,
    pub(crate) output_bytes: u64,
    pub(crate) cubins: Vec<Vec<u8>>,
    pub(crate) seconds: u32,
    pub(crate) scan: bool,
}

// === impl Kit ===

impl Kit {
    pub(crate) fn new(dir: &Path, arch: Arch) -> Self {
        Self { dir: dir.to_owned(), arch, compiled: RefCell::default() }
    }

    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// One of the programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// What the build left as text; nothing if it left none.
    pub(crate) fn said(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(file)).ok().map(|text| text.trim().to_owned())
    }

    /// The bundle of this name: with machine code for this GPU if there is one, else with PTX.
    pub(crate) fn bundle(&self, name: &str) -> Result<Loaded> {
        let exact = self.dir.join(format!("bundles/{name}.{}.bundle", self.arch));
        if exact.exists() { self.load(&exact) } else { self.ptx_bundle(name) }
    }

    /// The bundle of this name with PTX.
    pub(crate) fn ptx_bundle(&self, name: &str) -> Result<Loaded> {
        self.load(&self.dir.join(format!("bundles/{name}.bundle")))
    }

    fn load(&self, file: &Path) -> Result<Loaded> {
        let archive = std::fs::read(file).with_context(|| format!("read {}; build the kit again", file.display()))?;
        self.ready(archive)
    }

    /// A bundle from its bytes, with the machine code of its PTX.
    pub(crate) fn ready(&self, archive: Vec<u8>) -> Result<Loaded> {
        let bundle = Bundle::parse(&archive).context("parse a bundle")?;
        let mut cubins = Vec::new();
        for module in bundle.modules() {
            match module.kind() {
                Kind::Ptx => cubins.push(self.machine_code(module.bytes())?),
                Kind::Cubin | Kind::Fatbin => {}
            }
        }
        Ok(Loaded { bundle, archive, cubins })
    }

    /// Machine code of PTX: what the build left, or what the linker makes now.
    pub(crate) fn machine_code(&self, ptx: &[u8]) -> Result<Vec<u8>> {
        let digest = Digest::of(ptx);
        if let Some(code) = self.compiled.borrow().get(&digest) {
            return Ok(code.clone());
        }
        let code = match std::fs::read(self.cubin_file(digest)) {
            Ok(code) => code,
            Err(_) => compile(&self.program("rig-cuda"), self.arch, ptx)?.0,
        };
        self.compiled.borrow_mut().insert(digest, code.clone());
        Ok(code)
    }

    /// Leaves machine code of every PTX module of the kit for machines without a linker. Answers how many.
    pub(crate) fn precompile(&self) -> Result<usize> {
        let mut count = 0;
        std::fs::create_dir_all(self.dir.join("cubins")).context("make the folder of machine code")?;
        for entry in std::fs::read_dir(self.dir.join("bundles")).context("list the bundles")? {
            let archive = std::fs::read(entry?.path())?;
            for module in Bundle::parse(&archive)?.modules() {
                if module.kind() == Kind::Ptx {
                    let (code, _) = compile(&self.program("rig-cuda"), self.arch, module.bytes())
                        .with_context(|| format!("compile module {}", module.name()))?;
                    std::fs::write(self.cubin_file(Digest::of(module.bytes())), code)?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    fn cubin_file(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("cubins/{digest}.{}.cubin", self.arch))
    }
}

// === impl Loaded ===

impl Loaded {
    /// A run of a function, with the deadline that its author gave it.
    pub(crate) fn ask(&self, function: &str, parameters: Parameters, inputs: Vec<u8>) -> Result<Ask> {
        let found = self.bundle.function(function).with_context(|| format!("there is no function {function}"))?;
        let plan = found.plan(&parameters).with_context(|| format!("plan {function}"))?;
        anyhow::ensure!(plan.input_bytes() == u64::try_from(inputs.len())?, "{function}: inputs of another length");
        Ok(Ask {
            archive: self.archive.clone(),
            digest: self.bundle.digest(),
            function: function.to_owned(),
            parameters,
            inputs,
            output_bytes: plan.output_bytes(),
            cubins: self.cubins.clone(),
            seconds: found.seconds(),
            scan: false,
        })
    }
}

// === impl Ask ===

impl Ask {
    /// With another deadline, in seconds.
    pub(crate) fn within(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }
}
