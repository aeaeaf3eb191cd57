//! From the text of a function to a function.

use std::collections::BTreeMap;

use super::buffers::Buffer;
use super::parameters::{self, Parameter};
use super::steps::Checker;
use super::{Function, Time};
use crate::bundle::{BundleError, check_name};
use crate::expression::{Expression, shown};
use crate::limits::{BUFFERS_MAX, PARAMETERS_MAX, SECONDS_MAX};
use crate::manifest::{FunctionText, TimeText};
use crate::module::Module;
use crate::pointer::{self, Pointer};

// === impl Function ===

impl Function {
    /// Checks a `[function.NAME]`. Errors: the place and what is wrong there.
    pub(crate) fn check(name: &str, text: &FunctionText, modules: &[Module]) -> Result<Function, BundleError> {
        let place = format!("function.{name}");
        let at = |key: &str, reason: String| BundleError::at(&format!("{place}.{key}"), reason);
        if !(1..=SECONDS_MAX).contains(&text.seconds) {
            return Err(at("seconds", format!("a run has 1 to {SECONDS_MAX} seconds, not {}", text.seconds)));
        }
        count(text.parameters.len(), 0, PARAMETERS_MAX).map_err(|reason| at("parameters", reason))?;
        let checked = text
            .parameters
            .iter()
            .map(|(name, text)| Parameter::check(&format!("{place}.parameters.{}", shown(name)), name, text));
        let parameters = checked.collect::<Result<Vec<_>, _>>()?;
        let scope = parameters::scope(&parameters);

        count(text.buffers.len(), 1, BUFFERS_MAX).map_err(|reason| at("buffers", reason))?;
        let checked = text
            .buffers
            .iter()
            .map(|(name, text)| Buffer::check(&format!("{place}.buffers.{}", shown(name)), name, text, &scope));
        let buffers = checked.collect::<Result<Vec<_>, _>>()?;
        let vram = text.vram_bytes.as_ref().map(|formula| Expression::parse(&formula.0, &scope));
        let vram_bytes = vram.transpose().map_err(|reason| at("vram_bytes", reason))?;

        let mut checker = Checker::new(modules, &parameters, &buffers, scope);
        let steps = checker.function(&place, &text.steps)?;
        let marks = checker.into_marks();
        let times = times(&place, &text.times, &marks)?;
        check_outputs(&place, &buffers, &times)?;
        let times = times.into_iter().map(|(_, pointer, from, until)| Time { from, until, to: pointer });
        Ok(Function {
            name: name.to_owned(),
            determinism: text.determinism,
            seconds: text.seconds,
            vram_bytes,
            parameters,
            buffers,
            steps,
            marks,
            times: times.collect(),
        })
    }
}

/// Between how many and how many of a thing. Errors: a sentence.
pub(super) fn count(found: usize, least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(format!("there are {least} to {most} of them, not {found}"))
}

/// The place, the pointer, and the marks of each time.
type Timed = (String, Pointer, usize, usize);

fn times(place: &str, texts: &BTreeMap<String, TimeText>, marks: &[String]) -> Result<Vec<Timed>, BundleError> {
    count(texts.len(), 0, BUFFERS_MAX).map_err(|reason| BundleError::at(&format!("{place}.times"), reason))?;
    let time = |(name, text): (&String, &TimeText)| {
        let place = format!("{place}.times.{}", shown(name));
        check_name(&place, name)?;
        let find = |key: &str, mark: &str| {
            let unknown = || crate::expression::unknown(mark, marks.iter().map(String::as_str));
            let found = marks.iter().position(|known| known == mark);
            found.ok_or_else(|| BundleError::at(&format!("{place}.{key}"), unknown()))
        };
        let (from, until) = (find("from", &text.from)?, find("until", &text.until)?);
        if from >= until {
            return Err(BundleError::at(&place, format!("`{}` is not before `{}`", text.from, text.until)));
        }
        let to = pointer::or_default(text.to.as_deref(), name);
        let to = to.map_err(|reason| BundleError::at(&format!("{place}.to"), reason))?;
        Ok((place, to, from, until))
    };
    texts.iter().map(time).collect()
}

/// Something goes out, and each to a place of its own.
fn check_outputs(place: &str, buffers: &[Buffer], times: &[Timed]) -> Result<(), BundleError> {
    let outputs = buffers.iter().filter_map(|buffer| {
        let output = buffer.output.as_ref()?;
        Some((format!("{place}.buffers.{}.output", buffer.name()), &output.to))
    });
    let places = outputs.chain(times.iter().map(|(place, to, _, _)| (place.clone(), to)));
    let mut taken: Vec<(String, &Pointer)> = Vec::new();
    for (place, to) in places {
        if let Some((other, there)) = taken.iter().find(|(_, there)| there.collides(to)) {
            let reason = format!("it goes to {:?}, where {other} already goes ({:?})", to.as_str(), there.as_str());
            return Err(BundleError::at(&place, reason));
        }
        taken.push((place, to));
    }
    match taken.first() {
        Some(_) => Ok(()),
        None => Err(BundleError::at(place, "nothing goes out: give a buffer an `output`")),
    }
}
