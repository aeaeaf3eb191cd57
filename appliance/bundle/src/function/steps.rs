//! Steps: launches, copies, fills, marks and repeats, with every name resolved and every repeat bounded.

use super::buffers::Buffer;
use super::check::count;
use super::parameters::{Parameter, scalar};
use crate::bundle::{BundleError, check_name};
use crate::expression::{Expression, FUNCTIONS, Range, Scope, unknown};
use crate::limits::{ARGUMENTS_MAX, NESTING_MAX, OPERATIONS_MAX, PLAN_ARGUMENTS_MAX, PLAN_EVALUATIONS_MAX, STEPS_MAX};
use crate::manifest::{ArgumentText, CopyText, FillText, Formula, Number, StepText};
use crate::module::{Kernel, Module, is_kernel_name};
use crate::plan::Access;
use crate::scalar::{ElementType, Scalar};

/// A step, and its place in `bundle.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) place: String,
    pub(crate) kind: StepKind,
}

#[derive(Clone, Debug)]
pub(crate) enum StepKind {
    Launch {
        module: usize,
        kernel: String,
        grid: [Option<Expression>; 3],
        block: [Option<Expression>; 3],
        shared_bytes: Option<Expression>,
        arguments: Vec<ArgumentStep>,
    },
    Copy {
        from: Ranged,
        to: Ranged,
    },
    Fill {
        target: Ranged,
        value: Value,
    },
    Mark(usize),
    Repeat {
        count: Expression,
        steps: Vec<Step>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum ArgumentStep {
    View { target: Ranged, access: Access },
    Value(Value),
}

/// A buffer or a part of it, counted in elements.
#[derive(Clone, Debug)]
pub(crate) struct Ranged {
    pub(crate) buffer: usize,
    pub(crate) offset: Option<Expression>,
    pub(crate) elements: Option<Expression>,
}

/// A number of known type.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Its little-endian bytes, and the scalar if it is an argument.
    Literal { bytes: Vec<u8>, scalar: Option<Scalar> },
    /// The parameter of that index, unchanged.
    Parameter(usize),
    /// A whole number.
    Expression { element: ElementType, expression: Expression },
}

/// What a step costs at most: in a plan, and to make the plan.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    operations: u64,
    arguments: u64,
    evaluations: u64,
}

/// Goes through the steps of one function.
pub(super) struct Checker<'a> {
    modules: &'a [Module],
    parameters: &'a [Parameter],
    buffers: &'a [Buffer],
    scope: Scope,
    marks: Vec<String>,
    steps: usize,
    nesting: usize,
}

type Checked<T> = Result<T, BundleError>;

// === impl Cost ===

impl Cost {
    fn add(&mut self, other: Cost) {
        self.operations = self.operations.saturating_add(other.operations);
        self.arguments = self.arguments.saturating_add(other.arguments);
        self.evaluations = self.evaluations.saturating_add(other.evaluations);
    }

    fn times(self, count: u64) -> Cost {
        Cost {
            operations: self.operations.saturating_mul(count),
            arguments: self.arguments.saturating_mul(count),
            evaluations: self.evaluations.saturating_mul(count),
        }
    }
}

// === impl Checker ===

impl<'a> Checker<'a> {
    pub(super) fn new(
        modules: &'a [Module],
        parameters: &'a [Parameter],
        buffers: &'a [Buffer],
        scope: Scope,
    ) -> Checker<'a> {
        Checker { modules, parameters, buffers, scope, marks: Vec::new(), steps: 0, nesting: 0 }
    }

    /// All steps of a function, and whether their worst case is bearable.
    pub(super) fn function(&mut self, place: &str, texts: &[StepText]) -> Checked<Vec<Step>> {
        let (steps, cost) = self.steps(place, texts)?;
        let bounds = [
            (cost.operations, OPERATIONS_MAX, "operations"),
            (cost.arguments, PLAN_ARGUMENTS_MAX, "arguments"),
            (cost.evaluations, PLAN_EVALUATIONS_MAX, "parts of expressions to evaluate"),
        ];
        match bounds.into_iter().find(|(cost, most, _)| cost > most) {
            None => Ok(steps),
            Some((cost, most, what)) => {
                let reason = format!("up to {cost} {what}, at most {most}; lower the `max` of what they depend on");
                Err(BundleError::at(&format!("{place}.steps"), reason))
            }
        }
    }

    pub(super) fn into_marks(self) -> Vec<String> {
        self.marks
    }

    fn steps(&mut self, place: &str, texts: &[StepText]) -> Checked<(Vec<Step>, Cost)> {
        self.steps = self.steps.saturating_add(texts.len());
        let counted = if texts.is_empty() { 0 } else { self.steps };
        count(counted, 1, STEPS_MAX).map_err(|reason| BundleError::at(&format!("{place}.steps"), reason))?;
        let (mut steps, mut cost) = (Vec::new(), Cost::default());
        for (index, text) in texts.iter().enumerate() {
            let place = format!("{place}.steps[{index}]");
            let (kind, own) = self.step(&place, text)?;
            cost.add(own);
            steps.push(Step { place, kind });
        }
        Ok((steps, cost))
    }

    fn step(&mut self, place: &str, text: &StepText) -> Checked<(StepKind, Cost)> {
        check_keys(text).map_err(|reason| BundleError::at(place, reason))?;
        if let Some(kernel) = &text.launch {
            return self.launch(place, kernel, text);
        }
        if let Some(copy) = &text.copy {
            return self.copy(place, copy);
        }
        if let Some(fill) = &text.fill {
            return self.fill(place, fill);
        }
        if let Some(count) = &text.repeat {
            return self.repeat(place, count, text);
        }
        let mark = text.mark.as_deref().unwrap_or_default();
        check_name(&format!("{place}.mark"), mark)?;
        if self.nesting > 0 {
            return Err(BundleError::at(place, "a mark is passed once; take it out of the repeat"));
        }
        if self.marks.iter().any(|known| known == mark) {
            return Err(BundleError::at(place, format!("mark `{mark}` stands twice")));
        }
        self.marks.push(mark.to_owned());
        Ok((StepKind::Mark(self.marks.len() - 1), Cost { operations: 1, arguments: 0, evaluations: 1 }))
    }

    fn repeat(&mut self, place: &str, formula: &Formula, text: &StepText) -> Checked<(StepKind, Cost)> {
        let times = self.expression(&format!("{place}.repeat"), formula)?;
        let most = times.range(&self.scope).high;
        if self.nesting >= NESTING_MAX {
            return Err(BundleError::at(place, format!("repeats go at most {NESTING_MAX} deep")));
        }
        if let Some(index) = &text.index {
            let place = format!("{place}.index");
            check_name(&place, index)?;
            let taken = self.scope.0.iter().any(|(name, _)| name == index)
                || self.parameters.iter().any(|parameter| parameter.name() == index)
                || FUNCTIONS.contains(&index.as_str());
            if taken {
                return Err(BundleError::at(&place, format!("`{index}` already has a meaning here")));
            }
        }
        // Without a name it still has its place among the values; no expression can name an empty one.
        let index = text.index.clone().unwrap_or_default();
        self.scope.0.push((index, Range { low: 0, high: most.saturating_sub(1) }));
        self.nesting += 1;
        let (steps, mut cost) = self.steps(place, text.steps.as_deref().unwrap_or_default())?;
        self.nesting -= 1;
        self.scope.0.pop();
        cost.evaluations = cost.evaluations.saturating_add(1);
        let mut cost = cost.times(most);
        cost.evaluations = cost.evaluations.saturating_add(times.nodes());
        Ok((StepKind::Repeat { count: times, steps }, cost))
    }

    fn launch(&self, place: &str, name: &str, text: &StepText) -> Checked<(StepKind, Cost)> {
        let (module, kernel) = self.kernel(place, name, text.module.as_deref())?;
        let grid = self.dimensions(&format!("{place}.grid"), text.grid.as_deref())?;
        let block = self.dimensions(&format!("{place}.block"), text.block.as_deref())?;
        let shared_bytes = self.optional(&format!("{place}.shared_bytes"), text.shared_bytes.as_ref())?;
        let texts = text.arguments.as_deref().unwrap_or_default();
        count(texts.len(), 0, ARGUMENTS_MAX)
            .map_err(|reason| BundleError::at(&format!("{place}.arguments"), reason))?;
        if let Some(sizes) = &kernel.parameters
            && sizes.len() != texts.len()
        {
            let reason = format!("kernel {name} takes {}, this gives {}", sizes.len(), texts.len());
            return Err(BundleError::at(&format!("{place}.arguments"), reason));
        }
        let mut arguments = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let place = format!("{place}.arguments[{index}]");
            let (argument, bytes) = self.argument(&place, text)?;
            let expected = kernel.parameters.as_ref().and_then(|sizes| sizes.get(index));
            if expected.is_some_and(|expected| u64::from(*expected) != bytes) {
                let reason = format!("kernel {name} takes {} bytes here, this has {bytes}", expected.unwrap_or(&0));
                return Err(BundleError::at(&place, reason));
            }
            arguments.push(argument);
        }
        let single = grid.iter().chain(&block).flatten().chain(&shared_bytes);
        let evaluations = single.map(Expression::nodes).chain(arguments.iter().map(ArgumentStep::nodes)).sum::<u64>();
        let cost = Cost {
            operations: 1,
            arguments: u64::try_from(arguments.len()).unwrap_or(u64::MAX),
            evaluations: evaluations.saturating_add(1),
        };
        Ok((StepKind::Launch { module, kernel: name.to_owned(), grid, block, shared_bytes, arguments }, cost))
    }

    /// The module that exports a kernel.
    fn kernel(&self, place: &str, name: &str, module: Option<&str>) -> Checked<(usize, &'a Kernel)> {
        if !is_kernel_name(name) {
            let reason = format!("{:?} is no kernel's name", crate::expression::shown(name));
            return Err(BundleError::at(&format!("{place}.launch"), reason));
        }
        if let Some(module) = module
            && !self.modules.iter().any(|known| known.name() == module)
        {
            let reason = unknown(module, self.modules.iter().map(Module::name));
            return Err(BundleError::at(&format!("{place}.module"), reason));
        }
        let candidates = self.modules.iter().enumerate();
        let candidates = candidates.filter(|(_, known)| module.is_none_or(|module| known.name() == module));
        let mut found = candidates.clone().filter_map(|(index, module)| Some((index, module.kernel(name)?)));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => {
                Err(BundleError::at(place, format!("several modules export `{name}`; say which `module`")))
            }
            (None, _) => {
                let exported = candidates.flat_map(|(_, module)| module.kernels()).map(|kernel| kernel.name.as_str());
                let reason = format!("no module exports it: {}", unknown(name, exported));
                Err(BundleError::at(&format!("{place}.launch"), reason))
            }
        }
    }

    fn argument(&self, place: &str, text: &ArgumentText) -> Checked<(ArgumentStep, u64)> {
        let refused = |reason: &str| Err(BundleError::at(place, reason));
        match (&text.buffer, &text.value) {
            (Some(buffer), None) => {
                if text.element.is_some() {
                    return refused("a buffer has its own type; take `type` out");
                }
                let Some(access) = text.access else { return refused("a buffer has `access`") };
                let target = self.ranged(place, buffer, text.offset.as_ref(), text.elements.as_ref())?;
                Ok((ArgumentStep::View { target, access }, 8))
            }
            (None, Some(value)) => {
                if text.access.is_some() || text.offset.is_some() || text.elements.is_some() {
                    return refused("`access`, `offset` and `elements` are for buffers");
                }
                let Some(element) = text.element else { return refused("a value has a `type`") };
                if !element.is_scalar() {
                    return refused(&format!("a value is u32, i32, u64, i64, f32 or f64, not {element}"));
                }
                let value = self.value(place, element, value)?;
                Ok((ArgumentStep::Value(value), element.bytes()))
            }
            (Some(_), Some(_)) | (None, None) => refused("an argument is either a `buffer` or a `value`"),
        }
    }

    fn copy(&self, place: &str, text: &CopyText) -> Checked<(StepKind, Cost)> {
        let place = format!("{place}.copy");
        let from = self.ranged(&place, &text.from, text.from_offset.as_ref(), text.elements.as_ref())?;
        let to = self.ranged(&place, &text.to, text.to_offset.as_ref(), text.elements.as_ref())?;
        let (source, target) = (self.buffers[from.buffer].element(), self.buffers[to.buffer].element());
        if source != target {
            return Err(BundleError::at(&place, format!("`{}` is {source}, `{}` is {target}", text.from, text.to)));
        }
        let evaluations = from.nodes().saturating_add(to.nodes()).saturating_add(1);
        Ok((StepKind::Copy { from, to }, Cost { operations: 1, arguments: 0, evaluations }))
    }

    fn fill(&self, place: &str, text: &FillText) -> Checked<(StepKind, Cost)> {
        let place = format!("{place}.fill");
        let target = self.ranged(&place, &text.buffer, text.offset.as_ref(), text.elements.as_ref())?;
        let value = self.value(&format!("{place}.value"), self.buffers[target.buffer].element(), &text.value)?;
        let evaluations = target.nodes().saturating_add(value.nodes()).saturating_add(1);
        Ok((StepKind::Fill { target, value }, Cost { operations: 1, arguments: 0, evaluations }))
    }

    fn ranged(
        &self,
        place: &str,
        buffer: &str,
        offset: Option<&Formula>,
        elements: Option<&Formula>,
    ) -> Checked<Ranged> {
        let found = self.buffers.iter().position(|known| known.name() == buffer);
        let buffer = found.ok_or_else(|| {
            BundleError::at(
                place,
                format!("no such buffer: {}", unknown(buffer, self.buffers.iter().map(Buffer::name))),
            )
        })?;
        let offset = self.optional(&format!("{place}.offset"), offset)?;
        let elements = self.optional(&format!("{place}.elements"), elements)?;
        Ok(Ranged { buffer, offset, elements })
    }

    /// A literal, the name of a parameter of the same type, or an expression.
    fn value(&self, place: &str, element: ElementType, number: &Number) -> Checked<Value> {
        let text = match number {
            Number::Text(text) => text,
            Number::Integer(_) | Number::Float(_) => return literal(place, element, number),
        };
        let named = self.parameters.iter().position(|parameter| parameter.name() == text);
        match named.map(|index| (index, &self.parameters[index])) {
            Some((index, parameter)) if parameter.element() == element => Ok(Value::Parameter(index)),
            Some((_, parameter)) if element.is_float() || !parameter.is_countable() => {
                Err(BundleError::at(place, format!("`{text}` is {}, not {element}", parameter.element())))
            }
            Some(_) | None if !element.is_float() => {
                let expression = self.expression(place, &Formula(text.clone()))?;
                Ok(Value::Expression { element, expression })
            }
            Some(_) | None => {
                let float = text.parse::<f64>().map_err(|_| {
                    let floats = self.parameters.iter().filter(|parameter| parameter.element() == element);
                    let reason = unknown(text, floats.map(Parameter::name));
                    BundleError::at(place, format!("{reason} A {element} is a number or a parameter of that type"))
                })?;
                literal(place, element, &Number::Float(float))
            }
        }
    }

    /// Up to three expressions. An empty list is a mistake.
    fn dimensions(&self, place: &str, formulas: Option<&[Formula]>) -> Checked<[Option<Expression>; 3]> {
        let formulas = formulas.ok_or_else(|| BundleError::at(place, "it is missing: 1 to 3 expressions"))?;
        count(formulas.len(), 1, 3).map_err(|reason| BundleError::at(place, reason))?;
        let mut dimensions = [None, None, None];
        for (index, (dimension, formula)) in dimensions.iter_mut().zip(formulas).enumerate() {
            *dimension = Some(self.expression(&format!("{place}[{index}]"), formula)?);
        }
        Ok(dimensions)
    }

    fn optional(&self, place: &str, formula: Option<&Formula>) -> Checked<Option<Expression>> {
        formula.map(|formula| self.expression(place, formula)).transpose()
    }

    fn expression(&self, place: &str, formula: &Formula) -> Checked<Expression> {
        Expression::parse(&formula.0, &self.scope).map_err(|reason| BundleError::at(place, reason))
    }
}

// === impl ArgumentStep ===

impl ArgumentStep {
    fn nodes(&self) -> u64 {
        match self {
            ArgumentStep::View { target, .. } => target.nodes(),
            ArgumentStep::Value(value) => value.nodes(),
        }
    }
}

// === impl Ranged ===

impl Ranged {
    fn nodes(&self) -> u64 {
        self.offset.iter().chain(&self.elements).map(Expression::nodes).sum()
    }
}

// === impl Value ===

impl Value {
    fn nodes(&self) -> u64 {
        match self {
            Value::Literal { .. } | Value::Parameter(_) => 1,
            Value::Expression { expression, .. } => expression.nodes(),
        }
    }
}

fn literal(place: &str, element: ElementType, number: &Number) -> Checked<Value> {
    let bytes = match number {
        Number::Integer(integer) => element.encode_integer(*integer),
        Number::Float(float) => element.encode_float(*float),
        Number::Text(_) => None,
    };
    let scalar = scalar(element, number).ok();
    let refused = || BundleError::at(place, format!("{number:?} is no finite {element}"));
    bytes.map(|bytes| Value::Literal { bytes, scalar }).ok_or_else(refused)
}

/// Whether the keys of a step are those of one kind. Errors: a sentence.
fn check_keys(text: &StepText) -> Result<(), String> {
    let kinds = [
        ("launch", text.launch.is_some()),
        ("copy", text.copy.is_some()),
        ("fill", text.fill.is_some()),
        ("repeat", text.repeat.is_some()),
        ("mark", text.mark.is_some()),
    ];
    let mut found = kinds.iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| *kind);
    let kind = found.next().ok_or("a step has one of `launch`, `copy`, `fill`, `repeat`, `mark`")?;
    if let Some(other) = found.next() {
        return Err(format!("a step has either `{kind}` or `{other}`"));
    }
    let keys = [
        ("module", text.module.is_some(), "launch"),
        ("grid", text.grid.is_some(), "launch"),
        ("block", text.block.is_some(), "launch"),
        ("shared_bytes", text.shared_bytes.is_some(), "launch"),
        ("arguments", text.arguments.is_some(), "launch"),
        ("index", text.index.is_some(), "repeat"),
        ("steps", text.steps.is_some(), "repeat"),
    ];
    match keys.into_iter().find(|(_, is_there, of)| *is_there && *of != kind) {
        None => Ok(()),
        Some((key, _, of)) => Err(format!("`{key}` is for `{of}`, not for `{kind}`")),
    }
}
