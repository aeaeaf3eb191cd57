//! A function as it is shown: its parameters, its buffers, and what a run takes.

use bundle::{Buffer, Determinism, ElementType, Function, Parameter, Parameters, Plan, Scalar};
use serde::Serialize;
use serde_json::Value;

use crate::command::cells::bytes_words;
use crate::screen::{Screen, Table};

#[derive(Debug, Serialize)]
pub(super) struct ShownFunction {
    name: String,
    seconds: u32,
    determinism: Determinism,
    parameters: Vec<ShownParameter>,
    buffers: Vec<ShownBuffer>,
    /// A run with these values; none if there is no such run, and `at_defaults_refused` says why.
    at_defaults: Option<Run>,
    at_defaults_refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownParameter {
    name: String,
    #[serde(rename = "type")]
    element: String,
    from: String,
    min: Option<Value>,
    max: Option<Value>,
    default: Option<Value>,
}

#[derive(Debug, Serialize)]
struct ShownBuffer {
    name: String,
    #[serde(rename = "type")]
    element: String,
    /// The expression.
    elements: String,
    is_input: bool,
    is_output: bool,
}

/// What one run takes.
#[derive(Debug, Serialize)]
struct Run {
    parameters: serde_json::Map<String, Value>,
    vram_bytes: u64,
    input_bytes: u64,
    output_bytes: u64,
    operations: usize,
    /// In the order of the buffers.
    buffer_bytes: Vec<u64>,
}

// === impl ShownFunction ===

impl ShownFunction {
    pub(super) fn of(function: &Function) -> ShownFunction {
        let values: Parameters =
            function.parameters().iter().map(|parameter| (parameter.name(), representative(parameter))).collect();
        let (at_defaults, at_defaults_refused) = match function.plan(&values) {
            Ok(plan) => (Some(Run::of(&plan, &values)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        ShownFunction {
            name: function.name().to_owned(),
            seconds: function.seconds(),
            determinism: function.determinism(),
            parameters: function.parameters().iter().map(ShownParameter::of).collect(),
            buffers: function.buffers().iter().map(ShownBuffer::of).collect(),
            at_defaults,
            at_defaults_refused,
        }
    }

    pub(super) fn text(&self, screen: Screen) -> String {
        let determinism = match self.determinism {
            Determinism::BitwiseAny => "the same bits on every GPU".to_owned(),
            Determinism::BitwiseSameClass => "the same bits on GPUs of one model".to_owned(),
            Determinism::None => "no promise that two runs agree".to_owned(),
            Determinism::Tolerance { tolerance, .. } => format!("runs agree within {tolerance}"),
        };
        let mut parts = vec![format!(
            "{}  at most {} s, {determinism}",
            screen.bold(&format!("function {}", self.name)),
            self.seconds
        )];
        if !self.parameters.is_empty() {
            parts.push(screen.table(&self.parameter_table()));
        }
        parts.push(screen.table(&self.buffer_table()));
        parts.push(match (&self.at_defaults, &self.at_defaults_refused) {
            (Some(run), _) => run.words(),
            (None, why) => format!("no run with the defaults: {}", why.as_deref().unwrap_or_default()),
        });
        parts.join("\n")
    }

    fn parameter_table(&self) -> Table {
        let mut table = Table::with_header(["PARAMETER", "TYPE", "FROM", "RANGE", "DEFAULT"]);
        let word = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
        for parameter in &self.parameters {
            let range = match (&parameter.min, &parameter.max) {
                (None, None) => "any".to_owned(),
                (min, max) => format!("{} to {}", word(min), word(max)),
            };
            table.push([
                parameter.name.clone(),
                parameter.element.clone(),
                parameter.from.clone(),
                range,
                word(&parameter.default),
            ]);
        }
        table
    }

    fn buffer_table(&self) -> Table {
        let mut table = Table::with_header(["BUFFER", "TYPE", "ELEMENTS", "USE", "SIZE"]);
        let sizes = self.at_defaults.iter().flat_map(|run| &run.buffer_bytes);
        let mut sizes = sizes.map(|bytes| bytes_words(*bytes));
        for buffer in &self.buffers {
            let role = match (buffer.is_input, buffer.is_output) {
                (true, true) => "in, out",
                (true, false) => "in",
                (false, true) => "out",
                (false, false) => "-",
            };
            let size = sizes.next().unwrap_or_else(|| "-".to_owned());
            table.push([buffer.name.clone(), buffer.element.clone(), buffer.elements.clone(), role.to_owned(), size]);
        }
        table
    }
}

/// The default, and where there is none a bound. Only a fraction may have neither.
fn representative(parameter: &Parameter) -> Scalar {
    let zero = if parameter.element() == ElementType::F32 { Scalar::F32(0.0) } else { Scalar::F64(0.0) };
    parameter.default().or(parameter.min()).or(parameter.max()).unwrap_or(zero)
}

/// The number that a scalar's own words end with: they have no more digits than its type needs.
fn number(scalar: Scalar) -> Value {
    let words = scalar.to_string();
    let number = words.split_once(' ').and_then(|(_, number)| number.parse().ok());
    number.map_or(Value::String(words), Value::Number)
}

// === impl ShownParameter ===

impl ShownParameter {
    fn of(parameter: &Parameter) -> ShownParameter {
        ShownParameter {
            name: parameter.name().to_owned(),
            element: parameter.element().to_string(),
            from: parameter.from().to_owned(),
            min: parameter.min().map(number),
            max: parameter.max().map(number),
            default: parameter.default().map(number),
        }
    }
}

// === impl ShownBuffer ===

impl ShownBuffer {
    fn of(buffer: &Buffer) -> ShownBuffer {
        ShownBuffer {
            name: buffer.name().to_owned(),
            element: buffer.element().to_string(),
            elements: buffer.elements(),
            is_input: buffer.is_input(),
            is_output: buffer.is_output(),
        }
    }
}

// === impl Run ===

impl Run {
    fn of(plan: &Plan, parameters: &Parameters) -> Run {
        Run {
            parameters: parameters.iter().map(|(name, value)| (name.to_owned(), number(value))).collect(),
            vram_bytes: plan.vram_bytes,
            input_bytes: plan.input_bytes(),
            output_bytes: plan.output_bytes(),
            operations: plan.operations.len(),
            buffer_bytes: plan.buffers.iter().map(|buffer| buffer.bytes).collect(),
        }
    }

    fn words(&self) -> String {
        let with: Vec<_> = self.parameters.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(", ")) };
        let operations = if self.operations == 1 { "operation" } else { "operations" };
        format!(
            "a run{with} takes {} of VRAM, {} in, {} out, {} {operations}",
            bytes_words(self.vram_bytes),
            bytes_words(self.input_bytes),
            bytes_words(self.output_bytes),
            self.operations
        )
    }
}
