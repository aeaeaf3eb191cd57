//! Bundles for the worker's tests. Their machine code has the names of kernels and nothing else.

use fake_gpu_script::cubin;

/// Of the GPU that is not there.
const ARCH: u32 = 89;

/// A product of two matrices from one module, as a cubin.
pub(crate) fn gemm() -> Vec<u8> {
    pack(&[
        ("bundle.toml", gemm_toml("file = \"gemm.cubin\"\nkind = \"cubin\"\ntarget = \"sm_89\"").as_bytes()),
        ("gemm.cubin", &gemm_cubin()),
    ])
}

/// The same, as PTX.
pub(crate) fn gemm_ptx() -> Vec<u8> {
    let module = "file = \"gemm.ptx\"\nkind = \"ptx\"\ntarget = \"sm_75\"\nptx_isa = \"8.0\"";
    pack(&[("bundle.toml", gemm_toml(module).as_bytes()), ("gemm.ptx", GEMM_PTX.as_bytes())])
}

/// What a compile worker would make of [`gemm_ptx`]'s module.
pub(crate) fn gemm_cubin() -> Vec<u8> {
    cubin(ARCH, &[("gemm_f32", &[8, 8, 8, 4, 4, 4])])
}

pub(crate) const GEMM_PTX: &str = "\
.version 8.0
.target sm_75
.address_size 64

.visible .entry gemm_f32(
    .param .u64 a, .param .u64 b, .param .u64 c, .param .u32 m, .param .u32 n, .param .u32 k
)
{
    ret;
}
";

fn gemm_toml(module: &str) -> String {
    format!(
        r#"
format = 1
name = "gemm"
description = "A product of two matrices"

[[module]]
name = "gemm"
{module}
min_driver = "12.0"

[function.gemm_f32]
determinism = "bitwise-any"
seconds = 20
parameters.m = {{ type = "u32", min = 1, max = 1024 }}
parameters.n = {{ type = "u32", min = 1, max = 1024 }}
parameters.k = {{ type = "u32", min = 1, max = 1024 }}
buffers.a = {{ type = "f32", elements = "m * k", input = {{ from = "/a", as = "base64" }} }}
buffers.b = {{ type = "f32", elements = "k * n", input = {{ from = "/b", as = "base64" }} }}
buffers.c = {{ type = "f32", elements = "m * n", output = {{ to = "/c", as = "base64" }} }}

[[function.gemm_f32.steps]]
mark = "begin"

[[function.gemm_f32.steps]]
launch = "gemm_f32"
grid = ["ceil_div(n, 64)", "ceil_div(m, 64)"]
block = ["16", "16"]
arguments = [
    {{ buffer = "a", access = "read" }},
    {{ buffer = "b", access = "read" }},
    {{ buffer = "c", access = "write" }},
    {{ value = "m", type = "u32" }},
    {{ value = "n", type = "u32" }},
    {{ value = "k", type = "u32" }},
]

[[function.gemm_f32.steps]]
mark = "end"
"#
    )
}

/// One launch of `kernel`, which gets a buffer that is read back. The module has no other kernel.
pub(crate) fn one_launch(kernel: &str) -> Vec<u8> {
    let text = format!(
        r#"
format = 1
name = "launch"
description = "One launch"

[[module]]
name = "launch"
file = "launch.cubin"
kind = "cubin"
target = "sm_89"
min_driver = "12.0"

[function.launch]
determinism = "none"
seconds = 20
buffers.c = {{ type = "f32", elements = "16", output = {{ to = "/c", as = "base64" }} }}

[[function.launch.steps]]
launch = "{kernel}"
grid = ["1"]
block = ["1"]
arguments = [{{ buffer = "c", access = "write" }}]
"#
    );
    pack(&[("bundle.toml", text.as_bytes()), ("launch.cubin", &cubin(ARCH, &[(kernel, &[8])]))])
}

/// Fills and copies, and no launch: `c` becomes `n` times 1.5, of which the first `n / 2` come from `b`, where 0x3c is
/// in every byte; `steps` more fills go before it.
pub(crate) fn fills() -> Vec<u8> {
    let text = r#"
format = 1
name = "fills"
description = "Fills and copies"

[[module]]
name = "unused"
file = "unused.cubin"
kind = "cubin"
target = "sm_89"
min_driver = "12.0"

[function.fills]
determinism = "bitwise-any"
seconds = 20
parameters.n = { type = "u32", min = 2, max = 8388608 }
parameters.steps = { type = "u32", min = 1, max = 4096 }
buffers.b = { type = "f64", elements = "n", input = { from = "/b", as = "base64" } }
buffers.c = { type = "f64", elements = "n", output = { to = "/c", as = "base64" } }

[[function.fills.steps]]
mark = "begin"

[[function.fills.steps]]
repeat = "steps"
[[function.fills.steps.steps]]
fill = { buffer = "c", value = 0, elements = "1" }

[[function.fills.steps]]
fill = { buffer = "c", value = 1.5 }

[[function.fills.steps]]
copy = { from = "b", to = "c", elements = "n / 2" }

[[function.fills.steps]]
mark = "end"
"#;
    pack(&[("bundle.toml", text.as_bytes()), ("unused.cubin", &cubin(ARCH, &[("unused", &[8])]))])
}

fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    bundle::pack(files).unwrap_or_else(|error| panic!("{:#}", anyhow::Error::new(error)))
}
