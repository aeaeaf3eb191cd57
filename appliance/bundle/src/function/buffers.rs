//! Buffers: what they are made of, where they come from and where they go.

use crate::bundle::{BundleError, check_name};
use crate::expression::{Expression, Scope};
use crate::manifest::{BufferText, InputForm, OutputText, OutputWord};
use crate::pointer::{self, Pointer};
use crate::scalar::ElementType;

/// Memory of a GPU, with a type and a size.
#[derive(Clone, Debug)]
pub struct Buffer {
    name: String,
    element: ElementType,
    pub(crate) elements: Expression,
    pub(crate) input: Option<Input>,
    pub(crate) output: Option<Output>,
}

/// Where a buffer's first bytes come from.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) from: Pointer,
    pub(crate) form: InputForm,
}

/// Where a buffer's last bytes go.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) to: Pointer,
    pub(crate) form: OutputForm,
}

/// How an output stands in the response.
#[derive(Clone, Debug)]
pub(crate) enum OutputForm {
    /// Little-endian bytes in base64.
    Base64,
    /// A link to little-endian bytes.
    Content,
    /// An array of numbers; one number if there is only one.
    Json,
    /// The base64 of a PNG.
    Png(Image),
}

/// The shape of an image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) width: Expression,
    pub(crate) height: Expression,
    /// 1, 3 or 4: grey, colours, colours and opacity.
    pub(crate) channels: u8,
}

// === impl Buffer ===

impl Buffer {
    pub(super) fn check(place: &str, name: &str, text: &BufferText, scope: &Scope) -> Result<Buffer, BundleError> {
        check_name(place, name)?;
        let at = |key: &str, reason: String| BundleError::at(&format!("{place}.{key}"), reason);
        let elements = Expression::parse(&text.elements.0, scope).map_err(|reason| at("elements", reason))?;
        let input = text.input.as_ref().map(|input| {
            let from = pointer::or_default(input.from.as_deref(), name).map_err(|reason| at("input.from", reason))?;
            Ok(Input { from, form: input.form })
        });
        let output = text.output.as_ref().map(|output| {
            let to = pointer::or_default(output.to.as_deref(), name).map_err(|reason| at("output.to", reason))?;
            let form = form(text.element, output, scope).map_err(|reason| at("output", reason))?;
            Ok(Output { to, form })
        });
        let (input, output) = (input.transpose()?, output.transpose()?);
        Ok(Buffer { name: name.to_owned(), element: text.element, elements, input, output })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// How many elements: the expression as written.
    pub fn elements(&self) -> String {
        self.elements.to_string()
    }

    /// It begins as an input.
    pub fn is_input(&self) -> bool {
        self.input.is_some()
    }

    /// It is read back in the end.
    pub fn is_output(&self) -> bool {
        self.output.is_some()
    }
}

fn form(element: ElementType, text: &OutputText, scope: &Scope) -> Result<OutputForm, String> {
    let plain = match text.form {
        OutputWord::Base64 => OutputForm::Base64,
        OutputWord::Content => OutputForm::Content,
        OutputWord::Json => OutputForm::Json,
        OutputWord::Png => {
            if element != ElementType::U8 {
                return Err(format!("an image is made of u8, not {element}"));
            }
            let (Some(width), Some(height), Some(channels)) = (&text.width, &text.height, text.channels) else {
                return Err("an image has `width`, `height` and `channels`".to_owned());
            };
            if !matches!(channels, 1 | 3 | 4) {
                return Err(format!("an image has 1, 3 or 4 channels, not {channels}"));
            }
            let (width, height) = (Expression::parse(&width.0, scope)?, Expression::parse(&height.0, scope)?);
            return Ok(OutputForm::Png(Image { width, height, channels }));
        }
    };
    if text.width.is_some() || text.height.is_some() || text.channels.is_some() {
        return Err("`width`, `height` and `channels` are for `as = \"png\"`".to_owned());
    }
    Ok(plain)
}
