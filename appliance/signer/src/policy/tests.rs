//! The policy as a table: what an honest provider sends passes, each abuse breaks the rule that is named.

use std::path::Path;
use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip4844, TxEip7702, TxLegacy, TypedTransaction};
use alloy::eips::eip2930::{AccessList, AccessListItem};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, address};
use alloy::sol_types::SolCall;

use super::calls::{Nexus, Terminal, Vault};
use super::*;

const OWN: Address = address!("0x00000000000000000000000000000000000000f1");
const OWNER: Address = address!("0x00000000000000000000000000000000000000A1");
const OTHER: Address = address!("0x00000000000000000000000000000000000000ee");
const NOON: Duration = Duration::from_secs(12 * 3600);

fn policy() -> Policy {
    let file = PolicyFile::parse(include_str!("../../signer.example.toml"), Path::new("signer.toml"));
    Policy::bind(file.expect("the example parses"), OWN).expect("the example binds")
}

fn contracts() -> Contracts {
    policy().file.contracts
}

/// A sound type-2 call.
fn call(to: Address, input: Vec<u8>) -> TxEip1559 {
    TxEip1559 {
        chain_id: 1071,
        nonce: 7,
        gas_limit: 400_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(to),
        input: input.into(),
        ..TxEip1559::default()
    }
}

fn attempt(provider: Address) -> Vec<u8> {
    Nexus::attemptCall { task: OTHER, provider, suggestedPayment: U256::from(5) }.abi_encode()
}

fn submit(provider: Address, data: &str) -> Vec<u8> {
    let payment = U256::from(5);
    let answer = Nexus::ResponseParams { task: OTHER, provider, data: data.to_owned(), payment };
    Nexus::submitResponseCall { responseParams: answer }.abi_encode()
}

fn verdict(tx: impl Into<TypedTransaction>, usage: &Usage) -> Result<u128, Rule> {
    policy().check(&tx.into(), NOON, usage).map(|permit| permit.gas_wei()).map_err(|refusal| refusal.rule)
}

#[track_caller]
fn refused(rule: Rule, tx: impl Into<TypedTransaction>) {
    assert_eq!(verdict(tx, &Usage::default()), Err(rule));
}

#[test]
fn every_call_of_an_honest_provider_passes() {
    let Contracts { nexus, terminal, vault } = contracts();
    let url = "https://cipfs.ogpuscan.io/ipfs/QmRAQB6YaCyidP37UdDnjFY5vQuiBrcqdyoW1CuDgwxkD4";
    let text = || url.to_owned();
    let amount = U256::MAX;
    let calls = [
        (terminal, Terminal::announceMasterCall { master: OWNER }.abi_encode()),
        (terminal, Terminal::setBaseDataCall { baseData: text() }.abi_encode()),
        (terminal, Terminal::setLiveDataCall { liveData: text() }.abi_encode()),
        (terminal, Terminal::setDefaultAgentDisabledCall { value: true }.abi_encode()),
        (nexus, Nexus::registerCall { source: OTHER, provider: OWN, preferredEnvironment: 2 }.abi_encode()),
        (nexus, Nexus::unregisterCall { source: OTHER, provider: OWN }.abi_encode()),
        (nexus, attempt(OWN)),
        (nexus, submit(OWN, url)),
        (nexus, submit(OWN, "")),
        (vault, Vault::lockCall { amount }.abi_encode()),
        (vault, Vault::unbondCall { amount }.abi_encode()),
        (vault, Vault::cancelUnbondingCall {}.abi_encode()),
        (vault, Vault::claimCall {}.abi_encode()),
        (vault, Vault::withdrawCall { amount }.abi_encode()),
    ];
    for (to, input) in calls {
        assert_eq!(verdict(call(to, input.clone()), &Usage::default()), Ok(800_000_000_000_000));
        let TxEip1559 { nonce, gas_limit, to, input, .. } = call(to, input);
        let legacy = TxLegacy { chain_id: Some(1071), nonce, gas_price: 1, gas_limit, to, value: U256::ZERO, input };
        assert_eq!(verdict(legacy, &Usage::default()), Ok(400_000));
    }
}

#[test]
fn any_amount_may_go_to_the_owner() {
    let tx = TxEip1559 { value: U256::MAX, gas_limit: 21_000, ..call(OWNER, Vec::new()) };
    assert_eq!(verdict(tx, &Usage::default()), Ok(42_000_000_000_000));
}

#[test]
fn a_transaction_of_the_wrong_shape_is_refused() {
    let nexus = contracts().nexus;
    let good = || call(nexus, attempt(OWN));
    let list = |entries| AccessList(vec![AccessListItem { address: nexus, storage_keys: vec![B256::ZERO] }; entries]);

    refused(Rule::TransactionType, TxEip2930 { chain_id: 1071, ..TxEip2930::default() });
    refused(Rule::TransactionType, TypedTransaction::from(TxEip4844 { chain_id: 1071, ..TxEip4844::default() }));
    refused(Rule::TransactionType, TxEip7702 { chain_id: 1071, ..TxEip7702::default() });
    refused(Rule::ChainId, TxEip1559 { chain_id: 1, ..good() });
    refused(Rule::ChainId, TxEip1559 { chain_id: 1071 + (1 << 32), ..good() });
    refused(Rule::ChainId, TxLegacy { chain_id: None, to: TxKind::Call(nexus), ..TxLegacy::default() });
    refused(Rule::ContractCreation, TxEip1559 { to: TxKind::Create, ..good() });
    refused(Rule::AccessList, TxEip1559 { access_list: list(1), ..good() });
    refused(Rule::AccessList, TxEip1559 { access_list: list(10_000), ..good() });
}

#[test]
fn a_fee_bomb_is_refused() {
    let good = || call(contracts().nexus, attempt(OWN));
    refused(Rule::Gas, TxEip1559 { gas_limit: 5_000_001, ..good() });
    refused(Rule::Gas, TxEip1559 { gas_limit: u64::MAX, ..good() });
    refused(Rule::Gas, TxEip1559 { gas_limit: 5_000_001, ..call(OWNER, Vec::new()) });
    refused(Rule::FeePerGas, TxEip1559 { max_fee_per_gas: 200_000_000_001, ..good() });
    refused(Rule::FeePerGas, TxEip1559 { max_fee_per_gas: u128::MAX, ..good() });
    refused(Rule::FeePerGas, TxEip1559 { max_priority_fee_per_gas: 2_000_000_001, ..good() });
    let to = TxKind::Call(OWNER);
    refused(Rule::FeePerGas, TxLegacy { chain_id: Some(1071), gas_price: u128::MAX, to, ..TxLegacy::default() });
}

#[test]
fn coins_go_nowhere_but_to_the_owner() {
    let Contracts { nexus, terminal, vault } = contracts();
    let one = U256::from(1);
    refused(Rule::Destination, TxEip1559 { value: one, ..call(OTHER, Vec::new()) });
    refused(Rule::Destination, TxEip1559 { value: one, ..call(OWN, Vec::new()) });
    refused(Rule::Destination, TxEip1559 { value: one, ..call(Address::ZERO, Vec::new()) });
    refused(Rule::PlainTransfer, call(OWNER, vec![0]));
    refused(Rule::Value, TxEip1559 { value: one, ..call(nexus, attempt(OWN)) });
    refused(Rule::Value, TxEip1559 { value: one, ..call(vault, Vault::claimCall {}.abi_encode()) });
    let announce = Terminal::announceMasterCall { master: OWNER }.abi_encode();
    refused(Rule::Value, TxEip1559 { value: U256::MAX, ..call(terminal, announce) });
    refused(Rule::Value, TxEip1559 { value: one, ..call(vault, Vec::new()) });
}

#[test]
fn only_listed_functions_of_known_contracts_are_called() {
    let Contracts { nexus, terminal, vault } = contracts();
    let selector = |signature: &str| alloy::primitives::keccak256(signature)[..4].to_vec();
    let with_address = |signature: &str| [selector(signature), OTHER.into_word().to_vec()].concat();

    refused(Rule::Destination, call(OTHER, attempt(OWN)));
    refused(Rule::Selector, call(nexus, vec![]));
    refused(Rule::Selector, call(nexus, vec![0xde, 0xad, 0xbe]));
    refused(Rule::Selector, call(nexus, selector("renounceOwnership()")));
    refused(Rule::Selector, call(nexus, with_address("inactivateSource(address)")));
    refused(Rule::Selector, call(terminal, with_address("removeProvider(address)")));
    refused(Rule::Selector, call(terminal, [with_address("setAgent(address,bool)"), vec![1; 32]].concat()));
    refused(Rule::Selector, call(vault, with_address("deposit(address)")));
    refused(Rule::Selector, call(vault, with_address("emergencyExit(address)")));
    // A good call on the wrong contract is a foreign function there.
    refused(Rule::Selector, call(vault, attempt(OWN)));
    refused(Rule::Selector, call(terminal, Vault::claimCall {}.abi_encode()));
}

#[test]
fn calldata_is_canonical_or_refused() {
    let Contracts { nexus, terminal, vault } = contracts();
    let good = attempt(OWN);
    refused(Rule::Calldata, call(nexus, good[..good.len() - 1].to_vec()));
    refused(Rule::Calldata, call(nexus, good[..4].to_vec()));
    refused(Rule::Calldata, call(nexus, [good.clone(), vec![0]].concat()));
    refused(Rule::Calldata, call(nexus, [good.clone(), vec![0; 32]].concat()));
    refused(Rule::Calldata, call(vault, [Vault::claimCall {}.abi_encode(), vec![0; 32]].concat()));

    let edited = |mut input: Vec<u8>, at: usize, byte: u8| {
        input[at] = byte;
        input
    };
    // The address of the provider with a dirty upper half; a boolean of two.
    refused(Rule::Calldata, call(nexus, edited(good, 4 + 32, 1)));
    let flag = Terminal::setDefaultAgentDisabledCall { value: true }.abi_encode();
    refused(Rule::Calldata, call(terminal, edited(flag, 4 + 31, 2)));
    // A string that points past its end, one with a dirty tail, and one whose length is absurd.
    let text = Terminal::setLiveDataCall { liveData: "live".to_owned() }.abi_encode();
    refused(Rule::Calldata, call(terminal, edited(text.clone(), 4 + 31, 0x40)));
    refused(Rule::Calldata, call(terminal, edited(text.clone(), 4 + 95, 1)));
    refused(Rule::Calldata, call(terminal, edited(text, 4 + 32, 0xff)));

    refused(Rule::CalldataSize, call(nexus, submit(OWN, &"x".repeat(CALLDATA_BYTES_MAX))));
    refused(Rule::CalldataSize, call(OTHER, vec![0; CALLDATA_BYTES_MAX + 1]));
}

#[test]
fn the_rig_acts_for_itself_and_pairs_with_its_owner() {
    let Contracts { nexus, terminal, .. } = contracts();
    let register = Nexus::registerCall { source: OTHER, provider: OTHER, preferredEnvironment: 2 };
    refused(Rule::Provider, call(nexus, register.abi_encode()));
    refused(Rule::Provider, call(nexus, Nexus::unregisterCall { source: OWN, provider: OTHER }.abi_encode()));
    refused(Rule::Provider, call(nexus, attempt(OTHER)));
    refused(Rule::Provider, call(nexus, attempt(OWNER)));
    refused(Rule::Provider, call(nexus, submit(OTHER, "https://example.org")));
    refused(Rule::Owner, call(terminal, Terminal::announceMasterCall { master: OTHER }.abi_encode()));
    refused(Rule::Owner, call(terminal, Terminal::announceMasterCall { master: OWN }.abi_encode()));
}

#[test]
fn a_flood_is_refused_until_the_minute_has_passed() {
    let policy = policy();
    let tx = TypedTransaction::from(call(contracts().nexus, attempt(OWN)));
    let mut usage = Usage::default();
    for _ in 0..120 {
        let permit = policy.check(&tx, NOON, &usage).expect("within the limit");
        usage.enter(&permit, NOON);
    }
    let rule = |now| policy.check(&tx, now, &usage).map(drop).map_err(|refusal| refusal.rule);
    assert_eq!(rule(NOON), Err(Rule::CallsPerMinute));
    assert_eq!(rule(NOON + Duration::from_millis(59_999)), Err(Rule::CallsPerMinute));
    assert_eq!(rule(NOON - Duration::from_secs(7200)), Err(Rule::CallsPerMinute), "a clock set back refills nothing");
    assert_eq!(rule(NOON + Duration::from_secs(60)), Ok(()));
}

#[test]
fn the_gas_of_a_day_is_bounded_and_comes_back() {
    let policy = policy();
    // 5,000,000 gas at 100 gwei is half a coin, so that ten of these are the day's five coins.
    let dear = TxEip1559 { gas_limit: 5_000_000, max_fee_per_gas: 100_000_000_000, ..call(OWNER, Vec::new()) };
    let (dear, cheap) = (TypedTransaction::from(dear), TypedTransaction::from(call(OWNER, Vec::new())));
    let mut usage = Usage::default();
    for hour in 0..10 {
        let now = Duration::from_secs(hour * 3600);
        let permit = policy.check(&dear, now, &usage).expect("within the budget");
        usage.enter(&permit, now);
    }
    let rule = |tx, hour: u64| policy.check(tx, Duration::from_secs(hour * 3600), &usage).map(drop).map_err(|r| r.rule);
    assert_eq!(rule(&dear, 10), Err(Rule::GasWeiPerDay));
    assert_eq!(rule(&cheap, 23), Err(Rule::GasWeiPerDay));
    assert_eq!(rule(&dear, 25), Ok(()));
}

#[test]
fn usage_stays_small_over_a_busy_week() {
    let policy = policy();
    let tx = TypedTransaction::from(TxEip1559 { gas_limit: 21_000, ..call(OWNER, Vec::new()) });
    let mut usage = Usage::default();
    let mut signed = 0;
    for second in (0..7 * 24 * 3600).step_by(5) {
        let now = Duration::from_secs(second);
        let Ok(permit) = policy.check(&tx, now, &usage) else { continue };
        usage.enter(&permit, now);
        signed += 1;
    }
    assert!(signed > 100_000, "{signed}");
    assert!(usage.calls_in_minute(Duration::from_secs(7 * 24 * 3600)) <= 12);
}

#[test]
fn a_response_names_its_task_and_its_calldata_whatever_it_costs() {
    let nexus = contracts().nexus;
    let response = |tx: TxEip1559| {
        let tx = TypedTransaction::from(tx);
        policy().check(&tx, NOON, &Usage::default()).expect("allowed").response()
    };
    let first = response(call(nexus, submit(OWN, "a"))).expect("a response");
    assert_eq!((first.task, first.digest), (OTHER, keccak256(submit(OWN, "a"))));
    let replacement = TxEip1559 { nonce: 9, max_fee_per_gas: 9_000_000_000, ..call(nexus, submit(OWN, "a")) };
    assert_eq!(response(replacement), Some(first));
    assert_ne!(response(call(nexus, submit(OWN, "b"))), Some(first));
    assert_eq!(response(call(nexus, attempt(OWN))), None);
    assert_eq!(response(call(OWNER, Vec::new())), None);
}

#[test]
fn what_is_restored_allows_no_more_than_what_was() {
    let policy = policy();
    let dear = TxEip1559 { gas_limit: 5_000_000, max_fee_per_gas: 5_000_000_000, ..call(OWNER, Vec::new()) };
    let dear = TypedTransaction::from(dear);
    // 0.025 coins each: the day's five coins are 200 of them, the minute's calls 120.
    let (mut usage, mut kept) = (Usage::default(), std::collections::BTreeMap::new());
    let rule = |usage: &Usage, now| policy.check(&dear, now, usage).map(drop).map_err(|refusal| refusal.rule);
    let mut enter = |usage: &mut Usage, now| {
        let permit = policy.check(&dear, now, usage).expect("within the budgets");
        let minute = usage.enter(&permit, now);
        kept.insert(minute.minute, minute);
    };
    for second in 0..119 {
        enter(&mut usage, NOON + Duration::from_millis(second * 500));
    }
    for hour in 1..=80 {
        enter(&mut usage, NOON + Duration::from_secs(hour * 900));
    }
    let now = NOON + Duration::from_secs(80 * 900);
    let minutes = || kept.values().copied();
    let restored = Usage::restore(minutes(), 120);
    assert_eq!(restored.latest(), usage.latest());
    for later in [0, 1, 30, 60, 3600, 4 * 3600 - 1, 4 * 3600 + 120] {
        let now = now + Duration::from_secs(later);
        assert_eq!(rule(&restored, now), rule(&usage, now), "{later} s later");
        assert_eq!(restored.gas_wei_in_day(now), usage.gas_wei_in_day(now));
        assert!(restored.calls_in_minute(now) >= usage.calls_in_minute(now));
    }
    // The calls of the first minute alone, restored at its end: as many as were made, and gone a minute later.
    let first: Vec<Minute> = minutes().take(1).collect();
    let restored = Usage::restore(first.clone(), 120);
    assert_eq!(restored.calls_in_minute(first[0].last), 119);
    assert_eq!(restored.calls_in_minute(first[0].last + Duration::from_secs(60)), 0);
    assert_eq!(Usage::restore(first, 7).calls_in_minute(NOON), 7, "what is remembered is bounded");
}

#[test]
fn the_owner_is_never_the_rig_itself() {
    let file = policy().file;
    let owner = file.owner;
    assert!(matches!(Policy::bind(file, owner), Err(BindError::OwnerIsSelf(found)) if found == owner));
}

#[test]
fn a_rule_has_the_same_name_in_the_log_and_on_the_socket() {
    let new =
        [Rule::SecondResponse, Rule::Journal, Rule::KeyClosed, Rule::TlsMessage, Rule::NoTpm, Rule::TpmCallsPerMinute];
    let old = [Rule::TransactionType, Rule::FeePerGas, Rule::GasWeiPerDay, Rule::PlainTransfer, Rule::Owner];
    for rule in old.into_iter().chain(new) {
        assert_eq!(serde_json::to_string(&rule).expect("json"), format!("\"{rule}\""));
    }
}

#[test]
fn a_permit_is_for_the_transaction_that_was_read() {
    let tx = TypedTransaction::from(call(contracts().nexus, attempt(OWN)));
    let policy = policy();
    let permit = policy.check(&tx, NOON, &Usage::default()).expect("allowed");
    assert_eq!(permit.tx().signature_hash(), tx.signature_hash());
    assert_eq!(Bytes::copy_from_slice(permit.tx().input()), Bytes::from(attempt(OWN)));
}
