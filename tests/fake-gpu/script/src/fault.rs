//! The ways in which a kernel ends badly, and the code that the driver gives for each.

use serde::{Deserialize, Serialize};

/// How a launch ends. The code is the driver's `CUresult`; all but [`Fault::Hang`] leave the context unusable:
/// every later call that needs it gives the same code. Source: `cuda.h`, enum `cudaError_enum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 46, the GPU is gone from the bus; no call works any more, `cuInit` included.
    Lost,
    /// 214, an uncorrectable memory error.
    Ecc,
    /// 700, an access outside every allocation.
    IllegalAddress,
    /// 702, the driver's watchdog ended the kernel.
    LaunchTimeout,
    /// 710, a device-side `assert`.
    Assert,
    /// 714, the hardware's call stack is damaged.
    HardwareStack,
    /// 715, an instruction that is none.
    IllegalInstruction,
    /// 716, an access that its size does not divide.
    Misaligned,
    /// 717, an instruction used on the wrong address space.
    InvalidAddressSpace,
    /// 718, the program counter left the code.
    InvalidPc,
    /// 719, anything else; an access that broke in shared memory, for example.
    LaunchFailure,
    /// No code: the kernel never ends, and whoever waits for it never returns.
    Hang,
}

// === impl Fault ===

impl Fault {
    /// All of them, in the order of their codes.
    pub const ALL: [Fault; 12] = [
        Fault::Lost,
        Fault::Ecc,
        Fault::IllegalAddress,
        Fault::LaunchTimeout,
        Fault::Assert,
        Fault::HardwareStack,
        Fault::IllegalInstruction,
        Fault::Misaligned,
        Fault::InvalidAddressSpace,
        Fault::InvalidPc,
        Fault::LaunchFailure,
        Fault::Hang,
    ];

    /// The fault that a kernel of this name ends with: kernels named `fault_*` exist for nothing else.
    #[must_use]
    pub fn of_kernel(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.kernel() == name)
    }

    /// The name of the kernel that ends with this fault.
    #[must_use]
    pub fn kernel(self) -> &'static str {
        match self {
            Fault::Lost => "fault_lost",
            Fault::Ecc => "fault_ecc",
            Fault::IllegalAddress => "fault_illegal_address",
            Fault::LaunchTimeout => "fault_launch_timeout",
            Fault::Assert => "fault_assert",
            Fault::HardwareStack => "fault_hardware_stack",
            Fault::IllegalInstruction => "fault_illegal_instruction",
            Fault::Misaligned => "fault_misaligned",
            Fault::InvalidAddressSpace => "fault_invalid_address_space",
            Fault::InvalidPc => "fault_invalid_pc",
            Fault::LaunchFailure => "fault_launch_failure",
            Fault::Hang => "fault_hang",
        }
    }

    /// The `CUresult` that every call gives from the next synchronisation on; `None` for a hang, which gives nothing.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Fault::Lost => Some(46),
            Fault::Ecc => Some(214),
            Fault::IllegalAddress => Some(700),
            Fault::LaunchTimeout => Some(702),
            Fault::Assert => Some(710),
            Fault::HardwareStack => Some(714),
            Fault::IllegalInstruction => Some(715),
            Fault::Misaligned => Some(716),
            Fault::InvalidAddressSpace => Some(717),
            Fault::InvalidPc => Some(718),
            Fault::LaunchFailure => Some(719),
            Fault::Hang => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_kernel_that_leads_back_to_it() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of_kernel(fault.kernel()), Some(fault));
        }
        assert_eq!(Fault::of_kernel("gemm_f32"), None);
        assert_eq!(Fault::of_kernel("fault_"), None);
    }
}
