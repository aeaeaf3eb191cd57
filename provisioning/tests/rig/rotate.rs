//! `rig rotate` against a local network: whatever interrupts it, its repetition ends where it would have ended.

use std::process::Stdio;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256};
use alloy::providers::Provider;
use chain::abi::{Nexus, Source, Terminal, Vault};
use provisioning::devnet::{Account, ContractSettings, Role};
use serde_json::json;

use crate::owner::Town;

/// Far longer than the command takes.
const PATIENCE: Duration = Duration::from_secs(60);

const SOURCES: usize = 2;

fn coin(whole: u64) -> U256 {
    U256::from(whole) * U256::from(10).pow(U256::from(18))
}

/// A network with a paired old key that has two coins of stake and stands on two lists, and a new key that has named the
/// owner already.
async fn scene() -> (Town, Account, Account, Vec<Address>) {
    let town = Town::up(ContractSettings::default()).await;
    let (old, new) = (town.devnet.account(Role::Spare1).clone(), town.devnet.account(Role::Spare2).clone());
    let pair = ["pair", &old.address.to_string(), "--stake", "2", "--wait", "60s"];
    let (paired, ()) = tokio::join!(town.rig(Role::Master, &pair), town.announce_master(&old));
    paired.json();
    let chain = town.chain(&old);
    let nexus = Nexus::new(town.devnet.ready.contracts.nexus, &chain);
    let mut sources = Vec::new();
    for _ in 0..SOURCES {
        let source = town.publish_echo("manual").await;
        let sent = nexus.register(source, old.address, 1).send().await.unwrap();
        assert!(sent.get_receipt().await.unwrap().status());
        sources.push(source);
    }
    town.announce_master(&new).await;
    (town, old, new, sources)
}

/// All that the owner can do is done, once.
async fn check_done(town: &Town, old: &Account, new: &Account, sources: &[Address]) {
    let master = town.devnet.account(Role::Master).address;
    let chain = town.chain(new);
    let terminal = Terminal::new(town.devnet.ready.contracts.terminal, &chain);
    assert_eq!(terminal.masterOf(new.address).call().await.unwrap(), master);
    assert_eq!(terminal.masterOf(old.address).call().await.unwrap(), Address::ZERO);
    let vault = Vault::new(town.devnet.ready.contracts.vault, &chain);
    assert_eq!(vault.lockupOf(new.address).call().await.unwrap(), coin(2), "staked once");
    assert_eq!(vault.lockupOf(old.address).call().await.unwrap(), coin(2), "nobody but the old key moves its stake");
    for source in sources {
        let source = Source::new(*source, &chain);
        assert!(!source.getRegistrantId(new.address).call().await.unwrap().is_zero());
        assert!(source.getRegistrantId(old.address).call().await.unwrap().is_zero());
    }
}

#[tokio::test]
async fn a_rotation_killed_after_any_of_its_transactions_is_finished_by_its_repetition() {
    // Announce, then for each source register, stop and strike out, then remove: the spare accounts have gas already.
    let mut is_whole = false;
    for blocks in 1.. {
        let (town, old, new, sources) = scene().await;
        let (from, to) = (old.address.to_string(), new.address.to_string());
        let key = town.stage.key_file(town.devnet.account(Role::Master));
        let words = ["rotate", &from, &to, "--wait", "60s", "--json", "--devnet", &town.network, "--key-file", &key];
        let chain = town.chain(&new);
        let stop_at = chain.get_block_number().await.unwrap() + blocks;
        let mut child = town.stage.command(&words).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while chain.get_block_number().await.unwrap() < stop_at {
            assert!(Instant::now() < deadline, "the rotation makes no way");
            if child.try_wait().unwrap().is_some() {
                is_whole = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().unwrap();
        let answer = town.rig(Role::Master, &["rotate", &from, &to, "--wait", "60s"]).await.json();
        assert_eq!(answer["left"]["lockup_wei"], json!(coin(2).to_string()), "after {blocks} blocks: {answer}");
        check_done(&town, &old, &new, &sources).await;
        town.devnet.down().await.unwrap();
        if is_whole {
            assert!(blocks > 6, "a whole rotation had {blocks} transactions");
            return;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_moved_is_said_for_each_source_and_moved_later() {
    let (town, old, new, sources) = scene().await;
    let (from, to) = (old.address.to_string(), new.address.to_string());
    let client = town.devnet.account(Role::Client).clone();
    let chain = town.chain(&client);
    let nexus = Nexus::new(town.devnet.ready.contracts.nexus, &chain);
    let closed = nexus.inactivateSource(sources[0]).send().await.unwrap();
    assert!(closed.get_receipt().await.unwrap().status());
    let mut params = Source::new(sources[1], &chain).getSourceParams().call().await.unwrap();
    params.minAvailableLockup = coin(2);
    let dearer = nexus.updateSource(sources[1], params).send().await.unwrap();
    assert!(dearer.get_receipt().await.unwrap().status());

    let answer = town.rig(Role::Master, &["rotate", &from, &to, "--stake", "1", "--wait", "60s"]).await.json();
    let row = |at: usize| answer["sources"].as_array().unwrap().iter().find(|row| row["source"] == json!(sources[at]));
    let [closed, dear] = [row(0).unwrap(), row(1).unwrap()];
    assert_eq!((&closed["registered"], &closed["old"]), (&json!(false), &json!("gone")), "{answer}");
    assert!(closed["why"].as_str().unwrap().contains("closed it"), "{answer}");
    assert_eq!((&dear["registered"], &dear["old"]), (&json!(false), &json!("listed")), "{answer}");
    assert!(dear["why"].as_str().unwrap().contains("a stake of 2 coin, NEW has 1"), "{answer}");

    town.rig(Role::Master, &["stake", &to, "--amount", "1"]).await.json();
    let rig = town.chain(&new);
    let vault = Vault::new(town.devnet.ready.contracts.vault, &rig);
    assert!(vault.lock(coin(1)).send().await.unwrap().get_receipt().await.unwrap().status());
    let answer = town.rig(Role::Master, &["rotate", &from, &to, "--wait", "60s"]).await.json();
    assert_eq!(answer["sources"][0]["registered"], json!(true), "the old entry told what was left to do: {answer}");
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn a_rotation_that_makes_no_sense_is_refused_before_anything_is_sent() {
    let (town, old, new, _) = scene().await;
    let (from, to) = (old.address.to_string(), new.address.to_string());
    let unknown = town.devnet.account(Role::Spare3).address.to_string();
    let check = async |role, words: &[&str], code: i32, said: &str| {
        let ended = town.rig(role, words).await;
        assert!(ended.code == Some(code) && ended.stdout.contains(said), "{words:?}: {ended:?}");
    };
    check(Role::Master, &["rotate", &from, &from], 2, "the same address").await;
    check(Role::Master, &["rotate", &from, &to, "--code", "0000-0000-0000"], 2, "does not belong to").await;
    check(Role::Master, &["rotate", &from, "--stake", "1"], 2, "NEW").await;
    check(Role::Master, &["rotate", "0x12"], 2, "40 hexadecimal digits").await;
    check(Role::Master, &["rotate", &unknown, &to], 4, "has never been a provider").await;
    check(Role::Client, &["rotate", &from, &to], 4, "is paired with").await;
    let chain = town.chain(&new);
    let terminal = Terminal::new(town.devnet.ready.contracts.terminal, &chain);
    let master = town.devnet.account(Role::Master).address;
    assert_eq!(terminal.masterOf(old.address).call().await.unwrap(), master, "nothing was sent");

    check(Role::Master, &["rotate", &from, "--wait-home", "1s"], 5, "2 coin of locked stake").await;
    check(Role::Master, &["rotate", &from], 0, "generation").await;
    town.devnet.down().await.unwrap();
}
