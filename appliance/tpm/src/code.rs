//! A TPM's return code, with the layers above it.

use std::fmt;

use tpm2_protocol::data::{TpmRc, TpmRcBase};

/// Bits above which the layer stands that made a code: zero is the TPM itself.
const LAYER_SHIFT: u32 = 16;
/// TSS2_RESMGR_RC_LAYER, which the kernel's resource manager uses for codes that it makes up in the TPM's place.
const RESOURCE_MANAGER: u32 = 11;
/// TSS2_RESMGR_TPM_RC_LAYER: the same of a resource manager in user space.
const RESOURCE_MANAGER_TPM: u32 = 12;

/// A return code as it came, TPM_RC of "Trusted Platform Module Library, Part 2: Structures", section 6.6.
///
/// Shown with its name where it has one: `TPM_RC_INTEGRITY parameter[1] (0x1df)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u32);

// === impl Code ===

impl Code {
    /// The code as it came.
    pub const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// What it is of the codes that the standard names, whoever spoke it and whatever it points at.
    pub(crate) fn base(self) -> Option<TpmRcBase> {
        self.standard().map(|rc| rc.base())
    }

    fn standard(self) -> Option<TpmRc> {
        let spoken_by = self.0 >> LAYER_SHIFT;
        if ![0, RESOURCE_MANAGER, RESOURCE_MANAGER_TPM].contains(&spoken_by) {
            return None;
        }
        TpmRc::try_from(self.0 & ((1 << LAYER_SHIFT) - 1)).ok()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.standard() {
            Some(TpmRc::Fmt1(code)) => match code.index {
                Some(index) => write!(f, "{} {index} ({:#05x})", code.base, self.0),
                None => write!(f, "{} ({:#05x})", code.base, self.0),
            },
            Some(TpmRc::Fmt0(base) | TpmRc::Warn(base)) => write!(f, "{base} ({:#05x})", self.0),
            None => write!(f, "a code of the TPM's maker ({:#x})", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_shown_with_its_name_and_its_number() {
        let check = |raw, expected: &str| assert_eq!(Code::new(raw).to_string(), expected);
        check(0x1df, "TPM_RC_INTEGRITY parameter[1] (0x1df)");
        check(0x99d, "TPM_RC_POLICY_FAIL session[1] (0x99d)");
        check(0x18b, "TPM_RC_HANDLE handle[1] (0x18b)");
        check(0x128, "TPM_RC_PCR_CHANGED (0x128)");
        check(0x921, "TPM_RC_LOCKOUT (0x921)");
        check(0x000b_0143, "TPM_RC_COMMAND_CODE (0xb0143)");
        check(0x0000_0500, "a code of the TPM's maker (0x500)");
        check(0x00aa_0101, "a code of the TPM's maker (0xaa0101)");
        check(u32::MAX, "a code of the TPM's maker (0xffffffff)");
    }
}
