//! Versions of CUDA and of PTX, compute capabilities, and which of them need which.
//!
//! A version beyond the tables is refused rather than guessed at: a new PTX ISA is one line here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::module::Kind;

/// A version of CUDA (as a driver supports it) or of the PTX ISA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Before the point.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

/// A compute capability: `sm_90` is 90.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch(u32);

/// A text that is no version or no compute capability.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VersionError {
    /// Not `12.4`.
    #[error("a version is written such as `12.4`, not {0:?}")]
    Version(String),
    /// Not `sm_90`.
    #[error("a target is written such as `sm_90`, not {0:?}; `a` and `f` targets run on one GPU model only")]
    Arch(String),
}

/// The first PTX ISA of CUDA 9, the oldest toolkit whose PTX is taken.
const OLDEST_ISA: Version = Version { major: 6, minor: 0 };

/// The newest PTX ISA that is taken.
const NEWEST_ISA: Version = Version { major: 9, minor: 9 };

/// The first PTX ISA that knows a target. Source: NVIDIA's PTX ISA manual, release history.
const FIRST_ISA: [(u32, Version); 17] = [
    (60, Version { major: 6, minor: 0 }),
    (61, Version { major: 6, minor: 0 }),
    (62, Version { major: 6, minor: 0 }),
    (70, Version { major: 6, minor: 0 }),
    (72, Version { major: 6, minor: 1 }),
    (75, Version { major: 6, minor: 3 }),
    (80, Version { major: 7, minor: 0 }),
    (86, Version { major: 7, minor: 1 }),
    (87, Version { major: 7, minor: 4 }),
    (89, Version { major: 7, minor: 8 }),
    (90, Version { major: 7, minor: 8 }),
    (100, Version { major: 8, minor: 6 }),
    (101, Version { major: 8, minor: 6 }),
    (103, Version { major: 8, minor: 8 }),
    (110, Version { major: 9, minor: 0 }),
    (120, Version { major: 8, minor: 7 }),
    (121, Version { major: 8, minor: 8 }),
];

// === impl Version ===

impl Version {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    /// The CUDA version that a driver must support to take PTX of this ISA; none if the ISA is unknown here.
    /// Source: NVIDIA's PTX ISA manual, release history.
    pub fn cuda_of_isa(self) -> Option<Version> {
        if self < OLDEST_ISA || self > NEWEST_ISA {
            return None;
        }
        match (self.major, self.minor) {
            (6, minor @ 0..=2) => Some(Version::new(9, minor)),
            (6, minor @ 3..=5) => Some(Version::new(10, minor - 3)),
            (7, minor @ 0..=8) => Some(Version::new(11, minor)),
            (8, minor @ 0..=5) => Some(Version::new(12, minor)),
            // CUDA 12.6 brought no ISA of its own.
            (8, minor @ 6..=8) => Some(Version::new(12, minor + 1)),
            (9, minor) => Some(Version::new(13, minor)),
            (_, _) => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Version, VersionError> {
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        let (major, minor) = parts.ok_or_else(|| VersionError::Version(text.chars().take(80).collect()))?;
        Ok(Version { major, minor })
    }
}

/// One to three digits without a needless zero: one way to write each number.
fn number(text: &str) -> Option<u32> {
    let plain = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

// === impl Arch ===

impl Arch {
    /// The compute capability `major.minor`. Its minor part has one digit.
    pub const fn new(major: u32, minor: u32) -> Arch {
        Arch(major * 10 + minor)
    }

    /// `sm_90` is 90.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether code of this kind, built for `self`, runs on `device`. PTX runs on its target and whatever came later;
    /// machine code within its major version, on its own minor version and later.
    pub fn runs_on(self, kind: Kind, device: Arch) -> bool {
        match kind {
            Kind::Ptx => device >= self,
            Kind::Cubin | Kind::Fatbin => device.0 / 10 == self.0 / 10 && device >= self,
        }
    }

    /// The first PTX ISA that knows this target; none if the target is unknown here.
    pub fn first_isa(self) -> Option<Version> {
        FIRST_ISA.iter().find(|(arch, _)| *arch == self.0).map(|(_, isa)| *isa)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

impl FromStr for Arch {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Arch, VersionError> {
        let arch = text.strip_prefix("sm_").and_then(number).filter(|arch| *arch >= 10);
        arch.map(Arch).ok_or_else(|| VersionError::Arch(text.chars().take(80).collect()))
    }
}

impl From<u32> for Arch {
    fn from(number: u32) -> Arch {
        Arch(number)
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Version, Arch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_targets_are_read_as_they_are_written() {
        for text in ["0.0", "12.4", "9.10", "535.183"] {
            assert_eq!(text.parse::<Version>().expect(text).to_string(), text);
        }
        for text in ["sm_75", "sm_90", "sm_120"] {
            assert_eq!(text.parse::<Arch>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", ".", "1", "1.", ".1", "1.2.3", "+1.2", "01.2", "1.02", "1 .2", "1.2345", "1,2"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        for text in ["", "sm_", "sm_9", "sm_090", "sm_90a", "sm_100f", "compute_90", "SM_90", "sm_1234", "sm_+90"] {
            assert!(text.parse::<Arch>().is_err(), "{text}");
        }
    }

    #[test]
    fn ptx_runs_on_what_came_later_and_machine_code_within_its_generation() {
        let check = |built: u32, kind, device: u32, expected| {
            assert_eq!(Arch(built).runs_on(kind, Arch(device)), expected, "sm_{built} {kind:?} on sm_{device}");
        };
        check(75, Kind::Ptx, 75, true);
        check(75, Kind::Ptx, 120, true);
        check(75, Kind::Ptx, 70, false);
        check(80, Kind::Cubin, 86, true);
        check(86, Kind::Cubin, 80, false);
        check(89, Kind::Cubin, 90, false);
        check(100, Kind::Fatbin, 103, true);
        check(100, Kind::Fatbin, 110, false);
    }

    #[test]
    fn an_isa_needs_the_cuda_that_brought_it() {
        let check = |isa: (u32, u32), cuda: Option<(u32, u32)>| {
            let cuda = cuda.map(|(major, minor)| Version { major, minor });
            assert_eq!(Version::new(isa.0, isa.1).cuda_of_isa(), cuda, "{isa:?}");
        };
        check((6, 0), Some((9, 0)));
        check((6, 4), Some((10, 1)));
        check((7, 8), Some((11, 8)));
        check((8, 4), Some((12, 4)));
        check((8, 8), Some((12, 9)));
        check((9, 0), Some((13, 0)));
        check((5, 0), None);
        check((7, 9), None);
        check((8, 9), None);
        check((10, 0), None);
    }
}
