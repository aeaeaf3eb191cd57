//! A call as a URI that wallets read from a QR code (EIP-681):
//! `ethereum:0x…@1071/announceProvider?address=0x…&uint256=5&value=5`.
//!
//! Invariant: a URI says all of the call, or there is none. The form has no way to write texts, lists and structures that
//! wallets agree on, so a call with such an argument has no URI and goes by its data.

use std::fmt::Write;

use alloy::primitives::{Address, B256, U256};

/// Bytes of an argument of a fixed size.
const WORD: usize = 32;

/// Bytes that name the function.
const SELECTOR: usize = 4;

/// The URI of `data` of the function `signature`, such as `deposit(address)`; of plain coins where that is `None`.
pub(super) fn uri(chain_id: u64, to: Address, signature: Option<&str>, data: &[u8], value_wei: U256) -> Option<String> {
    let mut uri = format!("ethereum:{to}@{chain_id}");
    let mut sign = '?';
    if let Some(signature) = signature {
        let (function, types) = signature.strip_suffix(')')?.split_once('(')?;
        let types: Vec<&str> = types.split(',').filter(|name| !name.is_empty()).collect();
        let words = data.get(SELECTOR..)?;
        if words.len() != types.len() * WORD {
            return None;
        }
        write!(uri, "/{function}").ok()?;
        for (name, word) in types.iter().zip(words.chunks_exact(WORD)) {
            write!(uri, "{sign}{name}={}", argument(name, B256::from_slice(word))?).ok()?;
            sign = '&';
        }
    }
    if signature.is_none() || !value_wei.is_zero() {
        write!(uri, "{sign}value={value_wei}").ok()?;
    }
    Some(uri)
}

fn argument(name: &str, word: B256) -> Option<String> {
    match name {
        "address" => Some(Address::from_word(word).to_string()),
        "bool" => Some((!word.is_zero()).to_string()),
        "bytes32" => Some(word.to_string()),
        _ => {
            let bits = name.strip_prefix("uint")?;
            bits.bytes().all(|digit| digit.is_ascii_digit()).then(|| U256::from_be_bytes(word.0).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;
    use alloy::sol_types::SolCall;
    use chain::abi::{Nexus, Terminal, Vault};

    use super::*;

    const TO: Address = address!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed");
    const RIG: Address = address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc");

    fn of<C: SolCall>(call: &C, value: u64) -> Option<String> {
        uri(1071, TO, Some(C::SIGNATURE), &call.abi_encode(), U256::from(value))
    }

    #[test]
    fn what_a_pairing_sends_has_its_uri() {
        let announce = Terminal::announceProviderCall { provider: RIG, amount: U256::from(5) };
        let expected = format!("ethereum:{TO}@1071/announceProvider?address={RIG}&uint256=5&value=5");
        assert_eq!(of(&announce, 5), Some(expected));
        let expected = format!("ethereum:{TO}@1071/deposit?address={RIG}");
        assert_eq!(of(&Vault::depositCall { account: RIG }, 0), Some(expected));
        assert_eq!(uri(1, TO, None, &[], U256::from(7)), Some(format!("ethereum:{TO}@1?value=7")));
    }

    #[test]
    fn a_call_that_the_form_cannot_write_has_none() {
        let params = chain::abi::ResponseParams { task: TO, provider: RIG, data: "x".to_owned(), payment: U256::ZERO };
        assert_eq!(of(&Nexus::submitResponseCall { _responseParams: params }, 0), None);
        for (signature, words) in
            [("f(string)", 3), ("f(uint256[])", 2), ("f((address))", 1), ("f(address)", 2), ("f", 0)]
        {
            assert_eq!(uri(1, TO, Some(signature), &vec![0; SELECTOR + words * WORD], U256::ZERO), None, "{signature}");
        }
    }
}
