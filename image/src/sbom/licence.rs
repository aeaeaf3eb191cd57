//! What a Debian package's copyright file says, in SPDX's words.
//!
//! Invariants: only the machine-readable form is understood, anything else is said to be unknown and never guessed; a
//! name that SPDX does not have becomes a reference with the text that the package gives for it.
//! Source: Debian's "Machine-readable debian/copyright file" 1.0.

use std::collections::{BTreeMap, BTreeSet};

/// The longest of trixie's (linux) has 300 KiB.
const COPYRIGHT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What SPDX says when nobody has said anything.
pub(crate) const UNKNOWN: &str = "NOASSERTION";

/// Debian's short names and SPDX's identifiers. `+` and lower case are handled by rule, see [`identifier`].
const NAMES: [(&str, &str); 33] = [
    ("apache-2", "Apache-2.0"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("artistic-2", "Artistic-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-2", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-3", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("bsl-1.0", "BSL-1.0"),
    ("cc0", "CC0-1.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("expat", "MIT"),
    ("mit", "MIT"),
    ("gfdl-1.3", "GFDL-1.3-only"),
    ("gpl", "GPL-1.0-or-later"),
    ("gpl-1", "GPL-1.0-only"),
    ("gpl-2", "GPL-2.0-only"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3", "GPL-3.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("isc", "ISC"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("lgpl-2.0", "LGPL-2.0-only"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3", "LGPL-3.0-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("mpl-2.0", "MPL-2.0"),
    ("openssl", "OpenSSL"),
    ("unicode-3", "Unicode-3.0"),
    ("zlib", "Zlib"),
    ("unlicense", "Unlicense"),
];

/// The licences of one package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Licences {
    /// Identifiers and references: all of them apply, each to some files.
    pub(crate) names: BTreeSet<String>,
    /// The texts of the references.
    pub(crate) texts: BTreeMap<String, String>,
}

// === impl Licences ===

impl Licences {
    /// Reads a copyright file; empty if it is not of the machine-readable form.
    pub(crate) fn read(copyright: &[u8]) -> Licences {
        let mut found = Licences::default();
        let Some(text) = copyright.get(..copyright.len().min(COPYRIGHT_BYTES_MAX)) else { return found };
        let text = String::from_utf8_lossy(text);
        if !text.trim_start().starts_with("Format") {
            return found;
        }
        let paragraphs: Vec<Vec<(String, String)>> = text.split("\n\n").map(fields).collect();
        let standalone: BTreeMap<&str, &str> = paragraphs
            .iter()
            .filter(|fields| !fields.iter().any(|(name, _)| name == "files"))
            .flat_map(|fields| fields.iter().filter(|(name, _)| name == "license"))
            .filter_map(|(_, value)| value.split_once('\n'))
            .map(|(name, body)| (name.trim(), body))
            .collect();
        for (_, value) in paragraphs.iter().flatten().filter(|(name, _)| name == "license") {
            let (line, body) = value.split_once('\n').unwrap_or((value, ""));
            for name in line.split([',', ' ']).map(str::trim).filter(|name| is_name(name)) {
                found.add(name, if body.trim().is_empty() { standalone.get(line.trim()).unwrap_or(&"") } else { body });
            }
        }
        found
    }

    /// As an SPDX expression.
    pub(crate) fn expression(&self) -> String {
        match self.names.is_empty() {
            true => UNKNOWN.to_owned(),
            false => self.names.iter().cloned().collect::<Vec<_>>().join(" AND "),
        }
    }

    fn add(&mut self, name: &str, text: &str) {
        if let Some(known) = identifier(name) {
            self.names.insert(known);
            return;
        }
        let sign = |sign: char| if sign.is_ascii_alphanumeric() || sign == '.' { sign } else { '-' };
        let reference = format!("LicenseRef-Debian-{}", name.chars().map(sign).collect::<String>());
        let text = text.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned();
        let text = if text.is_empty() { format!("See the package's copyright file: {name}") } else { text };
        let kept = self.texts.entry(reference.clone()).or_default();
        // The first of several, by the alphabet: the order of the paragraphs may change with a version.
        if kept.is_empty() || text < *kept {
            *kept = text;
        }
        self.names.insert(reference);
    }
}

/// A paragraph's fields; the names in lower case.
fn fields(paragraph: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(':') {
            Some((name, value)) if !line.starts_with([' ', '\t']) => {
                fields.push((name.trim().to_lowercase(), value.trim().to_owned()));
            }
            _ => {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            }
        }
    }
    fields
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && !matches!(word.to_lowercase().as_str(), "and" | "or" | "with" | "and/or" | "exception" | "|")
}

/// SPDX's identifier of a short name: `GPL-2+` is `GPL-2.0-or-later`.
fn identifier(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let (base, or_later) = match name.strip_suffix('+') {
        Some(base) => (base, true),
        None => (name.as_str(), false),
    };
    let (_, found) = NAMES.iter().find(|(short, _)| *short == base)?;
    match (or_later, found.strip_suffix("-only")) {
        (true, Some(family)) => Some(format!("{family}-or-later")),
        (true, None) if !found.ends_with("-or-later") => None,
        (true | false, _) => Some((*found).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(copyright: &str, expected: &str) {
        assert_eq!(Licences::read(copyright.as_bytes()).expression(), expected, "{copyright}");
    }

    const FORMAT: &str = "Format: https://example.org/copyright-format/1.0/\n\n";

    #[test]
    fn short_names_become_identifiers() {
        check(&format!("{FORMAT}Files: *\nLicense: GPL-2+\n"), "GPL-2.0-or-later");
        check(&format!("{FORMAT}Files: *\nLicense: LGPL-2.1\n"), "LGPL-2.1-only");
        check(&format!("{FORMAT}Files: *\nLicense: Expat\n text\n"), "MIT");
        check(&format!("{FORMAT}Files: *\nLicense: BSD-3-clause or GPL-1+\n"), "BSD-3-Clause AND GPL-1.0-or-later");
        check(&format!("{FORMAT}Files: a\nLicense: ISC\n\nFiles: b\nLicense: Zlib\n"), "ISC AND Zlib");
    }

    #[test]
    fn an_unknown_name_is_a_reference_with_its_text() {
        let text =
            format!("{FORMAT}Files: *\nLicense: house+rules\n\nLicense: house+rules\n Be kind.\n .\n Shut the door.\n");
        let licences = Licences::read(text.as_bytes());
        assert_eq!(licences.expression(), "LicenseRef-Debian-house-rules");
        assert_eq!(licences.texts["LicenseRef-Debian-house-rules"], "Be kind.\n.\nShut the door.");
    }

    #[test]
    fn prose_is_not_guessed_at() {
        check("This package was debianized by hand. It is GPL-2.", UNKNOWN);
        check("", UNKNOWN);
        check("Format: x\nUpstream-Name: y\n", UNKNOWN);
    }
}
