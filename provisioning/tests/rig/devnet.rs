//! The local network: what it says, how it ends, what it keeps.

use alloy::primitives::U256;
use alloy::providers::{Provider, ProviderBuilder, RootProvider};
use chain::abi::{Manager, Nexus, Terminal, Vault};
use nix::sys::signal::Signal;
use provisioning::devnet::{ContractSettings, Devnet, DevnetOptions, Role};
use serde_json::Value;

use crate::stage::{Stage, is_open, utf8, wait_for_end};

#[test]
fn the_ready_line_has_every_field_and_everything_in_it_answers() {
    let stage = Stage::new();
    let mut devnet = stage.devnet(&[]);
    let line: Value = serde_json::from_str(&devnet.line).unwrap();
    for name in ["rpc", "ws", "chain_id", "contracts", "ipfs_publish", "ipfs_gateway", "unbonding_period", "accounts"] {
        assert!(!line[name].is_null(), "{name}");
    }
    let contracts: Vec<&str> = line["contracts"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(contracts, ["CONTROLLER", "MANAGER", "NEXUS", "TERMINAL", "VAULT"], "sorted by the parser");
    let roles: Vec<&str> = devnet.ready.accounts.iter().map(|account| account.role.as_str()).collect();
    assert_eq!(roles, ["client", "master", "agent", "judge", "spare1", "spare2", "spare3"]);
    assert_eq!((devnet.ready.chain_id, devnet.ready.unbonding_period), (31_337, 5));
    for account in line["accounts"].as_array().unwrap() {
        let text = account["address"].as_str().unwrap();
        assert!(alloy::primitives::Address::parse_checksummed(text, None).is_ok(), "{text}");
    }
    assert!(is_open(devnet.ready.ipfs_publish.port().unwrap()));
    assert!(is_open(devnet.ready.ws.port().unwrap()));
    assert!(devnet.signal(Signal::SIGTERM).success());
}

#[tokio::test]
async fn the_contracts_know_each_other_and_the_accounts_are_funded() {
    let settings = ContractSettings {
        unbonding_period_s: Some(7),
        min_lockup_per_source_wei: Some(U256::from(9)),
        has_default_agent: true,
        ..ContractSettings::default()
    };
    let devnet = Devnet::up(DevnetOptions { contracts: settings, ..DevnetOptions::default() }).await.unwrap();
    let chain: RootProvider = RootProvider::new_http(devnet.ready.rpc.clone());
    let contracts = devnet.ready.contracts;
    let (manager, nexus) = (Manager::new(contracts.manager, &chain), Nexus::new(contracts.nexus, &chain));
    let (terminal, vault) = (Terminal::new(contracts.terminal, &chain), Vault::new(contracts.vault, &chain));

    assert_eq!(nexus.vault().call().await.unwrap(), contracts.vault);
    assert_eq!(terminal.vault().call().await.unwrap(), contracts.vault);
    assert!(nexus.checkController(contracts.controller).call().await.unwrap());
    assert!(nexus.checkController(contracts.nexus).call().await.unwrap());
    let judge = manager.JUDGE().call().await.unwrap();
    assert!(manager.hasRole(judge, devnet.account(Role::Judge).address).call().await.unwrap());
    let provider = manager.PROVIDER().call().await.unwrap();
    let admin = manager.getRoleAdmin(provider).call().await.unwrap();
    assert!(manager.hasRole(admin, contracts.terminal).call().await.unwrap());
    let (master, agent) = (devnet.account(Role::Master).address, devnet.account(Role::Agent).address);
    assert!(terminal.getIsAgentOf(master, agent).call().await.unwrap());
    assert_eq!(devnet.ready.unbonding_period, 7);
    assert_eq!(vault.MIN_LOCKUP_PER_SOURCE().call().await.unwrap(), U256::from(9));
    for account in &devnet.ready.accounts {
        let balance = chain.get_balance(account.address).await.unwrap();
        assert!(balance >= U256::from(10).pow(U256::from(24)), "{account:?} has {balance} wei");
    }
    devnet.down().await.unwrap();
}

#[test]
fn sigterm_and_sigint_end_it_in_order_and_leave_no_anvil() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let stage = Stage::new();
        let mut devnet = stage.devnet(&[]);
        let port = devnet.ready.rpc.port().unwrap();
        assert!(is_open(port));
        assert_eq!(devnet.signal(signal).code(), Some(0));
        assert!(!is_open(port), "anvil outlived {signal}");
    }
}

// Once, what anvil wrote of old blocks stayed in its user's home: 14 GB after a day of tests.
#[tokio::test]
async fn what_it_wrote_of_old_blocks_goes_with_it() {
    let stage = Stage::new();
    let mut devnet = stage.devnet(&[]);
    let chain: RootProvider = RootProvider::new_http(devnet.ready.rpc.clone());
    // More than it keeps in memory.
    chain.raw_request::<_, Value>("anvil_mine".into(), ["0x400"]).await.unwrap();
    assert!(devnet.signal(Signal::SIGTERM).success());
    let left: Vec<_> = std::fs::read_dir(stage.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn killing_it_ends_anvil_too_and_keeps_the_state() {
    let stage = Stage::new();
    let state = stage.path("state");
    let arguments = ["--state", utf8(&state)];
    let mut devnet = stage.devnet(&arguments);
    let connection = devnet.connect();
    let before = devnet.ready.clone();
    devnet.signal(Signal::SIGKILL);
    wait_for_end(connection);
    let again = stage.devnet(&arguments);
    assert_eq!(again.ready.contracts, before.contracts);
}

#[tokio::test]
async fn a_kept_network_survives_a_restart_without_deploying_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = Some(folder.path().join("state"));
    let options = DevnetOptions { state, fresh_keys: true, ..DevnetOptions::default() };
    let first = Devnet::up(options.clone()).await.unwrap();
    let client = first.account(Role::Client).clone();
    let chain = ProviderBuilder::new().wallet(client.signer()).connect_http(first.ready.rpc.clone());
    let vault = Vault::new(first.ready.contracts.vault, &chain);
    let deposit = vault.deposit(client.address).value(U256::from(42)).send().await.unwrap();
    let receipt = deposit.get_receipt().await.unwrap();
    let before = first.ready.clone();
    assert!(Devnet::up(options.clone()).await.unwrap_err().to_string().contains("in use"));
    first.down().await.unwrap();

    let second = Devnet::up(options).await.unwrap();
    let chain: RootProvider = RootProvider::new_http(second.ready.rpc.clone());
    assert_eq!(second.ready.contracts, before.contracts);
    assert_eq!(second.ready.accounts, before.accounts);
    assert_eq!(second.ready.ipfs_gateway, before.ipfs_gateway, "links on the chain carry the port");
    assert_eq!(chain.get_block_number().await.unwrap(), receipt.block_number.unwrap(), "nothing was deployed again");
    let vault = Vault::new(second.ready.contracts.vault, &chain);
    assert_eq!(vault.balanceOf(client.address).call().await.unwrap(), U256::from(42));
    let kept = vault.Deposited_filter().from_block(0).query().await.unwrap();
    assert_eq!(kept.len(), 1, "the logs of before are still there");
    second.down().await.unwrap();
}

#[test]
fn a_long_block_time_does_not_make_the_start_wait() {
    let stage = Stage::new();
    let began = std::time::Instant::now();
    let devnet = stage.devnet(&["--block-time", "3600"]);
    assert!(began.elapsed().as_secs() < 60, "an hour per block, and the contracts are there");
    assert_eq!(devnet.ready.accounts.len(), 7);
}

#[tokio::test]
async fn two_networks_run_side_by_side_and_fresh_keys_differ() {
    let options = DevnetOptions { fresh_keys: true, ..DevnetOptions::default() };
    let (one, two) = tokio::join!(Devnet::up(options.clone()), Devnet::up(options));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.ready.rpc, two.ready.rpc);
    assert_ne!(one.account(Role::Client).address, two.account(Role::Client).address);
    one.down().await.unwrap();
    two.down().await.unwrap();
}
