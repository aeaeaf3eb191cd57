// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITerminal} from "./Interfaces.sol";

/// @title Who may act for whom
/// @notice The two questions that Nexus, Controller and Vault ask about `msg.sender`.
library Authority {
    /// @notice Whether the caller is `client` or an agent that `client` named.
    /// @dev Evidence: the SDK documents client-side agents. Guess: the default agent is left out here, because it
    /// would otherwise spend the deposit of every client that never heard of it.
    function actsForClient(address terminal, address client) internal view returns (bool) {
        return msg.sender == client || ITerminal(terminal).isAgentOf(client, msg.sender);
    }

    /// @notice Whether the caller is `provider`, its master, or an agent of that master, the default agent included.
    /// @dev Evidence: the SDK's docstrings of `register` and `attempt`.
    function actsForProvider(address terminal, address provider) internal view returns (bool) {
        if (msg.sender == provider) return true;
        address master = ITerminal(terminal).getMasterOf(provider);
        if (master == address(0)) return false;
        return msg.sender == master || ITerminal(terminal).getIsAgentOf(master, msg.sender);
    }
}
