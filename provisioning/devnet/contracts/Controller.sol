// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Authority} from "./Authority.sol";
import {INexus, IResponse, ISource, ITask, IVault} from "./Interfaces.sol";
import {Task} from "./Task.sol";
import {ResponseParams, ResponseStatus, SourceParams, SourceStatus, TaskParams, TaskStatus} from "./Types.sol";

/// @title The client's side of a task
/// @notice Publishes, cancels and confirms. It emits nothing itself: the events of a task come from Nexus (evidence).
/// Needs the CONTROLLER role.
contract Controller is Ownable {
    address public nexus;
    address public terminal;
    address public vault;

    /// @notice Devnet: not in the SDK's ABI. Whether strangers may publish to a source, at their own expense. The
    /// documents contradict each other; off, as the shape of the ABI suggests.
    bool public openPublish;

    constructor(address _nexus, address _terminal, address _vault) Ownable(msg.sender) {
        nexus = _nexus;
        terminal = _terminal;
        vault = _vault;
    }

    /// @notice Creates a task and puts its payment in escrow, from the vault balance of the source's client. Evidence:
    /// not payable, so the client deposits beforehand; the bounds come from the source. Reverts with UnknownSource,
    /// SourceInactive, NotOwner, PaymentOutOfRange, ExpiryOutOfRange, InsufficientBalance.
    function publishTask(TaskParams memory _taskParams) external {
        address source = _taskParams.source;
        require(INexus(nexus).getSourceId(source) != 0, "UnknownSource");
        require(ISource(source).getStatus() == SourceStatus.ACTIVE, "SourceInactive");
        SourceParams memory sourceParams = ISource(source).getSourceParams();
        address payer = _payerFor(sourceParams.client);
        require(_taskParams.payment >= sourceParams.minPayment, "PaymentOutOfRange");
        require(
            _taskParams.expiryTime > block.timestamp
                && _taskParams.expiryTime <= block.timestamp + sourceParams.maxExpiryDuration,
            "ExpiryOutOfRange"
        );
        address task = address(new Task(_taskParams, sourceParams.deliveryMethod, nexus));
        IVault(vault).freezePayment(payer, task, _taskParams.payment);
        INexus(nexus).emitTaskPublished(task, source);
    }

    /// @notice Accepts one answer of a task with manual confirmation and pays for it; the rest of the escrow goes
    /// back. Guess: allowed after the expiry time, as long as the task is not EXPIRED. Reverts with UnknownTask,
    /// UnknownResponse, NotOwner, AlreadyConfirmed, AlreadyFinalized, Expired.
    function confirmResponse(address response) external {
        ResponseParams memory answer = IResponse(response).getResponseParams();
        address payer = _ownPayerOf(answer.task);
        require(ITask(answer.task).responseOf(answer.provider) == response, "UnknownResponse");
        require(IResponse(response).getStatus() != ResponseStatus.CONFIRMED, "AlreadyConfirmed");
        TaskStatus status = ITask(answer.task).getStatus();
        require(status != TaskStatus.EXPIRED, "Expired");
        require(status == TaskStatus.RESPONDED, "AlreadyFinalized");
        IVault(vault).processPayment(payer, answer.provider, answer.task, answer.payment);
        INexus(nexus).setResponseStatus(response, ResponseStatus.CONFIRMED);
        INexus(nexus).setTaskStatus(answer.task, TaskStatus.FINALIZED);
    }

    /// @notice Withdraws a task that nobody has attempted, whether or not its time is over (guess), and returns its
    /// escrow. Reverts with UnknownTask, NotOwner, AlreadyFinalized.
    function cancelTask(address task) external {
        address payer = _ownPayerOf(task);
        require(ITask(task).getStatus() == TaskStatus.NEW, "AlreadyFinalized");
        IVault(vault).releasePayment(payer, task);
        INexus(nexus).setTaskStatus(task, TaskStatus.CANCELED);
    }

    function setNexus(address _nexus) external onlyOwner {
        nexus = _nexus;
    }

    function setTerminal(address _terminal) external onlyOwner {
        terminal = _terminal;
    }

    function setVault(address _vault) external onlyOwner {
        vault = _vault;
    }

    /// @notice Devnet: not in the SDK's ABI.
    function setOpenPublish(bool value) external onlyOwner {
        openPublish = value;
    }

    /// @dev Who pays for a task that the caller publishes to a source of `client`.
    function _payerFor(address client) private view returns (address) {
        if (Authority.actsForClient(terminal, client)) return client;
        require(openPublish, "NotOwner");
        return msg.sender;
    }

    /// @dev Who paid for `task`, for whom the caller must be acting.
    function _ownPayerOf(address task) private view returns (address payer) {
        payer = IVault(vault).payerOf(task);
        require(payer != address(0), "UnknownTask");
        require(Authority.actsForClient(terminal, payer), "NotOwner");
    }
}
