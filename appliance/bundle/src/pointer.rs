//! JSON pointers (RFC 6901): places in a task's `data`, and in the response.

use serde_json::{Map, Value};

use crate::limits::{POINTER_CHARS_MAX, POINTER_PARTS_MAX};

/// A well-formed pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(String);

/// Reads a pointer, or makes `/NAME`. Errors: a sentence.
pub(crate) fn or_default(text: Option<&str>, name: &str) -> Result<Pointer, String> {
    let Some(text) = text else { return Ok(Pointer(format!("/{name}"))) };
    let shown = crate::expression::shown(text);
    if !text.is_empty() && !text.starts_with('/') {
        return Err(format!("{shown:?} is no JSON pointer; it begins with `/`"));
    }
    if text.chars().count() > POINTER_CHARS_MAX || text.matches('/').count() > POINTER_PARTS_MAX {
        return Err(format!("a pointer has at most {POINTER_CHARS_MAX} characters and {POINTER_PARTS_MAX} parts"));
    }
    let mut escapes = text.split('~').skip(1);
    if escapes.any(|behind| !behind.starts_with(['0', '1'])) || text.chars().any(char::is_control) {
        return Err(format!("{shown:?} is no JSON pointer; `~` is written `~0`, and `/` in a key `~1`"));
    }
    Ok(Pointer(text.to_owned()))
}

// === impl Pointer ===

impl Pointer {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of them stands in the way of the other: the same place, or a place within it.
    pub(crate) fn collides(&self, other: &Pointer) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        within(&self.0, &other.0) || within(&other.0, &self.0)
    }

    /// Puts `value` there. Every part is a key of an object. Pointers that do not collide do not disturb each other.
    pub(crate) fn put(&self, root: &mut Value, value: Value) {
        let mut place = root;
        for part in self.0.split('/').skip(1) {
            let key = part.replace("~1", "/").replace("~0", "~");
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[key];
        }
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_where_it_was_put() {
        let mut root = Value::Null;
        for (number, text) in ["/a", "/b/c", "/b/d~1e", "/b/~01", "/x/0", "/"].iter().enumerate() {
            or_default(Some(text), "").expect(text).put(&mut root, number.into());
            assert_eq!(root.pointer(text), Some(&number.into()), "{text}");
        }
        assert_eq!(root.to_string(), r#"{"":5,"a":0,"b":{"c":1,"d/e":2,"~1":3},"x":{"0":4}}"#);
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~", "/a\n", "#/a", &"/a".repeat(9), &format!("/{}", "a".repeat(256))] {
            assert!(or_default(Some(text), "").is_err(), "{text}");
        }
    }

    #[test]
    fn places_that_contain_each_other_collide() {
        let check = |a: &str, b: &str, expected: bool| {
            let pointer = |text| or_default(Some(text), "").expect("a pointer");
            assert_eq!(pointer(a).collides(&pointer(b)), expected, "{a} {b}");
            assert_eq!(pointer(b).collides(&pointer(a)), expected, "{b} {a}");
        };
        check("/a", "/a", true);
        check("/a", "/a/b", true);
        check("", "/a", true);
        check("/a", "/ab", false);
        check("/a/b", "/a/c", false);
    }
}
