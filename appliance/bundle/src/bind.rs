//! Binds a task's JSON to a function: parameters, and where each input's bytes come from.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::function::{Function, Parameter};
use crate::limits::LINK_CHARS_MAX;
use crate::manifest::InputForm;
use crate::plan::{PlanError, PlannedBuffer};
use crate::scalar::Scalar;

/// The values of a function's parameters by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(BTreeMap<String, Scalar>);

/// A task's `data`, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// Its scalars; defaults where `data` has none.
    pub parameters: Parameters,
    /// Its buffers, in the order of [`Plan::inputs`](crate::Plan::inputs).
    pub inputs: Vec<InputSource>,
}

/// Where the bytes of an input come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// Here they are: as many as the buffer has.
    Bytes(Vec<u8>),
    /// A link for the provider to fetch. What it gives must be as long as the buffer.
    Content(String),
}

/// A task's `data` that does not fit the function.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BindError {
    /// A value is missing, of another kind or size, or out of its range.
    #[error("data at {pointer:?}: {reason}")]
    Data {
        /// The JSON pointer.
        pointer: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The values are fine one by one, but not together.
    #[error("plan the run")]
    Plan(#[source] PlanError),
}

// === impl Parameters ===

impl Parameters {
    /// The value of one.
    pub fn get(&self, name: &str) -> Option<Scalar> {
        self.0.get(name).copied()
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Scalar)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

impl<N: Into<String>> FromIterator<(N, Scalar)> for Parameters {
    fn from_iter<T: IntoIterator<Item = (N, Scalar)>>(pairs: T) -> Parameters {
        Parameters(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

// === impl Function ===

impl Function {
    /// Takes parameters and inputs from a task's `data`. What else it has is left alone. Errors: see [`BindError`].
    pub fn bind(&self, data: &Value) -> Result<Bound, BindError> {
        let scalars = self.parameters().iter().map(|parameter| {
            let at = |reason| BindError::Data { pointer: parameter.from().to_owned(), reason };
            let value = scalar(parameter, data.pointer(parameter.from())).map_err(at)?;
            Ok((parameter.name(), value))
        });
        let parameters = scalars.collect::<Result<Parameters, BindError>>()?;
        let plan = self.plan(&parameters).map_err(BindError::Plan)?;
        let buffers = self.buffers().iter().zip(&plan.buffers);
        let inputs = buffers.filter_map(|(buffer, planned)| Some((buffer.input.as_ref()?, planned)));
        let inputs = inputs.map(|(input, planned)| {
            let pointer = input.from.as_str();
            let found = data.pointer(pointer).ok_or_else(|| format!("input `{}` is missing", planned.name));
            let source = found.and_then(|value| source(input.form, planned, value));
            source.map_err(|reason| BindError::Data { pointer: pointer.to_owned(), reason })
        });
        let inputs = inputs.collect::<Result<Vec<_>, BindError>>()?;
        Ok(Bound { parameters, inputs })
    }
}

fn scalar(parameter: &Parameter, value: Option<&Value>) -> Result<Scalar, String> {
    let value = match (value, parameter.default()) {
        (None, Some(default)) => return Ok(default),
        (None, None) => return Err(format!("parameter `{}` is missing", parameter.name())),
        (Some(value), _) => value,
    };
    let number = integer(value).map(|number| Scalar::of_integer(parameter.element(), number));
    let number = number.or_else(|| Some(Scalar::of_float(parameter.element(), value.as_f64()?)));
    let scalar = number.flatten().ok_or_else(|| format!("{} is no {}", shown(value), parameter.element()))?;
    parameter.admit(scalar).map(|()| scalar)
}

fn source(form: InputForm, buffer: &PlannedBuffer, value: &Value) -> Result<InputSource, String> {
    match form {
        InputForm::Base64 => bytes(buffer, value.as_str().ok_or("base64 is a text")?).map(InputSource::Bytes),
        InputForm::Content => {
            let link = value.as_str().ok_or("a link is a text")?;
            let is_plain = !link.is_empty() && link.chars().count() <= LINK_CHARS_MAX;
            if is_plain && !link.chars().any(|each| each.is_control() || each.is_whitespace()) {
                return Ok(InputSource::Content(link.to_owned()));
            }
            Err(format!("a link has 1 to {LINK_CHARS_MAX} characters and no spaces"))
        }
        InputForm::Json => numbers(buffer, value).map(InputSource::Bytes),
    }
}

fn bytes(buffer: &PlannedBuffer, text: &str) -> Result<Vec<u8>, String> {
    // The length first: a text a thousand times too long is not decoded to find that out.
    let expected = buffer.bytes.div_ceil(3).saturating_mul(4);
    if u64::try_from(text.len()) != Ok(expected) {
        let (name, bytes) = (&buffer.name, buffer.bytes);
        return Err(format!("`{name}` has {bytes} bytes, {expected} characters of base64; these are {}", text.len()));
    }
    let decoded = STANDARD.decode(text).map_err(|error| format!("base64: {error}"))?;
    if u64::try_from(decoded.len()) != Ok(buffer.bytes) {
        return Err(format!("`{}` has {} bytes; these are {}", buffer.name, buffer.bytes, decoded.len()));
    }
    Ok(decoded)
}

fn numbers(buffer: &PlannedBuffer, value: &Value) -> Result<Vec<u8>, String> {
    let numbers = match value {
        Value::Array(numbers) => numbers.as_slice(),
        Value::Number(_) => std::slice::from_ref(value),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => {
            return Err("an array of numbers was expected".to_owned());
        }
    };
    if u64::try_from(numbers.len()) != Ok(buffer.elements) {
        return Err(format!("`{}` has {} elements; these are {}", buffer.name, buffer.elements, numbers.len()));
    }
    let mut bytes = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let whole = integer(number).map(|number| buffer.element.encode_integer(number));
        let element = whole.or_else(|| Some(buffer.element.encode_float(number.as_f64()?))).flatten();
        let element = element.ok_or_else(|| format!("[{index}] is {}, no {}", shown(number), buffer.element))?;
        bytes.extend(element);
    }
    Ok(bytes)
}

fn integer(value: &Value) -> Option<i128> {
    value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from))
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}
