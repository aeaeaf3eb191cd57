//! Parameters: scalars of a task's `data`, with their bounds.

use crate::bundle::{BundleError, check_name};
use crate::expression::{FUNCTIONS, Range, Scope};
use crate::manifest::{Number, ParameterText};
use crate::pointer::{self, Pointer};
use crate::scalar::{ElementType, Scalar};

/// A scalar of a task's `data`.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: String,
    element: ElementType,
    from: Pointer,
    min: Option<Scalar>,
    max: Option<Scalar>,
    default: Option<Scalar>,
}

// === impl Parameter ===

impl Parameter {
    pub(super) fn check(place: &str, name: &str, text: &ParameterText) -> Result<Parameter, BundleError> {
        check_name(place, name)?;
        if FUNCTIONS.contains(&name) {
            return Err(BundleError::at(place, "expressions have a function of this name"));
        }
        let at = |key: &str, reason: String| BundleError::at(&format!("{place}.{key}"), reason);
        if !text.element.is_scalar() {
            let reason = format!("a parameter is u32, i32, u64, i64, f32 or f64, not {}", text.element);
            return Err(at("type", reason));
        }
        let from = pointer::or_default(text.from.as_deref(), name).map_err(|reason| at("from", reason))?;
        let number = |key: &str, number: &Option<Number>| {
            let scalar = number.as_ref().map(|number| scalar(text.element, number));
            scalar.transpose().map_err(|reason| at(key, reason))
        };
        let mut parameter = Parameter {
            name: name.to_owned(),
            element: text.element,
            from,
            min: number("min", &text.min)?,
            max: number("max", &text.max)?,
            default: None,
        };
        for (key, bound) in [("min", parameter.min), ("max", parameter.max)] {
            if bound.is_none() && !text.element.is_float() {
                return Err(at(key, "a whole parameter has `min` and `max`: they bound sizes and repeats".to_owned()));
            }
        }
        if let (Some(min), Some(max)) = (parameter.min, parameter.max)
            && is_less(max, min)
        {
            return Err(at("max", format!("{max} is below `min`")));
        }
        if let Some(default) = number("default", &text.default)? {
            parameter.admit(default).map_err(|reason| at("default", reason))?;
            parameter.default = Some(default);
        }
        Ok(parameter)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type: one of u32, i32, u64, i64, f32, f64.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Where it stands in `data`: a JSON pointer.
    pub fn from(&self) -> &str {
        self.from.as_str()
    }

    /// The least value. A whole parameter has one.
    pub fn min(&self) -> Option<Scalar> {
        self.min
    }

    /// The greatest value. A whole parameter has one.
    pub fn max(&self) -> Option<Scalar> {
        self.max
    }

    /// The value where `data` has none.
    pub fn default(&self) -> Option<Scalar> {
        self.default
    }

    /// Whether it may have that value. Errors: a sentence.
    pub(crate) fn admit(&self, value: Scalar) -> Result<(), String> {
        if value.element() != self.element {
            return Err(format!("it is {}, not {}", self.element, value.element()));
        }
        if !value.is_finite() {
            return Err("it is a finite number".to_owned());
        }
        match (self.min, self.max) {
            (Some(min), _) if is_less(value, min) => Err(format!("{value} is below the least, {min}")),
            (_, Some(max)) if is_less(max, value) => Err(format!("{value} is above the greatest, {max}")),
            _ => Ok(()),
        }
    }

    /// What an expression may expect of it; none if it can be negative or has a fraction.
    fn range(&self) -> Option<Range> {
        let bound = |scalar: Option<Scalar>| scalar?.integer().and_then(|number| u64::try_from(number).ok());
        Some(Range { low: bound(self.min)?, high: bound(self.max)? })
    }

    /// Whether expressions may name it.
    pub(crate) fn is_countable(&self) -> bool {
        self.range().is_some()
    }
}

/// The names that expressions of a function begin with.
pub(super) fn scope(parameters: &[Parameter]) -> Scope {
    Scope(parameters.iter().filter_map(|each| Some((each.name.clone(), each.range()?))).collect())
}

fn is_less(a: Scalar, b: Scalar) -> bool {
    match (a.integer(), b.integer(), a.float(), b.float()) {
        (Some(a), Some(b), _, _) => a < b,
        (_, _, Some(a), Some(b)) => a < b,
        _ => false,
    }
}

/// A literal of that type. Errors: a sentence.
pub(super) fn scalar(element: ElementType, number: &Number) -> Result<Scalar, String> {
    let (scalar, written) = match number {
        Number::Integer(integer) => (Scalar::of_integer(element, *integer), integer.to_string()),
        Number::Float(float) => (Scalar::of_float(element, *float), float.to_string()),
        Number::Text(text) => (None, format!("the text {:?}", text.chars().take(80).collect::<String>())),
    };
    scalar.ok_or_else(|| format!("{written} is no finite {element}"))
}
