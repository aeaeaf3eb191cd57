//! The signer's policy, `signer.toml`, made from the owner's settings: what the rig's key may be used for.
//!
//! Invariants: only the owner, the chain, its contracts and the wishes for the key come from the owner's file; the
//! budgets are the image's. Everything that is copied has a fixed alphabet, so nothing can be smuggled into the policy.

use std::fmt::Write;

use toml::{Table, Value};

use crate::sections::KeyWish;

/// Highest gas limit of one transaction. Submitting a response deploys a contract and needs the most.
const MAX_GAS: u64 = 5_000_000;

/// Highest fee per gas, in wei: 200 gwei.
const MAX_FEE_PER_GAS_WEI: u64 = 200_000_000_000;

/// Most signatures in any 60 seconds, replacements included.
const MAX_CALLS_PER_MINUTE: u32 = 120;

/// Most gas in any 24 hours, in wei, at each transaction's worst price: 5 coins.
const MAX_GAS_WEI_PER_DAY: u64 = 5_000_000_000_000_000_000;

/// The policy of the rig whose right settings are `text`. Errors: which key is missing or no address.
pub fn signer_toml(text: &str, key: KeyWish) -> Result<String, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let chain_id = find(&table, "network.chain_id")?.as_integer().ok_or("network.chain_id is no number")?;
    let address = |path: &str| {
        let found = find(&table, path)?.as_str().filter(|text| is_address(text));
        found.ok_or_else(|| format!("{path} is no address"))
    };
    let mut out = String::from("# Made by rig-boot from rig.toml at each start.\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string never fails.
        let _ = writeln!(out, "{name} = {value}");
    };
    line("chain_id", &chain_id);
    line("owner", &format!("\"{}\"", address("owner.address")?));
    line("max_gas", &MAX_GAS);
    line("max_fee_per_gas_wei", &MAX_FEE_PER_GAS_WEI);
    line("max_calls_per_minute", &MAX_CALLS_PER_MINUTE);
    line("max_gas_wei_per_day", &MAX_GAS_WEI_PER_DAY);
    out.push_str("\n[contracts]\n");
    for contract in ["nexus", "terminal", "vault"] {
        let _ = writeln!(out, "{contract} = \"{}\"", address(&format!("network.contracts.{contract}"))?);
    }
    let _ = write!(out, "\n[identity]\ntier = \"{}\"\ngeneration = {}\n", key.tier.as_str(), key.generation);
    Ok(out)
}

fn find<'a>(table: &'a Table, path: &str) -> Result<&'a Value, String> {
    let (first, rest) = path.split_once('.').ok_or_else(|| path.to_owned())?;
    let start = table.get(first);
    rest.split('.')
        .fold(start, |value, part| value.and_then(|value| value.get(part)))
        .ok_or_else(|| format!("{path} is missing"))
}

fn is_address(text: &str) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    digits.len() == 40 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::Tier;

    const SETTINGS: &str = "owner.address = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\n[network]\nchain_id = 1071\n\
        contracts.nexus = \"0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1\"\n\
        contracts.terminal = \"0xaEBC7b712D38Fc4d841f0732c21B8774339869D3\"\n\
        contracts.vault = \"0xa5c582254AA313528898311362bc698b041580cC\"\n";

    #[test]
    fn the_policy_is_the_owners_chain_and_contracts_and_the_images_budgets() {
        let key = KeyWish { tier: Tier::B, generation: 2 };
        assert_eq!(signer_toml(SETTINGS, key).expect("right"), include_str!("../tests/signer.toml"));
    }

    #[test]
    fn nothing_is_smuggled_into_the_policy_and_nothing_is_left_out() {
        let check = |from: &str, to: &str, why: &str| {
            let text = SETTINGS.replace(from, to);
            assert_ne!(text, SETTINGS);
            assert_eq!(signer_toml(&text, KeyWish::default()).expect_err(to), why);
        };
        check("dc79C8\"", "dc79C8\\\"\\nmax_gas = 9\"", "owner.address is no address");
        check("owner.address", "owner.name", "owner.address is missing");
        check("1071", "\"1071\"", "network.chain_id is no number");
        check("contracts.vault", "contracts.vaults", "network.contracts.vault is missing");
        check("0xa5c5", "0xa5c", "network.contracts.vault is no address");
    }
}
