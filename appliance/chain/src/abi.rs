//! The network's contracts as the rig calls them.
//!
//! Invariants:
//! * One interface per JSON ABI of the SDK (PyPI `ogpu` 0.2.3, mainnet set), complete: every function, event and error
//!   in it and nothing else. The tests pin each set by the hash of its selectors, so a slip of one letter is a failure.
//! * Status and delivery enums stay `uint8` here. A value that a later contract adds must decode and then be refused by
//!   name in `work`, not fail inside a decoder that cannot say which task it was looking at.
//! * The testnet's `Vault` lacks `cancelUnbonding`, `emergencyExit`, `withdrawSanctionOf` and `UnbondingCanceled`; a call
//!   to them there reverts without a reason.
//! * No event of ours carries an indexed parameter (only OpenZeppelin's do): logs are chosen by address and topic 0.

use alloy::sol;

sol! {
    /// What a client offers: an image, the environments it runs in, and the terms. Amounts are wei, times Unix seconds.
    #[derive(Debug, PartialEq, Eq)]
    struct SourceParams {
        address client;
        string imageMetadataUrl;
        uint8 imageEnvironments;
        uint256 minPayment;
        uint256 minAvailableLockup;
        uint256 maxExpiryDuration;
        bool privacyEnabled;
        string optionalParamsUrl;
        uint8 deliveryMethod;
        uint256 lastUpdateTime;
    }

    /// One piece of work: `config` is the link of its input, `expiryTime` Unix seconds, `payment` wei.
    #[derive(Debug, PartialEq, Eq)]
    struct TaskParams {
        address source;
        string config;
        uint256 expiryTime;
        uint256 payment;
    }

    /// One answer: `data` is the link of the output, `payment` (wei) at most what the attempt suggested.
    #[derive(Debug, PartialEq, Eq)]
    struct ResponseParams {
        address task;
        address provider;
        string data;
        uint256 payment;
    }

    #[sol(rpc)]
    interface Manager {
        error AccessControlBadConfirmation();
        error AccessControlUnauthorizedAccount(address account, bytes32 neededRole);
        event RoleAdminChanged(bytes32 indexed role, bytes32 indexed previousAdminRole, bytes32 indexed newAdminRole);
        event RoleGranted(bytes32 indexed role, address indexed account, address indexed sender);
        event RoleRevoked(bytes32 indexed role, address indexed account, address indexed sender);
        function grantRole(bytes32 role, address account) external;
        function renounceRole(bytes32 role, address callerConfirmation) external;
        function revokeRole(bytes32 role, address account) external;
        function CONTROLLER() external view returns (bytes32);
        function DEFAULT_ADMIN_ROLE() external view returns (bytes32);
        function JUDGE() external view returns (bytes32);
        function PROVIDER() external view returns (bytes32);
        function getRoleAdmin(bytes32 role) external view returns (bytes32);
        function hasRole(bytes32 role, address account) external view returns (bool);
        function supportsInterface(bytes4 interfaceId) external view returns (bool);
    }

    #[sol(rpc)]
    interface Terminal {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event AgentSet(address account, address agent, bool value);
        event BaseDataUpdated(address provider);
        event DefaultAgentDisabled(address master, bool value);
        event LiveDataUpdated(address provider);
        event MasterAnnounced(address provider, address master);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        event ProviderAnnounced(address provider, address master);
        event ProviderRemoved(address provider);
        event RemoveContainer(address provider, address source);
        function announceMaster(address master) external;
        function announceProvider(address provider, uint256 amount) external payable;
        function removeContainer(address provider, address source) external;
        function removeProvider(address provider) external;
        function renounceOwnership() external;
        function setAgent(address agent, bool value) external;
        function setBaseData(string calldata _baseData) external;
        function setDefaultAgentDisabled(bool value) external;
        function setLiveData(string calldata _liveData) external;
        function setManager(address _manager) external;
        function setVault(address _vault) external;
        function transferOwnership(address newOwner) external;
        function PROVIDER() external view returns (bytes32);
        function baseDataOf(address) external view returns (string memory);
        function defaultAgentDisabled(address) external view returns (bool);
        function getIsAgentOf(address master, address agent) external view returns (bool);
        function getIsMaster(address master) external view returns (bool);
        function getMasterOf(address provider) external view returns (address);
        function isAgentOf(address, address) external view returns (bool);
        function isMaster(address) external view returns (bool);
        function isProvider(address) external view returns (bool);
        function liveDataOf(address) external view returns (string memory);
        function manager() external view returns (address);
        function masterOf(address) external view returns (address);
        function owner() external view returns (address);
        function providerOf(address) external view returns (address);
        function vault() external view returns (address);
    }

    #[sol(rpc)]
    interface Vault {
        event Claimed(address account, uint256 amount);
        event Deposited(address account, uint256 amount);
        event Locked(address account, uint256 amount);
        event Sanctioned(address account, uint256 amount);
        event Unbonded(address account, uint256 amount);
        event UnbondingCanceled(address account, uint256 amount);
        event Waived(address account, uint256 amount);
        event Withdrawn(address account, uint256 amount);
        function cancelUnbonding() external;
        function claim() external;
        function deposit(address account) external payable;
        function emergencyExit(address account) external;
        function forceReleasePayment(address client, address task) external;
        function freezePayment(address client, address task, uint256 amount) external;
        function lock(uint256 amount) external;
        function processPayment(address client, address provider, address task, uint256 amount) external;
        function releasePayment(address client, address task) external;
        function sanction(address account, uint256 amount) external;
        function setMaxUnbondingPeriod(uint256 period) external;
        function setMinLockupPerSource(uint256 amount) external;
        function setTerminal(address _terminal) external;
        function setWhitelist(address account, bool value) external;
        function unbond(uint256 amount) external;
        function waive(address account, uint256 amount) external;
        function withdraw(uint256 amount) external;
        function withdrawSanctionOf(address account) external;
        function MIN_LOCKUP_PER_SOURCE() external view returns (uint256);
        function UNBONDING_PERIOD() external view returns (uint256);
        function balanceOf(address) external view returns (uint256);
        function frozenPayment(address) external view returns (uint256);
        function getBalanceOf(address account) external view returns (uint256);
        function getLockupOf(address account) external view returns (uint256);
        function isEligible(address account) external view returns (bool);
        function isWhitelisted(address) external view returns (bool);
        function lockupOf(address) external view returns (uint256);
        function manager() external view returns (address);
        function nexus() external view returns (address);
        function sanctionOf(address) external view returns (uint256);
        function sanctionedAmount() external view returns (uint256);
        function terminal() external view returns (address);
        function totalEarningsOf(address) external view returns (uint256);
        function unbondingOf(address) external view returns (uint256);
        function unbondingTimestamp(address) external view returns (uint256);
    }

    #[sol(rpc)]
    interface Nexus {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event Attempted(address task, address provider, uint256 suggestedPayment);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        event Registered(address provider, uint256 registrantId, address source, uint8 preferredEnvironment);
        event ResponseStatusChanged(address response, uint8 status);
        event ResponseSubmitted(address response, address task);
        event SourcePublished(address source);
        event SourceStatusChanged(address source, uint8 status);
        event SourceUpdated(address source, SourceParams sourceParams);
        event TaskPublished(address task, address source);
        event TaskStatusChanged(address task, uint8 status);
        function attempt(address task, address provider, uint256 suggestedPayment) external;
        function emitTaskPublished(address task, address source) external;
        function inactivateSource(address source) external;
        function publishSource(SourceParams calldata _sourceParams) external;
        function register(address source, address provider, uint8 preferredEnvironment) external;
        function renounceOwnership() external;
        function setManager(address _manager) external;
        function setResponseStatus(address response, uint8 status) external;
        function setSourceStatus(address source, uint8 status) external;
        function setTaskStatus(address task, uint8 status) external;
        function setTerminal(address _terminal) external;
        function setVault(address _vault) external;
        function submitResponse(ResponseParams calldata _responseParams) external;
        function transferOwnership(address newOwner) external;
        function unregister(address source, address provider) external;
        function updateSource(address source, SourceParams calldata _sourceParams) external;
        function CONTROLLER() external view returns (bytes32);
        function PROVIDER() external view returns (bytes32);
        function activeSourceCountOf(address) external view returns (uint256);
        function checkController(address account) external view returns (bool);
        function clients(uint256) external view returns (address);
        function getActiveSourceCount(address client) external view returns (uint256);
        function getSourceCount() external view returns (uint256);
        function getSourceId(address source) external view returns (uint256);
        function getSources(uint256 lower, uint256 upper) external view returns (address[] memory);
        function manager() external view returns (address);
        function owner() external view returns (address);
        function sourceId(address) external view returns (uint256);
        function sources(uint256) external view returns (address);
        function sourcesOf(address, uint256) external view returns (address);
        function terminal() external view returns (address);
        function vault() external view returns (address);
    }

    #[sol(rpc)]
    interface Controller {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        function cancelTask(address task) external;
        function confirmResponse(address response) external;
        function publishTask(TaskParams calldata _taskParams) external;
        function renounceOwnership() external;
        function setNexus(address _nexus) external;
        function setTerminal(address _terminal) external;
        function setVault(address _vault) external;
        function transferOwnership(address newOwner) external;
        function nexus() external view returns (address);
        function owner() external view returns (address);
        function terminal() external view returns (address);
        function vault() external view returns (address);
    }

    #[sol(rpc)]
    interface Source {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        function publishTask(address task) external;
        function register(address provider, uint8 preferredEnvironment) external returns (uint256);
        function renounceOwnership() external;
        function setSourceParams(SourceParams calldata _sourceParams) external;
        function setStatus(uint8 _status) external;
        function transferOwnership(address newOwner) external;
        function unregister(address provider) external;
        function getClient() external view returns (address);
        function getRegistrantCount() external view returns (uint256);
        function getRegistrantId(address provider) external view returns (uint256);
        function getRegistrants(uint256 lower, uint256 upper) external view returns (address[] memory);
        function getSourceParams() external view returns (SourceParams memory);
        function getStatus() external view returns (uint8);
        function getTaskCount() external view returns (uint256);
        function getTasks(uint256 lower, uint256 upper) external view returns (address[] memory);
        function nexus() external view returns (address);
        function owner() external view returns (address);
        function preferredEnvironmentOf(address) external view returns (uint8);
        function registrantId(address) external view returns (uint256);
        function registrants(uint256) external view returns (address);
        function sourceParams() external view returns (address client, string memory imageMetadataUrl, uint8 imageEnvironments, uint256 minPayment, uint256 minAvailableLockup, uint256 maxExpiryDuration, bool privacyEnabled, string memory optionalParamsUrl, uint8 deliveryMethod, uint256 lastUpdateTime);
        function status() external view returns (uint8);
        function tasks(uint256) external view returns (address);
    }

    #[sol(rpc)]
    interface Task {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        function attempt(address provider) external;
        function renounceOwnership() external;
        function setStatus(uint8 _status) external;
        function submitResponse(address response, address provider) external;
        function transferOwnership(address newOwner) external;
        function attemptTimestamps(uint256) external view returns (uint256);
        function attempterId(address) external view returns (uint256);
        function attempters(uint256) external view returns (address);
        function deliveryMethod() external view returns (uint8);
        function getAttemptCount() external view returns (uint256);
        function getAttemptTimestamps(uint256 lower, uint256 upper) external view returns (uint256[] memory);
        function getAttempterId(address provider) external view returns (uint256);
        function getAttempters(uint256 lower, uint256 upper) external view returns (address[] memory);
        function getDeliveryMethod() external view returns (uint8);
        function getExpiryTime() external view returns (uint256);
        function getPayment() external view returns (uint256);
        function getResponsesOf(uint256 lower, uint256 upper) external view returns (address[] memory);
        function getSource() external view returns (address);
        function getStatus() external view returns (uint8);
        function isAlreadySubmitted(bytes32) external view returns (bool);
        function owner() external view returns (address);
        function responseOf(address) external view returns (address);
        function status() external view returns (uint8);
        function taskParams() external view returns (address source, string memory config, uint256 expiryTime, uint256 payment);
        function winningProvider() external view returns (address);
    }

    #[sol(rpc)]
    interface Response {
        error OwnableInvalidOwner(address owner);
        error OwnableUnauthorizedAccount(address account);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
        function confirm() external;
        function renounceOwnership() external;
        function setStatus(uint8 _status) external;
        function transferOwnership(address newOwner) external;
        function confirmedFinal() external view returns (bool);
        function getResponseParams() external view returns (ResponseParams memory);
        function getStatus() external view returns (uint8);
        function owner() external view returns (address);
        function responseParams() external view returns (address task, address provider, string memory data, uint256 payment);
        function responseTimestamp() external view returns (uint256);
        function status() external view returns (uint8);
    }
}

#[cfg(test)]
mod tests {
    use super::{Controller, Manager, Nexus, Response, Source, Task, Terminal, Vault};
    use alloy::{
        primitives::{B256, b256, keccak256},
        sol_types::SolInterface,
    };

    /// Hash of the selectors, sorted and joined, and their number.
    fn functions<I: SolInterface>() -> (usize, B256) {
        let mut selectors: Vec<_> = I::selectors().collect();
        selectors.sort_unstable();
        (selectors.len(), keccak256(selectors.concat()))
    }

    fn events(selectors: &[[u8; 32]]) -> (usize, B256) {
        let mut selectors = selectors.to_vec();
        selectors.sort_unstable();
        (selectors.len(), keccak256(selectors.concat()))
    }

    /// The hashes were computed from the SDK's JSON files by another program (Python, pycryptodome).
    #[test]
    fn every_function_selector_is_that_of_the_sdk() {
        assert_eq!(
            functions::<Manager::ManagerCalls>(),
            (10, b256!("e6b37bf4d668cbef37a7ec27c2c76394401ba6f9f75f2d2713cb21177293e2d6")),
            "Manager"
        );
        assert_eq!(
            functions::<Terminal::TerminalCalls>(),
            (27, b256!("a554960cbf78df6f51798a1abe0ae99b08d0d0df7dfa9860180be732144cd14b")),
            "Terminal"
        );
        assert_eq!(
            functions::<Vault::VaultCalls>(),
            (35, b256!("0ae18387fbfe24a0ccb2c517b4ba239cf137f0427491145ba7876b63a419507f")),
            "Vault"
        );
        assert_eq!(
            functions::<Nexus::NexusCalls>(),
            (32, b256!("400035e0c1106a96e4630391674f2544f4e50047f4f578666797f3e58d0b07ca")),
            "Nexus"
        );
        assert_eq!(
            functions::<Controller::ControllerCalls>(),
            (12, b256!("80ad72487e91010fbf302e231ad11b13bc9860ddaf71abf50b90f24bee275871")),
            "Controller"
        );
        assert_eq!(
            functions::<Source::SourceCalls>(),
            (23, b256!("2d4e38dcd1202de1529f6cd747293f25168b31d4dae6ed6341d571625f3310e0")),
            "Source"
        );
        assert_eq!(
            functions::<Task::TaskCalls>(),
            (25, b256!("314d349dd49d7fa61abe5874eabe525b34d4a3bd2086ea314d7a7c56a51cd399")),
            "Task"
        );
        assert_eq!(
            functions::<Response::ResponseCalls>(),
            (11, b256!("fa7fa9186608399197597208c1055823ced42de0a2f49354a2c4ea6fff715e3e")),
            "Response"
        );
    }

    #[test]
    fn every_event_selector_is_that_of_the_sdk() {
        assert_eq!(
            events(Manager::ManagerEvents::SELECTORS),
            (3, b256!("f4b998deec45850e09c5eb855b9c9ccb090a44503ee429acc922ecd81af1fd3a")),
            "Manager"
        );
        assert_eq!(
            events(Terminal::TerminalEvents::SELECTORS),
            (9, b256!("74c2346f02bd4db7a1707b0fc75bcc5a030743f2fb3c040c6a3c19331ac50285")),
            "Terminal"
        );
        assert_eq!(
            events(Vault::VaultEvents::SELECTORS),
            (8, b256!("364157c746b79624110ad7e860ec39cce8eee80ad0668b4d540eee55dd303790")),
            "Vault"
        );
        assert_eq!(
            events(Nexus::NexusEvents::SELECTORS),
            (10, b256!("7fd9cd5031be5b4d8cfaaed3e1dddc743c59e1d59fe0b37d52ddf47d2383a69d")),
            "Nexus"
        );
        assert_eq!(
            events(Controller::ControllerEvents::SELECTORS),
            (1, b256!("9c064737b570a74c2bac5d21056d93ac53115214216cd14d4a0fc9b60be81231")),
            "Controller"
        );
        assert_eq!(
            events(Source::SourceEvents::SELECTORS),
            (1, b256!("9c064737b570a74c2bac5d21056d93ac53115214216cd14d4a0fc9b60be81231")),
            "Source"
        );
        assert_eq!(
            events(Task::TaskEvents::SELECTORS),
            (1, b256!("9c064737b570a74c2bac5d21056d93ac53115214216cd14d4a0fc9b60be81231")),
            "Task"
        );
        assert_eq!(
            events(Response::ResponseEvents::SELECTORS),
            (1, b256!("9c064737b570a74c2bac5d21056d93ac53115214216cd14d4a0fc9b60be81231")),
            "Response"
        );
    }
}
