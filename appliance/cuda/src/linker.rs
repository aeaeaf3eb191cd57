//! NVIDIA's linker, nvJitLink: PTX in, machine code out, without a driver and without a GPU.
//!
//! Invariants: the library is found by name through the loader, newest first; each of its calls is found before one
//! is made; what it returns is a number, 0 for success; a log is read whole or not at all, and cut afterwards.
//!
//! Only the compile worker and the probe load it. It parses what a stranger wrote, so it may crash, and then the
//! worker is gone and nothing else.
#![expect(unsafe_code, reason = "the linker is a C library, opened at run time")]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use bundle::{Arch, Version};
use cuda::messages::{CUBIN_BYTES_MAX, LOG_BYTES_MAX, clipped};
use libloading::Library;

/// What every name of the library begins with.
pub(crate) const LIBRARY_STEM: &str = "libnvJitLink.so";

/// Names of the library, and the ending that its calls have in every release of that name. A header adds the newest;
/// the first release's are exported by all later ones, with the same arguments.
const LIBRARIES: [(&str, &str); 2] = [("libnvJitLink.so.13", "_13_0"), ("libnvJitLink.so.12", "_12_0")];

/// `NVJITLINK_INPUT_PTX`.
const INPUT_PTX: c_int = 2;

/// The longest log that is read, in bytes, of which [`LOG_BYTES_MAX`] are kept.
const LOG_READ_BYTES_MAX: usize = 16 << 20;

/// A linker that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkerError {
    /// The loader finds none.
    #[error(
        "neither libnvJitLink.so.13 nor libnvJitLink.so.12 can be loaded; it comes with CUDA, or without it as the \
             Python package nvidia-nvjitlink-cu12"
    )]
    Library(#[source] libloading::Error),
    /// It lacks a call.
    #[error("the linker has no call {name}: it is damaged or of an unknown release, so install another")]
    Call {
        /// What is missing.
        name: String,
        /// What the loader said.
        #[source]
        source: libloading::Error,
    },
}

/// PTX that did not become machine code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompileError {
    /// The linker does not take the PTX. The log is of at most [`LOG_BYTES_MAX`] bytes, without control characters
    /// but line ends.
    #[error("the linker refuses the PTX: {0}")]
    Refused(String),
    /// A call that has nothing to do with the PTX did not succeed.
    #[error("{call} ended with {code}")]
    Linker {
        /// Which.
        call: &'static str,
        /// The `nvJitLinkResult`.
        code: c_int,
    },
    /// The machine code is longer than anybody takes.
    #[error("machine code of {0} bytes, more than {CUBIN_BYTES_MAX}")]
    TooLong(usize),
}

type Handle = *mut c_void;
type Sized = unsafe extern "C" fn(Handle, *mut usize) -> c_int;

/// The linker's library, mapped.
#[derive(Debug)]
pub(crate) struct Linker {
    create: unsafe extern "C" fn(*mut Handle, u32, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    add_data: unsafe extern "C" fn(Handle, c_int, *const c_void, usize, *const c_char) -> c_int,
    complete: unsafe extern "C" fn(Handle) -> c_int,
    cubin_size: Sized,
    cubin: unsafe extern "C" fn(Handle, *mut c_void) -> c_int,
    error_log_size: Sized,
    error_log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    /// Not in the first releases.
    version: Option<unsafe extern "C" fn(*mut c_uint, *mut c_uint) -> c_int>,
}

// === impl Linker ===

impl Linker {
    /// Maps the library and finds its calls.
    ///
    /// # Errors
    /// [`LinkerError`]: what is missing.
    pub(crate) fn load() -> Result<Self, LinkerError> {
        let mut missing = None;
        for (name, ending) in LIBRARIES {
            // SAFETY: the library may run code when it is mapped; the loader's path is the starter's to choose, and
            // no other thread runs yet.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::of(library, ending),
                Err(error) => missing = Some(error),
            }
        }
        Err(LinkerError::Library(missing.expect("there are names")))
    }

    fn of(library: Library, ending: &str) -> Result<Self, LinkerError> {
        // SAFETY: the types are those of `nvJitLink.h`: handles are pointers, results and kinds of input are C enums
        // (the latter without negative values, so that they pass like an int), sizes are `size_t`.
        let linker = unsafe {
            Self {
                create: find(&library, "__nvJitLinkCreate", ending)?,
                destroy: find(&library, "__nvJitLinkDestroy", ending)?,
                add_data: find(&library, "__nvJitLinkAddData", ending)?,
                complete: find(&library, "__nvJitLinkComplete", ending)?,
                cubin_size: find(&library, "__nvJitLinkGetLinkedCubinSize", ending)?,
                cubin: find(&library, "__nvJitLinkGetLinkedCubin", ending)?,
                error_log_size: find(&library, "__nvJitLinkGetErrorLogSize", ending)?,
                error_log: find(&library, "__nvJitLinkGetErrorLog", ending)?,
                version: find(&library, "nvJitLinkVersion", "").ok(),
            }
        };
        // Never unmapped: the pointers must stay good.
        std::mem::forget(library);
        Ok(linker)
    }

    /// The release, if it can tell.
    pub(crate) fn version(&self) -> Option<Version> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers are written, and they are ours.
        let result = unsafe { self.version?(&raw mut major, &raw mut minor) };
        (result == 0).then(|| Version::new(major, minor))
    }

    /// Makes machine code for `arch` from PTX.
    ///
    /// # Errors
    /// [`CompileError::Refused`] if the PTX is to blame.
    pub(crate) fn compile(&self, ptx: &[u8], arch: Arch) -> Result<Vec<u8>, CompileError> {
        let option = CString::new(format!("-arch={arch}")).expect("an architecture has no zeros in it");
        let options = [option.as_ptr()];
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: one handle is written, and it is ours; one option is given, which ends with a zero.
        check("nvJitLinkCreate", unsafe { (self.create)(&raw mut handle, 1, options.as_ptr()) })?;
        let compiled = self.compile_with(handle, ptx);
        // SAFETY: the handle was made above, and this is its end. What it answers changes nothing any more.
        unsafe { (self.destroy)(&raw mut handle) };
        compiled
    }

    fn compile_with(&self, handle: Handle, ptx: &[u8]) -> Result<Vec<u8>, CompileError> {
        // The linker takes PTX as text that ends with a zero, counted.
        let mut text = ptx.to_vec();
        text.push(0);
        let name = c"module.ptx";
        // SAFETY: the handle is good; the text is as long as it says and outlives the handle's last use, which is in
        // this function; the name ends with a zero.
        let added = unsafe { (self.add_data)(handle, INPUT_PTX, text.as_ptr().cast(), text.len(), name.as_ptr()) };
        // SAFETY: the handle is good.
        if added != 0 || unsafe { (self.complete)(handle) } != 0 {
            return Err(CompileError::Refused(self.log(handle)));
        }
        let mut bytes = 0_usize;
        // SAFETY: the handle is good and complete; one size is written, and it is ours.
        check("nvJitLinkGetLinkedCubinSize", unsafe { (self.cubin_size)(handle, &raw mut bytes) })?;
        if u64::try_from(bytes).is_ok_and(|bytes| bytes > CUBIN_BYTES_MAX) {
            return Err(CompileError::TooLong(bytes));
        }
        let mut cubin = vec![0_u8; bytes];
        // SAFETY: the handle is good and complete; it writes as many bytes as it just said.
        check("nvJitLinkGetLinkedCubin", unsafe { (self.cubin)(handle, cubin.as_mut_ptr().cast()) })?;
        Ok(cubin)
    }

    fn log(&self, handle: Handle) -> String {
        let mut bytes = 0_usize;
        // SAFETY: the handle is good; one size is written, and it is ours.
        let sized = unsafe { (self.error_log_size)(handle, &raw mut bytes) };
        if sized != 0 || bytes > LOG_READ_BYTES_MAX {
            return "without a log that could be read".to_owned();
        }
        // One more than it says, because one release or another may not count the zero at the end.
        let mut log = vec![0_u8; bytes + 1];
        // SAFETY: the handle is good; it writes as many bytes as it just said, and perhaps a zero.
        let read = unsafe { (self.error_log)(handle, log.as_mut_ptr().cast()) };
        if read == 0 { printable(&log) } else { "without a log that could be read".to_owned() }
    }
}

/// # Safety
/// `F` is the type of the function that the library exports as `stem` with `ending`.
unsafe fn find<F: Copy>(library: &Library, stem: &str, ending: &str) -> Result<F, LinkerError> {
    let name = format!("{stem}{ending}");
    // SAFETY: the caller's.
    let found = unsafe { library.get::<F>(name.as_str()) };
    found.map(|call| *call).map_err(|source| LinkerError::Call { name, source })
}

fn check(call: &'static str, code: c_int) -> Result<(), CompileError> {
    if code == 0 { Ok(()) } else { Err(CompileError::Linker { call, code }) }
}

/// Text that takes at most twice its bytes in JSON, and none that a terminal acts on.
fn printable(log: &[u8]) -> String {
    let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let log = String::from_utf8_lossy(&log[..log.len().min(LOG_BYTES_MAX)]);
    let keep = |letter: char| if letter.is_control() && letter != '\n' { ' ' } else { letter };
    let log: String = log.chars().map(keep).collect();
    clipped(log.trim_end(), LOG_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_and_has_nothing_that_a_terminal_acts_on() {
        let check = |log: &[u8], expected: &str| assert_eq!(printable(log), expected);
        check(b"", "");
        check(b"error: line 3\n\0\0", "error: line 3");
        check(b"a\0b", "a");
        check(b"\x1b[2Ja\tb\nc", " [2Ja b\nc");
        check(&[0xff; LOG_BYTES_MAX + 5], &"\u{fffd}".repeat(LOG_BYTES_MAX / 3));
        check(&[b'x'; LOG_BYTES_MAX + 5], &"x".repeat(LOG_BYTES_MAX));
    }
}
