//! What kind of failure a driver's error code is.
//!
//! Invariants: every code has a class; a code that this table does not know is [`Class::Driver`], never a fault of
//! the job. The numbers are those of `cuda.h` (`CUresult`), which are part of the driver's binary interface.

use serde::{Deserialize, Serialize};

/// What kind of failure ended a job, or kept one from beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The bundle, its parameters or its plan are not what the job says, or the driver refuses a launch of it.
    BadBundle,
    /// The device has less free memory than the plan takes.
    OutOfMemory,
    /// A kernel read or wrote where nothing is.
    IllegalAddress,
    /// A kernel ran longer than the driver allows on this device.
    LaunchTimeout,
    /// A kernel's own assertion did not hold.
    Assert,
    /// A kernel met an instruction that is not one, or jumped where no code is.
    IllegalInstruction,
    /// A kernel read or wrote at an address that is not a multiple of the value's size, or in a wrong space.
    MisalignedAddress,
    /// A kernel ended in another way that the driver does not explain, such as a stack that overflowed.
    LaunchFailure,
    /// The device found an error in its own memory or links. Not the job's fault.
    HardwareError,
    /// A module is PTX, or PTX that this driver does not read.
    UnsupportedPtx,
    /// A module has no code for this device.
    NoKernelImage,
    /// The device does not answer any more, or is not there. Not the job's fault.
    DeviceLost,
    /// The driver is missing, does not fit the kernel's module, or refused for a reason that is not the job's.
    Driver,
}

// === impl Class ===

impl Class {
    /// Every class, in the order of their declaration.
    pub const ALL: [Self; 13] = [
        Self::BadBundle,
        Self::OutOfMemory,
        Self::IllegalAddress,
        Self::LaunchTimeout,
        Self::Assert,
        Self::IllegalInstruction,
        Self::MisalignedAddress,
        Self::LaunchFailure,
        Self::HardwareError,
        Self::UnsupportedPtx,
        Self::NoKernelImage,
        Self::DeviceLost,
        Self::Driver,
    ];

    /// The class of a `CUresult` that is not `CUDA_SUCCESS`.
    #[must_use]
    pub fn of(code: i32) -> Self {
        match code {
            // Invalid value, invalid image, invalid source, symbol not found, too many resources for one block.
            1 | 200 | 300 | 500 | 701 | 703 | 720 => Self::BadBundle,
            2 => Self::OutOfMemory,
            700 => Self::IllegalAddress,
            702 => Self::LaunchTimeout,
            710 => Self::Assert,
            // Illegal instruction, invalid program counter.
            715 | 718 => Self::IllegalInstruction,
            // Misaligned address, invalid address space.
            716 | 717 => Self::MisalignedAddress,
            // Hardware stack error, launch failed, tensor memory that a kernel kept.
            714 | 719 | 721 => Self::LaunchFailure,
            // Uncorrectable ECC error, uncorrectable NVLink error, an error that the device contained.
            214 | 220 | 226 => Self::HardwareError,
            // Invalid PTX, no JIT compiler, unsupported PTX version, JIT disabled, synchronisation on the device.
            218 | 221 | 222 | 223 | 225 => Self::UnsupportedPtx,
            209 => Self::NoKernelImage,
            // Device unavailable, no device, invalid device.
            46 | 100 | 101 => Self::DeviceLost,
            _ => Self::Driver,
        }
    }

    /// Whether the code that ran, rather than the machine, is to blame.
    #[must_use]
    pub fn is_jobs_own(self) -> bool {
        match self {
            Self::BadBundle
            | Self::OutOfMemory
            | Self::IllegalAddress
            | Self::LaunchTimeout
            | Self::Assert
            | Self::IllegalInstruction
            | Self::MisalignedAddress
            | Self::LaunchFailure
            | Self::UnsupportedPtx
            | Self::NoKernelImage => true,
            Self::HardwareError | Self::DeviceLost | Self::Driver => false,
        }
    }

    /// Whether something went wrong on the device itself, so that it must pass its test before the next job.
    #[must_use]
    pub fn is_device_fault(self) -> bool {
        match self {
            Self::IllegalAddress
            | Self::LaunchTimeout
            | Self::Assert
            | Self::IllegalInstruction
            | Self::MisalignedAddress
            | Self::LaunchFailure
            | Self::HardwareError
            | Self::DeviceLost
            | Self::Driver => true,
            Self::BadBundle | Self::OutOfMemory | Self::UnsupportedPtx | Self::NoKernelImage => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_job_can_cause_has_its_class() {
        let check = |class: Class, codes: &[i32]| {
            for code in codes {
                assert_eq!(Class::of(*code), class, "{code}");
            }
        };
        check(Class::BadBundle, &[1, 200, 300, 500, 701, 703, 720]);
        check(Class::OutOfMemory, &[2]);
        check(Class::IllegalAddress, &[700]);
        check(Class::LaunchTimeout, &[702]);
        check(Class::Assert, &[710]);
        check(Class::IllegalInstruction, &[715, 718]);
        check(Class::MisalignedAddress, &[716, 717]);
        check(Class::LaunchFailure, &[714, 719, 721]);
        check(Class::HardwareError, &[214, 220, 226]);
        check(Class::UnsupportedPtx, &[218, 221, 222, 223, 225]);
        check(Class::NoKernelImage, &[209]);
        check(Class::DeviceLost, &[46, 100, 101]);
        check(Class::Driver, &[3, 4, 34, 36, 201, 304, 400, 600, 709, 800, 802, 803, 804, 999]);
    }

    #[test]
    fn a_code_that_nobody_knows_is_never_the_job_s_fault() {
        for code in [i32::MIN, -1, 9_999, i32::MAX] {
            assert_eq!(Class::of(code), Class::Driver);
        }
        assert!(!Class::Driver.is_jobs_own());
    }

    #[test]
    fn what_the_machine_did_always_asks_for_a_test_of_the_device() {
        for class in Class::ALL {
            assert!(class.is_jobs_own() || class.is_device_fault(), "{class:?}");
        }
    }
}
