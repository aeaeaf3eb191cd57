// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {DeliveryMethod, ResponseParams, ResponseStatus, SourceParams, SourceStatus, TaskStatus} from "./Types.sol";

// What the contracts ask of each other, and nothing else. Each contract inherits its own interface, so the compiler
// checks the two sides. Functions marked "devnet" are not in the SDK's ABI.

interface ITerminal {
    function getMasterOf(address provider) external view returns (address);
    function getIsAgentOf(address master, address agent) external view returns (bool);
    function isAgentOf(address account, address agent) external view returns (bool);
}

interface IVault {
    function getLockupOf(address account) external view returns (uint256);
    function isEligible(address account) external view returns (bool);
    function freezePayment(address client, address task, uint256 amount) external;
    function releasePayment(address client, address task) external;
    function processPayment(address client, address provider, address task, uint256 amount) external;
    /// Devnet.
    function depositAndLock(address account) external payable;
    /// Devnet.
    function payerOf(address task) external view returns (address);
}

interface INexus {
    function getActiveSourceCount(address client) external view returns (uint256);
    function getSourceId(address source) external view returns (uint256);
    function setSourceStatus(address source, SourceStatus status) external;
    function setTaskStatus(address task, TaskStatus status) external;
    function setResponseStatus(address response, ResponseStatus status) external;
    function emitTaskPublished(address task, address source) external;
    /// Devnet.
    function pagesRepaired() external view returns (bool);
}

interface ISource {
    function getClient() external view returns (address);
    function getSourceParams() external view returns (SourceParams memory);
    function getStatus() external view returns (SourceStatus);
    function getRegistrantId(address provider) external view returns (uint256);
    function setStatus(SourceStatus status) external;
    function setSourceParams(SourceParams memory sourceParams) external;
    function publishTask(address task) external;
    function register(address provider, uint8 preferredEnvironment) external returns (uint256);
    function unregister(address provider) external;
}

interface ITask {
    function getSource() external view returns (address);
    function getStatus() external view returns (TaskStatus);
    function getPayment() external view returns (uint256);
    function getExpiryTime() external view returns (uint256);
    function getDeliveryMethod() external view returns (DeliveryMethod);
    function getAttempterId(address provider) external view returns (uint256);
    function responseOf(address provider) external view returns (address);
    function setStatus(TaskStatus status) external;
    function attempt(address provider) external;
    function submitResponse(address response, address provider) external;
    /// Devnet.
    function setWinningProvider(address provider) external;
}

interface IResponse {
    function getResponseParams() external view returns (ResponseParams memory);
    function getStatus() external view returns (ResponseStatus);
    function setStatus(ResponseStatus status) external;
    function confirm() external;
}
