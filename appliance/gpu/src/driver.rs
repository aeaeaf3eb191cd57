//! The open driver: NVML, found by the loader's ordinary search or at a given path.
//!
//! Invariants: what a board does not support is `None` to the caller, never an error; an error means that the GPU or
//! the driver does not answer. Nothing here panics without a driver. While a [`Driver`] is open it is a client of every
//! GPU: the driver stays loaded and keeps its settings, and a GPU can be reset only after it is dropped.

mod inventory;
pub(crate) mod sample;

use crate::inventory::GpuUuid;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// The name that every driver package installs; the one without the version comes with the packages for developers.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// NVML, opened. Dropping it closes it.
#[derive(Debug)]
pub struct Driver {
    nvml: Nvml,
}

/// The driver or a GPU does not answer.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The library is not installed, or the kernel module is not loaded. A machine without a GPU ends here.
    #[error("this machine has no NVIDIA driver, so it takes no GPU jobs; install one if it has an NVIDIA GPU")]
    NoDriver(#[source] NvmlError),
    /// The library and the kernel module are of different versions, as after an update.
    #[error("the NVIDIA driver's library and its kernel module are of different versions; reboot the machine")]
    DriverMismatch(#[source] NvmlError),
    /// There is a driver, and it cannot be used.
    #[error("the NVIDIA driver cannot be opened; look into the kernel's log for NVRM")]
    Open(#[source] NvmlError),
    /// The driver lists no such GPU.
    #[error("the driver lists no GPU {gpu}; `rig gpu` shows those that it lists")]
    NoSuchGpu {
        /// Which.
        gpu: GpuUuid,
    },
    /// It fell off the bus.
    #[error("GPU {gpu} does not answer any more; switch the machine off and on")]
    Lost {
        /// Which.
        gpu: GpuUuid,
    },
    /// It answers nothing until it is reset.
    #[error("GPU {gpu} needs a reset before it answers again")]
    ResetRequired {
        /// Which.
        gpu: GpuUuid,
    },
    /// The driver refused a call.
    #[error("the driver did not {what} of GPU {gpu}")]
    Call {
        /// A verb and its object.
        what: &'static str,
        /// Which.
        gpu: GpuUuid,
        /// What the driver said.
        #[source]
        source: NvmlError,
    },
    /// The driver refused a call that is about no single GPU.
    #[error("the driver did not {what}")]
    System {
        /// A verb and its object.
        what: &'static str,
        /// What the driver said.
        #[source]
        source: NvmlError,
    },
    /// No thread for the watch.
    #[error("the thread that watches the GPUs could not be started")]
    Thread(#[source] io::Error),
}

// === impl Driver ===

impl Driver {
    /// Opens the machine's driver. Takes up to some seconds where nothing keeps the driver loaded.
    /// Errors: [`GpuError::NoDriver`], [`GpuError::DriverMismatch`], [`GpuError::Open`].
    pub fn open() -> Result<Self, GpuError> {
        Self::open_library(OsStr::new(LIBRARY))
    }

    /// Opens the driver whose library is the file `library`. Errors as [`Self::open`].
    pub fn open_at(library: &Path) -> Result<Self, GpuError> {
        Self::open_library(library.as_os_str())
    }

    fn open_library(library: &OsStr) -> Result<Self, GpuError> {
        match Nvml::builder().lib_path(library).init() {
            Ok(nvml) => Ok(Self { nvml }),
            Err(source @ (NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded)) => {
                Err(GpuError::NoDriver(source))
            }
            Err(source @ NvmlError::LibRmVersionMismatch) => Err(GpuError::DriverMismatch(source)),
            Err(source) => Err(GpuError::Open(source)),
        }
    }

    pub(crate) fn nvml(&self) -> &Nvml {
        &self.nvml
    }

    /// Errors: [`GpuError::NoSuchGpu`], [`GpuError::Lost`], [`GpuError::Call`].
    pub(crate) fn device(&self, gpu: &GpuUuid) -> Result<Device<'_>, GpuError> {
        self.nvml.device_by_uuid(gpu.as_str()).map_err(|error| match error {
            NvmlError::NotFound | NvmlError::InvalidArg => GpuError::NoSuchGpu { gpu: gpu.clone() },
            other => GpuError::of("give a handle", gpu, other),
        })
    }
}

// === impl GpuError ===

impl GpuError {
    pub(crate) fn of(what: &'static str, gpu: &GpuUuid, error: NvmlError) -> Self {
        let gpu = gpu.clone();
        match error {
            NvmlError::GpuLost => Self::Lost { gpu },
            NvmlError::ResetRequired => Self::ResetRequired { gpu },
            source => Self::Call { what, gpu, source },
        }
    }
}

/// What a board said: nothing, where it does not support the question. Only errors that mean that the GPU or the driver
/// is gone stay errors; any other is one board's or one driver version's peculiarity, and costs one value, not all.
pub(crate) fn said<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(
            error @ (NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch),
        ) => Err(error),
        Err(_) => Ok(None),
    }
}
