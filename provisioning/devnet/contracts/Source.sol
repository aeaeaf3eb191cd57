// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {INexus, ISource} from "./Interfaces.sol";
import {Pages} from "./Pages.sol";
import {SourceParams, SourceStatus} from "./Types.sol";

/// @title A kind of work that a client offers
/// @notice Created by Nexus and owned by the client (evidence: both getters, and the SDK calls the client its owner).
contract Source is ISource, Ownable {
    using Pages for address[];

    address public nexus;
    SourceParams public sourceParams;
    SourceStatus public status;
    address[] public tasks;

    /// @dev Guess: an unregistered provider leaves a zero in its place, so ids and indices stay stable.
    address[] public registrants;
    /// @dev Ids count from one, so that zero says "not registered"; the index into `registrants` is the id less one.
    mapping(address => uint256) public registrantId;
    mapping(address => uint8) public preferredEnvironmentOf;

    modifier onlyNexus() {
        require(msg.sender == nexus, "NotNexus");
        _;
    }

    constructor(SourceParams memory _sourceParams) payable Ownable(_sourceParams.client) {
        nexus = msg.sender;
        sourceParams = _sourceParams;
    }

    /// @notice Opens or closes the source. Evidence: the SDK lets the owner call this directly. Guess: the owner's
    /// call goes round by Nexus, so that the event and the client's source count follow; there is no way back from
    /// INACTIVE (SourceInactive). Reverts with NotOwner for everyone else.
    function setStatus(SourceStatus _status) external {
        if (msg.sender == nexus) {
            status = _status;
        } else {
            require(msg.sender == owner(), "NotOwner");
            INexus(nexus).setSourceStatus(address(this), _status);
        }
    }

    function setSourceParams(SourceParams memory _sourceParams) external onlyNexus {
        sourceParams = _sourceParams;
    }

    function publishTask(address task) external onlyNexus {
        tasks.push(task);
    }

    /// @notice Enters `provider` and returns its id. Reverts with AlreadyRegistered.
    function register(address provider, uint8 preferredEnvironment) external onlyNexus returns (uint256) {
        require(registrantId[provider] == 0, "AlreadyRegistered");
        registrants.push(provider);
        registrantId[provider] = registrants.length;
        preferredEnvironmentOf[provider] = preferredEnvironment;
        return registrants.length;
    }

    /// @notice Strikes `provider` out. Reverts with NotRegistered.
    function unregister(address provider) external onlyNexus {
        uint256 id = registrantId[provider];
        require(id != 0, "NotRegistered");
        delete registrants[id - 1];
        delete registrantId[provider];
        delete preferredEnvironmentOf[provider];
    }

    function getClient() external view returns (address) {
        return sourceParams.client;
    }

    function getSourceParams() external view returns (SourceParams memory) {
        return sourceParams;
    }

    function getStatus() external view returns (SourceStatus) {
        return status;
    }

    function getTaskCount() external view returns (uint256) {
        return tasks.length;
    }

    function getTasks(uint256 lower, uint256 upper) external view returns (address[] memory) {
        return tasks.read(lower, upper, INexus(nexus).pagesRepaired());
    }

    /// @notice The length of `registrants`, holes included (guess).
    function getRegistrantCount() external view returns (uint256) {
        return registrants.length;
    }

    function getRegistrantId(address provider) external view returns (uint256) {
        return registrantId[provider];
    }

    function getRegistrants(uint256 lower, uint256 upper) external view returns (address[] memory) {
        return registrants.read(lower, upper, INexus(nexus).pagesRepaired());
    }
}
