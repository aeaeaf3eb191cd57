//! The calls that the key may make: one interface per contract, holding exactly the allowed functions.
//!
//! The interfaces are the allow-list. A function that is not written here has an unknown selector and is
//! refused; one that is added here does not compile until the match below says which argument binds it.
//! Signatures: the mainnet ABIs of the PyPI package `ogpu` 0.2.3.

use alloy::primitives::{Address, hex};
use alloy::sol;
use alloy::sol_types::SolInterface;

use super::{Refusal, Rule};

sol! {
    /// Identity: pairing, what the rig says about itself, which agent may schedule it.
    interface Terminal {
        function announceMaster(address master);
        function setBaseData(string baseData);
        function setLiveData(string liveData);
        function setDefaultAgentDisabled(bool value);
    }

    /// The registry: sources that the rig serves, tasks that it takes and answers.
    interface Nexus {
        struct ResponseParams {
            address task;
            address provider;
            string data;
            uint256 payment;
        }

        function register(address source, address provider, uint8 preferredEnvironment);
        function unregister(address source, address provider);
        function attempt(address task, address provider, uint256 suggestedPayment);
        function submitResponse(ResponseParams responseParams);
    }

    /// The rig's own stake. All of these pay to, and take from, the caller alone.
    interface Vault {
        function lock(uint256 amount);
        function unbond(uint256 amount);
        function cancelUnbonding();
        function claim();
        function withdraw(uint256 amount);
    }
}

/// The party that a call names in its arguments, which must be the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binds {
    /// The call names nobody.
    Nobody,
    /// The call acts for this provider.
    Provider(Address),
    /// The call answers this task for this provider.
    Response { task: Address, provider: Address },
    /// The call pairs the rig with this owner.
    Owner(Address),
}

/// Reads a call to the Terminal. Errors: [`Rule::Selector`], [`Rule::Calldata`].
pub(super) fn terminal(input: &[u8]) -> Result<Binds, Refusal> {
    Ok(match decode::<Terminal::TerminalCalls>(input)? {
        Terminal::TerminalCalls::announceMaster(call) => Binds::Owner(call.master),
        Terminal::TerminalCalls::setBaseData(_)
        | Terminal::TerminalCalls::setLiveData(_)
        | Terminal::TerminalCalls::setDefaultAgentDisabled(_) => Binds::Nobody,
    })
}

/// Reads a call to the Nexus. Errors: [`Rule::Selector`], [`Rule::Calldata`].
pub(super) fn nexus(input: &[u8]) -> Result<Binds, Refusal> {
    Ok(match decode::<Nexus::NexusCalls>(input)? {
        Nexus::NexusCalls::register(call) => Binds::Provider(call.provider),
        Nexus::NexusCalls::unregister(call) => Binds::Provider(call.provider),
        Nexus::NexusCalls::attempt(call) => Binds::Provider(call.provider),
        Nexus::NexusCalls::submitResponse(call) => {
            let Nexus::ResponseParams { task, provider, data: _, payment: _ } = call.responseParams;
            Binds::Response { task, provider }
        }
    })
}

/// Reads a call to the Vault. Errors: [`Rule::Selector`], [`Rule::Calldata`].
pub(super) fn vault(input: &[u8]) -> Result<Binds, Refusal> {
    Ok(match decode::<Vault::VaultCalls>(input)? {
        Vault::VaultCalls::lock(_)
        | Vault::VaultCalls::unbond(_)
        | Vault::VaultCalls::cancelUnbonding(_)
        | Vault::VaultCalls::claim(_)
        | Vault::VaultCalls::withdraw(_) => Binds::Nobody,
    })
}

/// Decodes strictly: the selector must be listed and the arguments must encode back to the same bytes.
fn decode<C: SolInterface>(input: &[u8]) -> Result<C, Refusal> {
    let Some(selector) = input.first_chunk::<4>() else {
        return Err(Rule::Selector.broken(format!("{} bytes of calldata hold no selector", input.len())));
    };
    if !C::valid_selector(*selector) {
        let selector = hex::encode_prefixed(selector);
        return Err(Rule::Selector.broken(format!("{selector} is not an allowed function of {}", contract::<C>())));
    }
    let call = C::abi_decode_validate(input).map_err(|error| Rule::Calldata.broken(error.to_string()))?;
    match call.abi_encode() == input {
        true => Ok(call),
        false => Err(Rule::Calldata.broken("the arguments are not in canonical encoding".to_owned())),
    }
}

/// The contract's name, from the name that the macro gives to its set of calls.
fn contract<C: SolInterface>() -> &'static str {
    C::NAME.trim_end_matches("Calls")
}
