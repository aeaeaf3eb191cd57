//! Bundles that the report writes itself: of other bundles' modules, or without any kernel.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use bundle::{Bundle, Module, pack};

/// How many launches of a product stand between its two marks.
pub(crate) const LAUNCHES: u32 = 20;

/// The products of the bundle `gemm`, with more launches between the marks and one before them, so that the time of a
/// launch can be told from that of the first one.
pub(crate) fn repeated_products(gemm: &Bundle) -> Result<Vec<u8>> {
    let mut text = head("repeated", "Products, launched again and again");
    for module in gemm.modules() {
        module_entry(&mut text, module);
    }
    for (name, element, tile, block) in [("gemm_f32", "f32", 64, "\"16\", \"16\""), ("gemm_f16", "f16", 128, "\"256\"")]
    {
        let launch = format!(
            r#"launch = "{name}"
grid = ["ceil_div(n, {tile})", "ceil_div(m, {tile})"]
block = [{block}]
arguments = [
    {{ buffer = "a", access = "read" }}, {{ buffer = "b", access = "read" }}, {{ buffer = "c", access = "write" }},
    {{ value = "m", type = "u32" }}, {{ value = "n", type = "u32" }}, {{ value = "k", type = "u32" }},
]"#
        );
        let _ = write!(
            text,
            r#"
[function.{name}]
determinism = "none"
seconds = 60
parameters.m = {{ type = "u32", min = 1, max = 16384 }}
parameters.n = {{ type = "u32", min = 1, max = 16384 }}
parameters.k = {{ type = "u32", min = 1, max = 16384 }}
buffers.a = {{ type = "{element}", elements = "m * k", input = {{ from = "/a", as = "content" }} }}
buffers.b = {{ type = "{element}", elements = "k * n", input = {{ from = "/b", as = "content" }} }}
buffers.c = {{ type = "f32", elements = "m * n", output = {{ to = "/c", as = "content" }} }}

[[function.{name}.steps]]
{launch}

[[function.{name}.steps]]
mark = "begin"

[[function.{name}.steps]]
repeat = {LAUNCHES}

[[function.{name}.steps.steps]]
{launch}

[[function.{name}.steps]]
mark = "end"
"#
        );
    }
    let mut files: Vec<(&str, &[u8])> = gemm.modules().iter().map(|module| (module.file(), module.bytes())).collect();
    files.sort_unstable_by_key(|(name, _)| *name);
    files.insert(0, ("bundle.toml", text.as_bytes()));
    pack(&files).context("pack the repeated products")
}

/// One function of one module whose code is `code`: one launch of `kernel` on 1024 words that go out.
pub(crate) fn one_kernel(kernel: &str, code: &[u8], arch: bundle::Arch) -> Result<Vec<u8>> {
    let mut text = head("one", "One kernel");
    let _ = write!(
        text,
        r#"
[[module]]
name = "code"
file = "code.cubin"
kind = "cubin"
target = "{arch}"
min_driver = "12.8"

[function.{kernel}]
determinism = "none"
seconds = 20
buffers.out = {{ type = "u32", elements = "1024", output = {{ to = "/out", as = "base64" }} }}

[[function.{kernel}.steps]]
launch = "{kernel}"
grid = ["1"]
block = ["32"]
arguments = [{{ buffer = "out", access = "read-write" }}]
"#
    );
    pack(&[("bundle.toml", text.as_bytes()), ("code.cubin", code)]).context("pack one kernel")
}

/// 256 MiB, or what `bytes` says, into the device, round after round within it, and out again.
pub(crate) fn copies(bytes: u64, rounds: u32) -> Result<Vec<u8>> {
    let words = bytes / 4;
    let text = head("copies", "Copies of large buffers")
        + &format!(
            r#"
[function.copies]
determinism = "bitwise-any"
seconds = 60
buffers.first = {{ type = "u32", elements = "{words}", input = {{ from = "/first", as = "content" }} }}
buffers.second = {{ type = "u32", elements = "{words}", output = {{ to = "/second", as = "content" }} }}

[[function.copies.steps]]
copy = {{ from = "first", to = "second" }}

[[function.copies.steps]]
mark = "begin"

[[function.copies.steps]]
repeat = {rounds}

[[function.copies.steps.steps]]
copy = {{ from = "first", to = "second" }}

[[function.copies.steps]]
mark = "end"
"#
        );
    pack(&[("bundle.toml", text.as_bytes())]).context("pack copies")
}

/// `count` buffers of `bytes` each, every word of them `word`, and one word that goes out.
pub(crate) fn filled(count: usize, bytes: u64, word: u32) -> Result<Vec<u8>> {
    let mut text = head("filled", "Memory full of one word");
    text.push_str("\n[function.filled]\ndeterminism = \"bitwise-any\"\nseconds = 60\n");
    text.push_str("buffers.out = { type = \"u32\", elements = \"1\", output = { to = \"/out\", as = \"base64\" } }\n");
    for at in 0..count {
        let words = bytes / 4;
        let _ = writeln!(text, "buffers.b{at} = {{ type = \"u32\", elements = \"{words}\" }}");
    }
    for at in 0..count {
        let step = format!("fill = {{ buffer = \"b{at}\", value = {word} }}");
        let _ = write!(text, "\n[[function.filled.steps]]\n{step}\n");
    }
    let _ = write!(text, "\n[[function.filled.steps]]\nfill = {{ buffer = \"out\", value = {word} }}\n");
    pack(&[("bundle.toml", text.as_bytes())]).context("pack full memory")
}

/// The first lines of every manifest.
fn head(name: &str, description: &str) -> String {
    format!("format = 1\nname = \"{name}\"\ndescription = \"{description}\"\n")
}

fn module_entry(text: &mut String, module: &Module) {
    let kind = match module.kind() {
        bundle::Kind::Ptx => "ptx",
        bundle::Kind::Cubin => "cubin",
        bundle::Kind::Fatbin => "fatbin",
    };
    let (name, file, driver) = (module.name(), module.file(), module.min_driver());
    let _ = writeln!(text, "\n[[module]]\nname = \"{name}\"\nfile = \"{file}\"\nkind = \"{kind}\"");
    let _ = writeln!(text, "min_driver = \"{driver}\"");
    if let Some(target) = module.target() {
        let _ = writeln!(text, "target = \"{target}\"");
    }
    if let Some(isa) = module.ptx_isa() {
        let _ = writeln!(text, "ptx_isa = \"{isa}\"");
    }
}

#[cfg(test)]
mod tests {
    use bundle::Parameters;

    use super::*;

    #[test]
    fn every_bundle_without_a_module_has_a_plan() {
        let check = |archive: Result<Vec<u8>>, function: &str, operations: usize| {
            let bundle = Bundle::parse(&archive.expect("packed")).expect("a bundle");
            let plan = bundle.function(function).expect("a function").plan(&Parameters::default()).expect("a plan");
            assert_eq!(plan.operations.len(), operations);
            plan.vram_bytes
        };
        check(copies(4096, 5), "copies", 8);
        let vram = check(filled(60, 1 << 30, 0xdead_beef), "filled", 61);
        assert!(vram >= 60 << 30);
    }
}
