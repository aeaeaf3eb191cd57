//! Types of elements and of scalars, and numbers as a GPU sees them: little-endian bytes.
//!
//! A [`Scalar`] is never NaN or infinite when it was read by this crate. As text (and in serde) it is its type and its
//! value, `f32 0.5`, in digits that give the same bits back.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// What a buffer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementType {
    /// 8 bits, unsigned.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// IEEE 754 single precision.
    F32,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// IEEE 754 double precision.
    F64,
}

/// A parameter of a function, or an argument by value of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// 32 bits, unsigned.
    U32(u32),
    /// 32 bits, signed.
    I32(i32),
    /// 64 bits, unsigned.
    U64(u64),
    /// 64 bits, signed.
    I64(i64),
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
}

/// A text that is no scalar.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a scalar is written as its type and its finite value, such as `u32 5`, not {0:?}")]
pub struct ScalarError(String);

// === impl ElementType ===

impl ElementType {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            ElementType::U8 | ElementType::I8 => 1,
            ElementType::U16 | ElementType::I16 | ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::U32 | ElementType::I32 | ElementType::F32 => 4,
            ElementType::U64 | ElementType::I64 | ElementType::F64 => 8,
        }
    }

    /// Whether it has a fraction.
    pub fn is_float(self) -> bool {
        match self {
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => true,
            ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::U32
            | ElementType::I32
            | ElementType::U64
            | ElementType::I64 => false,
        }
    }

    /// The little-endian bytes of a whole number, where the type holds exactly that number (a float: the nearest).
    pub fn encode_integer(self, value: i128) -> Option<Vec<u8>> {
        Some(match self {
            ElementType::U8 => u8::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::I8 => i8::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::U16 => u16::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::I16 => i16::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::U32 => u32::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::I32 => i32::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::U64 => u64::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::I64 => i64::try_from(value).ok()?.to_le_bytes().to_vec(),
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => {
                return self.encode_float(nearest(value));
            }
        })
    }

    /// The little-endian bytes of the float nearest to `value`. None for whole types, and where it would be infinite.
    pub fn encode_float(self, value: f64) -> Option<Vec<u8>> {
        let (finite, bytes) = match self {
            ElementType::F16 => (f16::from_f64(value).is_finite(), f16::from_f64(value).to_le_bytes().to_vec()),
            ElementType::Bf16 => (bf16::from_f64(value).is_finite(), bf16::from_f64(value).to_le_bytes().to_vec()),
            ElementType::F32 => (narrow(value).is_finite(), narrow(value).to_le_bytes().to_vec()),
            ElementType::F64 => (value.is_finite(), value.to_le_bytes().to_vec()),
            ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::U32
            | ElementType::I32
            | ElementType::U64
            | ElementType::I64 => return None,
        };
        finite.then_some(bytes)
    }

    /// The scalar type of the same layout.
    pub(crate) fn is_scalar(self) -> bool {
        match self {
            ElementType::U32
            | ElementType::I32
            | ElementType::F32
            | ElementType::U64
            | ElementType::I64
            | ElementType::F64 => true,
            ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::F16
            | ElementType::Bf16 => false,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a float is given the nearest number that it holds")]
fn nearest(value: i128) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounds to the nearest; too large becomes infinite, and is refused"
)]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::U8 => "u8",
            ElementType::I8 => "i8",
            ElementType::U16 => "u16",
            ElementType::I16 => "i16",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
            ElementType::U32 => "u32",
            ElementType::I32 => "i32",
            ElementType::F32 => "f32",
            ElementType::U64 => "u64",
            ElementType::I64 => "i64",
            ElementType::F64 => "f64",
        })
    }
}

// === impl Scalar ===

impl Scalar {
    /// Its bytes as a kernel takes them.
    pub fn to_le_bytes(self) -> Vec<u8> {
        match self {
            Scalar::U32(value) => value.to_le_bytes().to_vec(),
            Scalar::I32(value) => value.to_le_bytes().to_vec(),
            Scalar::U64(value) => value.to_le_bytes().to_vec(),
            Scalar::I64(value) => value.to_le_bytes().to_vec(),
            Scalar::F32(value) => value.to_le_bytes().to_vec(),
            Scalar::F64(value) => value.to_le_bytes().to_vec(),
        }
    }

    /// Its type.
    pub fn element(self) -> ElementType {
        match self {
            Scalar::U32(_) => ElementType::U32,
            Scalar::I32(_) => ElementType::I32,
            Scalar::U64(_) => ElementType::U64,
            Scalar::I64(_) => ElementType::I64,
            Scalar::F32(_) => ElementType::F32,
            Scalar::F64(_) => ElementType::F64,
        }
    }

    /// The whole number, if it is one.
    pub fn integer(self) -> Option<i128> {
        match self {
            Scalar::U32(value) => Some(value.into()),
            Scalar::I32(value) => Some(value.into()),
            Scalar::U64(value) => Some(value.into()),
            Scalar::I64(value) => Some(value.into()),
            Scalar::F32(_) | Scalar::F64(_) => None,
        }
    }

    /// The float, if it is one.
    pub fn float(self) -> Option<f64> {
        match self {
            Scalar::F32(value) => Some(value.into()),
            Scalar::F64(value) => Some(value),
            Scalar::U32(_) | Scalar::I32(_) | Scalar::U64(_) | Scalar::I64(_) => None,
        }
    }

    /// `value` as a whole scalar of that type, where it fits.
    pub(crate) fn of_integer(element: ElementType, value: i128) -> Option<Scalar> {
        match element {
            ElementType::U32 => u32::try_from(value).ok().map(Scalar::U32),
            ElementType::I32 => i32::try_from(value).ok().map(Scalar::I32),
            ElementType::U64 => u64::try_from(value).ok().map(Scalar::U64),
            ElementType::I64 => i64::try_from(value).ok().map(Scalar::I64),
            ElementType::F32 | ElementType::F64 => Scalar::of_float(element, nearest(value)),
            ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::F16
            | ElementType::Bf16 => None,
        }
    }

    /// The float scalar of that type nearest to `value`, where it is finite.
    pub(crate) fn of_float(element: ElementType, value: f64) -> Option<Scalar> {
        let scalar = match element {
            ElementType::F32 => Scalar::F32(narrow(value)),
            ElementType::F64 => Scalar::F64(value),
            ElementType::U8
            | ElementType::I8
            | ElementType::U16
            | ElementType::I16
            | ElementType::F16
            | ElementType::Bf16
            | ElementType::U32
            | ElementType::I32
            | ElementType::U64
            | ElementType::I64 => return None,
        };
        scalar.is_finite().then_some(scalar)
    }

    /// Neither NaN nor infinite.
    pub(crate) fn is_finite(self) -> bool {
        self.float().is_none_or(f64::is_finite)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.element())?;
        match self {
            Scalar::U32(value) => write!(f, "{value}"),
            Scalar::I32(value) => write!(f, "{value}"),
            Scalar::U64(value) => write!(f, "{value}"),
            Scalar::I64(value) => write!(f, "{value}"),
            Scalar::F32(value) => write!(f, "{value:?}"),
            Scalar::F64(value) => write!(f, "{value:?}"),
        }
    }
}

impl FromStr for Scalar {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Scalar, ScalarError> {
        let scalar = text.split_once(' ').and_then(|(element, value)| {
            Some(match element {
                "u32" => Scalar::U32(value.parse().ok()?),
                "i32" => Scalar::I32(value.parse().ok()?),
                "u64" => Scalar::U64(value.parse().ok()?),
                "i64" => Scalar::I64(value.parse().ok()?),
                "f32" => Scalar::F32(value.parse().ok()?),
                "f64" => Scalar::F64(value.parse().ok()?),
                _ => return None,
            })
        });
        scalar.filter(|scalar| scalar.is_finite()).ok_or_else(|| ScalarError(text.chars().take(80).collect()))
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Scalar, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
