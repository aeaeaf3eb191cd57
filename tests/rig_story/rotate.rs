//! From an old key to a new one: who works afterwards, and where the coins are.

use std::time::Duration;

use alloy::consensus::BlockHeader;
use alloy::network::TransactionResponse;
use alloy::providers::Provider;
use alloy_primitives::{Address, U256};
use chain::abi::{Terminal, Vault};
use provisioning::devnet::Role;
use serde_json::{Value, json};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions};

use crate::town::{COIN, SOON, Terms, UP, is_registered, ordered, serving, source, wait_source, works};

/// What the old rig has at stake: one coin and a half.
const STAKE_WEI: u64 = COIN / 2 * 3;

/// Longest wait for a way home: a cooldown of seconds and four transactions.
const WAY_HOME: Duration = Duration::from_secs(90);

/// More than a transfer costs on a fresh chain, and far less than anything that is counted here.
const DUST_WEI: u64 = COIN / 1_000;

/// A rig that is paired, staked, and serves one source that asks for that stake.
async fn staked(market: &Market) -> (Rig, Address) {
    let terms = Terms { delivery: Delivery::First, lockup_wei: STAKE_WEI };
    let source = source(market, market.metadata().await, terms).await;
    let rig = serving(market, &RigOptions::default(), 0).await;
    ordered(market, &["stake", &rig.address().to_string(), "--amount", "1.5"]);
    rig.wait_serving(1, UP).expect("with its stake the rig serves");
    (rig, source)
}

/// A rig whose owner has not heard of it yet, and which registers to nothing by itself.
fn unpaired(market: &Market) -> Rig {
    Rig::start(&market.devnet.ready, &works("sources = []")).expect("the rig starts")
}

fn number(value: &Value) -> U256 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

/// Waits until the rig's phase text has `words` in it, on a chain that goes on meanwhile.
async fn wait_phase(market: &Market, rig: &Rig, words: &str) {
    let began = std::time::Instant::now();
    loop {
        let status = rig.status().unwrap_or(Value::Null);
        if status["phase_text"].as_str().is_some_and(|text| text.contains(words)) {
            return;
        }
        assert!(began.elapsed() < WAY_HOME, "the rig never says \"{words}\": {status}\n{}", rig.log());
        market.node.mine(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What these accounts have: coins, and everything in the vault but what the owner earned there.
async fn wealth(market: &Market, keys: &[Address]) -> U256 {
    let vault = Vault::new(market.devnet.ready.contracts.vault, market.node.provider.clone());
    let mut sum = market.node.balance(market.address(Role::Master)).await;
    for key in keys {
        sum += market.node.balance(*key).await;
        sum += vault.lockupOf(*key).call().await.expect("the vault answers");
        sum += vault.unbondingOf(*key).call().await.expect("the vault answers");
        sum += vault.balanceOf(*key).call().await.expect("the vault answers");
    }
    sum
}

/// What these accounts paid for gas after `block`.
async fn fees(market: &Market, block: u64, of: &[Address]) -> U256 {
    let provider = &market.node.provider;
    let mut sum = U256::ZERO;
    for at in block + 1..=market.node.head().await {
        let found = provider.get_block_by_number(at.into()).full().await.expect("anvil answers").expect("a block");
        assert_eq!(found.header.number(), at);
        for tx in found.transactions.txns().filter(|tx| of.contains(&tx.from())) {
            let receipt = provider.get_transaction_receipt(tx.tx_hash()).await.expect("anvil answers");
            let receipt = receipt.expect("a mined transaction has a receipt");
            sum += U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_moves_the_work_to_the_new_key_and_brings_the_old_stake_home_to_the_last_wei() {
    let market = Market::open().await;
    let (mut old, source) = staked(&market).await;
    let before = market.task(source, "echo", json!({})).await;
    market.settle(&[before]).await;
    let new = unpaired(&market);
    let master = market.address(Role::Master);
    let keys = [old.address(), new.address()];
    let everyone = [master, keys[0], keys[1]];
    old.wait_task(before.task, &["settled"], SOON).expect("the old rig has nothing in hand");
    let (block, had_wei) = (market.node.head().await, wealth(&market, &keys).await);
    let master_wei = market.node.balance(master).await;

    let words = ["rotate", &keys[0].to_string(), &keys[1].to_string(), "--gas", "3", "--wait", "60s"];
    let answer = ordered(&market, &words);
    assert_eq!(answer["sources"][0]["registered"], json!(true), "{answer}");
    assert_eq!(answer["sources"][0]["old"], json!("gone"), "{answer}");
    assert!(answer["announced"].is_object() && answer["removed"].is_object(), "{answer}");
    new.wait_serving(1, UP).expect("the new rig serves what the old one served");
    assert!(is_registered(&market, source, &new).await && !is_registered(&market, source, &old).await);

    // Killed on its way home at any point, it goes on there.
    old.kill_provider().expect("the provider is killed");
    old.start_provider().expect("the provider starts");
    wait_phase(&market, &old, "home").await;
    let task = market.task(source, "echo", json!({})).await;
    market.settle(&[task]).await;
    new.wait_task(task.task, &["settled"], SOON).expect("the new rig is paid");
    assert!(old.task(task.task).expect("the old rig answers").is_none_or(|row| row["response"].is_null()));
    old.kill_provider().expect("the provider is killed");
    old.start_provider().expect("the provider starts");
    wait_phase(&market, &old, "home: nothing is left here").await;

    let left_wei = market.node.balance(keys[0]).await;
    assert!(left_wei < U256::from(DUST_WEI), "{left_wei} wei were left behind");
    let vault = Vault::new(market.devnet.ready.contracts.vault, market.node.provider.clone());
    let locked = |key| vault.lockupOf(key);
    assert_eq!(locked(keys[0]).call().await.expect("the vault answers"), U256::ZERO);
    assert_eq!(locked(keys[1]).call().await.expect("the vault answers"), U256::from(STAKE_WEI), "as much as before");
    let paid_wei = fees(&market, block, &everyone).await;
    assert_eq!(wealth(&market, &keys).await + paid_wei, had_wei, "nothing is lost but fees");
    let now_wei = market.node.balance(master).await;
    let spent_wei = U256::from(3) * U256::from(COIN);
    assert!(now_wei > master_wei - spent_wei, "the old gas money and stake came to the owner: {master_wei}, {now_wei}");

    let again = ordered(&market, &[&words[..], &["--wait-home", "30s"]].concat());
    assert!(again["announced"].is_null() && again["removed"].is_null() && again["funded"].is_null(), "{again}");
    assert_eq!(again["is_home"], json!(true), "{again}");
    let wasted = market.node.reverted_of(master).await;
    assert!(wasted.is_empty(), "the owner sent nothing that was refused: {wasted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_from_a_lost_key_works_and_tells_what_is_stranded() {
    let market = Market::open().await;
    let (mut old, source) = staked(&market).await;
    old.kill_provider().expect("the machine is gone, and its key with it");
    let new = unpaired(&market);
    let keys = [old.address().to_string(), new.address().to_string()];
    let answer = ordered(&market, &["rotate", &keys[0], &keys[1], "--gas", "3", "--wait", "60s"]);
    assert_eq!(number(&answer["left"]["lockup_wei"]), U256::from(STAKE_WEI), "{answer}");
    assert_eq!(answer["is_home"], json!(false), "{answer}");
    let next = answer["next"].as_str().unwrap_or_default();
    assert!(next.contains("stranded in the vault") && next.contains("Only OLD's own key"), "{next}");
    new.wait_serving(1, UP).expect("the new rig serves what the old one served");
    let task = market.task(source, "echo", json!({})).await;
    market.settle(&[task]).await;
    new.wait_task(task.task, &["settled"], SOON).expect("the new rig is paid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rig_that_is_paired_again_on_its_way_home_stays() {
    let market = Market::open().await;
    let (rig, source) = staked(&market).await;
    let me = rig.address().to_string();
    let answer = ordered(&market, &["rotate", &me]);
    assert!(answer["removed"].is_object() && answer["new"].is_null(), "{answer}");
    assert!(answer["next"].as_str().is_some_and(|next| next.contains("generation")), "{answer}");
    wait_phase(&market, &rig, "going home: unbonding 1.5 coin, free at ").await;
    wait_source(&rig, source, "refused", "the owner has removed this rig");
    ordered(&market, &["pair", &me, "--wait", "60s"]);
    rig.wait_status("a paired rig", UP, |status| status["phase"] == "paired").expect("it is taken back");
    let terminal = Terminal::new(market.devnet.ready.contracts.terminal, market.node.provider.clone());
    assert_eq!(terminal.masterOf(rig.address()).call().await.expect("it answers"), market.address(Role::Master));
    ordered(&market, &["stake", &me, "--amount", "1.5"]);
    rig.wait_serving(1, UP).expect("with new stake it serves again");
    let task = market.task(source, "echo", json!({})).await;
    market.settle(&[task]).await;
}
