// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {INexus, IResponse, ITask} from "./Interfaces.sol";
import {Pages} from "./Pages.sol";
import {DeliveryMethod, TaskParams, TaskStatus} from "./Types.sol";

/// @title One piece of work
/// @notice Created by Controller, owned by Nexus, which alone may change it. It holds no client (evidence: the ABI);
/// who paid for it is `Vault.payerOf`.
contract Task is ITask, Ownable {
    TaskParams public taskParams;
    DeliveryMethod public deliveryMethod;
    TaskStatus public status;
    address public winningProvider;

    /// @dev Ids count from one, so that zero says "has not attempted"; the index into `attempters` is the id less one.
    mapping(address => uint256) public attempterId;
    address[] public attempters;
    uint256[] public attemptTimestamps;
    mapping(address => address) public responseOf;

    /// @dev Guess: keyed by the hash of the response data, so the same payload cannot be handed in twice, whoever
    /// hands it in. Two providers with byte-identical results collide; what mainnet does then is unknown.
    mapping(bytes32 => bool) public isAlreadySubmitted;

    constructor(TaskParams memory _taskParams, DeliveryMethod _deliveryMethod, address nexus) payable Ownable(nexus) {
        taskParams = _taskParams;
        deliveryMethod = _deliveryMethod;
    }

    /// @notice Lists `provider` as an attempter, with the time. Reverts with AlreadyAttempted.
    function attempt(address provider) external onlyOwner {
        require(attempterId[provider] == 0, "AlreadyAttempted");
        attempters.push(provider);
        attemptTimestamps.push(block.timestamp);
        attempterId[provider] = attempters.length;
    }

    /// @notice Files `response` under `provider`. Reverts with AlreadySubmitted, for the provider or for the payload.
    function submitResponse(address response, address provider) external onlyOwner {
        bytes32 payload = keccak256(bytes(IResponse(response).getResponseParams().data));
        require(responseOf[provider] == address(0) && !isAlreadySubmitted[payload], "AlreadySubmitted");
        responseOf[provider] = response;
        isAlreadySubmitted[payload] = true;
    }

    function setStatus(TaskStatus _status) external onlyOwner {
        status = _status;
    }

    /// @notice Devnet: not in the SDK's ABI, which shows the winner but not how it gets there.
    function setWinningProvider(address provider) external onlyOwner {
        winningProvider = provider;
    }

    function getSource() external view returns (address) {
        return taskParams.source;
    }

    function getStatus() external view returns (TaskStatus) {
        return status;
    }

    function getPayment() external view returns (uint256) {
        return taskParams.payment;
    }

    function getExpiryTime() external view returns (uint256) {
        return taskParams.expiryTime;
    }

    function getDeliveryMethod() external view returns (DeliveryMethod) {
        return deliveryMethod;
    }

    function getAttempterId(address provider) external view returns (uint256) {
        return attempterId[provider];
    }

    function getAttemptCount() external view returns (uint256) {
        return attempters.length;
    }

    function getAttempters(uint256 lower, uint256 upper) external view returns (address[] memory) {
        address[] memory page = new address[](_pageLength(lower, upper));
        for (uint256 i = 0; i < page.length; i++) {
            page[i] = attempters[lower + i];
        }
        return page;
    }

    function getAttemptTimestamps(uint256 lower, uint256 upper) external view returns (uint256[] memory) {
        uint256[] memory page = new uint256[](_pageLength(lower, upper));
        for (uint256 i = 0; i < page.length; i++) {
            page[i] = attemptTimestamps[lower + i];
        }
        return page;
    }

    /// @notice The responses in the order of the attempters, zero where an attempter has not responded (evidence: the
    /// SDK pages this list by the attempt count).
    function getResponsesOf(uint256 lower, uint256 upper) external view returns (address[] memory) {
        address[] memory page = new address[](_pageLength(lower, upper));
        for (uint256 i = 0; i < page.length; i++) {
            page[i] = responseOf[attempters[lower + i]];
        }
        return page;
    }

    /// @dev Evidence: the Task getters, unlike those of Source, work with a lower bound above zero.
    function _pageLength(uint256 lower, uint256 upper) private view returns (uint256) {
        return Pages.length(lower, upper, attempters.length, INexus(owner()).pagesRepaired());
    }
}
