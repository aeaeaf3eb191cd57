//! Names out of certificates, for people. They are foreign text: control characters are taken out, and length is bounded.

use x509_parser::der_parser::oid;
use x509_parser::prelude::{GeneralName, X509Certificate, X509Name};

/// Most of a foreign name that is shown, characters.
const MAX_WORDS: usize = 160;

/// `name` as it may be printed.
pub(super) fn of(name: &X509Name<'_>) -> String {
    tame(&name.to_string())
}

/// Maker, model and version of the TPM, which its certificate has as an alternative name of the subject.
/// Source: TCG EK Credential Profile, "Subject Alternative Name".
pub(super) fn model(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    let directory = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    })?;
    let parts = [oid!(2.23.133.2.1), oid!(2.23.133.2.2), oid!(2.23.133.2.3)];
    let part = |oid| directory.iter_attributes().find(|it| it.attr_type() == oid).and_then(|it| it.as_str().ok());
    let words: Vec<&str> = parts.iter().filter_map(part).collect();
    (!words.is_empty()).then(|| tame(&words.join(" ")))
}

fn tame(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_moves_no_cursor_and_fills_no_screen() {
        assert_eq!(tame("CN=\u{1b}[2Jmaker\n"), "CN=[2Jmaker");
        assert_eq!(tame(&"x".repeat(5000)).len(), MAX_WORDS);
    }
}
