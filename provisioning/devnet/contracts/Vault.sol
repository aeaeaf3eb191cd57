// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Authority} from "./Authority.sol";
import {INexus, ISource, ITask, ITerminal, IVault} from "./Interfaces.sol";
import {ROLE_ADMIN, ROLE_CONTROLLER, ROLE_JUDGE, TaskStatus} from "./Types.sol";

/// @title The money
/// @notice Every coin here is in exactly one place: a balance, a lockup, the unbonding bucket, a task's escrow, or
/// under sanction. Their sum is the contract's own balance, always; nothing can be sent here but through a deposit.
/// @dev Evidence: names, events, and that roles come from Manager. State changes come before every outgoing call.
contract Vault is IVault {
    event Deposited(address account, uint256 amount);
    event Withdrawn(address account, uint256 amount);
    event Locked(address account, uint256 amount);
    event Unbonded(address account, uint256 amount);
    event UnbondingCanceled(address account, uint256 amount);
    event Claimed(address account, uint256 amount);
    event Sanctioned(address account, uint256 amount);
    event Waived(address account, uint256 amount);

    address public manager;
    address public nexus;
    address public terminal;

    /// @notice Wei of lockup that a client needs for each active source. Guess: the value.
    uint256 public MIN_LOCKUP_PER_SOURCE = 0;
    /// @notice Seconds from `unbond` to `claim`. Guess: the value, short enough to wait for in a test.
    uint256 public UNBONDING_PERIOD = 5;

    mapping(address => uint256) public balanceOf;
    mapping(address => uint256) public lockupOf;
    mapping(address => uint256) public unbondingOf;
    /// @notice When the unbonding bucket may be claimed (guess: maturity rather than start).
    mapping(address => uint256) public unbondingTimestamp;
    mapping(address => uint256) public totalEarningsOf;
    mapping(address => uint256) public sanctionOf;
    uint256 public sanctionedAmount;
    mapping(address => bool) public isWhitelisted;

    /// @notice The escrow of a task, and the sum of the escrows of a client. Guess: the SDK reads it by account, the
    /// release functions need it by task, so the devnet keeps both under one name.
    mapping(address => uint256) public frozenPayment;

    /// @notice Devnet: not in the SDK's ABI. Who paid for a task; zero for an address that is no published task.
    mapping(address => address) public payerOf;

    modifier onlyAdmin() {
        require(_hasRole(ROLE_ADMIN), "NotAdmin");
        _;
    }

    modifier onlyController() {
        require(_hasRole(ROLE_CONTROLLER), "NotController");
        _;
    }

    modifier onlyJudge() {
        require(_hasRole(ROLE_JUDGE), "NotJudge");
        _;
    }

    constructor(address _manager, address _nexus, address _terminal) {
        manager = _manager;
        nexus = _nexus;
        terminal = _terminal;
    }

    // === the account's own money ===

    function deposit(address account) external payable {
        _deposit(account);
    }

    /// @notice Devnet: not in the SDK's ABI. The lockup that a master gives its provider while pairing.
    function depositAndLock(address account) external payable {
        require(msg.sender == terminal, "NotTerminal");
        _deposit(account);
        _lock(account, msg.value);
    }

    /// @notice Pays `amount` of the caller's balance out. Reverts with InsufficientBalance, TransferFailed.
    function withdraw(uint256 amount) external {
        require(balanceOf[msg.sender] >= amount, "InsufficientBalance");
        balanceOf[msg.sender] -= amount;
        emit Withdrawn(msg.sender, amount);
        _send(msg.sender, amount);
    }

    /// @notice Moves `amount` from the caller's balance to its lockup. Reverts with InsufficientBalance.
    function lock(uint256 amount) external {
        _lock(msg.sender, amount);
    }

    /// @notice Starts the cooldown of `amount` of the caller's lockup. Guess: a second call adds to the bucket and
    /// restarts its clock, and the lockup that active sources need cannot leave. Reverts with InsufficientLockup.
    function unbond(uint256 amount) external {
        require(lockupOf[msg.sender] >= amount, "InsufficientLockup");
        uint256 remaining = lockupOf[msg.sender] - amount;
        require(isWhitelisted[msg.sender] || remaining >= _requiredLockup(msg.sender), "InsufficientLockup");
        lockupOf[msg.sender] = remaining;
        unbondingOf[msg.sender] += amount;
        unbondingTimestamp[msg.sender] = block.timestamp + UNBONDING_PERIOD;
        emit Unbonded(msg.sender, amount);
    }

    /// @notice Moves the whole bucket back to lockup (mainnet ABI only). Reverts with NothingToClaim.
    function cancelUnbonding() external {
        uint256 amount = _emptyBucket(msg.sender);
        lockupOf[msg.sender] += amount;
        emit UnbondingCanceled(msg.sender, amount);
    }

    /// @notice Moves the whole bucket to balance after the cooldown. Reverts with UnbondingNotElapsed, NothingToClaim.
    function claim() external {
        require(block.timestamp >= unbondingTimestamp[msg.sender], "UnbondingNotElapsed");
        uint256 amount = _emptyBucket(msg.sender);
        balanceOf[msg.sender] += amount;
        emit Claimed(msg.sender, amount);
    }

    // === escrow ===

    /// @notice Sets `amount` of the client's balance aside for `task`. Reverts with InsufficientBalance.
    function freezePayment(address client, address task, uint256 amount) external onlyController {
        require(payerOf[task] == address(0), "AlreadyFrozen");
        require(balanceOf[client] >= amount, "InsufficientBalance");
        payerOf[task] = client;
        balanceOf[client] -= amount;
        frozenPayment[task] = amount;
        frozenPayment[client] += amount;
    }

    /// @notice Returns the escrow of a canceled or expired `task`.
    function releasePayment(address client, address task) external onlyController {
        balanceOf[client] += _thaw(client, task);
    }

    /// @notice Pays `amount` of the escrow of `task` and returns the rest to the client: the ABI takes an amount, and
    /// a bid may be below the task's payment. Guess: credited to the provider's master ("earnings accumulate in your
    /// master wallet's vault"), in full; earnings are counted for both. Reverts with PaymentOutOfRange.
    function processPayment(address client, address provider, address task, uint256 amount) external onlyController {
        uint256 escrow = _thaw(client, task);
        require(amount <= escrow, "PaymentOutOfRange");
        balanceOf[client] += escrow - amount;
        address master = ITerminal(terminal).getMasterOf(provider);
        address payee = master == address(0) ? provider : master;
        balanceOf[payee] += amount;
        totalEarningsOf[provider] += amount;
        if (payee != provider) totalEarningsOf[payee] += amount;
    }

    /// @notice Expires `task` after its time and returns its escrow. Guess: for the client, its agent or a
    /// controller, because nothing else frees a task that nobody attempts; an answered task stays confirmable for
    /// another `maxExpiryDuration`. Reverts with NotOwner, AlreadyFinalized, StillOpen.
    function forceReleasePayment(address client, address task) external {
        require(payerOf[task] != address(0) && payerOf[task] == client, "NotOwner");
        require(Authority.actsForClient(terminal, client) || _hasRole(ROLE_CONTROLLER), "NotOwner");
        TaskStatus status = ITask(task).getStatus();
        require(uint8(status) <= uint8(TaskStatus.RESPONDED), "AlreadyFinalized");
        uint256 openUntil = ITask(task).getExpiryTime();
        if (status == TaskStatus.RESPONDED) {
            openUntil += ISource(ITask(task).getSource()).getSourceParams().maxExpiryDuration;
        }
        require(block.timestamp > openUntil, "StillOpen");
        balanceOf[client] += _thaw(client, task);
        INexus(nexus).setTaskStatus(task, TaskStatus.EXPIRED);
    }

    // === sanctions ===

    /// @notice Takes `amount` from the account's lockup, then (guess) from its unbonding bucket. Reverts with
    /// InsufficientLockup.
    function sanction(address account, uint256 amount) external onlyJudge {
        require(lockupOf[account] + unbondingOf[account] >= amount, "InsufficientLockup");
        uint256 fromLockup = amount < lockupOf[account] ? amount : lockupOf[account];
        lockupOf[account] -= fromLockup;
        unbondingOf[account] -= amount - fromLockup;
        sanctionOf[account] += amount;
        sanctionedAmount += amount;
        emit Sanctioned(account, amount);
    }

    /// @notice Returns `amount` under sanction to the account's lockup. Reverts with InsufficientSanction.
    function waive(address account, uint256 amount) external onlyJudge {
        require(sanctionOf[account] >= amount, "InsufficientSanction");
        sanctionOf[account] -= amount;
        sanctionedAmount -= amount;
        lockupOf[account] += amount;
        emit Waived(account, amount);
    }

    /// @notice Pays the account's sanctioned coins to the administrator (guess; mainnet ABI only).
    function withdrawSanctionOf(address account) external onlyAdmin {
        uint256 amount = sanctionOf[account];
        delete sanctionOf[account];
        sanctionedAmount -= amount;
        _send(msg.sender, amount);
    }

    // === administration ===

    /// @notice Pays everything but escrow and sanctions out to its account (guess; mainnet ABI only).
    function emergencyExit(address account) external onlyAdmin {
        uint256 amount = balanceOf[account] + lockupOf[account] + unbondingOf[account];
        delete balanceOf[account];
        delete lockupOf[account];
        delete unbondingOf[account];
        delete unbondingTimestamp[account];
        emit Withdrawn(account, amount);
        _send(account, amount);
    }

    function setTerminal(address _terminal) external onlyAdmin {
        terminal = _terminal;
    }

    function setMinLockupPerSource(uint256 amount) external onlyAdmin {
        MIN_LOCKUP_PER_SOURCE = amount;
    }

    function setMaxUnbondingPeriod(uint256 period) external onlyAdmin {
        UNBONDING_PERIOD = period;
    }

    function setWhitelist(address account, bool value) external onlyAdmin {
        isWhitelisted[account] = value;
    }

    // === views ===

    function getBalanceOf(address account) external view returns (uint256) {
        return balanceOf[account];
    }

    function getLockupOf(address account) external view returns (uint256) {
        return lockupOf[account];
    }

    /// @notice Guess: under no sanction, and whitelisted or with enough lockup for its active sources. Binds clients:
    /// the count that it needs is kept per client (evidence: parameter name in the ABI).
    function isEligible(address account) external view returns (bool) {
        return sanctionOf[account] == 0 && (isWhitelisted[account] || lockupOf[account] >= _requiredLockup(account));
    }

    function _requiredLockup(address account) private view returns (uint256) {
        return MIN_LOCKUP_PER_SOURCE * INexus(nexus).getActiveSourceCount(account);
    }

    function _hasRole(bytes32 role) private view returns (bool) {
        return IAccessControl(manager).hasRole(role, msg.sender);
    }

    // === moves ===

    function _deposit(address account) private {
        balanceOf[account] += msg.value;
        emit Deposited(account, msg.value);
    }

    function _lock(address account, uint256 amount) private {
        require(balanceOf[account] >= amount, "InsufficientBalance");
        balanceOf[account] -= amount;
        lockupOf[account] += amount;
        emit Locked(account, amount);
    }

    function _emptyBucket(address account) private returns (uint256 amount) {
        amount = unbondingOf[account];
        require(amount > 0, "NothingToClaim");
        delete unbondingOf[account];
        delete unbondingTimestamp[account];
    }

    /// @dev The payer is checked on every path: a contract that is both a client and a false task would otherwise
    /// have the sum of its own escrows released to it.
    function _thaw(address client, address task) private returns (uint256 escrow) {
        require(payerOf[task] != address(0) && payerOf[task] == client, "NotOwner");
        escrow = frozenPayment[task];
        delete frozenPayment[task];
        frozenPayment[client] -= escrow;
    }

    function _send(address account, uint256 amount) private {
        (bool sent,) = account.call{value: amount}("");
        require(sent, "TransferFailed");
    }
}
