//! YAML as a tree of values, read within bounds.
//!
//! The tree is untyped, so that each complaint can name the place and what should stand there; types come where the
//! values are read. Invariants: no map has a key twice, whatever its keys were written as; merge keys are merged; the
//! tree with all aliases expanded has at most [`NODES_MAX`] values and [`EXPANDED_BYTES_MAX`] bytes of text.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::ComposeError;

/// How deep values may be nested. Source: real files need eight; each level costs the parser several KiB of stack.
const DEPTH_MAX: usize = 24;

/// Values of one file, aliases expanded.
const NODES_MAX: usize = 50_000;

/// Bytes of keys and values of one file, aliases expanded: a few times what the largest file can hold without any.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// How much of what the parser says is shown in a reason, in characters.
const SYNTAX_CHARS_MAX: usize = 300;

/// A value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nothing,
    Flag(bool),
    Whole(i128),
    Real(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    /// What it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Nothing => "nothing",
            Value::Flag(_) => "a yes or no",
            Value::Whole(_) | Value::Real(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Whether it says nothing: nothing itself, no, or an empty list, map or text.
    pub(super) fn asks_nothing(&self) -> bool {
        match self {
            Value::Nothing | Value::Flag(false) => true,
            Value::Text(text) => text.is_empty(),
            Value::List(list) => list.is_empty(),
            Value::Map(map) => map.is_empty(),
            Value::Flag(true) | Value::Whole(_) | Value::Real(_) => false,
        }
    }
}

/// Reads one YAML document. Errors: [`ComposeError::Syntax`], with what the parser found and where.
pub(super) fn read(text: &str) -> Result<Value, ComposeError> {
    // As the tools that these files are written for read them: `yes` is a word, and 0755 is octal.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_total_scalar_bytes: EXPANDED_BYTES_MAX,
        },
        strict_booleans: true,
        legacy_octal_numbers: true,
        // Only the first line of what the parser says is shown, so it need not draw the place.
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
    };
    let left = Cell::new(EXPANDED_BYTES_MAX);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |from| Tree { left: &left }.deserialize(from))
        .map_err(|error| ComposeError::Syntax { why: first_words(&error) })
}

/// What the parser says, without the excerpts that it draws below.
fn first_words(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SYNTAX_CHARS_MAX).collect()
}

/// Builds the tree, and counts its bytes.
#[derive(Clone, Copy)]
struct Tree<'a> {
    left: &'a Cell<usize>,
}

impl Tree<'_> {
    fn spend<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        let left = left.ok_or_else(|| E::custom(format!("more than {EXPANDED_BYTES_MAX} bytes, aliases expanded")))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.spend(text.len())?;
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        let mut keys = HashSet::new();
        while let Some(key) = from.next_key_seed(self)? {
            let key = match key {
                Value::Text(text) => text,
                Value::Flag(flag) => flag.to_string(),
                Value::Whole(number) => number.to_string(),
                Value::Real(number) => number.to_string(),
                Value::Nothing | Value::List(_) | Value::Map(_) => return Err(A::Error::custom("a key is no text")),
            };
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom("a key stands twice in one map"));
            }
            map.push((key, from.next_value_seed(self)?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_compose_tools_take_them_for() {
        for (written, value) in [
            ("no", Value::Text("no".into())),
            ("true", Value::Flag(true)),
            ("01777", Value::Whole(0o1777)),
            ("1777", Value::Whole(1777)),
            ("0.5", Value::Real(0.5)),
            ("\"0.50\"", Value::Text("0.50".into())),
            ("12436:11434", Value::Text("12436:11434".into())),
            ("", Value::Nothing),
            (".inf", Value::Text(".inf".into())),
            ("18446744073709551615", Value::Whole(u64::MAX.into())),
        ] {
            let tree = read(&format!("k: {written}")).expect(written);
            assert_eq!(tree, Value::Map(vec![("k".into(), value)]), "{written}");
        }
    }

    #[test]
    fn a_merged_map_keeps_its_own_keys_over_those_that_are_merged_in() {
        let tree = read("x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}\n").expect("it is read");
        let Value::Map(map) = tree else { panic!("it is a map") };
        let Value::Map(merged) = &map[1].1 else { panic!("y is a map") };
        assert_eq!(merged.len(), 2, "{merged:?}");
        assert!(merged.contains(&("a".into(), Value::Whole(1))) && merged.contains(&("b".into(), Value::Whole(3))));
    }

    #[test]
    fn one_key_written_in_two_ways_is_a_key_twice() {
        assert!(read("k: {1: a, \"1\": b}").is_err());
        assert!(read("k: {true: a, \"true\": b}").is_err());
    }

    #[test]
    fn a_long_text_that_is_repeated_by_aliases_is_refused() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(90));
        let error = read(&text).expect_err("90 times 100 kB").to_string();
        assert!(error.starts_with("the compose file does not parse: "), "{error}");
    }
}
