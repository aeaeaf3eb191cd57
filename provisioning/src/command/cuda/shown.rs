//! A bundle as it is shown: for people as tables, for programs as JSON.
//!
//! What a function needs depends on its parameters, so sizes are shown with every parameter at its default, and where a
//! parameter has none at its least value.

use bundle::{Bundle, Kind, Module};
use serde::Serialize;

use crate::command::cells::bytes_words;
use crate::screen::{Screen, Table};

mod function;

use self::function::ShownFunction;

/// A whole bundle.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    digest: String,
    bytes: usize,
    modules: Vec<ShownModule>,
    functions: Vec<ShownFunction>,
}

#[derive(Debug, Serialize)]
struct ShownModule {
    name: String,
    file: String,
    kind: Kind,
    targets: Vec<String>,
    ptx_isa: Option<String>,
    min_driver: String,
    bytes: usize,
    kernels: Vec<ShownKernel>,
}

#[derive(Debug, Serialize)]
struct ShownKernel {
    name: String,
    /// Bytes of each, where the module says.
    parameter_bytes: Option<Vec<u32>>,
}

// === impl Shown ===

impl Shown {
    pub(super) fn of(bundle: &Bundle, bytes: usize) -> Shown {
        Shown {
            name: bundle.name().to_owned(),
            digest: bundle.digest().to_string(),
            bytes,
            modules: bundle.modules().iter().map(ShownModule::of).collect(),
            functions: bundle.functions().map(ShownFunction::of).collect(),
        }
    }

    pub(super) fn text(&self, screen: Screen) -> String {
        let size = bytes_words(u64::try_from(self.bytes).unwrap_or(u64::MAX));
        let mut parts = vec![format!("{}  {size}\ndigest {}", screen.bold(&self.name), self.digest)];
        parts.push(screen.table(&self.module_table()));
        parts.push(screen.table(&self.kernel_table()));
        parts.extend(self.functions.iter().map(|function| function.text(screen)));
        parts.join("\n\n")
    }

    fn module_table(&self) -> Table {
        let mut table = Table::with_header(["MODULE", "FILE", "TARGET", "PTX", "DRIVER", "SIZE"]);
        for module in &self.modules {
            table.push([
                module.name.clone(),
                module.file.clone(),
                module.targets.join(" "),
                module.ptx_isa.clone().unwrap_or_else(|| "-".to_owned()),
                format!("CUDA {}", module.min_driver),
                bytes_words(u64::try_from(module.bytes).unwrap_or(u64::MAX)),
            ]);
        }
        table
    }

    fn kernel_table(&self) -> Table {
        let mut table = Table::with_header(["KERNEL", "MODULE", "PARAMETERS"]);
        for module in &self.modules {
            for kernel in &module.kernels {
                table.push([kernel.name.clone(), module.name.clone(), kernel.parameter_words()]);
            }
        }
        table
    }
}

// === impl ShownModule ===

impl ShownModule {
    fn of(module: &Module) -> ShownModule {
        let kernels = module.kernels().iter();
        ShownModule {
            name: module.name().to_owned(),
            file: module.file().to_owned(),
            kind: module.kind(),
            targets: module.targets().iter().map(ToString::to_string).collect(),
            ptx_isa: module.ptx_isa().map(|isa| isa.to_string()),
            min_driver: module.min_driver().to_string(),
            bytes: module.bytes().len(),
            kernels: kernels
                .map(|kernel| ShownKernel { name: kernel.name.clone(), parameter_bytes: kernel.parameters.clone() })
                .collect(),
        }
    }
}

// === impl ShownKernel ===

impl ShownKernel {
    fn parameter_words(&self) -> String {
        let Some(bytes) = &self.parameter_bytes else { return "unknown".to_owned() };
        let total: u64 = bytes.iter().copied().map(u64::from).sum();
        let each: Vec<_> = bytes.iter().map(ToString::to_string).collect();
        format!("{} ({total} bytes: {})", bytes.len(), each.join(" "))
    }
}
