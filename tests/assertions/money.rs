//! Assertions 11 to 14, 16 and 29: what an account may do with its coins, and what a judge may.

use alloy::primitives::{Address, U256};
use chain::abi::{Manager, Vault};
use provisioning::devnet::{DevnetOptions, Role};
use serde_json::{Value, json};
use testbed::sdk::Abis;
use testbed::stage::{COIN, Stage, events, shown};

/// What the SDK says an account has: balance, lockup, unbonding, in wei.
async fn purse(stage: &Stage, who: &str) -> [u64; 3] {
    let told = stage
        .ask(
            "who = ADDRESS[name]
[vault.get_balance_of(who), vault.get_lockup_of(who), vault.get_unbonding_of(who)]",
            json!({ "name": who }),
        )
        .await;
    [0, 1, 2].map(|place| told[place].as_u64().expect("amounts in these tests are small"))
}

/// A call of the SDK's vault module by the client.
fn by_client(amount: u64) -> Value {
    json!({ "wei": amount })
}

const LOCK: &str = "vault.lock(wei, signer=KEY['client'])";
const UNBOND: &str = "logs_of(vault.unbond(wei, signer=KEY['client']), 'VaultAbi')";
const CLAIM: &str = "vault.claim(signer=KEY['client'])";

#[tokio::test]
async fn a11_anyone_may_deposit_for_anyone_and_the_event_has_no_index() {
    let stage = Stage::up().await;
    let deposit = "
receipt = vault.deposit(ADDRESS['spare2'], wei, signer=KEY['client'])
{'logs': logs_of(receipt, 'VaultAbi'), 'topics': len(receipt.logs[0]['topics'])}";
    let told = stage.ask(deposit, by_client(1000)).await;
    assert_eq!(told["logs"][0]["event"], "Deposited");
    let beneficiary = stage.address(Role::Spare2);
    assert_eq!(told["logs"][0]["args"], json!({ "account": shown(beneficiary), "amount": 1000 }));
    assert_eq!(told["topics"], 1, "only the event's own name");
    assert_eq!(purse(&stage, "spare2").await, [1000, 0, 0]);
    assert_eq!(purse(&stage, "client").await, [0, 0, 0]);
}

#[tokio::test]
async fn a12_locking_moves_exactly_that_much_and_no_more_than_there_is() {
    let stage = Stage::up().await;
    stage.deposit(1000).await;
    stage.ask(LOCK, by_client(400)).await;
    assert_eq!(purse(&stage, "client").await, [600, 400, 0]);
    stage.refused("InsufficientBalanceError", LOCK, by_client(601)).await;
    assert_eq!(purse(&stage, "client").await, [600, 400, 0]);
}

#[tokio::test]
async fn a13_unbonding_starts_a_clock_of_the_unbonding_period() {
    let stage = Stage::up().await;
    stage.deposit(1000).await;
    stage.ask(LOCK, by_client(400)).await;
    stage.ask(UNBOND, by_client(150)).await;
    assert_eq!(purse(&stage, "client").await, [600, 250, 150]);
    let matures = stage.ask("vault.get_unbonding_timestamp(ADDRESS['client'])", json!({})).await;
    let period = stage.ask("vault.get_unbonding_period()", json!({})).await;
    assert_eq!(period, json!(stage.devnet.ready.unbonding_period));
    assert_eq!(matures, json!(stage.now().await + stage.devnet.ready.unbonding_period));
    stage.refused("InsufficientLockupError", UNBOND, by_client(251)).await;
}

#[tokio::test]
async fn a14_a_claim_waits_for_the_period_and_then_empties_the_bucket() {
    let mut options = DevnetOptions::default();
    options.contracts.unbonding_period_s = Some(600);
    let stage = Stage::up_with(options, Abis::Mainnet).await;
    stage.deposit(1000).await;
    stage.ask(LOCK, by_client(400)).await;
    stage.ask(UNBOND, by_client(150)).await;
    stage.refused("UnbondingPeriodNotElapsedError", CLAIM, json!({})).await;
    stage.warp(600).await;
    stage.ask(CLAIM, json!({})).await;
    assert_eq!(purse(&stage, "client").await, [750, 250, 0]);
}

#[tokio::test]
async fn a15_withdrawing_pays_coins_out_and_no_more_than_there_is() {
    let stage = Stage::up().await;
    stage.deposit(COIN).await;
    let withdraw = "
from ogpu.chain.web3 import WEB3
before = WEB3().eth.get_balance(ADDRESS['client'])
receipt = vault.withdraw(wei, signer=KEY['client'])
spent = receipt.gas_used * WEB3().eth.get_transaction_receipt(receipt.tx_hash)['effectiveGasPrice']
WEB3().eth.get_balance(ADDRESS['client']) + spent - before";
    assert_eq!(stage.ask(withdraw, by_client(COIN / 4)).await, json!(COIN / 4));
    assert_eq!(stage.balance(stage.address(Role::Client)).await, U256::from(COIN - COIN / 4));
    stage.refused("InsufficientBalanceError", withdraw, by_client(COIN)).await;
}

#[tokio::test]
async fn a16_unbonding_can_be_cancelled_with_mainnets_abi() {
    let stage = Stage::up().await;
    stage.deposit(1000).await;
    stage.ask(LOCK, by_client(400)).await;
    stage.ask(UNBOND, by_client(150)).await;
    let logs = stage.ask("logs_of(vault.cancel_unbonding(signer=KEY['client']), 'VaultAbi')", json!({})).await;
    assert_eq!(logs[0]["event"], "UnbondingCanceled");
    assert_eq!(purse(&stage, "client").await, [600, 400, 0]);
}

#[tokio::test]
async fn a16_unbonding_cannot_be_cancelled_with_testnets_abi() {
    let stage = Stage::up_with(DevnetOptions::default(), Abis::Testnet).await;
    stage.refused("TxRpcError", "vault.cancel_unbonding(signer=KEY['client'])", json!({})).await;
}

#[tokio::test]
async fn a29_only_a_judge_sanctions_and_waives_and_a_sanctioned_account_is_not_eligible() {
    let stage = Stage::up().await;
    stage.deposit(1000).await;
    stage.ask(LOCK, by_client(400)).await;
    let (client, judge, vault) = (stage.address(Role::Client), stage.address(Role::Judge), stage.contracts().vault);
    let role = stage.read(stage.contracts().manager, Manager::JUDGECall {}).await;
    assert!(stage.read(stage.contracts().manager, Manager::hasRoleCall { role, account: judge }).await);
    let amount = U256::from(100);
    let eligible = "[vault.is_eligible(ADDRESS['client']), vault.get_sanction_of(ADDRESS['client'])]";
    assert_eq!(stage.ask(eligible, json!({})).await, json!([true, 0]));

    for stranger in [client, stage.address(Role::Master), stage.devnet.deployer().address] {
        let refused = stage.send(stranger, vault, Vault::sanctionCall { account: client, amount }).await;
        assert!(refused.is_err(), "{stranger} is no judge");
    }
    let receipt = stage.send(judge, vault, Vault::sanctionCall { account: client, amount }).await.expect("a judge may");
    assert_eq!(told_of::<Vault::Sanctioned>(&receipt, |event| (event.account, event.amount)), [(client, amount)]);
    assert_eq!(stage.ask(eligible, json!({})).await, json!([false, 100]));
    assert_eq!(purse(&stage, "client").await, [600, 300, 0]);

    let by_stranger = stage.send(client, vault, Vault::waiveCall { account: client, amount }).await;
    assert!(by_stranger.is_err(), "nobody waives for himself");
    let receipt = stage.send(judge, vault, Vault::waiveCall { account: client, amount }).await.expect("a judge may");
    assert_eq!(told_of::<Vault::Waived>(&receipt, |event| (event.account, event.amount)), [(client, amount)]);
    assert_eq!(stage.ask(eligible, json!({})).await, json!([true, 0]));
    assert_eq!(purse(&stage, "client").await, [600, 400, 0]);
}

fn told_of<E: alloy::sol_types::SolEvent>(
    receipt: &alloy::rpc::types::TransactionReceipt,
    read: fn(&E) -> (Address, U256),
) -> Vec<(Address, U256)> {
    events::<E>(receipt).iter().map(read).collect()
}
