//! Machine code for a bundle's PTX modules, made by the runner in a jail that has no GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bundle::{Arch, Bundle, Kind, Module};
use cuda::messages::CUBIN_BYTES_MAX;
use runner::memory;
use tracing::info;

use super::{Direct, DirectError, Loaded, blocking};
use crate::board::{Doing, Telling};

/// Machine code of each PTX module, in the bundle's order, by architecture.
pub(super) type Code = BTreeMap<Arch, Arc<Vec<OwnedFd>>>;

impl Direct {
    /// Has machine code made for each of `archs` but those that are in `known`, one module after the other.
    pub(super) async fn code(
        &self,
        bundle: &Bundle,
        archs: &BTreeSet<Arch>,
        mut known: Code,
        telling: &Telling<'_>,
    ) -> Result<Code, DirectError> {
        let ptx: Vec<&Module> = bundle.modules().iter().filter(|module| is_ptx(module)).collect();
        known.retain(|arch, _| archs.contains(arch));
        let of = (archs.len() - known.len()) * ptx.len();
        let mut number = 0;
        for arch in archs {
            if known.contains_key(arch) {
                continue;
            }
            let mut made = Vec::new();
            for module in &ptx {
                number += 1;
                let name = module.name().to_owned();
                telling.say(Doing::Compiling { module: name, arch: arch.to_string(), number, of });
                made.push(self.compile(module, *arch).await?);
            }
            known.insert(*arch, Arc::new(made));
        }
        Ok(known)
    }

    async fn compile(&self, module: &Module, arch: Arch) -> Result<OwnedFd, DirectError> {
        let text = module.bytes().to_vec();
        let text = blocking(move || memory::sealed("ptx", &text)).await?;
        let compiled = self.gpus.ask(move |runner| runner.compile(arch, text.as_fd())).await;
        let failed = |source| DirectError::Compile { module: module.name().to_owned(), arch, source };
        let (cubin, us) = compiled.map_err(failed)?;
        let bytes = memory::length("machine code", &cubin, CUBIN_BYTES_MAX)?;
        info!(module = module.name(), %arch, bytes, us, "machine code is made");
        Ok(cubin)
    }
}

impl Loaded {
    /// Whether some of what runs was compiled here.
    pub(super) fn has_ptx(&self) -> bool {
        self.bundle.modules().iter().any(is_ptx)
    }
}

fn is_ptx(module: &Module) -> bool {
    match module.kind() {
        Kind::Ptx => true,
        Kind::Cubin | Kind::Fatbin => false,
    }
}
