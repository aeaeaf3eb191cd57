//! A command line as words, the way that compose files mean it: a POSIX shell's quoting, and nothing else of a shell.

/// Splits a line at white space outside quotes. `None` if a quote or a backslash has no end.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => match rest.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn quotes_hold_words_together_as_a_shell_does() {
        for (line, words) in [
            ("", &[][..]),
            ("  python   handler.py\n", &["python", "handler.py"]),
            (r#"sh -c "python a.py && python b.py""#, &["sh", "-c", "python a.py && python b.py"]),
            (r#"a 'it is "so"' b"#, &["a", r#"it is "so""#, "b"]),
            (r#"--name="x y"z ''"#, &["--name=x yz", ""]),
            (r#""\"\n" a\ b"#, &[r#""\n"#, "a b"]),
        ] {
            assert_eq!(
                split(line).as_deref(),
                Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).as_deref()
            );
        }
    }

    #[test]
    fn a_quote_without_an_end_is_no_line() {
        for line in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
