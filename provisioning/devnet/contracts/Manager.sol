// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ROLE_CONTROLLER, ROLE_JUDGE, ROLE_PROVIDER, ROLE_TERMINAL} from "./Types.sol";

// How the devnet is deployed. One key, the deployer, sends every transaction, in this order:
//
//    1. manager    = new Manager()                          the deployer becomes DEFAULT_ADMIN_ROLE
//    2. terminal   = new Terminal(manager, 0x0)             the deployer becomes owner
//    3. nexus      = new Nexus(manager, terminal, 0x0)      the deployer becomes owner
//    4. vault      = new Vault(manager, nexus, terminal)
//    5. terminal.setVault(vault)
//    6. nexus.setVault(vault)
//    7. controller = new Controller(nexus, terminal, vault) the deployer becomes owner
//    8. manager.grantRole(manager.CONTROLLER(), controller)
//    9. manager.grantRole(manager.CONTROLLER(), nexus)      expiry and automatic confirmation move escrow
//   10. manager.grantRole(manager.getRoleAdmin(manager.PROVIDER()), terminal)
//   11. manager.grantRole(manager.JUDGE(), judge)           any key that may sanction
//
// Optional afterwards, each from the deployer, each may be repeated while the chain runs:
//
//    vault.setMaxUnbondingPeriod(seconds)       5 unless set
//    vault.setMinLockupPerSource(wei)           0 unless set
//    terminal.setDefaultAgent(agent)            none unless set
//    controller.setOpenPublish(true)            false unless set
//    nexus.setPagesRepaired(true)               false unless set
//
// Source, Task and Response are never deployed by hand: Nexus and Controller create them.

/// @title Roles of the network
/// @notice Evidence: the three role getters and OpenZeppelin's AccessControl. Guess: the role values and holders.
contract Manager is AccessControl {
    bytes32 public constant CONTROLLER = ROLE_CONTROLLER;
    bytes32 public constant JUDGE = ROLE_JUDGE;
    bytes32 public constant PROVIDER = ROLE_PROVIDER;

    /// @dev Guess: PROVIDER has an admin role of its own, so that Terminal can grant it at pairing without being an
    /// administrator of everything. That role has no getter; `getRoleAdmin(PROVIDER)` names it.
    constructor() {
        _grantRole(DEFAULT_ADMIN_ROLE, msg.sender);
        _setRoleAdmin(PROVIDER, ROLE_TERMINAL);
    }
}
