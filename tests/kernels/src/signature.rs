//! The signatures of the kernels: names, and the parameters of each in order.
//!
//! They say what the parameter list of the compiled module says (`.param` in PTX), and which pointers a kernel writes
//! through, which PTX does not say.

/// One parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As the CUDA source names it.
    pub name: &'static str,
    /// What is passed.
    pub kind: Kind,
}

/// What a kernel takes at one place of its parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The address of an array on the device, 8 bytes in the parameter list.
    Pointer {
        /// Bytes of one element.
        element_bytes: u32,
        /// Whether the kernel writes through it. It may read through it too.
        writes: bool,
    },
    /// A number by value.
    Scalar {
        /// Bytes of the number.
        bytes: u32,
    },
}

/// A kernel's name, how many threads a block of it may have, and its parameters.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    /// As `__launch_bounds__` in the CUDA source says.
    pub(crate) threads_max: u32,
    pub(crate) parameters: &'static [Parameter],
}

/// The names of all kernels, in byte order.
pub fn names() -> &'static [&'static str] {
    const { &names_of(&SIGNATURES) }
}

/// The parameters of the kernel called `name`, in order.
pub fn parameters(name: &str) -> Option<&'static [Parameter]> {
    signature(name).map(|signature| signature.parameters)
}

pub(crate) fn signature(name: &str) -> Option<&'static Signature> {
    SIGNATURES.iter().find(|signature| signature.name == name)
}

const fn names_of<const N: usize>(signatures: &[Signature; N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = signatures[index].name;
        index += 1;
    }
    names
}

const fn read(name: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Pointer { element_bytes: 4, writes: false } }
}

const fn written(name: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Pointer { element_bytes: 4, writes: true } }
}

const fn half(name: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Pointer { element_bytes: 2, writes: false } }
}

const fn number(name: &'static str) -> Parameter {
    Parameter { name, kind: Kind::Scalar { bytes: 4 } }
}

const IMAGE: Parameter = Parameter { name: "image", kind: Kind::Pointer { element_bytes: 1, writes: true } };

static SIGNATURES: [Signature; 15] = [
    Signature {
        name: "backward_hidden",
        threads_max: 256,
        parameters: &[
            read("gradient"),
            read("w2"),
            read("h"),
            written("gh"),
            number("batch"),
            number("hidden"),
            number("outputs"),
        ],
    },
    Signature {
        name: "backward_input",
        threads_max: 256,
        parameters: &[
            read("x"),
            read("gh"),
            written("gw1"),
            written("gb1"),
            number("batch"),
            number("inputs"),
            number("hidden"),
        ],
    },
    Signature {
        name: "backward_output",
        threads_max: 256,
        parameters: &[
            read("h"),
            read("gradient"),
            written("gw2"),
            written("gb2"),
            number("batch"),
            number("hidden"),
            number("outputs"),
        ],
    },
    Signature { name: "bench_fma_f32", threads_max: 256, parameters: &[written("out"), number("rounds")] },
    Signature { name: "bench_mma_f16", threads_max: 256, parameters: &[written("out"), number("rounds")] },
    Signature {
        name: "forces",
        threads_max: 256,
        parameters: &[read("bodies"), written("accelerations"), number("n"), number("softening")],
    },
    Signature {
        name: "forward_hidden",
        threads_max: 256,
        parameters: &[
            read("x"),
            read("w1"),
            read("b1"),
            written("h"),
            number("batch"),
            number("inputs"),
            number("hidden"),
        ],
    },
    Signature {
        name: "forward_output",
        threads_max: 32,
        parameters: &[
            read("h"),
            read("w2"),
            read("b2"),
            written("probabilities"),
            number("batch"),
            number("hidden"),
            number("outputs"),
        ],
    },
    Signature {
        name: "gemm_f16",
        threads_max: 256,
        parameters: &[half("a"), half("b"), written("c"), number("m"), number("n"), number("k")],
    },
    Signature {
        name: "gemm_f32",
        threads_max: 256,
        parameters: &[read("a"), read("b"), written("c"), number("m"), number("n"), number("k")],
    },
    Signature {
        name: "integrate",
        threads_max: 256,
        parameters: &[written("bodies"), written("velocities"), read("accelerations"), number("n"), number("dt")],
    },
    Signature {
        name: "output_gradient",
        threads_max: 256,
        parameters: &[
            read("probabilities"),
            read("labels"),
            written("gradient"),
            written("loss"),
            number("batch"),
            number("outputs"),
        ],
    },
    Signature {
        name: "sgd",
        threads_max: 256,
        parameters: &[written("w"), read("g"), number("count"), number("rate")],
    },
    Signature {
        name: "tonemap",
        threads_max: 64,
        parameters: &[read("accumulation"), IMAGE, number("width"), number("height"), number("samples")],
    },
    Signature {
        name: "trace",
        threads_max: 64,
        parameters: &[written("accumulation"), number("width"), number("height"), number("sample"), number("seed")],
    },
];
