//! Bundles that tests launch, with what they are given.

use bundle::{Parameters, pack};
use fake_gpu_script::cubin;

/// A function of a bundle with what it is given.
#[derive(Clone, Debug)]
pub struct Job {
    /// The archive.
    pub archive: Vec<u8>,
    /// Which function.
    pub function: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// Its inputs, concatenated.
    pub inputs: Vec<u8>,
}

/// A bundle with one launch of `kernel` on a buffer of 1024 numbers, which come in and go out. Its function `copied`
/// launches nothing and gives them back.
///
/// # Panics
/// Never: it is valid.
#[must_use]
pub fn one_launch(kernel: &str) -> Job {
    let manifest = format!(
        r#"format = 1
name = "one"
description = "One launch"

[[module]]
name = "code"
file = "code.cubin"
kind = "cubin"
target = "sm_89"
min_driver = "12.0"

[function.go]
determinism = "none"
seconds = 20

[function.go.buffers.data]
type = "u32"
elements = "1024"
input = {{ as = "base64" }}
output = {{ as = "base64" }}

[[function.go.steps]]
launch = "{kernel}"
grid = ["4"]
block = ["256"]
arguments = [{{ buffer = "data", access = "read-write" }}]

[function.copied]
determinism = "bitwise-any"
seconds = 20

[function.copied.buffers.data]
type = "u32"
elements = "1024"
input = {{ as = "base64" }}

[function.copied.buffers.copy]
type = "u32"
elements = "1024"
output = {{ as = "base64" }}

[[function.copied.steps]]
copy = {{ from = "data", to = "copy", elements = "1024" }}
"#
    );
    let code = cubin(89, &[(kernel, &[8])]);
    let archive = pack(&[("bundle.toml", manifest.as_bytes()), ("code.cubin", &code)]).expect("a valid bundle");
    let inputs = (0..1024_u32).flat_map(u32::to_le_bytes).collect();
    Job { archive, function: "go".to_owned(), parameters: Parameters::default(), inputs }
}

/// The product of two matrices, by the kernel `gemm_f32`: `m` by `k` times `k` by `n`.
///
/// # Panics
/// Never: it is valid.
#[must_use]
pub fn gemm(m: u32, n: u32, k: u32) -> Job {
    let manifest = r#"format = 1
name = "product"
description = "A product of matrices"

[[module]]
name = "code"
file = "code.cubin"
kind = "cubin"
target = "sm_89"
min_driver = "12.0"

[function.product]
determinism = "bitwise-any"
seconds = 20

[function.product.parameters]
m = { type = "u32", min = 1, max = 4096 }
n = { type = "u32", min = 1, max = 4096 }
k = { type = "u32", min = 1, max = 4096 }

[function.product.buffers.a]
type = "f32"
elements = "m * k"
input = { as = "base64" }

[function.product.buffers.b]
type = "f32"
elements = "k * n"
input = { as = "base64" }

[function.product.buffers.c]
type = "f32"
elements = "m * n"
output = { as = "base64" }

[[function.product.steps]]
launch = "gemm_f32"
grid = ["ceil_div(n, 64)", "ceil_div(m, 64)"]
block = ["16", "16"]
arguments = [
  { buffer = "a", access = "read" },
  { buffer = "b", access = "read" },
  { buffer = "c", access = "write" },
  { value = "m", type = "u32" },
  { value = "n", type = "u32" },
  { value = "k", type = "u32" },
]
"#;
    let code = cubin(89, &[("gemm_f32", &[8, 8, 8, 4, 4, 4])]);
    let archive = pack(&[("bundle.toml", manifest.as_bytes()), ("code.cubin", &code)]).expect("a valid bundle");
    let parameters = [("m", m), ("n", n), ("k", k)].map(|(name, value)| (name, bundle::Scalar::U32(value)));
    let numbers =
        |count: u32, step: u32| (0..count).map(move |at| f32::from(u16::try_from(at * step % 97).unwrap_or(0)));
    let inputs = numbers(m * k, 7).chain(numbers(k * n, 13)).flat_map(f32::to_le_bytes).collect();
    Job { archive, function: "product".to_owned(), parameters: parameters.into_iter().collect(), inputs }
}
