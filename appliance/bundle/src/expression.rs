//! Expressions: whole numbers that depend on a task's parameters.
//!
//! ```text
//! sum     = product *( ("+" / "-") product )
//! product = atom *( ("*" / "/" / "%") atom )
//! atom    = NUMBER / NAME / "(" sum ")" / ("min" / "max" / "ceil_div") "(" sum "," sum ")"
//! ```
//!
//! They are evaluated in 64 bits without sign, left to right. Overflow, a difference below zero and division by zero are
//! errors, never wrapped. Names are resolved when an expression is read; [`Expression::range`] says, before any value
//! is known, what it cannot exceed.

use std::fmt;

use crate::limits::{EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX};

/// Names that an expression cannot use for anything else.
pub(crate) const FUNCTIONS: [&str; 3] = ["min", "max", "ceil_div"];

/// A resolved expression.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    text: String,
    node: Node,
    nodes: u64,
}

#[derive(Clone, Debug)]
enum Node {
    Number(u64),
    /// Where the value stands in the environment.
    Name(usize),
    Binary(Operator, Box<[Node; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Min,
    Max,
    CeilDiv,
}

/// What a value lies between, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The least.
    pub(crate) low: u64,
    /// The most.
    pub(crate) high: u64,
}

/// The names at one place, and what they lie between. The values of an environment stand in the same order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope(pub(crate) Vec<(String, Range)>);

// === impl Scope ===

impl Scope {
    fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(known, _)| known == name)
    }
}

// === impl Expression ===

impl Expression {
    /// Reads `text` with the names of `scope`. Errors: a sentence that says what is wrong.
    pub(crate) fn parse(text: &str, scope: &Scope) -> Result<Expression, String> {
        if text.chars().count() > EXPRESSION_CHARS_MAX {
            return Err(format!("an expression has at most {EXPRESSION_CHARS_MAX} characters"));
        }
        let mut parser = Parser { rest: text, scope, depth: 0, nodes: 0 };
        let parsed = parser.sum().and_then(|node| match parser.peek() {
            None => Ok(node),
            Some(other) => Err(format!("`{other}` was not expected")),
        });
        let node = parsed.map_err(|reason| format!("expression `{}`: {reason}", shown(text)))?;
        Ok(Expression { text: text.to_owned(), node, nodes: parser.nodes })
    }

    /// How many numbers, names and signs are gone through to evaluate it.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// The value in an environment. Errors: a sentence that names the expression.
    pub(crate) fn value(&self, environment: &[u64]) -> Result<u64, String> {
        evaluate(&self.node, environment).map_err(|reason| format!("expression `{}` {reason}", self.text))
    }

    /// What every value lies between, if there is one.
    pub(crate) fn range(&self, scope: &Scope) -> Range {
        range(&self.node, scope)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As much of a stranger's text as an error repeats.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn evaluate(node: &Node, environment: &[u64]) -> Result<u64, &'static str> {
    let (operator, operands) = match node {
        Node::Number(number) => return Ok(*number),
        Node::Name(slot) => return environment.get(*slot).copied().ok_or("has a name without a value"),
        Node::Binary(operator, operands) => (operator, operands),
    };
    let (a, b) = (evaluate(&operands[0], environment)?, evaluate(&operands[1], environment)?);
    const OVERFLOWS: &str = "overflows 64 bits";
    const BY_ZERO: &str = "divides by zero";
    match operator {
        Operator::Add => a.checked_add(b).ok_or(OVERFLOWS),
        Operator::Subtract => a.checked_sub(b).ok_or("goes below zero"),
        Operator::Multiply => a.checked_mul(b).ok_or(OVERFLOWS),
        Operator::Divide => a.checked_div(b).ok_or(BY_ZERO),
        Operator::Remainder => a.checked_rem(b).ok_or(BY_ZERO),
        Operator::Min => Ok(a.min(b)),
        Operator::Max => Ok(a.max(b)),
        Operator::CeilDiv if b == 0 => Err(BY_ZERO),
        Operator::CeilDiv => Ok(a.div_ceil(b)),
    }
}

fn range(node: &Node, scope: &Scope) -> Range {
    let (operator, operands) = match node {
        Node::Number(number) => return Range { low: *number, high: *number },
        Node::Name(slot) => {
            return scope.0.get(*slot).map_or(Range { low: 0, high: u64::MAX }, |(_, range)| *range);
        }
        Node::Binary(operator, operands) => (operator, operands),
    };
    let (a, b) = (range(&operands[0], scope), range(&operands[1], scope));
    // A divisor of zero has no value, so the least divisor is one.
    let (least, most) = (b.low.max(1), b.high.max(1));
    match operator {
        Operator::Add => Range { low: a.low.saturating_add(b.low), high: a.high.saturating_add(b.high) },
        Operator::Subtract => Range { low: a.low.saturating_sub(b.high), high: a.high.saturating_sub(b.low) },
        Operator::Multiply => Range { low: a.low.saturating_mul(b.low), high: a.high.saturating_mul(b.high) },
        Operator::Divide => Range { low: a.low / most, high: a.high / least },
        Operator::Remainder => Range { low: 0, high: a.high.min(most - 1) },
        Operator::Min => Range { low: a.low.min(b.low), high: a.high.min(b.high) },
        Operator::Max => Range { low: a.low.max(b.low), high: a.high.max(b.high) },
        Operator::CeilDiv => Range { low: a.low.div_ceil(most), high: a.high.div_ceil(least) },
    }
}

struct Parser<'a> {
    rest: &'a str,
    scope: &'a Scope,
    depth: usize,
    nodes: u64,
}

// === impl Parser ===

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches(' ');
        self.rest.chars().next()
    }

    /// Takes one of `signs` if it comes next.
    fn take(&mut self, signs: &[(char, Operator)]) -> Option<Operator> {
        let next = self.peek()?;
        let (sign, operator) = signs.iter().find(|(sign, _)| *sign == next)?;
        self.rest = &self.rest[sign.len_utf8()..];
        Some(*operator)
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        match self.peek() {
            Some(next) if next == sign => {
                self.rest = &self.rest[sign.len_utf8()..];
                Ok(())
            }
            Some(next) => Err(format!("`{sign}` was expected, not `{next}`")),
            None => Err(format!("`{sign}` is missing at the end")),
        }
    }

    fn sum(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(format!("parentheses and calls go at most {EXPRESSION_DEPTH_MAX} deep"));
        }
        let mut node = self.product()?;
        while let Some(operator) = self.take(&[('+', Operator::Add), ('-', Operator::Subtract)]) {
            let right = self.product()?;
            node = self.binary(operator, node, right);
        }
        self.depth -= 1;
        Ok(node)
    }

    fn product(&mut self) -> Result<Node, String> {
        const SIGNS: [(char, Operator); 3] =
            [('*', Operator::Multiply), ('/', Operator::Divide), ('%', Operator::Remainder)];
        let mut node = self.atom()?;
        while let Some(operator) = self.take(&SIGNS) {
            let right = self.atom()?;
            node = self.binary(operator, node, right);
        }
        Ok(node)
    }

    fn atom(&mut self) -> Result<Node, String> {
        match self.peek() {
            Some('(') => {
                self.expect('(')?;
                let node = self.sum()?;
                self.expect(')')?;
                Ok(node)
            }
            Some(digit) if digit.is_ascii_digit() => {
                let digits = self.word();
                self.nodes += 1;
                digits.parse().map(Node::Number).map_err(|_| format!("{digits} is no whole number of 64 bits"))
            }
            Some(letter) if letter.is_ascii_alphabetic() || letter == '_' => self.named(),
            Some(other) => Err(format!("`{}` was not expected", other.escape_debug())),
            None => Err("it ends where a number or a name was expected".to_owned()),
        }
    }

    fn named(&mut self) -> Result<Node, String> {
        let operator = match self.word() {
            "min" => Operator::Min,
            "max" => Operator::Max,
            "ceil_div" => Operator::CeilDiv,
            name => {
                let names = self.scope.0.iter().map(|(known, _)| known.as_str());
                self.nodes += 1;
                return self.scope.find(name).map(Node::Name).ok_or_else(|| unknown(name, names));
            }
        };
        self.expect('(')?;
        let left = self.sum()?;
        self.expect(',')?;
        let right = self.sum()?;
        self.expect(')')?;
        Ok(self.binary(operator, left, right))
    }

    /// Takes letters, digits and underscores.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|next: char| !next.is_ascii_alphanumeric() && next != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn binary(&mut self, operator: Operator, left: Node, right: Node) -> Node {
        self.nodes += 1;
        Node::Binary(operator, Box::new([left, right]))
    }
}

/// What is said about a name that means nothing, with the nearest of those that do.
pub(crate) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.filter(|valid| !valid.is_empty()).min_by_key(|valid| strsim::damerau_levenshtein(name, valid));
    let hint = nearest.map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default();
    format!("unknown name `{}`{hint}", shown(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope() -> Scope {
        let range = |low, high| Range { low, high };
        Scope(vec![("m".into(), range(1, 100)), ("n".into(), range(0, 7)), ("big".into(), range(0, u64::MAX))])
    }

    #[test]
    fn an_expression_has_the_value_of_its_arithmetic() {
        let check = |text: &str, expected: u64| {
            let expression = Expression::parse(text, &scope()).expect(text);
            assert_eq!(expression.value(&[10, 3, u64::MAX]), Ok(expected), "{text}");
        };
        check("0", 0);
        check("m", 10);
        check(" m * n ", 30);
        check("m - n - 2", 5);
        check("m - (n - 2)", 9);
        check("2 + 3 * m", 32);
        check("(2 + 3) * m", 50);
        check("m / n % 2", 1);
        check("ceil_div(m, n) + min(m, n) * max(m, n)", 34);
        check("big", u64::MAX);
        check("18446744073709551615", u64::MAX);
        check("ceil_div(big, 1)", u64::MAX);
        check("((((((((((((((1))))))))))))))", 1);
    }

    #[test]
    fn a_value_that_is_no_number_of_64_bits_is_an_error_that_names_the_expression() {
        let check = |text: &str, words: &str| {
            let error = Expression::parse(text, &scope()).expect(text).value(&[10, 3, u64::MAX]).expect_err(text);
            assert_eq!(error, format!("expression `{text}` {words}"));
        };
        check("big + 1", "overflows 64 bits");
        check("big * 2", "overflows 64 bits");
        check("n - m", "goes below zero");
        check("m / (n - 3)", "divides by zero");
        check("m % 0", "divides by zero");
        check("ceil_div(m, n - 3)", "divides by zero");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        let deep = format!("{}1{}", "(".repeat(17), ")".repeat(17));
        let long = "1+".repeat(128) + "1";
        let nested = format!("{}1{}", "min(1,".repeat(17), ")".repeat(17));
        let bad = [
            "",
            " ",
            "+",
            "1 +",
            "-1",
            "1 2",
            "(1",
            "1)",
            "()",
            "min(1)",
            "min(1,2,3)",
            "min 1",
            "x",
            "M",
            "1.5",
            "1e3",
            "0x10",
            "1_000",
            "m m",
            "m**n",
            "m//n",
            "m=1",
            "m\t",
            "m\n",
            "é",
            "18446744073709551616",
            "m;n",
            "$m",
            "m[0]",
            "pow(m, n)",
            "ceil_div(m n)",
            &deep,
            &long,
            &nested,
        ];
        for text in bad {
            assert!(Expression::parse(text, &scope()).is_err(), "{text}");
        }
        let error = Expression::parse("bigg * 2", &scope()).expect_err("no such name");
        assert_eq!(error, "expression `bigg * 2`: unknown name `bigg`, did you mean `big`?");
    }

    fn texts() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("m".to_owned()),
            Just("n".to_owned()),
            Just("big".to_owned()),
            (0u64..9).prop_map(|n| n.to_string())
        ];
        leaf.prop_recursive(4, 16, 2, |inner| {
            let sign = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
            prop_oneof![
                (inner.clone(), sign, inner.clone()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
                (prop::sample::select(FUNCTIONS.to_vec()), inner.clone(), inner)
                    .prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_lies_in_the_range_that_was_told_before(text in texts(), m in 1u64..=100, n in 0u64..=7, big: u64) {
            prop_assume!(text.len() <= EXPRESSION_CHARS_MAX);
            let expression = Expression::parse(&text, &scope()).expect("it is generated");
            let range = expression.range(&scope());
            if let Ok(value) = expression.value(&[m, n, big]) {
                prop_assert!((range.low..=range.high).contains(&value), "{text} = {value}, not in {range:?}");
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ -~é]{0,40}") {
            let _ = Expression::parse(&text, &scope());
        }
    }
}
