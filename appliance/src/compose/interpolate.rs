//! `${…}` in a compose file: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, `$$`.

use super::ComposeError;

/// What is offered to a source. Nothing else can be named, so nothing else can leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `PORT`: where the service listens.
    pub port: u16,
    /// `CALLBACK_URL`: where results go, with the token of this source in its path.
    pub callback_url: String,
    /// `SOURCE_ADDRESS`.
    pub source_address: String,
    /// `PROVIDER_ADDRESS`.
    pub provider_address: String,
}

// === impl Offer ===

impl Offer {
    /// Fills the `${…}` of one value; `path` says where it stands.
    pub(super) fn fill(&self, path: &str, text: &str) -> Result<String, ComposeError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                filled.push('$');
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let end = inner.find('}').ok_or_else(|| ComposeError::BadInterpolation { path: path.to_owned() })?;
                filled.push_str(&self.value(path, &inner[..end])?);
                rest = &inner[end + 1..];
            } else {
                let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
                filled.push_str(&self.value(path, &rest[..end])?);
                rest = &rest[end..];
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// The value of `NAME`, `NAME:-default`, `NAME-default`, `NAME:?message` or `NAME?message`.
    fn value(&self, path: &str, expression: &str) -> Result<String, ComposeError> {
        let end = expression.find(|c: char| !is_name(c)).unwrap_or(expression.len());
        let (name, form) = expression.split_at(end);
        let default = form.strip_prefix(":-").or_else(|| form.strip_prefix('-'));
        let demands = form.starts_with(":?") || form.starts_with('?');
        if name.is_empty() || !(form.is_empty() || default.is_some() || demands) {
            return Err(ComposeError::BadInterpolation { path: path.to_owned() });
        }
        match (self.get(name), default) {
            (Some(value), _) => Ok(value),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(ComposeError::NotOffered { path: path.to_owned(), name: name.to_owned() }),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        match name {
            "PORT" => Some(self.port.to_string()),
            "CALLBACK_URL" => Some(self.callback_url.clone()),
            "SOURCE_ADDRESS" => Some(self.source_address.clone()),
            "PROVIDER_ADDRESS" => Some(self.provider_address.clone()),
            _ => None,
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
