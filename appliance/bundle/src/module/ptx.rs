//! The head and the entries of PTX text: versions, exported kernels, the sizes of their arguments.
//!
//! One pass over words; bodies are skipped by their braces. It does not judge the code: that is the compiler's business,
//! in a jail of its own. What it cannot read it refuses, so that a launch is never held against a guess.

use super::{Contents, Kernel};
use crate::limits::{ARGUMENTS_MAX, KERNELS_MAX};
use crate::version::{Arch, Version};

/// Reads a module. Errors: a sentence that says what the text lacks.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    // The driver takes a terminating zero along; so do some tools.
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii() && !text.contains('\0'));
    let mut words = Words { rest: text.ok_or("PTX is ASCII text")? };
    let isa = header(&mut words, ".version")?.parse::<Version>().map_err(|error| error.to_string())?;
    let target = header(&mut words, ".target")?.parse::<Arch>().map_err(|error| error.to_string())?;
    if header(&mut words, ".address_size")? != "64" {
        return Err("`.address_size` is 64 here".to_owned());
    }
    let mut kernels = Vec::new();
    let (mut before, mut depth) = ("", 0_usize);
    while let Some(word) = words.next()? {
        match word {
            "{" => depth += 1,
            "}" => depth = depth.checked_sub(1).ok_or("a `}` without its `{`")?,
            ".entry" if depth == 0 => {
                let kernel = entry(&mut words)?;
                if before == ".visible" {
                    kernels.push(kernel);
                }
                if kernels.len() > KERNELS_MAX {
                    return Err(format!("more than {KERNELS_MAX} kernels"));
                }
            }
            ".version" | ".target" | ".address_size" => return Err(format!("`{word}` stands twice")),
            _ => {}
        }
        before = word;
    }
    if depth > 0 {
        return Err("a `{` without its `}`".to_owned());
    }
    Ok(Contents { ptx_isa: Some(isa), targets: vec![target], kernels })
}

/// The one value of a directive that comes next.
fn header<'a>(words: &mut Words<'a>, name: &str) -> Result<&'a str, String> {
    let begins = words.next()?;
    if begins != Some(name) {
        return Err(format!("PTX begins with `.version`, `.target` and `.address_size`; `{name}` is missing"));
    }
    let value = words.next()?.ok_or_else(|| format!("`{name}` has no value"))?;
    // `.target sm_75, debug` and the like change what the code is built for.
    if words.peek()? == Some(",") {
        return Err(format!("`{name}` has more than one value; one plain value is taken here"));
    }
    Ok(value)
}

/// A kernel's name and the sizes of what stands in its parentheses.
fn entry(words: &mut Words<'_>) -> Result<Kernel, String> {
    let name = words.next()?.ok_or("`.entry` has no name")?.to_owned();
    let mut parameters = Vec::new();
    if words.peek()? == Some("(") {
        words.next()?;
        loop {
            match words.next()? {
                Some(")") => break,
                Some(",") if !parameters.is_empty() => {}
                Some(".param") => parameters.push(parameter(words).ok_or_else(|| {
                    format!("kernel {name}: argument {} is not written as expected", parameters.len())
                })?),
                Some(_) | None => return Err(format!("kernel {name}: its arguments are not written as expected")),
            }
            if parameters.len() > ARGUMENTS_MAX {
                return Err(format!("kernel {name}: more than {ARGUMENTS_MAX} arguments"));
            }
        }
    }
    Ok(Kernel { name, parameters: Some(parameters) })
}

/// The bytes of `[.align N] .TYPE [.ptr ...] NAME [[COUNT]]`, up to the comma or parenthesis.
fn parameter(words: &mut Words<'_>) -> Option<u32> {
    let mut bytes: Option<u32> = None;
    loop {
        match words.peek().ok()? {
            None => return None,
            Some("," | ")") => return bytes,
            Some("[") => {
                words.next().ok()?;
                let count: u32 = words.next().ok()??.parse().ok()?;
                bytes = Some(bytes?.checked_mul(count)?);
                if words.next().ok()? != Some("]") {
                    return None;
                }
            }
            Some(word) => {
                if let Some(size) = size(word) {
                    if bytes.is_some() {
                        return None;
                    }
                    bytes = Some(size);
                }
                words.next().ok()?;
            }
        }
    }
}

/// The bytes of a fundamental type.
fn size(word: &str) -> Option<u32> {
    match word {
        ".u8" | ".s8" | ".b8" => Some(1),
        ".u16" | ".s16" | ".b16" | ".f16" => Some(2),
        ".u32" | ".s32" | ".b32" | ".f32" | ".f16x2" => Some(4),
        ".u64" | ".s64" | ".b64" | ".f64" => Some(8),
        ".b128" => Some(16),
        _ => None,
    }
}

/// The text as words and single signs, without comments and strings.
#[derive(Clone, Copy)]
struct Words<'a> {
    rest: &'a str,
}

// === impl Words ===

impl<'a> Words<'a> {
    fn peek(&self) -> Result<Option<&'a str>, String> {
        let mut ahead = *self;
        ahead.next()
    }

    fn next(&mut self) -> Result<Option<&'a str>, String> {
        loop {
            self.rest = self.rest.trim_start_matches(|next: char| next.is_ascii_whitespace());
            if let Some(comment) = self.rest.strip_prefix("//") {
                self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or("a comment has no end")?;
                self.rest = &comment[end + 2..];
            } else if let Some(string) = self.rest.strip_prefix('"') {
                let end = string.find(['"', '\n']).filter(|end| string[*end..].starts_with('"'));
                self.rest = &string[end.ok_or("a string has no end on its line")? + 1..];
            } else {
                break;
            }
        }
        let part_of_word = |next: char| next.is_ascii_alphanumeric() || matches!(next, '_' | '$' | '.' | '%');
        let end = self.rest.find(|next: char| !part_of_word(next)).unwrap_or(self.rest.len());
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (word, rest) = self.rest.split_at(end.max(1));
        self.rest = rest;
        Ok(Some(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 8.4\n.target sm_75\n.address_size 64\n";

    fn kernels(text: &str) -> Result<Vec<Kernel>, String> {
        read(format!("{HEAD}{text}").as_bytes()).map(|contents| contents.kernels)
    }

    #[test]
    fn exported_kernels_are_found_with_the_sizes_of_their_arguments() {
        let check = |text: &str, expected: &[(&str, &[u32])]| {
            let kernel =
                |(name, sizes): &(&str, &[u32])| Kernel { name: (*name).into(), parameters: Some(sizes.to_vec()) };
            assert_eq!(kernels(text), Ok(expected.iter().map(kernel).collect()), "{text}");
        };
        check("", &[]);
        check(".visible .entry k() { ret; }", &[("k", &[])]);
        check(".visible .entry k { ret; }", &[("k", &[])]);
        check(".visible .entry k(.param .u64 k_param_0, .param .f32 b) .maxntid 256,1,1 { ret; }", &[("k", &[8, 4])]);
        check(".visible .entry k(.param .align 4 .b8 k_param_0[12]){}", &[("k", &[12])]);
        check(".visible .entry k(.param .u64 .ptr .global .align 16 a){}", &[("k", &[8])]);
        check(".entry hidden(.param .u32 a) {} .visible .entry k(){}", &[("k", &[])]);
        check("// .visible .entry a(){}\n/* .visible .entry b(){} */ .visible .entry k(){}", &[("k", &[])]);
        check(".file 1 \".visible .entry a(){}\"\n.visible .entry k(){}", &[("k", &[])]);
        check(".visible .func f(){ .entry } .visible .entry k(){ { } }", &[("k", &[])]);
        check(".visible .entry k(){} .visible .entry l(.param .u8 a){}", &[("k", &[]), ("l", &[1])]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let many = format!(".visible .entry k({}.param .u8 z){{}}", ".param .u8 a,".repeat(64));
        let bad = [
            ".visible .entry",
            ".visible .entry k(",
            ".visible .entry k(.param",
            ".visible .entry k(.param .u64",
            ".visible .entry k(.param a){}",
            ".visible .entry k(.reg .u64 a){}",
            ".visible .entry k(,){}",
            ".visible .entry k(.param .b8 a[]){}",
            ".visible .entry k(.param .b8 a[-1]){}",
            ".visible .entry k(.param .b64 a[4294967295]){}",
            ".visible .entry k(.param .b8 a[4){}",
            ".visible .entry k(.param .u64 .u32 a){}",
            "{",
            "}",
            "/*",
            "\"",
            "\"a\n\"",
            ".version 8.4",
            ".target sm_90",
            ".address_size 64",
            &many,
        ];
        for text in bad {
            assert!(kernels(text).is_err(), "{text}");
        }
        let heads: [&[u8]; 12] = [
            b"",
            b"\0\0",
            b"\xff",
            b".version",
            b".version 8\n.target sm_75\n.address_size 64",
            b".target sm_75\n.version 8.4\n.address_size 64",
            b".version 8.4\n.target sm_75",
            b".version 8.4\n.target sm_75\n.address_size 32",
            b".version 8.4\n.target sm_90a\n.address_size 64",
            b".version 8.4\n.target sm_75, debug\n.address_size 64",
            b".version 8.4\n.target compute_75\n.address_size 64",
            b"\x7fELF",
        ];
        for head in heads {
            assert!(read(head).is_err(), "{}", String::from_utf8_lossy(head));
        }
    }
}
