//! `${…}` in a compose file, in every form that compose tools know, over four names.
//!
//! | form | name offered | not offered |
//! |---|---|---|
//! | `$NAME`, `${NAME}` | its value | an error |
//! | `${NAME:-word}`, `${NAME-word}` | its value | `word` |
//! | `${NAME:?word}`, `${NAME?word}` | its value | an error with `word` |
//! | `${NAME:+word}`, `${NAME+word}` | `word` | nothing |
//! | `$$` | `$` | `$` |
//!
//! The colon makes an empty value count as none. A word may hold further forms. A name that is not offered and has no
//! default is an error, not an empty text: a source that needs a secret should say so before it takes a task.

use super::node::cut;
use super::{ComposeError, TEXT_BYTES_MAX};

/// How deep words may be nested in words. Source: none; nobody can read three.
const NESTING_MAX: usize = 8;

/// What is offered to a source. Nothing else can be named, so nothing else can leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `PORT`: where the main service is asked for.
    pub port: u16,
    /// `CALLBACK_URL`: where results go, with the token of this source in its path.
    pub callback_url: String,
    /// `SOURCE_ADDRESS`.
    pub source_address: String,
    /// `PROVIDER_ADDRESS`.
    pub provider_address: String,
}

/// What an expression does with its name.
enum Form {
    Plain,
    Default,
    Demand,
    Alternative,
}

// === impl Offer ===

impl Offer {
    /// Fills the `${…}` of one value; `path` says where it stands.
    pub(super) fn fill(&self, path: &str, text: &str) -> Result<String, ComposeError> {
        let mut filled = String::new();
        self.fill_into(&mut filled, path, text, NESTING_MAX)?;
        Ok(filled)
    }

    /// The value of a name, if it is one of the four.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        match name {
            "PORT" => Some(self.port.to_string()),
            "CALLBACK_URL" => Some(self.callback_url.clone()),
            "SOURCE_ADDRESS" => Some(self.source_address.clone()),
            "PROVIDER_ADDRESS" => Some(self.provider_address.clone()),
            _ => None,
        }
    }

    fn fill_into(&self, filled: &mut String, path: &str, text: &str, nesting: usize) -> Result<(), ComposeError> {
        let bad = || ComposeError::BadInterpolation { path: path.to_owned() };
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            push(filled, path, &rest[..at])?;
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                push(filled, path, "$")?;
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let end = end_of(inner).ok_or_else(bad)?;
                let nesting = nesting.checked_sub(1).ok_or_else(bad)?;
                self.expression(filled, path, &inner[..end], nesting)?;
                rest = &inner[end + 1..];
            } else {
                let (name, after) = rest.split_at(name_len(rest));
                if name.is_empty() {
                    return Err(bad());
                }
                push(filled, path, &self.get(name).ok_or_else(|| not_offered(path, name))?)?;
                rest = after;
            }
        }
        push(filled, path, rest)
    }

    /// What stands between `${` and `}`.
    fn expression(&self, filled: &mut String, path: &str, text: &str, nesting: usize) -> Result<(), ComposeError> {
        let bad = || ComposeError::BadInterpolation { path: path.to_owned() };
        let (name, operation) = text.split_at(name_len(text));
        let (empty_counts, operation) = match operation.strip_prefix(':') {
            Some(operation) if !operation.is_empty() => (false, operation),
            Some(_) => return Err(bad()),
            None => (true, operation),
        };
        let (form, word) = match operation.chars().next() {
            None => (Form::Plain, ""),
            Some('-') => (Form::Default, &operation[1..]),
            Some('?') => (Form::Demand, &operation[1..]),
            Some('+') => (Form::Alternative, &operation[1..]),
            Some(_) => return Err(bad()),
        };
        if name.is_empty() {
            return Err(bad());
        }
        let value = self.get(name).filter(|value| empty_counts || !value.is_empty());
        match (form, value) {
            (Form::Plain | Form::Default | Form::Demand, Some(value)) => push(filled, path, &value),
            (Form::Alternative, Some(_)) | (Form::Default, None) => self.fill_into(filled, path, word, nesting),
            (Form::Alternative, None) => Ok(()),
            (Form::Plain, None) => Err(not_offered(path, name)),
            (Form::Demand, None) if word.is_empty() => Err(not_offered(path, name)),
            (Form::Demand, None) => {
                Err(ComposeError::Demanded { path: path.to_owned(), name: cut(name), message: cut(word) })
            }
        }
    }
}

fn push(filled: &mut String, path: &str, more: &str) -> Result<(), ComposeError> {
    if filled.len() + more.len() > TEXT_BYTES_MAX {
        return Err(ComposeError::TextTooLong { path: path.to_owned(), max: TEXT_BYTES_MAX });
    }
    filled.push_str(more);
    Ok(())
}

fn not_offered(path: &str, name: &str) -> ComposeError {
    ComposeError::NotOffered { path: path.to_owned(), name: cut(name) }
}

/// Where the `}` stands that ends an expression, past those of the expressions within it.
fn end_of(inner: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut bytes = inner.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'$' => match bytes.peek() {
                Some((_, b'$')) => drop(bytes.next()),
                Some((_, b'{')) => depth += 1,
                Some(_) | None => {}
            },
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// How many bytes at the start are a name: letters, digits and `_`, the first no digit.
fn name_len(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            port: 5555,
            callback_url: "http://callback".into(),
            source_address: "0xS".into(),
            // Not what the rig offers: it shows what the colon does.
            provider_address: String::new(),
        }
    }

    #[test]
    fn every_form_means_what_compose_tools_mean_by_it() {
        for (text, filled) in [
            ("$PORT", "5555"),
            ("${PORT}", "5555"),
            ("a${PORT}b$SOURCE_ADDRESS", "a5555b0xS"),
            ("$$PORT $${PORT}", "$PORT ${PORT}"),
            ("${PORT:-1}", "5555"),
            ("${NO:-1}", "1"),
            ("${NO-1}", "1"),
            ("${NO:-}", ""),
            ("${PROVIDER_ADDRESS:-none}", "none"),
            ("${PROVIDER_ADDRESS-none}", ""),
            ("${PROVIDER_ADDRESS}", ""),
            ("${PORT:?x}${PORT?x}", "55555555"),
            ("${PROVIDER_ADDRESS?x}", ""),
            ("${PORT:+set}${PORT+set}", "setset"),
            ("${NO:+set}${NO+set}", ""),
            ("${PROVIDER_ADDRESS:+set}", ""),
            ("${PROVIDER_ADDRESS+set}", "set"),
            ("${NO:-${PORT}}", "5555"),
            ("${NO:-${NEITHER:-${PORT}}}", "5555"),
            ("${NO:-$PORT/}", "5555/"),
            ("${NO:-a}b}", "ab}"),
            ("${NO:-$$}}", "$}"),
            ("${PORT:-${NO}}", "5555"),
            ("${NO:--}", "-"),
            ("${NO:-:?}", ":?"),
        ] {
            assert_eq!(offer().fill("p", text).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn what_is_not_offered_is_named_with_the_words_of_the_file() {
        for (text, says) in [
            ("$NO", "`p` asks for ${NO}, which this rig does not offer"),
            ("${NO:?}", "`p` asks for ${NO}, which this rig does not offer"),
            ("${NO?set it}", "`p` asks for ${NO}, which this rig does not offer; the file says: set it"),
            ("${NO:?a\u{1b}[2Jb}", "`p` asks for ${NO}, which this rig does not offer; the file says: a\\u{1b}[2Jb"),
            ("${NO:-${OR}}", "`p` asks for ${OR}, which this rig does not offer"),
            (
                "${PROVIDER_ADDRESS:?empty}",
                "`p` asks for ${PROVIDER_ADDRESS}, which this rig does not offer; the file says: empty",
            ),
        ] {
            assert_eq!(offer().fill("p", text).expect_err(text).to_string(), says, "{text}");
        }
        let nested = format!("{}x{}", "${NO:-".repeat(NESTING_MAX + 1), "}".repeat(NESTING_MAX + 1));
        for text in [
            "${PORT",
            "$",
            "${}",
            "${ PORT }",
            "${!PORT}",
            "${PORT:}",
            "${PORT:x}",
            "$1",
            "${1A}",
            "${NO:-${PORT}",
            &nested,
        ] {
            let error = ComposeError::BadInterpolation { path: "p".into() };
            assert_eq!(offer().fill("p", text), Err(error), "{text}");
        }
    }
}
