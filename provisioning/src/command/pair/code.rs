//! A pairing code as a person gives it.

use alloy::primitives::Address;
use signer::identity::pairing_code;

/// Twelve characters in the spelling of the rig: `K7F2-QD9M-3XTA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct Code(String);

// === impl Code ===

impl Code {
    /// Signs in a code.
    const LENGTH: usize = 12;

    /// Reads a code in any case, with or without the lines between; O, I and L are what they look like, as the alphabet
    /// has none of them (Crockford's base 32).
    ///
    /// Errors: a sentence that says what is wrong.
    pub(in crate::command) fn parse(text: &str) -> Result<Code, String> {
        let signs: String = text
            .chars()
            .filter(|c| !matches!(c, '-' | ' '))
            .map(|c| match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect();
        if signs.len() != Code::LENGTH || !signs.bytes().all(|sign| sign.is_ascii_alphanumeric() && sign != b'U') {
            return Err(format!("a pairing code looks like K7F2-QD9M-3XTA, not `{text}`"));
        }
        Ok(Code(signs))
    }

    /// Whether it is the code of `address`.
    pub(in crate::command) fn belongs_to(&self, address: Address) -> bool {
        pairing_code(address).replace('-', "") == self.0
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;

    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it_and_belongs_to_one_address() {
        let rig = address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc");
        let code = pairing_code(rig);
        let slips = code.replace('0', "o").replace('1', "l");
        for text in [&code, &code.to_lowercase(), &code.replace('-', ""), &code.replace('-', " "), &slips] {
            let code = Code::parse(text).expect(text);
            assert!(code.belongs_to(rig), "{text}");
            assert!(!code.belongs_to(Address::ZERO));
        }
        for text in ["", "K7F2", "K7F2-QD9M-3XT", "K7F2-QD9M-3XTAA", "K7F2-QD9M-3XTU", "K7F2-QD9M-3XT!", "ÄÄÄÄÄÄ"]
        {
            assert!(Code::parse(text).is_err(), "{text}");
        }
    }
}
