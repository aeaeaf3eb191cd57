//! From a function and its parameters to a plan: every expression evaluated, every repeat unrolled.

use super::check::{self, Fault};
use super::{Argument, Launch, Operation, Plan, PlanError, PlannedBuffer, View};
use crate::bind::Parameters;
use crate::expression::{Expression, unknown};
use crate::function::{ArgumentStep, Function, Parameter, Ranged, Step, StepKind, Value};
use crate::limits::OPERATIONS_MAX;
use crate::scalar::Scalar;

/// The values of a function's parameters, and the plan so far.
struct Unroller<'a> {
    values: Vec<Scalar>,
    /// Whole parameters, then the indices of the repeats around.
    environment: Vec<u64>,
    vram_limit: Option<&'a Expression>,
    plan: Plan,
}

// === impl Function ===

impl Function {
    /// The plan of a run with `parameters`. Parameters with a default may be left out. Errors: see [`PlanError`].
    pub fn plan(&self, parameters: &Parameters) -> Result<Plan, PlanError> {
        let values = self.values(parameters)?;
        let environment = self.environment(&values);
        let plan = Plan {
            function: self.name().to_owned(),
            buffers: Vec::new(),
            operations: Vec::new(),
            vram_bytes: 0,
            seconds: self.seconds(),
            marks: self.marks.clone(),
        };
        let mut unroller = Unroller { values, environment, vram_limit: self.vram_bytes.as_ref(), plan };
        let place = format!("function.{}", self.name());
        unroller.buffers(self).map_err(|fault| PlanError::place(&format!("{place}.buffers"), fault))?;
        unroller.steps(&self.steps)?;
        check::outputs(&unroller.plan).map_err(|fault| PlanError::place(&format!("{place}.buffers"), fault))?;
        Ok(unroller.plan)
    }

    /// The value of each parameter, in their order.
    pub(crate) fn values(&self, parameters: &Parameters) -> Result<Vec<Scalar>, PlanError> {
        let refused = |name: &str, reason: String| PlanError::Parameter { name: name.to_owned(), reason };
        let own = || self.parameters().iter().map(Parameter::name);
        if let Some((name, _)) = parameters.iter().find(|(name, _)| own().all(|known| known != *name)) {
            return Err(refused(name, unknown(name, own())));
        }
        let value = |parameter: &Parameter| {
            let value = parameters.get(parameter.name()).or(parameter.default());
            let value = value.ok_or_else(|| refused(parameter.name(), "it is missing".to_owned()))?;
            parameter.admit(value).map_err(|reason| refused(parameter.name(), reason))?;
            Ok(value)
        };
        self.parameters().iter().map(value).collect()
    }

    /// What expressions outside of repeats begin with.
    pub(crate) fn environment(&self, values: &[Scalar]) -> Vec<u64> {
        let countable = self.parameters().iter().zip(values).filter(|(parameter, _)| parameter.is_countable());
        countable.filter_map(|(_, value)| u64::try_from(value.integer()?).ok()).collect()
    }
}

// === impl Unroller ===

impl Unroller<'_> {
    fn buffers(&mut self, function: &Function) -> Result<(), Fault> {
        for buffer in function.buffers() {
            let elements = self.value(&buffer.elements)?;
            let element = buffer.element();
            self.plan.buffers.push(PlannedBuffer {
                name: buffer.name().to_owned(),
                element,
                elements,
                // What overflows is refused just below.
                bytes: elements.saturating_mul(element.bytes()),
                has_input: buffer.is_input(),
                has_output: buffer.is_output(),
            });
        }
        let limit = self.vram_limit.map(|limit| self.value(limit)).transpose()?;
        self.plan.vram_bytes = check::buffers(&self.plan.buffers, limit)?;
        function.check_images(&self.environment, &self.plan).map_err(Fault::of)
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), PlanError> {
        for step in steps {
            let at = |fault: Fault| PlanError::place(&step.place, fault);
            let operation = match &step.kind {
                StepKind::Repeat { count, steps } => {
                    let count = self.value(count).map_err(at)?;
                    for index in 0..count {
                        self.environment.push(index);
                        self.steps(steps)?;
                        self.environment.pop();
                    }
                    continue;
                }
                StepKind::Launch { .. } | StepKind::Copy { .. } | StepKind::Fill { .. } | StepKind::Mark(_) => {
                    self.operation(&step.kind).map_err(at)?
                }
            };
            check::operation(&self.plan, &operation).map_err(at)?;
            self.plan.operations.push(operation);
            // The worst case was checked when the bundle was read; this holds whatever was overlooked there.
            if u64::try_from(self.plan.operations.len()).unwrap_or(u64::MAX) > OPERATIONS_MAX {
                return Err(at(Fault::of(format!("more than {OPERATIONS_MAX} operations"))));
            }
        }
        Ok(())
    }

    fn operation(&self, kind: &StepKind) -> Result<Operation, Fault> {
        Ok(match kind {
            StepKind::Launch { module, kernel, grid, block, shared_bytes, arguments } => Operation::Launch(Launch {
                module: *module,
                kernel: kernel.clone(),
                grid: self.dimensions(grid)?,
                block: self.dimensions(block)?,
                shared_bytes: shared_bytes.as_ref().map_or(Ok(0), |expression| self.narrow(expression))?,
                arguments: arguments.iter().map(|argument| self.argument(argument)).collect::<Result<_, _>>()?,
            }),
            StepKind::Copy { from, to } => Operation::Copy { from: self.view(from)?, to: self.view(to)? },
            StepKind::Fill { target, value } => {
                Operation::Fill { view: self.view(target)?, pattern: self.number(value)?.0 }
            }
            StepKind::Mark(mark) => Operation::Mark(*mark),
            StepKind::Repeat { .. } => return Err(Fault::of("a repeat is no operation")),
        })
    }

    fn argument(&self, argument: &ArgumentStep) -> Result<Argument, Fault> {
        match argument {
            ArgumentStep::View { target, access } => Ok(Argument::View { view: self.view(target)?, access: *access }),
            ArgumentStep::Value(value) => {
                let (_, scalar) = self.number(value)?;
                scalar.map(Argument::Scalar).ok_or_else(|| Fault::of("it is no scalar"))
            }
        }
    }

    /// The bytes of a number, and its scalar where its type has one.
    fn number(&self, value: &Value) -> Result<(Vec<u8>, Option<Scalar>), Fault> {
        match value {
            Value::Literal { bytes, scalar } => Ok((bytes.clone(), *scalar)),
            Value::Parameter(index) => {
                let scalar = self.values.get(*index).ok_or_else(|| Fault::of("its parameter is missing"))?;
                Ok((scalar.to_le_bytes(), Some(*scalar)))
            }
            Value::Expression { element, expression } => {
                let number = self.value(expression)?;
                let bytes = element.encode_integer(number.into());
                let bytes = bytes.ok_or_else(|| Fault::of(format!("{number} does not fit {element}")))?;
                Ok((bytes, Scalar::of_integer(*element, number.into())))
            }
        }
    }

    /// From `offset` (or the beginning) on, `elements` (or the rest of the buffer).
    fn view(&self, target: &Ranged) -> Result<View, Fault> {
        let buffer = self.plan.buffers.get(target.buffer).ok_or_else(|| Fault::of("its buffer is missing"))?;
        let offset = target.offset.as_ref().map_or(Ok(0), |offset| self.value(offset))?;
        let outside = || Fault::of(format!("it leaves `{}`, which has {}", buffer.name, buffer.elements));
        let elements = match &target.elements {
            Some(elements) => self.value(elements)?,
            None => buffer.elements.checked_sub(offset).ok_or_else(outside)?,
        };
        let bytes = |elements: u64| elements.checked_mul(buffer.element.bytes()).ok_or_else(outside);
        Ok(View { buffer: target.buffer, offset_bytes: bytes(offset)?, bytes: bytes(elements)? })
    }

    fn dimensions(&self, dimensions: &[Option<Expression>; 3]) -> Result<[u32; 3], Fault> {
        let mut sizes = [1; 3];
        for (size, dimension) in sizes.iter_mut().zip(dimensions) {
            if let Some(expression) = dimension {
                *size = self.narrow(expression)?;
            }
        }
        Ok(sizes)
    }

    fn narrow(&self, expression: &Expression) -> Result<u32, Fault> {
        let value = self.value(expression)?;
        u32::try_from(value).map_err(|_| Fault::of(format!("expression `{expression}` is {value}, too large")))
    }

    fn value(&self, expression: &Expression) -> Result<u64, Fault> {
        expression.value(&self.environment).map_err(Fault::of)
    }
}
