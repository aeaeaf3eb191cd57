// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ITerminal, IVault} from "./Interfaces.sol";
import {ROLE_PROVIDER} from "./Types.sol";

/// @title Identities: providers, their masters, and agents
/// @notice A provider (the machine's key) and a master (the owner's wallet) pair by naming each other, in either
/// order. Evidence: the functions, the events and their arguments. Guess: everything about what the halves mean.
contract Terminal is ITerminal, Ownable {
    event ProviderAnnounced(address provider, address master);
    event MasterAnnounced(address provider, address master);
    event ProviderRemoved(address provider);
    event RemoveContainer(address provider, address source);
    event AgentSet(address account, address agent, bool value);
    event DefaultAgentDisabled(address master, bool value);
    event BaseDataUpdated(address provider);
    event LiveDataUpdated(address provider);

    bytes32 public constant PROVIDER = ROLE_PROVIDER;

    address public manager;
    address public vault;

    mapping(address => address) public masterOf;
    /// @dev One slot per master: the last provider it announced. A master of many finds the rest through `masterOf`.
    mapping(address => address) public providerOf;
    mapping(address => bool) public isProvider;
    mapping(address => bool) public isMaster;
    mapping(address => mapping(address => bool)) public isAgentOf;
    mapping(address => bool) public defaultAgentDisabled;
    mapping(address => string) public baseDataOf;
    mapping(address => string) public liveDataOf;

    /// @notice Devnet: not in the SDK's ABI. Zero means that there is no default agent.
    address public defaultAgent;

    /// @dev The master's half of a pairing. `providerOf` cannot carry it: the next announcement overwrites it.
    mapping(address master => mapping(address provider => bool)) private announced;

    constructor(address _manager, address _vault) Ownable(msg.sender) {
        manager = _manager;
        vault = _vault;
    }

    /// @notice The master's half of a pairing. `amount` of the coins sent becomes lockup of `provider`, the rest is
    /// forwarded to it to pay for gas. Announcing one's own provider again adds lockup. Guess throughout: the SDK
    /// always sends exactly `amount`. Reverts with InsufficientBalance, AlreadyPaired, ZeroAddress, TransferFailed.
    function announceProvider(address provider, uint256 amount) external payable {
        require(provider != address(0), "ZeroAddress");
        require(msg.value >= amount, "InsufficientBalance");
        require(masterOf[provider] == msg.sender || !_isPaired(provider), "AlreadyPaired");
        announced[msg.sender][provider] = true;
        providerOf[msg.sender] = provider;
        isProvider[provider] = true;
        emit ProviderAnnounced(provider, msg.sender);
        _pairIfMutual(provider);
        if (amount > 0) IVault(vault).depositAndLock{value: amount}(provider);
        if (msg.value > amount) {
            (bool sent,) = provider.call{value: msg.value - amount}("");
            require(sent, "TransferFailed");
        }
    }

    /// @notice The provider's half of a pairing. Reverts with AlreadyPaired, ZeroAddress.
    function announceMaster(address master) external {
        require(master != address(0), "ZeroAddress");
        require(masterOf[msg.sender] == master || !_isPaired(msg.sender), "AlreadyPaired");
        masterOf[msg.sender] = master;
        isMaster[master] = true;
        emit MasterAnnounced(msg.sender, master);
        _pairIfMutual(msg.sender);
    }

    /// @notice Ends a pairing, or withdraws half of one. The provider's lockup stays where it is (guess). Reverts
    /// with NotMaster unless the two are linked, and when the provider has since paired with another master.
    function removeProvider(address provider) external {
        bool isChosen = masterOf[provider] == msg.sender;
        require(isChosen || (announced[msg.sender][provider] && !_isPaired(provider)), "NotMaster");
        if (isChosen) delete masterOf[provider];
        if (providerOf[msg.sender] == provider) delete providerOf[msg.sender];
        delete announced[msg.sender][provider];
        delete isProvider[provider];
        IAccessControl(manager).revokeRole(PROVIDER, provider);
        emit ProviderRemoved(provider);
    }

    /// @notice Asks the provider's machine to stop `source`; nothing is stored (evidence: SDK). Reverts with NotMaster.
    function removeContainer(address provider, address source) external {
        require(masterOf[provider] == msg.sender, "NotMaster");
        emit RemoveContainer(provider, source);
    }

    /// @notice Lets `agent` act for the caller, or no longer. Evidence: for clients and masters, not for providers.
    /// Reverts with NotMaster.
    function setAgent(address agent, bool value) external {
        require(!isProvider[msg.sender], "NotMaster");
        isAgentOf[msg.sender][agent] = value;
        emit AgentSet(msg.sender, agent, value);
    }

    /// @notice Guess: stored under the caller, whoever it is; only a master's flag has an effect (the event says
    /// master, the SDK's text says provider).
    function setDefaultAgentDisabled(bool value) external {
        defaultAgentDisabled[msg.sender] = value;
        emit DefaultAgentDisabled(msg.sender, value);
    }

    /// @notice Points at the provider's description of itself. Reverts with NotProvider.
    function setBaseData(string memory _baseData) external {
        require(isProvider[msg.sender], "NotProvider");
        baseDataOf[msg.sender] = _baseData;
        emit BaseDataUpdated(msg.sender);
    }

    /// @notice Points at the provider's description of the moment. Reverts with NotProvider.
    function setLiveData(string memory _liveData) external {
        require(isProvider[msg.sender], "NotProvider");
        liveDataOf[msg.sender] = _liveData;
        emit LiveDataUpdated(msg.sender);
    }

    function setManager(address _manager) external onlyOwner {
        manager = _manager;
    }

    function setVault(address _vault) external onlyOwner {
        vault = _vault;
    }

    /// @notice Devnet: not in the SDK's ABI.
    function setDefaultAgent(address agent) external onlyOwner {
        defaultAgent = agent;
    }

    function getMasterOf(address provider) external view returns (address) {
        return masterOf[provider];
    }

    function getIsMaster(address master) external view returns (bool) {
        return isMaster[master];
    }

    /// @notice Whether `agent` acts for `master`. Guess: the default agent does, until the master disables it.
    function getIsAgentOf(address master, address agent) external view returns (bool) {
        return isAgentOf[master][agent]
            || (agent != address(0) && agent == defaultAgent && !defaultAgentDisabled[master]);
    }

    /// @dev Guess: the PROVIDER role is what "paired" means, and it needs both halves. `isProvider` is set again
    /// because another master, whom the provider left, may have cleared it.
    function _pairIfMutual(address provider) private {
        if (!announced[masterOf[provider]][provider]) return;
        isProvider[provider] = true;
        IAccessControl(manager).grantRole(PROVIDER, provider);
    }

    function _isPaired(address provider) private view returns (bool) {
        return IAccessControl(manager).hasRole(PROVIDER, provider);
    }
}
