//! What the driver itself says a GPU needs before it can be trusted again.
//!
//! Drivers from R565 say it in two ways that must agree: the NVML field `GET_GPU_RECOVERY_ACTION`, which
//! [`crate::watch`] reads every second, and the text of Xid 154 in the kernel's log. Both give a [`RecoveryAction`],
//! and it overrules what the table of [`crate::xid`] would conclude.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a GPU needs, in the driver's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryAction {
    /// Nothing.
    None,
    /// A reset of the GPU, at once.
    GpuReset,
    /// A reboot of the machine.
    NodeReboot,
    /// No more traffic between GPUs; then a reset.
    DrainP2p,
    /// The work that runs may end, no new work; then a reset.
    DrainAndReset,
    /// The link domain that the GPU belongs to has to be set up again.
    Imex,
    /// A reset of the bus that the GPU sits on.
    BusReset,
    /// A reboot of the whole system, its management included.
    SystemReboot,
    /// A code that this version does not know.
    Unknown(u32),
}

/// The text of an Xid 154 holds no action in brackets that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text of Xid 154 names no known recovery action: {text:?}")]
pub struct NoAction {
    text: String,
}

/// How much of a text the error repeats; the kernel's log line is shorter.
const QUOTED_CHARS_MAX: usize = 200;

// === impl RecoveryAction ===

impl RecoveryAction {
    /// From the value of the NVML field. Codes 0 to 4 are in every driver that has the field, 5 to 7 came later.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::None,
            1 => Self::GpuReset,
            2 => Self::NodeReboot,
            3 => Self::DrainP2p,
            4 => Self::DrainAndReset,
            5 => Self::Imex,
            6 => Self::BusReset,
            7 => Self::SystemReboot,
            unknown => Self::Unknown(unknown),
        }
    }

    /// From the text of an Xid 154, such as `… changed from 0x0 (None) to 0x1 (GPU Reset Required)`. The last known
    /// action in brackets counts, for a change names the old action first.
    /// Errors: [`NoAction`] when no bracket holds a known action.
    pub fn from_text(text: &str) -> Result<Self, NoAction> {
        let bracketed = text.split('(').skip(1).filter_map(|rest| rest.split_once(')')).map(|(inside, _)| inside);
        let known = bracketed.filter_map(|inside| match inside.trim() {
            "None" => Some(Self::None),
            "GPU Reset Required" => Some(Self::GpuReset),
            "Node Reboot Required" => Some(Self::NodeReboot),
            "Drain P2P" => Some(Self::DrainP2p),
            "Drain and Reset" => Some(Self::DrainAndReset),
            _ => None,
        });
        known.last().ok_or_else(|| NoAction { text: text.chars().take(QUOTED_CHARS_MAX).collect() })
    }
}

impl fmt::Display for RecoveryAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing"),
            Self::GpuReset => f.write_str("a reset of the GPU"),
            Self::NodeReboot => f.write_str("a reboot of the machine"),
            Self::DrainP2p => f.write_str("an end of traffic between GPUs, then a reset"),
            Self::DrainAndReset => f.write_str("an end of its work, then a reset"),
            Self::Imex => f.write_str("its link domain to be set up again"),
            Self::BusReset => f.write_str("a reset of its bus"),
            Self::SystemReboot => f.write_str("a reboot of the whole system"),
            Self::Unknown(code) => write!(f, "something this version does not know (code {code})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_xid_154_gives_the_new_action() {
        let check = |text: &str, expected| assert_eq!(RecoveryAction::from_text(text).ok(), expected, "{text}");
        let line =
            "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)";
        check(line, Some(RecoveryAction::GpuReset));
        check("to 0x2 (Node Reboot Required)", Some(RecoveryAction::NodeReboot));
        check("to 0x3 (Drain P2P)", Some(RecoveryAction::DrainP2p));
        check("to 0x4 (Drain and Reset)", Some(RecoveryAction::DrainAndReset));
        check("from 0x1 (GPU Reset Required) to 0x0 (None)", Some(RecoveryAction::None));
        check("to 0x9 (Pray)", None);
        check("GPU Reset Required", None);
        check("(GPU Reset Required", None);
        check("", None);
    }

    #[test]
    fn every_code_of_the_header_is_known() {
        for code in 0..=7 {
            assert!(!matches!(RecoveryAction::from_code(code), RecoveryAction::Unknown(_)), "{code}");
        }
        assert_eq!(RecoveryAction::from_code(8), RecoveryAction::Unknown(8));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fall_over(text: String) {
            let _ = RecoveryAction::from_text(&text);
        }
    }
}
