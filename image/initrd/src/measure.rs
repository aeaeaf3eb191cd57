//! What is said to the TPM: one event into register 11, where the boot's phases are counted.
//!
//! The command is TPM2_PCR_Event with an empty password: the TPM hashes the event for each of its banks, so nothing is
//! hashed here and no bank is forgotten. A secret sealed to the signed policy of a release opens only after the phases
//! that the policy lists, which is why the two words are systemd's.

/// The register of the kernel image and the phases of its boot (UAPI PCR registry).
const REGISTER: u32 = 11;

/// An answer is at most so long: a digest of each bank.
pub const ANSWER_BYTES_MAX: usize = 4096;

/// A step of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first process has begun.
    EnterInitrd,
    /// The root is ready; what was sealed for the first process alone is closed.
    LeaveInitrd,
}

/// Why the TPM did not count a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The answer is shorter than any is.
    #[error("the TPM's answer has {0} bytes")]
    Short(usize),
    /// The TPM said no.
    #[error("the TPM refused: {0:#x}")]
    Refused(u32),
}

// === impl Phase ===

impl Phase {
    /// The word that is measured.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Phase::EnterInitrd => "enter-initrd",
            Phase::LeaveInitrd => "leave-initrd",
        }
    }

    /// The command's bytes.
    #[must_use]
    pub fn command(self) -> Vec<u8> {
        let word = self.word().as_bytes();
        // Both words have twelve letters.
        let word_bytes = u16::try_from(word.len()).unwrap_or(u16::MAX);
        let mut body = Vec::with_capacity(64);
        body.extend(0x013c_u32.to_be_bytes()); // TPM2_CC_PCR_Event
        body.extend(REGISTER.to_be_bytes());
        body.extend(9_u32.to_be_bytes());
        body.extend(0x4000_0009_u32.to_be_bytes()); // TPM2_RS_PW, with nothing in its three fields
        body.extend([0; 5]);
        body.extend(word_bytes.to_be_bytes());
        body.extend(word);
        let whole = u32::try_from(body.len() + 6).unwrap_or(u32::MAX);
        let mut command = Vec::with_capacity(64);
        command.extend(0x8002_u16.to_be_bytes()); // TPM2_ST_SESSIONS
        command.extend(whole.to_be_bytes());
        command.extend(body);
        command
    }
}

/// Whether `answer` says that the phase was counted.
pub fn accepted(answer: &[u8]) -> Result<(), MeasureError> {
    let code = answer.get(6..10).ok_or(MeasureError::Short(answer.len()))?;
    match u32::from_be_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        code => Err(MeasureError::Refused(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_as_the_specification_lays_it_out() {
        let command = Phase::EnterInitrd.command();
        let expected = b"\x80\x02\0\0\0\x29\0\0\x01\x3c\0\0\0\x0b\0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\x0center-initrd";
        assert_eq!(command, expected);
        assert_eq!(command.len(), 0x29);
        assert_eq!(Phase::LeaveInitrd.command().len(), 0x29);
    }

    #[test]
    fn only_a_zero_code_is_yes() {
        assert_eq!(accepted(b"\x80\x02\0\0\0\x0a\0\0\0\0"), Ok(()));
        assert_eq!(accepted(b"\x80\x01\0\0\0\x0a\0\0\x01\x01"), Err(MeasureError::Refused(0x101)));
        for short in [&b""[..], b"\x80\x02\0\0\0\x0a\0\0\0"] {
            assert_eq!(accepted(short), Err(MeasureError::Short(short.len())));
        }
    }
}
