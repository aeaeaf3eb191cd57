//! NVRTC, NVIDIA's compiler for CUDA C++, as a library that is opened while we run.
//!
//! It is no part of `rig` and may be missing or old, so every function is looked for when the library is opened, and a
//! missing one is an error like any other. Invariants: a [`Nvrtc`] has all its functions, and keeps the library open
//! for as long as it lives; a program that was made is destroyed; the compiler gets its input as C strings that live until
//! it has returned.
#![expect(unsafe_code, reason = "a C library that is found while we run has no safe binding that reports its absence")]

use std::ffi::{CStr, CString, NulError, OsStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;
use thiserror::Error;

/// What a function of NVRTC answers when all is well.
const SUCCESS: c_int = 0;

/// `NVRTC_ERROR_COMPILATION`: the source is at fault, and the log says where.
const COMPILATION: c_int = 6;

/// Far above the largest module that a bundle may carry, 64 MiB.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// What the compiler said beyond this is not read.
const LOG_BYTES_MAX: usize = 16 << 20;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Words = unsafe extern "C" fn(c_int) -> *const c_char;
type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The compiler.
#[derive(Debug)]
pub(super) struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    ptx: Output,
    cubin: Output,
    log: Output,
    words: Words,
    get_version: GetVersion,
    // Last, so that they are closed when nothing above is left, and in this order.
    _library: Library,
    _builtins: Option<Library>,
}

/// Two functions: how many bytes there are, and the bytes.
#[derive(Clone, Copy, Debug)]
struct Output {
    size: Size,
    read: Read,
}

/// What to compile.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// What messages call it.
    pub(super) name: &'a str,
    /// CUDA C++.
    pub(super) source: &'a str,
    /// Headers beside it, by the names in its `#include` lines.
    pub(super) headers: &'a [(String, String)],
    /// The compiler's options.
    pub(super) options: &'a [String],
    /// What should come out.
    pub(super) output: Wanted,
}

/// What should come out of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Text for the driver of any later GPU.
    Ptx,
    /// Code for one kind of GPU.
    Cubin,
}

/// What came out.
#[derive(Debug)]
pub(super) struct Compiled {
    /// PTX without the zero at its end, or a cubin.
    pub(super) bytes: Vec<u8>,
    /// Warnings; empty if there are none.
    pub(super) log: String,
}

/// Why nothing came out.
#[derive(Debug, Error)]
pub(crate) enum NvrtcError {
    /// The library cannot be opened, or lacks a function.
    #[error("open the compiler's library {library}")]
    Open {
        library: String,
        #[source]
        source: libloading::Error,
    },
    /// The source is at fault.
    #[error("{name} does not compile:\n{log}")]
    Source { name: String, log: String },
    /// The compiler is at fault, or was asked for what it cannot do.
    #[error("the compiler fails with {code} ({words}) on {name}{}", lines_below(.log))]
    Compiler { name: String, code: c_int, words: String, log: String },
    /// C strings end at a zero.
    #[error("{name} contains a zero byte")]
    Zero {
        name: String,
        #[source]
        source: NulError,
    },
    /// The compiler hands out more than is taken.
    #[error("the compiler's output for {name} has {bytes} bytes, more than {OUTPUT_BYTES_MAX}")]
    TooLarge { name: String, bytes: usize },
}

fn lines_below(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(":\n{log}") }
}

// === impl Nvrtc ===

impl Nvrtc {
    /// Opens the library at a path, or, for a bare name, where the loader finds it. `builtins` is the path of its other
    /// part, `libnvrtc-builtins.so`, which it opens by name when it compiles: from CUDA 13 on it finds it where the
    /// loader looks, or if it is open already.
    pub(super) fn open(library: &OsStr, builtins: Option<&Path>) -> Result<Nvrtc, NvrtcError> {
        let open = |library: &OsStr| {
            // SAFETY: opening runs the library's start-up code. The user named the toolkit that it comes from, or it is
            // the one that the loader would give every program.
            let opened = unsafe { Library::new(library) };
            opened.map_err(|source| NvrtcError::Open { library: library.display().to_string(), source })
        };
        let builtins = builtins.map(|path| open(path.as_os_str())).transpose()?;
        let opened = open(library)?;
        let fault = |source| NvrtcError::Open { library: library.display().to_string(), source };
        // SAFETY: the types are those of nvrtc.h, where these functions have not changed since CUDA 11.1.
        unsafe {
            Ok(Nvrtc {
                create: find(&opened, c"nvrtcCreateProgram").map_err(fault)?,
                compile: find(&opened, c"nvrtcCompileProgram").map_err(fault)?,
                destroy: find(&opened, c"nvrtcDestroyProgram").map_err(fault)?,
                ptx: Output {
                    size: find(&opened, c"nvrtcGetPTXSize").map_err(fault)?,
                    read: find(&opened, c"nvrtcGetPTX").map_err(fault)?,
                },
                cubin: Output {
                    size: find(&opened, c"nvrtcGetCUBINSize").map_err(fault)?,
                    read: find(&opened, c"nvrtcGetCUBIN").map_err(fault)?,
                },
                log: Output {
                    size: find(&opened, c"nvrtcGetProgramLogSize").map_err(fault)?,
                    read: find(&opened, c"nvrtcGetProgramLog").map_err(fault)?,
                },
                words: find(&opened, c"nvrtcGetErrorString").map_err(fault)?,
                get_version: find(&opened, c"nvrtcVersion").map_err(fault)?,
                _library: opened,
                _builtins: builtins,
            })
        }
    }

    /// The version of CUDA that it belongs to.
    pub(super) fn version(&self) -> Result<(u32, u32), NvrtcError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are valid for writing one int.
        let code = unsafe { (self.get_version)(&raw mut major, &raw mut minor) };
        match (code, u32::try_from(major), u32::try_from(minor)) {
            (SUCCESS, Ok(major), Ok(minor)) => Ok((major, minor)),
            _ => Err(self.fault("nothing", code, String::new())),
        }
    }

    /// Compiles; blocks for as long as that takes, usually under a second.
    pub(super) fn compile(&self, program: &Program<'_>) -> Result<Compiled, NvrtcError> {
        let c_string = |name: &str, text: &str| {
            CString::new(text).map_err(|source| NvrtcError::Zero { name: name.to_owned(), source })
        };
        let name = c_string("the name of the source", program.name)?;
        let source = c_string(program.name, program.source)?;
        let contents =
            program.headers.iter().map(|(name, text)| c_string(name, text)).collect::<Result<Vec<_>, _>>()?;
        let names = program.headers.iter().map(|(name, _)| c_string("the name of a header", name));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let options =
            program.options.iter().map(|option| c_string("an option", option)).collect::<Result<Vec<_>, _>>()?;
        let (content_pointers, name_pointers) = (pointers(&contents), pointers(&names));
        let option_pointers = pointers(&options);

        let mut handle = ptr::null_mut();
        // SAFETY: every pointer is to a C string, or an array of as many of them as is said, that lives to the end of
        // this function; the handle is valid for writing.
        let code = unsafe {
            (self.create)(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                count(&names),
                content_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if code != SUCCESS {
            return Err(self.fault(program.name, code, String::new()));
        }
        let made = Made { nvrtc: self, handle };
        // SAFETY: the program was made above and is destroyed after this; the options live as long as it.
        let code = unsafe { (self.compile)(made.handle, count(&options), option_pointers.as_ptr()) };
        let log = made.log();
        match code {
            SUCCESS => made.output(program).map(|bytes| Compiled { bytes, log }),
            COMPILATION => Err(NvrtcError::Source { name: program.name.to_owned(), log }),
            code => Err(self.fault(program.name, code, log)),
        }
    }

    fn fault(&self, name: &str, code: c_int, log: String) -> NvrtcError {
        // SAFETY: the function takes any number, and answers with a C string that is never freed.
        let words = unsafe {
            let words = (self.words)(code);
            if words.is_null() { c"unknown" } else { CStr::from_ptr(words) }
        };
        NvrtcError::Compiler { name: name.to_owned(), code, words: words.to_string_lossy().into_owned(), log }
    }
}

/// A function of the library.
///
/// # Safety
///
/// `F` is the type of the function `name`, and what is returned is not called after the library was closed.
unsafe fn find<F: Copy>(library: &Library, name: &CStr) -> Result<F, libloading::Error> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<F>(name.to_bytes_with_nul()) }.map(|symbol| *symbol)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

/// Headers and options are few; a count that does not fit would be a slip of ours.
fn count(strings: &[CString]) -> c_int {
    c_int::try_from(strings.len()).expect("headers and options have bounds far below this")
}

/// A program in the compiler's hands.
struct Made<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

// === impl Made ===

impl Made<'_> {
    fn output(&self, program: &Program<'_>) -> Result<Vec<u8>, NvrtcError> {
        let output = match program.output {
            Wanted::Ptx => self.nvrtc.ptx,
            Wanted::Cubin => self.nvrtc.cubin,
        };
        let mut bytes = self.read(output, program.name, OUTPUT_BYTES_MAX)?;
        if program.output == Wanted::Ptx {
            bytes.pop_if(|last| *last == 0);
        }
        Ok(bytes)
    }

    /// What the compiler said. A log that cannot be read is no reason to fail: the code says how it went.
    fn log(&self) -> String {
        let mut bytes = self.read(self.nvrtc.log, "the log", LOG_BYTES_MAX).unwrap_or_default();
        bytes.pop_if(|last| *last == 0);
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    fn read(&self, output: Output, name: &str, bytes_max: usize) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program is alive, and the size is valid for writing.
        let code = unsafe { (output.size)(self.handle, &raw mut bytes) };
        if code != SUCCESS {
            return Err(self.nvrtc.fault(name, code, String::new()));
        }
        if bytes > bytes_max {
            return Err(NvrtcError::TooLarge { name: name.to_owned(), bytes });
        }
        let mut buffer = vec![0_u8; bytes];
        // SAFETY: the program is alive, and the buffer has the size that the library asked for.
        let code = unsafe { (output.read)(self.handle, buffer.as_mut_ptr().cast()) };
        if code == SUCCESS { Ok(buffer) } else { Err(self.nvrtc.fault(name, code, String::new())) }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was made and is destroyed once. What the library answers changes nothing for us.
        unsafe { (self.nvrtc.destroy)(&raw mut self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::toolkit::{Toolkit, test_toolkit};

    const HALVES: &str = "#include <cuda_fp16.h>\n#include \"twice.cuh\"\n\
        extern \"C\" __global__ void halves(const half* a, float* b, unsigned n) {\n\
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x;\nif (i < n) b[i] = twice(__half2float(a[i]));\n}\n";

    fn compile(source: &str, output: Wanted, options: &[&str]) -> Result<Compiled, NvrtcError> {
        let toolkit = Toolkit::find(Some(&test_toolkit())).expect("tests/setup.sh puts a toolkit under target/");
        let mut all: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        all.extend(toolkit.include_options());
        let headers = [("twice.cuh".to_owned(), "__device__ float twice(float x) { return x + x; }\n".to_owned())];
        toolkit.nvrtc.compile(&Program { name: "halves.cu", source, headers: &headers, options: &all, output })
    }

    #[test]
    fn a_source_with_cudas_headers_and_its_own_becomes_the_same_ptx_every_time() {
        let options = ["--gpu-architecture=compute_75"];
        let ptx = compile(HALVES, Wanted::Ptx, &options).expect("the source is right").bytes;
        let text = String::from_utf8(ptx.clone()).expect("PTX is text");
        assert!(text.contains(".visible .entry halves("), "{text}");
        assert!(!text.contains('\0') && !text.contains(env!("CARGO_MANIFEST_DIR")), "{text}");
        assert_eq!(compile(HALVES, Wanted::Ptx, &options).expect("as before").bytes, ptx);
    }

    #[test]
    fn a_source_becomes_a_cubin_for_one_kind_of_gpu() {
        let cubin = compile(HALVES, Wanted::Cubin, &["--gpu-architecture=sm_90"]).expect("the source is right").bytes;
        assert!(cubin.starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_fault_in_a_source_is_named_with_its_file_and_line() {
        let error = compile("__global__ void f() {\n  x = 1;\n}\n", Wanted::Ptx, &[]).expect_err("x is nothing");
        let words = error.to_string();
        assert!(matches!(error, NvrtcError::Source { .. }) && words.contains("halves.cu(2): error:"), "{words}");
        let error = compile("#include \"nowhere.h\"\n", Wanted::Ptx, &[]).expect_err("there is no such header");
        assert!(error.to_string().contains("halves.cu(1):"), "{error}");
        let error = compile("int x;\0", Wanted::Ptx, &[]).expect_err("a C string ends there");
        assert!(matches!(error, NvrtcError::Zero { .. }), "{error}");
    }

    #[test]
    fn what_the_compiler_cannot_do_is_its_own_words() {
        let error = compile(HALVES, Wanted::Cubin, &["--gpu-architecture=sm_999"]).expect_err("there is no such GPU");
        assert!(matches!(error, NvrtcError::Compiler { code: 5, .. }), "{error:?}");
        assert!(error.to_string().contains("NVRTC_ERROR_INVALID_OPTION"), "{error}");
    }

    #[test]
    fn a_library_that_is_missing_or_another_is_an_error() {
        for library in ["/nowhere/libnvrtc.so", "libc.so.6"] {
            let error = Nvrtc::open(OsStr::new(library), None).expect_err(library);
            assert!(matches!(error, NvrtcError::Open { .. }) && error.to_string().contains(library), "{error}");
        }
        let text = tempfile::NamedTempFile::new().expect("a file can be made");
        assert!(Nvrtc::open(OsStr::new("libc.so.6"), Some(text.path())).is_err());
    }
}
