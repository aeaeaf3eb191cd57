//! Which modules are loaded, in which order: `/modules/order`, one file name a line, each after what it needs.
//!
//! Watchdogs stand first, so that a driver that hangs is covered. The file comes with the kernel image and is as right as
//! it; the bounds are against a build that went wrong.

/// The file is at most so long.
pub const ORDER_BYTES_MAX: u64 = 64 << 10;

/// So many modules at most. The image has some thirty; two hundred take half a minute to load.
pub const MODULES_MAX: usize = 256;

const NAME_MAX: usize = 128;

/// What is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// A line that is not the name of a module's file.
    #[error("line {0} of /modules/order is not the name of a module")]
    Name(usize),
    /// Too many lines.
    #[error("/modules/order names more than {MODULES_MAX} modules")]
    TooMany,
}

/// The modules in `text`. Empty lines are passed over.
/// Errors: the first line that is wrong; nothing of the file is used then.
pub fn parse(text: &str) -> Result<Vec<&str>, OrderError> {
    let mut names = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let name = line.trim();
        if name.is_empty() {
            continue;
        }
        if !is_module(name) {
            return Err(OrderError::Name(number));
        }
        if names.len() == MODULES_MAX {
            return Err(OrderError::TooMany);
        }
        names.push(name);
    }
    Ok(names)
}

fn is_module(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".ko") else { return false };
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !stem.is_empty() && name.len() <= NAME_MAX && stem.chars().all(is_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_as_the_lines_stand() {
        assert_eq!(
            parse("i6300esb.ko\n\n dm-mod.ko\r\ndm-verity.ko"),
            Ok(vec!["i6300esb.ko", "dm-mod.ko", "dm-verity.ko"])
        );
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn a_line_that_is_no_module_is_named() {
        for bad in
            ["a", ".ko", "a.ko.xz", "../a.ko", "a/b.ko", "a b.ko", "a\0.ko", "ä.ko", &format!("{}.ko", "a".repeat(126))]
        {
            assert_eq!(parse(&format!("first.ko\n{bad}\n")), Err(OrderError::Name(2)), "{bad}");
        }
    }

    #[test]
    fn there_is_an_end_to_modules() {
        assert_eq!(parse(&"a.ko\n".repeat(MODULES_MAX)).map(|names| names.len()), Ok(MODULES_MAX));
        assert_eq!(parse(&"a.ko\n".repeat(MODULES_MAX + 1)), Err(OrderError::TooMany));
    }
}
