//! `bundle.toml` as it is written: keys and values, before anything is checked against anything else.
//!
//! An unknown key is refused with its line and the nearest key of that place. A key that stands twice is refused by the
//! TOML parser.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::bundle::BundleError;
use crate::function::{Determinism, Metric};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::module::Kind;
use crate::plan::Access;
use crate::scalar::ElementType;
use crate::version::{Arch, Version};

/// The format that is read here.
const FORMAT: i64 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(rename = "format")]
    _format: i64,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default, rename = "module")]
    pub(crate) modules: Vec<ModuleText>,
    #[serde(default, rename = "function")]
    pub(crate) functions: BTreeMap<String, FunctionText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModuleText {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) kind: Kind,
    pub(crate) ptx_isa: Option<Version>,
    pub(crate) target: Option<Arch>,
    pub(crate) min_driver: Version,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionText {
    pub(crate) determinism: Determinism,
    pub(crate) seconds: u32,
    pub(crate) vram_bytes: Option<Formula>,
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, ParameterText>,
    #[serde(default)]
    pub(crate) buffers: BTreeMap<String, BufferText>,
    #[serde(default)]
    pub(crate) steps: Vec<StepText>,
    #[serde(default)]
    pub(crate) times: BTreeMap<String, TimeText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParameterText {
    #[serde(rename = "type")]
    pub(crate) element: ElementType,
    pub(crate) from: Option<String>,
    pub(crate) min: Option<Number>,
    pub(crate) max: Option<Number>,
    pub(crate) default: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BufferText {
    #[serde(rename = "type")]
    pub(crate) element: ElementType,
    pub(crate) elements: Formula,
    pub(crate) input: Option<InputText>,
    pub(crate) output: Option<OutputText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputText {
    pub(crate) from: Option<String>,
    #[serde(rename = "as")]
    pub(crate) form: InputForm,
}

/// How an input stands in `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputForm {
    /// Little-endian bytes in base64.
    Base64,
    /// A link to little-endian bytes.
    Content,
    /// An array of numbers.
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputText {
    pub(crate) to: Option<String>,
    #[serde(rename = "as")]
    pub(crate) form: OutputWord,
    pub(crate) width: Option<Formula>,
    pub(crate) height: Option<Formula>,
    pub(crate) channels: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputWord {
    Base64,
    Content,
    Json,
    Png,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeText {
    pub(crate) from: String,
    pub(crate) until: String,
    pub(crate) to: Option<String>,
}

/// A step has the keys of one of the five kinds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepText {
    pub(crate) launch: Option<String>,
    pub(crate) module: Option<String>,
    pub(crate) grid: Option<Vec<Formula>>,
    pub(crate) block: Option<Vec<Formula>>,
    pub(crate) shared_bytes: Option<Formula>,
    pub(crate) arguments: Option<Vec<ArgumentText>>,
    pub(crate) copy: Option<CopyText>,
    pub(crate) fill: Option<FillText>,
    pub(crate) repeat: Option<Formula>,
    pub(crate) index: Option<String>,
    pub(crate) steps: Option<Vec<StepText>>,
    pub(crate) mark: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArgumentText {
    pub(crate) buffer: Option<String>,
    pub(crate) access: Option<Access>,
    pub(crate) offset: Option<Formula>,
    pub(crate) elements: Option<Formula>,
    pub(crate) value: Option<Number>,
    #[serde(rename = "type")]
    pub(crate) element: Option<ElementType>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopyText {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) from_offset: Option<Formula>,
    pub(crate) to_offset: Option<Formula>,
    pub(crate) elements: Option<Formula>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FillText {
    pub(crate) buffer: String,
    pub(crate) value: Number,
    pub(crate) offset: Option<Formula>,
    pub(crate) elements: Option<Formula>,
}

/// The text of an expression. A plain number is one, too.
#[derive(Clone, Debug)]
pub(crate) struct Formula(pub(crate) String);

/// A number, or a text that stands for one.
#[derive(Clone, Debug)]
pub(crate) enum Number {
    Integer(i128),
    Float(f64),
    Text(String),
}

/// Reads the file. Errors: its size, its format, an unknown key, or what the TOML parser found, with the line.
pub(crate) fn read(bytes: &[u8]) -> Result<Manifest, BundleError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        let reason = format!("it has {} bytes, at most {MANIFEST_BYTES_MAX} are read", bytes.len());
        return Err(BundleError::at("bundle.toml", reason));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BundleError::at("bundle.toml", "it is not UTF-8"))?;
    // The format first: in a bundle of another one, every other complaint would mislead.
    #[derive(Deserialize)]
    struct Format {
        format: Option<i64>,
    }
    let found: Format = toml::from_str(text).map_err(|error| explain(text, &error))?;
    match found.format {
        Some(FORMAT) => toml::from_str(text).map_err(|error| explain(text, &error)),
        found => Err(BundleError::Format { found }),
    }
}

/// Turns the parser's error into one that names line and key.
fn explain(text: &str, error: &toml::de::Error) -> BundleError {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
    match unknown_key(error.message()) {
        Some((key, nearest)) => BundleError::UnknownKey { line, key, nearest },
        None => BundleError::Syntax { line, message: error.message().replace('\n', " ") },
    }
}

/// The key, and the nearest of those it could have been, in serde's own sentence for an unknown field.
fn unknown_key(message: &str) -> Option<(String, Option<String>)> {
    let (key, expected) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    let valid = expected.split('`').skip(1).step_by(2);
    let nearest = valid.min_by_key(|valid| strsim::damerau_levenshtein(key, valid)).map(str::to_owned);
    Some((key.chars().take(80).collect(), nearest))
}

// === impl Formula ===

impl<'de> Deserialize<'de> for Formula {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Formula, D::Error> {
        match Number::deserialize(from)? {
            Number::Text(text) => Ok(Formula(text)),
            Number::Integer(number) if number >= 0 => Ok(Formula(number.to_string())),
            Number::Integer(number) => Err(D::Error::custom(format!("{number} is below zero"))),
            Number::Float(number) => Err(D::Error::custom(format!("{number} is no whole number"))),
        }
    }
}

// === impl Number ===

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number::Integer(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number::Integer(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Number, E> {
        Ok(Number::Integer(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Number, E> {
        Ok(Number::Text(value.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        from.deserialize_any(NumberVisitor)
    }
}

// === impl Determinism ===

struct DeterminismVisitor;

impl<'de> Visitor<'de> for DeterminismVisitor {
    type Value = Determinism;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`bitwise-any`, `bitwise-same-class`, `none` or { tolerance, metric }")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Determinism, E> {
        match value {
            "bitwise-any" => Ok(Determinism::BitwiseAny),
            "bitwise-same-class" => Ok(Determinism::BitwiseSameClass),
            "none" => Ok(Determinism::None),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(value), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Determinism, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tolerance {
            tolerance: f64,
            metric: Metric,
        }
        let Tolerance { tolerance, metric } = Tolerance::deserialize(MapAccessDeserializer::new(map))?;
        if tolerance.is_finite() && tolerance >= 0.0 {
            return Ok(Determinism::Tolerance { tolerance, metric });
        }
        Err(A::Error::custom(format!("a tolerance is finite and at least zero, not {tolerance}")))
    }
}

impl<'de> Deserialize<'de> for Determinism {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Determinism, D::Error> {
        from.deserialize_any(DeterminismVisitor)
    }
}
