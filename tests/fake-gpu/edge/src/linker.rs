//! What a library asks the dynamic linker about itself: its file, and its exported names.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The file that holds the code of this crate: the library it is linked into. As the loader was given it, so it may be
/// relative to the directory in which the process started. `None` if the linker does not know.
#[must_use]
pub fn own_path() -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let inside: fn() -> Option<PathBuf> = own_path;
    // SAFETY: the address is one of this library's code, and `info` is room for the answer.
    let found = unsafe { libc::dladdr(inside as *const c_void, info.as_mut_ptr()) };
    if found == 0 {
        return None;
    }
    // SAFETY: `dladdr` says that it filled `info` in.
    let info = unsafe { info.assume_init() };
    if info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: not null, so a string of the linker's that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The address of what this library exports as `name`; `None` if it exports no such thing.
#[must_use]
pub fn own_symbol(name: &str) -> Option<*mut c_void> {
    let path = CString::new(own_path()?.into_os_string().into_encoded_bytes()).ok()?;
    let name = CString::new(name).ok()?;
    // SAFETY: both are strings that end with NUL. The library is loaded already (`RTLD_NOLOAD`), so no code runs; the
    // handle is kept, which only means that a library which hands out its own addresses is not unloaded.
    let address = unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) }
    };
    (!address.is_null()).then_some(address)
}
