//! Patterns for paths: `*` is any signs but a slash, `**` any signs at all; everything else is itself.

/// Whether `path` is what `pattern` means.
pub(crate) fn is_match(pattern: &str, path: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == path };
    let Some(rest) = path.strip_prefix(head) else { return false };
    let (tail, reach) = match tail.strip_prefix('*') {
        Some(tail) => (tail, rest.len()),
        None => (tail, rest.find('/').unwrap_or(rest.len())),
    };
    let mut ends = (0..=reach).filter(|end| rest.is_char_boundary(*end));
    ends.any(|end| is_match(tail, &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        let check = |pattern, path, expected| assert_eq!(is_match(pattern, path), expected, "{pattern} {path}");
        check("usr/bin/x", "usr/bin/x", true);
        check("usr/bin/x", "usr/bin/xy", false);
        check("usr/bin/*", "usr/bin/x", true);
        check("usr/bin/*", "usr/bin/x/y", false);
        check("usr/bin/*", "usr/bin/", true);
        check("usr/**", "usr/bin/x/y", true);
        check("usr/**", "usr", false);
        check("usr/**/y", "usr/bin/x/y", true);
        check("a*c*e", "abcde", true);
        check("a*c*e", "abcd", false);
        check("*.so*", "lib\u{e4}.so.1", true);
        check("", "", true);
        check("", "x", false);
    }
}
