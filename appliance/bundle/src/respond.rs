//! Makes the response from what a run left: raw bytes in, JSON and bytes to publish out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::{bf16, f16};
use serde_json::Value;
use thiserror::Error;

use crate::bind::Parameters;
use crate::function::{Function, Image, OutputForm};
use crate::limits::IMAGE_SIDE_MAX;
use crate::plan::{Plan, PlanError};
use crate::scalar::ElementType;

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The response's JSON, with `null` where a link of `publish` will stand.
    pub json: Value,
    /// What is published as content; its link goes to its pointer in `json`.
    pub publish: Vec<Publish>,
}

/// Bytes that are published as content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where the link stands in the response: a JSON pointer to a `null`.
    pub pointer: String,
    /// What is published.
    pub bytes: Vec<u8>,
}

/// Outputs that are not those of the function.
#[derive(Debug, Error)]
pub enum RespondError {
    /// There is no plan for these parameters.
    #[error("plan the run")]
    Plan(#[source] PlanError),
    /// The outputs are longer or shorter than the plan says.
    #[error("the run left {got} bytes of outputs, the plan has {expected}")]
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes of the plan.
        expected: u64,
    },
    /// There is not one finite time for each mark, in their order.
    #[error("the run left times {0:?}, which are not one for each mark in order")]
    Marks(Vec<f64>),
    /// The image cannot be written.
    #[error("write the image of buffer {buffer}")]
    Image {
        /// The buffer.
        buffer: String,
        /// What the encoder said.
        #[source]
        source: png::EncodingError,
    },
}

// === impl Function ===

impl Function {
    /// Makes the response of a run with `parameters`. `outputs` are the output buffers in buffer order, one behind the
    /// other; `marks_ms` is, for each of [`Plan::marks`](crate::Plan::marks), the milliseconds from any one moment to it.
    /// A float that JSON cannot say (NaN, infinity) becomes `null`. Errors: see [`RespondError`].
    pub fn respond(&self, parameters: &Parameters, outputs: &[u8], marks_ms: &[f64]) -> Result<Answer, RespondError> {
        let plan = self.plan(parameters).map_err(RespondError::Plan)?;
        let environment = self.environment(&self.values(parameters).map_err(RespondError::Plan)?);
        let wrong = RespondError::Length { got: outputs.len(), expected: plan.output_bytes() };
        if u64::try_from(outputs.len()) != Ok(plan.output_bytes()) {
            return Err(wrong);
        }
        let mut answer = Answer { json: Value::Object(serde_json::Map::new()), publish: Vec::new() };
        let mut rest = outputs;
        for (buffer, planned) in self.buffers().iter().zip(&plan.buffers) {
            let Some(output) = &buffer.output else { continue };
            let split = usize::try_from(planned.bytes).ok().and_then(|bytes| rest.split_at_checked(bytes));
            let Some((bytes, behind)) = split else { return Err(wrong) };
            rest = behind;
            let value = match &output.form {
                OutputForm::Base64 => Value::String(STANDARD.encode(bytes)),
                OutputForm::Content => {
                    answer.publish.push(Publish { pointer: output.to.as_str().to_owned(), bytes: bytes.to_vec() });
                    Value::Null
                }
                OutputForm::Json => numbers(planned.element, bytes),
                OutputForm::Png(image) => {
                    let image = image.encode(&environment, bytes);
                    let broken = |source| RespondError::Image { buffer: buffer.name().to_owned(), source };
                    Value::String(STANDARD.encode(image.map_err(broken)?))
                }
            };
            output.to.put(&mut answer.json, value);
        }
        self.times(&plan, marks_ms, &mut answer.json)?;
        Ok(answer)
    }

    /// Bytes that the outputs take in a response of `plan`, at least: what has no room for them need not run it. Images are
    /// left out, for they can be compressed, and so is content, for a link is short.
    pub fn response_bytes_min(&self, plan: &Plan) -> u64 {
        let outputs = self.buffers().iter().zip(&plan.buffers);
        let bytes = outputs.filter_map(|(buffer, planned)| match &buffer.output.as_ref()?.form {
            OutputForm::Base64 => Some(planned.bytes.div_ceil(3).saturating_mul(4)),
            // A digit and a comma each.
            OutputForm::Json => Some(planned.elements.saturating_mul(2)),
            OutputForm::Content | OutputForm::Png(_) => None,
        });
        bytes.fold(0, u64::saturating_add)
    }

    fn times(&self, plan: &Plan, marks_ms: &[f64], json: &mut Value) -> Result<(), RespondError> {
        let in_order = marks_ms.windows(2).all(|pair| pair[0] <= pair[1]) && marks_ms.iter().all(|ms| ms.is_finite());
        if marks_ms.len() != plan.marks.len() || !in_order {
            return Err(RespondError::Marks(marks_ms.to_vec()));
        }
        for time in &self.times {
            time.to.put(json, (marks_ms[time.until] - marks_ms[time.from]).into());
        }
        Ok(())
    }

    /// Whether each image is as large as its buffer. Errors: a sentence.
    pub(crate) fn check_images(&self, environment: &[u64], plan: &Plan) -> Result<(), String> {
        for (buffer, planned) in self.buffers().iter().zip(&plan.buffers) {
            let Some(OutputForm::Png(image)) = buffer.output.as_ref().map(|output| &output.form) else { continue };
            let name = buffer.name();
            let (width, height) = image.sides(environment).map_err(|reason| format!("image of `{name}`: {reason}"))?;
            let pixels = u64::from(width) * u64::from(height);
            if pixels.checked_mul(image.channels.into()) != Some(planned.elements) {
                let (channels, elements) = (image.channels, planned.elements);
                return Err(format!("image of `{name}`: {width} x {height} x {channels} is not {elements} elements"));
            }
        }
        Ok(())
    }
}

// === impl Image ===

impl Image {
    fn sides(&self, environment: &[u64]) -> Result<(u32, u32), String> {
        let side = |expression: &crate::expression::Expression| {
            let value = expression.value(environment)?;
            let side = u32::try_from(value).ok().filter(|_| (1..=IMAGE_SIDE_MAX).contains(&value));
            side.ok_or_else(|| format!("`{expression}` is {value}, not 1 to {IMAGE_SIDE_MAX}"))
        };
        Ok((side(&self.width)?, side(&self.height)?))
    }

    fn encode(&self, environment: &[u64], bytes: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
        let beyond = |reason: String| png::EncodingError::IoError(std::io::Error::other(reason));
        let (width, height) = self.sides(environment).map_err(beyond)?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(bytes)?;
        writer.finish()?;
        Ok(file)
    }
}

/// An array, or the number if there is one only.
fn numbers(element: ElementType, bytes: &[u8]) -> Value {
    let mut numbers: Vec<Value> = match element {
        ElementType::U8 => each(bytes, |[byte]: [u8; 1]| byte.into()),
        ElementType::I8 => each(bytes, |bytes| i8::from_le_bytes(bytes).into()),
        ElementType::U16 => each(bytes, |bytes| u16::from_le_bytes(bytes).into()),
        ElementType::I16 => each(bytes, |bytes| i16::from_le_bytes(bytes).into()),
        ElementType::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f64().into()),
        ElementType::Bf16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64().into()),
        ElementType::U32 => each(bytes, |bytes| u32::from_le_bytes(bytes).into()),
        ElementType::I32 => each(bytes, |bytes| i32::from_le_bytes(bytes).into()),
        ElementType::F32 => each(bytes, |bytes| f64::from(f32::from_le_bytes(bytes)).into()),
        ElementType::U64 => each(bytes, |bytes| u64::from_le_bytes(bytes).into()),
        ElementType::I64 => each(bytes, |bytes| i64::from_le_bytes(bytes).into()),
        ElementType::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes).into()),
    };
    match numbers.as_mut_slice() {
        [only] => only.take(),
        _ => Value::Array(numbers),
    }
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> Value) -> Vec<Value> {
    bytes.as_chunks::<N>().0.iter().map(|element| number(*element)).collect()
}
