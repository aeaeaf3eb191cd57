//! The bytes of a file that a person wrote on any machine, as text.
//!
//! Windows editors put a mark before the text and end lines with two signs; both are fine. A text in UTF-16 is not: it
//! is named, because that is what some of them save by default.

/// The longest `rig.toml`, in bytes. The shipped one has about 6 KiB.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// The mark of UTF-8 that editors put first.
const MARK: &str = "\u{feff}";

/// A file that holds no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Far longer than any settings.
    #[error("the file is longer than {FILE_BYTES_MAX} bytes: is it the right one?")]
    TooLong,
    /// As some editors call it: "Unicode".
    #[error("the file is saved as UTF-16: save it again as UTF-8")]
    Utf16,
    /// Some other alphabet, or no text at all.
    #[error("line {line} holds a sign that is not UTF-8: save the file again as UTF-8")]
    NotUtf8 {
        /// From 1.
        line: usize,
    },
    /// What no editor writes.
    #[error("line {line} holds a zero byte: the file is damaged, write it again")]
    Zero {
        /// From 1.
        line: usize,
    },
}

/// The text of `bytes`, without the mark, its line ends as they are.
/// Errors: see [`TextError`].
pub fn of(bytes: &[u8]) -> Result<&str, TextError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(TextError::TooLong);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(TextError::Utf16);
    }
    let line = |at: usize| bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let text = std::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 { line: line(error.valid_up_to()) })?;
    if let Some(at) = text.find('\0') {
        return Err(TextError::Zero { line: line(at) });
    }
    Ok(text.strip_prefix(MARK).unwrap_or(text))
}

/// `text` fit for a console: one line, printable, at most `most` signs.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let spaced: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
    let joined = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", &joined[..at]),
        None => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_save_is_read_and_what_is_no_text_is_named() {
        let check = |bytes: &[u8], expected: Result<&str, TextError>| assert_eq!(of(bytes), expected);
        check(b"", Ok(""));
        check(b"a = 1\r\n", Ok("a = 1\r\n"));
        check(b"\xef\xbb\xbfa = 1\n", Ok("a = 1\n"));
        check(b"\xef\xbb\xbf", Ok(""));
        check(b"\xff\xfea\0=\0", Err(TextError::Utf16));
        check(b"\xfe\xff\0a", Err(TextError::Utf16));
        check(b"a = 1\nb = \"\xe4\"\n", Err(TextError::NotUtf8 { line: 2 }));
        check(b"a = 1\n\n\0\0", Err(TextError::Zero { line: 3 }));
        check(&vec![b'#'; FILE_BYTES_MAX], Ok("#".repeat(FILE_BYTES_MAX).as_str()));
        check(&vec![b'#'; FILE_BYTES_MAX + 1], Err(TextError::TooLong));
    }

    #[test]
    fn what_is_shown_is_one_line_and_bounded() {
        assert_eq!(shown("a\x1b[2J\r\n b\u{9b}c", 80), "a [2J b c");
        assert_eq!(shown(&"\u{e4}".repeat(100), 3), "\u{e4}\u{e4}\u{e4}...");
    }
}
