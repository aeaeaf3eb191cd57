//! A value with its place in the file, and how to read it as what it should be.
//!
//! Invariants: text is interpolated where it is read and nowhere else, so what is ignored cannot fail; no text that is
//! read has a NUL; a map is only opened with the list of keys that it may have, so that no key is passed over.

use std::collections::BTreeSet;

use super::document::Value;
use super::exceptions::{Exception, Exceptions};
use super::{ComposeError, Offer};

/// How much of a name that stands in the file is shown in a reason, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// Notes of one file; the last says how many more there were.
const NOTES_MAX: usize = 64;

/// How alike two keys must be for one to be suggested for the other. Source: tried; below it suggestions are odd.
const ALIKE_MIN: f64 = 0.7;

/// The shortest key that anything is suggested for, in bytes: shorter ones are like everything.
const KEY_BYTES_MIN: usize = 3;

/// What the reading of one file needs and leaves behind.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) offer: &'a Offer,
    allowed: &'a Exceptions,
    used: BTreeSet<Exception>,
    notes: Vec<String>,
    more_notes: usize,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

/// An opened map, all of whose keys are known.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: String,
    entries: &'a [(String, Value)],
}

// === impl Reading ===

impl<'a> Reading<'a> {
    pub(super) fn new(offer: &'a Offer, allowed: &'a Exceptions) -> Reading<'a> {
        Reading { offer, allowed, used: BTreeSet::new(), notes: Vec::new(), more_notes: 0 }
    }

    /// Notes that what stands at `path` is ignored.
    pub(super) fn ignore(&mut self, path: &str, why: &str) {
        self.note(format!("`{path}` is ignored: {why}"));
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        } else {
            self.more_notes += 1;
        }
    }

    /// Refuses what stands at `path`, unless the owner allows to run without it; then that is noted.
    pub(super) fn refuse_unless(
        &mut self,
        path: &str,
        why: &'static str,
        exception: Exception,
    ) -> Result<(), ComposeError> {
        if !self.allowed.allow(exception) {
            return Err(ComposeError::Refused { path: path.to_owned(), why, exception: Some(exception) });
        }
        self.used.insert(exception);
        self.note(format!("`{path}` is not run, as the owner allows ({exception}): {}", exception.instead()));
        Ok(())
    }

    /// The notes, and the names of the exceptions that were made use of.
    pub(super) fn finish(mut self) -> (Vec<String>, Vec<String>) {
        if self.more_notes > 0 {
            self.notes.push(format!("and {} notes more", self.more_notes));
        }
        (self.notes, self.used.into_iter().map(|exception| exception.to_string()).collect())
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// Text, or a number or a yes or no as text; filled in.
    pub(super) fn text(&self, reading: &Reading<'_>) -> Result<String, ComposeError> {
        let text = match self.value {
            Value::Text(text) => reading.offer.fill(&self.path, text)?,
            Value::Flag(flag) => flag.to_string(),
            Value::Whole(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Nothing | Value::List(_) | Value::Map(_) => return Err(self.kind("a text")),
        };
        if text.contains('\0') {
            return Err(self.bad(&text, "a text without a NUL"));
        }
        Ok(text)
    }

    /// A yes or no. Text is one too, for it may come from `${…}`.
    pub(super) fn flag(&self, reading: &Reading<'_>) -> Result<bool, ComposeError> {
        match self.value {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(_) => match self.text(reading)?.as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                other => Err(self.bad(other, "`true` or `false`")),
            },
            _ => Err(self.kind("`true` or `false`")),
        }
    }

    /// A whole number, written as a number or as text, that fits.
    pub(super) fn whole<T: TryFrom<i128>>(
        &self,
        reading: &Reading<'_>,
        wanted: &'static str,
    ) -> Result<T, ComposeError> {
        let text = match self.value {
            Value::Whole(number) => return T::try_from(*number).map_err(|_| self.bad(&number.to_string(), wanted)),
            Value::Text(_) | Value::Real(_) => self.text(reading)?,
            _ => return Err(self.kind(wanted)),
        };
        let number = text.parse::<i128>().ok().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.bad(&text, wanted))
    }

    /// The entries of a list of at most `max`.
    pub(super) fn list(&self, max: usize) -> Result<Vec<Node<'a>>, ComposeError> {
        let Value::List(list) = self.value else { return Err(self.kind("a list")) };
        self.bound(list.len(), max)?;
        let entry = |(at, value)| Node { path: format!("{}[{at}]", self.path), value };
        Ok(list.iter().enumerate().map(entry).collect())
    }

    /// The entries of a list, or the one value that stands where a list may.
    pub(super) fn one_or_list(&self, max: usize) -> Result<Vec<Node<'a>>, ComposeError> {
        if let Value::List(_) = self.value { self.list(max) } else { Ok(vec![self.clone()]) }
    }

    /// The entries of a map of at most `max` whose keys are names.
    pub(super) fn named(&self, max: usize) -> Result<Vec<(&'a str, Node<'a>)>, ComposeError> {
        let Value::Map(map) = self.value else { return Err(self.kind("a map")) };
        self.bound(map.len(), max)?;
        Ok(map.iter().map(|(key, value)| (key.as_str(), Node { path: below(&self.path, key), value })).collect())
    }

    /// Checks that a value is a list or a map.
    pub(super) fn list_or_map(&self) -> Result<(), ComposeError> {
        match self.value {
            Value::List(_) | Value::Map(_) => Ok(()),
            _ => Err(self.kind("a list or a map")),
        }
    }

    /// Opens a map all of whose keys must be in `known` or begin with `x-`.
    pub(super) fn fields(&self, known: &[&'static str]) -> Result<Fields<'a>, ComposeError> {
        let Value::Map(entries) = self.value else { return Err(self.kind("a map")) };
        for (key, _) in entries {
            if !key.starts_with("x-") && !known.contains(&key.as_str()) {
                let alike = |name: &&'static str| strsim::jaro_winkler(&key.to_lowercase(), name);
                let nearest = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
                let nearest = nearest.filter(|name| key.len() >= KEY_BYTES_MIN && alike(name) >= ALIKE_MIN);
                return Err(ComposeError::Unknown { path: below(&self.path, key), nearest });
            }
        }
        Ok(Fields { path: self.path.clone(), entries })
    }

    pub(super) fn bad(&self, text: &str, wanted: &'static str) -> ComposeError {
        ComposeError::BadValue { path: self.path.clone(), text: cut(text), wanted }
    }

    pub(super) fn kind(&self, wanted: &'static str) -> ComposeError {
        ComposeError::Kind { path: self.path.clone(), found: self.value.kind(), wanted }
    }

    pub(super) fn refuse(&self, why: &'static str) -> ComposeError {
        ComposeError::Refused { path: self.path.clone(), why, exception: None }
    }

    pub(super) fn twice(&self, what: String) -> ComposeError {
        ComposeError::Twice { path: self.path.clone(), what }
    }

    pub(super) fn not_declared(&self, what: &'static str, name: &str) -> ComposeError {
        ComposeError::NotDeclared { path: self.path.clone(), what, name: cut(name) }
    }

    pub(super) fn too_long(&self, max: usize) -> ComposeError {
        ComposeError::TextTooLong { path: self.path.clone(), max }
    }

    fn bound(&self, count: usize, max: usize) -> Result<(), ComposeError> {
        if count > max {
            return Err(ComposeError::TooMany { path: self.path.clone(), count, max });
        }
        Ok(())
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The value of a key, unless it is left out or nothing.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let (_, value) = self.entries.iter().find(|(name, _)| name == key)?;
        (*value != Value::Nothing).then(|| Node { path: below(&self.path, key), value })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &str) -> Result<Node<'a>, ComposeError> {
        self.get(key).ok_or_else(|| ComposeError::Missing { path: below(&self.path, key) })
    }

    /// The value of a key as text.
    pub(super) fn text(&self, key: &str, reading: &Reading<'_>) -> Result<Option<String>, ComposeError> {
        self.get(key).map(|node| node.text(reading)).transpose()
    }

    /// The value of a key as a yes or no; no if it is left out.
    pub(super) fn flag(&self, key: &str, reading: &Reading<'_>) -> Result<bool, ComposeError> {
        self.get(key).map_or(Ok(false), |node| node.flag(reading))
    }

    /// Notes each of these keys that says something.
    pub(super) fn ignore(&self, keys: &[(&str, &str)], reading: &mut Reading<'_>) {
        for (key, why) in keys {
            if let Some(node) = self.get(key).filter(|node| !node.value.asks_nothing()) {
                reading.ignore(&node.path, why);
            }
        }
    }

    /// Refuses the first of these keys that says something.
    pub(super) fn refuse(&self, keys: &[(&str, &'static str)]) -> Result<(), ComposeError> {
        let said = |key| self.get(key).filter(|node: &Node<'_>| !node.value.asks_nothing());
        match keys.iter().find_map(|(key, why)| Some((said(key)?, why))) {
            Some((node, why)) => Err(node.refuse(why)),
            None => Ok(()),
        }
    }
}

/// A text of the file, short and harmless enough to be shown.
pub(super) fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// The path of a key below `path`, empty for the document itself.
fn below(path: &str, key: &str) -> String {
    if path.is_empty() { cut(key) } else { format!("{path}.{}", cut(key)) }
}
