//! What the owner can do from afar: stake, register, take a source down.

use alloy_primitives::{Address, U256};
use chain::abi::{Nexus, Terminal, Vault};
use provisioning::devnet::Role;
use serde_json::json;
use testbed::market::{Delivery, Market};
use testbed::rig::Rig;

use crate::town::{
    COIN, Terms, UP, asked, is_registered, jail, ordered, serving, source, wait_source, words_of, works,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_asks_for_stake_is_registered_after_rig_stake() {
    let market = Market::open().await;
    let terms = Terms { delivery: Delivery::First, lockup_wei: 2 * COIN };
    let source = source(&market, market.metadata().await, terms).await;
    let rig = Rig::start(&market.devnet.ready, &works("sources = \"any\"")).expect("the rig starts");
    market.pair(&rig).await;
    let says = |locked: &str| {
        format!("its source asks for a stake of 2.000000000000000000, {locked} is locked: run `rig stake`")
    };
    wait_source(&rig, source, "registering", &says("0.000000000000000000"));
    let (_, why) = words_of(&asked(&rig, &["status"]), source);
    assert_eq!(why, says("0.000000000000000000"), "`rig status` says what is missing");
    assert!(jail(&rig, source).is_some(), "the source is prepared already");
    assert!(!is_registered(&market, source, &rig).await, "nothing is promised without the stake");

    let me = rig.address().to_string();
    ordered(&market, &["stake", &me, "--amount", "1.5"]);
    wait_source(&rig, source, "registering", &says("1.500000000000000000"));
    ordered(&market, &["stake", &me, "--amount", "0.5"]);
    rig.wait_serving(1, UP).expect("with enough stake the rig registers");
    let vault = Vault::new(market.devnet.ready.contracts.vault, market.node.provider.clone());
    let locked = vault.lockupOf(rig.address()).call().await.expect("the vault answers");
    assert_eq!(locked, U256::from(2 * COIN), "all of the deposit is locked");
    assert!(is_registered(&market, source, &rig).await);
    works_for_pay(&market, source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_registers_the_rig_to_a_source_that_it_does_not_list() {
    let market = Market::open().await;
    let other = market.source(Delivery::First).await;
    let source = market.source(Delivery::First).await;
    let rig = Rig::start(&market.devnet.ready, &works("sources = []")).expect("the rig starts");
    market.pair(&rig).await;
    rig.wait_status("a paired rig", UP, |status| status["phase"] == "paired").expect("the rig pairs");
    register(&market, source, &rig).await;
    rig.wait_serving(1, UP).expect("the owner's registration is an order");
    works_for_pay(&market, source).await;
    assert!(!is_registered(&market, other, &rig).await, "nobody asked for the other source");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remove_container_takes_a_source_down_until_the_rig_is_registered_again() {
    let market = Market::open().await;
    let source = market.source(Delivery::First).await;
    let mut rig = serving(&market, &works("sources = \"any\""), 1).await;
    works_for_pay(&market, source).await;
    for round in 1..=2 {
        let call = Terminal::removeContainerCall { provider: rig.address(), source };
        market.send(Role::Master, market.devnet.ready.contracts.terminal, &call, U256::ZERO).await;
        wait_source(&rig, source, "refused", "its owner took it down (RemoveContainer)");
        assert_eq!(jail(&rig, source), None, "round {round}: nothing of it runs");

        let call = Nexus::unregisterCall { source, provider: rig.address() };
        market.send(Role::Master, market.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
        register(&market, source, &rig).await;
        rig.wait_serving(1, UP).unwrap_or_else(|error| panic!("round {round}: registering brings it back: {error:#}"));
        // Each further block makes the rig read the last few again, the old order among them.
        works_for_pay(&market, source).await;
        works_for_pay(&market, source).await;
    }
    rig.kill_provider().expect("the provider is killed");
    rig.start_provider().expect("the provider starts");
    rig.wait_serving(1, UP).expect("a restart changes nothing of it");
    works_for_pay(&market, source).await;
}

/// The owner puts the rig on a source's list.
async fn register(market: &Market, source: Address, rig: &Rig) {
    let call = Nexus::registerCall { source, provider: rig.address(), preferredEnvironment: 1 };
    market.send(Role::Master, market.devnet.ready.contracts.nexus, &call, U256::ZERO).await;
}

/// A task on the source is answered, and the owner paid for it.
async fn works_for_pay(market: &Market, source: Address) {
    let before_wei = market.earned_wei().await;
    let task = market.task(source, "echo", json!({})).await;
    let paid_wei = market.settle(&[task]).await;
    assert_eq!(market.earned_wei().await - before_wei, paid_wei, "the owner is paid");
}
