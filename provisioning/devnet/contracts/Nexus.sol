// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Authority} from "./Authority.sol";
import {INexus, IResponse, ISource, ITask, IVault} from "./Interfaces.sol";
import {Pages} from "./Pages.sol";
import {Response} from "./Response.sol";
import {Source} from "./Source.sol";
import {
    DeliveryMethod,
    ROLE_CONTROLLER,
    ROLE_PROVIDER,
    ResponseParams,
    ResponseStatus,
    SourceParams,
    SourceStatus,
    TaskStatus
} from "./Types.sol";

/// @title The registry, and the only voice of sources, tasks and responses
/// @notice Evidence: the functions, the events (none with an indexed argument) and which call emits which. Guess: the
/// checks and the order of events within one transaction. Needs the CONTROLLER role to move escrow in Vault.
contract Nexus is INexus, Ownable {
    using Pages for address[];

    event SourcePublished(address source);
    event SourceUpdated(address source, SourceParams sourceParams);
    event SourceStatusChanged(address source, SourceStatus status);
    event TaskPublished(address task, address source);
    event TaskStatusChanged(address task, TaskStatus status);
    event Registered(address provider, uint256 registrantId, address source, uint8 preferredEnvironment);
    event Attempted(address task, address provider, uint256 suggestedPayment);
    event ResponseSubmitted(address response, address task);
    event ResponseStatusChanged(address response, ResponseStatus status);

    bytes32 public constant CONTROLLER = ROLE_CONTROLLER;
    bytes32 public constant PROVIDER = ROLE_PROVIDER;
    uint8 private constant ALL_ENVIRONMENTS = 7;

    address public manager;
    address public terminal;
    address public vault;

    address[] public sources;
    /// @dev Ids count from one (guess), so that zero says "not published here".
    mapping(address => uint256) public sourceId;
    mapping(address => address[]) public sourcesOf;
    /// @dev Each client once, in the order of first publication (guess).
    address[] public clients;
    mapping(address => uint256) public activeSourceCountOf;

    /// @notice Devnet: not in the SDK's ABI. Whether the list getters work for every page, or fail as on mainnet.
    bool public pagesRepaired;

    /// @dev What a provider asked for when it attempted a task. No getter shows it (evidence); the event does.
    mapping(address task => mapping(address provider => uint256)) private bidOf;

    modifier onlyController() {
        require(checkController(msg.sender), "NotController");
        _;
    }

    modifier onlyClientOf(address source) {
        require(sourceId[source] != 0, "UnknownSource");
        require(ISource(source).getClient() == msg.sender, "NotOwner");
        _;
    }

    constructor(address _manager, address _terminal, address _vault) Ownable(msg.sender) {
        manager = _manager;
        terminal = _terminal;
        vault = _vault;
    }

    // === sources ===

    /// @notice Creates a source for `_sourceParams.client`, whose lockup must cover it together with the client's
    /// other active sources (guess). Reverts with NotOwner, BadEnvironment, NotEligible.
    function publishSource(SourceParams memory _sourceParams) external {
        address client = _sourceParams.client;
        require(Authority.actsForClient(terminal, client), "NotOwner");
        _sealParams(_sourceParams);
        if (sourcesOf[client].length == 0) clients.push(client);
        activeSourceCountOf[client]++;
        require(IVault(vault).isEligible(client), "NotEligible");
        address source = address(new Source(_sourceParams));
        sources.push(source);
        sourceId[source] = sources.length;
        sourcesOf[client].push(source);
        emit SourcePublished(source);
    }

    /// @notice Replaces the parameters for tasks to come; published tasks keep theirs (evidence). Guess: the client
    /// cannot be changed. Reverts with UnknownSource, NotOwner, BadEnvironment.
    function updateSource(address source, SourceParams memory _sourceParams) external onlyClientOf(source) {
        _sourceParams.client = msg.sender;
        _sealParams(_sourceParams);
        ISource(source).setSourceParams(_sourceParams);
        emit SourceUpdated(source, _sourceParams);
    }

    /// @notice Closes a source to new tasks for good; tasks already published go on (evidence). Reverts with
    /// UnknownSource, NotOwner, SourceInactive.
    function inactivateSource(address source) external onlyClientOf(source) {
        _setSourceStatus(source, SourceStatus.INACTIVE);
    }

    // === providers ===

    /// @notice Enters `provider` for a source, with one of the source's environments. Evidence: who may call, the
    /// stake, the event. Reverts with UnknownSource, NotProvider (also when it is not paired), SourceInactive,
    /// InsufficientLockup, BadEnvironment, AlreadyRegistered.
    function register(address source, address provider, uint8 preferredEnvironment) external {
        require(sourceId[source] != 0, "UnknownSource");
        require(ISource(source).getStatus() == SourceStatus.ACTIVE, "SourceInactive");
        require(Authority.actsForProvider(terminal, provider), "NotProvider");
        SourceParams memory params = ISource(source).getSourceParams();
        _requireStanding(provider, params.minAvailableLockup);
        require(_isOneOf(preferredEnvironment, params.imageEnvironments), "BadEnvironment");
        uint256 id = ISource(source).register(provider, preferredEnvironment);
        emit Registered(provider, id, source, preferredEnvironment);
    }

    /// @notice Strikes `provider` out, silently: there is no event for it (evidence). Reverts with UnknownSource,
    /// NotProvider, NotRegistered.
    function unregister(address source, address provider) external {
        require(sourceId[source] != 0, "UnknownSource");
        require(Authority.actsForProvider(terminal, provider), "NotProvider");
        ISource(source).unregister(provider);
    }

    /// @notice Records that `provider` takes the task up, for at most `suggestedPayment`.
    /// @dev Guess, on expiry: the SDK's texts disagree, and a call that reverts cannot store EXPIRED. The first
    /// attempt after the expiry time therefore succeeds, expires the task and refunds it, whoever sends it; later ones
    /// revert with Expired, and so does one on a task that was answered in time. Reverts also with UnknownTask,
    /// NotProvider, AlreadyFinalized, InsufficientLockup, PaymentOutOfRange, AlreadyAttempted.
    function attempt(address task, address provider, uint256 suggestedPayment) external {
        address payer = _payerOf(task);
        require(Authority.actsForProvider(terminal, provider), "NotProvider");
        TaskStatus status = ITask(task).getStatus();
        _requireOpen(status);
        if (block.timestamp > ITask(task).getExpiryTime()) {
            require(status != TaskStatus.RESPONDED, "Expired");
            IVault(vault).releasePayment(payer, task);
            _setTaskStatus(task, TaskStatus.EXPIRED);
            return;
        }
        ISource source = ISource(ITask(task).getSource());
        require(source.getRegistrantId(provider) != 0, "NotProvider");
        _requireStanding(provider, source.getSourceParams().minAvailableLockup);
        require(suggestedPayment <= ITask(task).getPayment(), "PaymentOutOfRange");
        ITask(task).attempt(provider);
        bidOf[task][provider] = suggestedPayment;
        emit Attempted(task, provider, suggestedPayment);
        if (status == TaskStatus.NEW) _setTaskStatus(task, TaskStatus.ATTEMPTED);
    }

    /// @notice Files a provider's answer; with FIRST_RESPONSE also confirms and pays it at once (evidence, five
    /// sources). Guess: one answer per provider and per payload, for no more than the provider's bid; the provider's
    /// master and agents may send it. Reverts with UnknownTask, NotProvider (also without an attempt), Expired,
    /// AlreadyFinalized, PaymentOutOfRange, AlreadySubmitted.
    function submitResponse(ResponseParams memory _responseParams) external {
        (address task, address provider) = (_responseParams.task, _responseParams.provider);
        address payer = _payerOf(task);
        require(Authority.actsForProvider(terminal, provider), "NotProvider");
        TaskStatus status = ITask(task).getStatus();
        _requireOpen(status);
        require(ITask(task).getAttempterId(provider) != 0, "NotProvider");
        require(block.timestamp <= ITask(task).getExpiryTime(), "Expired");
        require(_responseParams.payment <= bidOf[task][provider], "PaymentOutOfRange");
        address response = address(new Response(_responseParams));
        ITask(task).submitResponse(response, provider);
        emit ResponseSubmitted(response, task);
        if (status == TaskStatus.ATTEMPTED) _setTaskStatus(task, TaskStatus.RESPONDED);
        if (ITask(task).getDeliveryMethod() == DeliveryMethod.FIRST_RESPONSE) {
            IVault(vault).processPayment(payer, provider, task, _responseParams.payment);
            _confirm(response);
            _setTaskStatus(task, TaskStatus.FINALIZED);
        }
    }

    // === status, for Controller and for the contracts that report here ===

    /// @notice Guess: for controllers, and for the source itself when its owner changes it there. Reverts with
    /// NotController, UnknownSource, SourceInactive.
    function setSourceStatus(address source, SourceStatus status) external {
        require(msg.sender == source || checkController(msg.sender), "NotController");
        require(sourceId[source] != 0, "UnknownSource");
        _setSourceStatus(source, status);
    }

    /// @notice Guess: for controllers, and for Vault when it refunds an expired task. Reverts with NotController.
    function setTaskStatus(address task, TaskStatus status) external {
        require(msg.sender == vault || checkController(msg.sender), "NotController");
        _setTaskStatus(task, status);
    }

    /// @notice Guess: for controllers; CONFIRMED is final and makes the provider the winner of its task. Reverts with
    /// NotController, AlreadyConfirmed.
    function setResponseStatus(address response, ResponseStatus status) external onlyController {
        if (status == ResponseStatus.CONFIRMED) {
            _confirm(response);
        } else {
            IResponse(response).setStatus(status);
            emit ResponseStatusChanged(response, status);
        }
    }

    /// @notice Lists a new task under its source and announces it. Evidence: the event comes from here although the
    /// client calls Controller. Reverts with NotController.
    function emitTaskPublished(address task, address source) external onlyController {
        ISource(source).publishTask(task);
        emit TaskPublished(task, source);
    }

    // === administration ===

    function setManager(address _manager) external onlyOwner {
        manager = _manager;
    }

    function setTerminal(address _terminal) external onlyOwner {
        terminal = _terminal;
    }

    function setVault(address _vault) external onlyOwner {
        vault = _vault;
    }

    /// @notice Devnet: not in the SDK's ABI.
    function setPagesRepaired(bool value) external onlyOwner {
        pagesRepaired = value;
    }

    // === views ===

    function checkController(address account) public view returns (bool) {
        return IAccessControl(manager).hasRole(CONTROLLER, account);
    }

    function getActiveSourceCount(address client) external view returns (uint256) {
        return activeSourceCountOf[client];
    }

    function getSourceCount() external view returns (uint256) {
        return sources.length;
    }

    function getSourceId(address source) external view returns (uint256) {
        return sourceId[source];
    }

    /// @notice Guess: pages like the getters of Source, fault included. `sources(i)` is the safe way to list.
    function getSources(uint256 lower, uint256 upper) external view returns (address[] memory) {
        return sources.read(lower, upper, pagesRepaired);
    }

    // === shared steps ===

    function _setSourceStatus(address source, SourceStatus status) private {
        require(ISource(source).getStatus() == SourceStatus.ACTIVE, "SourceInactive");
        if (status == SourceStatus.INACTIVE) activeSourceCountOf[ISource(source).getClient()]--;
        ISource(source).setStatus(status);
        emit SourceStatusChanged(source, status);
    }

    function _setTaskStatus(address task, TaskStatus status) private {
        ITask(task).setStatus(status);
        emit TaskStatusChanged(task, status);
    }

    function _confirm(address response) private {
        IResponse(response).confirm();
        ResponseParams memory answer = IResponse(response).getResponseParams();
        ITask(answer.task).setWinningProvider(answer.provider);
        emit ResponseStatusChanged(response, ResponseStatus.CONFIRMED);
    }

    /// @dev Checks what a client may choose, and stamps the time that it may not.
    function _sealParams(SourceParams memory params) private view {
        require(params.imageEnvironments != 0 && params.imageEnvironments <= ALL_ENVIRONMENTS, "BadEnvironment");
        params.lastUpdateTime = block.timestamp;
    }

    function _requireStanding(address provider, uint256 minAvailableLockup) private view {
        require(IAccessControl(manager).hasRole(PROVIDER, provider), "NotProvider");
        require(IVault(vault).getLockupOf(provider) >= minAvailableLockup, "InsufficientLockup");
    }

    function _requireOpen(TaskStatus status) private pure {
        require(status != TaskStatus.EXPIRED, "Expired");
        require(status != TaskStatus.CANCELED && status != TaskStatus.FINALIZED, "AlreadyFinalized");
    }

    function _payerOf(address task) private view returns (address payer) {
        payer = IVault(vault).payerOf(task);
        require(payer != address(0), "UnknownTask");
    }

    /// @dev Whether `environment` is exactly one of the bits in `environments`.
    function _isOneOf(uint8 environment, uint8 environments) private pure returns (bool) {
        bool isSingle = environment != 0 && (environment & (environment - 1)) == 0;
        return isSingle && (environment & environments) != 0;
    }
}
