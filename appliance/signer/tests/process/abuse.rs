//! A provider that was taken over, on the real socket. The table of the policy's own tests is longer; here
//! each kind is tried end to end. After each, the journal is sound and the next honest call is served.

use std::io::Write;

use alloy::consensus::{TxEip1559, TxEip2930, TxEip4844, TxEip7702, TxLegacy, TypedTransaction};
use alloy::eips::eip2930::{AccessList, AccessListItem};
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::sol_types::SolCall;
use signer::policy::Rule;
use signer::protocol::{Answer, Request};
use signer::{Client, Error};

use crate::rig::{CHAIN_ID, Home, NEXUS, OWNER, ResponseParams, Running, STRANGER, TERMINAL, VAULT, receive, send};
use crate::rig::{announceMasterCall, attemptCall, claimCall, submitResponseCall};

/// A task that the rig answers before the abuses begin.
const ANSWERED: Address = Address::repeat_byte(0x77);

/// A transaction, and the rule that must refuse it.
struct Abuse {
    name: &'static str,
    rule: Rule,
    tx: TypedTransaction,
}

fn abuse(name: &'static str, rule: Rule, tx: impl Into<TypedTransaction>) -> Abuse {
    Abuse { name, rule, tx: tx.into() }
}

fn abuses(running: &Running) -> Vec<Abuse> {
    let good = || running.attempt(0);
    let calling = |to, input: Vec<u8>| TxEip1559 { to: TxKind::Call(to), input: input.into(), ..good() };
    let one = U256::from(1);
    let honest: Vec<u8> = good().input.to_vec();
    let list = AccessList(vec![AccessListItem { address: NEXUS, storage_keys: Vec::new() }]);
    let for_other = attemptCall { task: STRANGER, provider: STRANGER, suggestedPayment: one }.abi_encode();
    let master = announceMasterCall { master: STRANGER }.abi_encode();
    let no_chain = TxLegacy { chain_id: None, to: TxKind::Call(OWNER), ..TxLegacy::default() };
    let blob = TypedTransaction::from(TxEip4844 { chain_id: CHAIN_ID, ..TxEip4844::default() });
    let mut all = vec![
        abuse("sign for another chain", Rule::ChainId, TxEip1559 { chain_id: 1071, ..good() }),
        abuse("sign for every chain", Rule::ChainId, no_chain),
        abuse("deploy a contract", Rule::ContractCreation, TxEip1559 { to: TxKind::Create, ..good() }),
        abuse("burn gas on an access list", Rule::AccessList, TxEip1559 { access_list: list, ..good() }),
        abuse("burn gas by its limit", Rule::Gas, TxEip1559 { gas_limit: 30_000_000, ..good() }),
        abuse("burn gas by its price", Rule::FeePerGas, TxEip1559 { max_fee_per_gas: u128::MAX, ..good() }),
        abuse("tip above the fee", Rule::FeePerGas, TxEip1559 { max_priority_fee_per_gas: 4_000_000_000, ..good() }),
        abuse("flood with calldata", Rule::CalldataSize, TxEip1559 { input: Bytes::from(vec![0; 9000]), ..good() }),
        abuse("call a foreign contract", Rule::Destination, calling(STRANGER, honest.clone())),
        abuse("pay a stranger", Rule::Destination, TxEip1559 { value: one, ..calling(STRANGER, Vec::new()) }),
        abuse("pay the rig itself", Rule::Destination, calling(running.address, Vec::new())),
        abuse("pay into a call", Rule::Value, TxEip1559 { value: one, ..good() }),
        abuse("call the owner", Rule::PlainTransfer, calling(OWNER, vec![1, 2, 3, 4])),
        abuse("call another contract's function", Rule::Selector, calling(NEXUS, claimCall {}.abi_encode())),
        abuse("call a function at the wrong place", Rule::Selector, calling(VAULT, honest.clone())),
        abuse("call no function", Rule::Selector, calling(NEXUS, Vec::new())),
        abuse("cut the arguments", Rule::Calldata, calling(NEXUS, honest[..40].to_vec())),
        abuse("hide bytes behind the arguments", Rule::Calldata, calling(NEXUS, [honest, vec![0; 32]].concat())),
        abuse("attempt for another provider", Rule::Provider, calling(NEXUS, for_other)),
        abuse("pair with a stranger", Rule::Owner, calling(TERMINAL, master)),
        abuse("send an old type", Rule::TransactionType, TxEip2930 { chain_id: CHAIN_ID, ..TxEip2930::default() }),
        abuse("send a blob", Rule::TransactionType, blob),
        abuse("delegate the account", Rule::TransactionType, TxEip7702 { chain_id: CHAIN_ID, ..TxEip7702::default() }),
    ];
    let answer = |data: &str, payment: u64, provider| {
        let params = ResponseParams { task: ANSWERED, provider, data: data.to_owned(), payment: U256::from(payment) };
        TxEip1559 { input: submitResponseCall { responseParams: params }.abi_encode().into(), ..good() }
    };
    let TxEip1559 { nonce, gas_limit, to, input, .. } = answer("other", 5, running.address);
    let (chain_id, value) = (Some(CHAIN_ID), U256::ZERO);
    let legacy = TxLegacy { chain_id, nonce, gas_price: 7, gas_limit, to, value, input };
    all.extend([
        abuse("answer a task twice", Rule::SecondResponse, answer("other", 5, running.address)),
        abuse("answer it for more money", Rule::SecondResponse, answer("first", 6, running.address)),
        abuse("answer it with nothing", Rule::SecondResponse, answer("", 5, running.address)),
        abuse("answer it again in another envelope", Rule::SecondResponse, legacy),
        abuse("answer it for another provider", Rule::Provider, answer("first", 5, STRANGER)),
    ]);
    all
}

async fn answer_first(client: &Client, running: &Running) -> signer::Signed {
    client.sign(running.response(ANSWERED, "first", 3).into()).await.expect("the first response")
}

async fn refused(client: &Client, tx: TypedTransaction) -> Rule {
    match client.sign(tx).await.expect_err("an abuse") {
        Error::Refused { rule, .. } => rule,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn every_abuse_is_refused_by_name_and_the_next_honest_call_is_served() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    answer_first(&client, &running).await;
    let abuses = abuses(&running);
    assert!(abuses.len() >= 28, "{}", abuses.len());
    for (nonce, Abuse { name, rule: expected, tx }) in (1..).zip(abuses) {
        match client.sign(tx).await.expect_err(name) {
            error @ Error::Refused { rule, .. } => {
                assert_eq!(rule, expected, "{name}: {error}");
                assert!(error.is_final(), "{name}");
            }
            error => panic!("{name}: {error:?}"),
        }
        assert!(home.log().contains(expected.name()), "{name}: the refusal is logged by name");
        assert_eq!(home.journal(), [ANSWERED], "{name}: the journal is as it was");
        client.sign(running.honest(nonce)).await.expect(name);
    }
}

#[tokio::test]
async fn a_response_is_replayed_and_replaced_but_not_changed() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let first = answer_first(&client, &running).await;
    assert_eq!(answer_first(&client, &running).await, first, "a replay gives the same bytes");
    let dearer = client.sign(running.response(ANSWERED, "first", 9).into()).await.expect("a replacement");
    assert_ne!(dearer, first);
    assert_eq!(home.journal(), [ANSWERED], "which is one response");
    let other = Address::repeat_byte(0x78);
    client.sign(running.response(other, "second", 3).into()).await.expect("another task");
    assert_eq!(home.journal(), [ANSWERED, other]);
}

#[tokio::test]
async fn a_second_response_is_refused_after_a_kill_and_a_restart() {
    let home = Home::new();
    for round in 0..4_u8 {
        let running = home.start();
        let client = Client::connect(home.socket()).await.expect("connect");
        let task = Address::repeat_byte(round);
        client.sign(running.response(task, "first", 3).into()).await.expect("the first response");
        for earlier in 0..=round {
            let task = Address::repeat_byte(earlier);
            assert_eq!(refused(&client, running.response(task, "other", 3).into()).await, Rule::SecondResponse);
            client.sign(running.response(task, "first", 4).into()).await.expect("the first one again");
        }
        running.kill();
        assert_eq!(home.journal().len(), usize::from(round) + 1);
    }
}

#[tokio::test]
async fn a_damaged_journal_stops_responses_and_nothing_else() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    answer_first(&client, &running).await;
    running.kill();
    let path = home.path("state/responses.journal");
    let mut bytes = std::fs::read(&path).expect("the journal");
    bytes[64] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    let running = home.start();
    for task in [ANSWERED, STRANGER] {
        assert_eq!(refused(&client, running.response(task, "first", 3).into()).await, Rule::Journal);
    }
    assert!(home.log().contains("damaged at byte 64"), "{}", home.log());
    client.sign(running.honest(1)).await.expect("what is no response is signed");
    assert_eq!(std::fs::read(&path).expect("the journal"), bytes, "the damage is left for somebody to look at");
}

#[tokio::test]
async fn a_restart_refills_no_budget() {
    let home = Home::new();
    home.allow_calls(3);
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for nonce in 0..3 {
        client.sign(running.honest(nonce)).await.expect("within the limit");
    }
    running.kill();
    let running = home.start();
    assert_eq!(refused(&client, running.honest(3)).await, Rule::CallsPerMinute);
}

#[tokio::test]
async fn a_flood_is_refused_as_something_that_passes() {
    let home = Home::new();
    home.allow_calls(3);
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for nonce in 0..3 {
        client.sign(running.honest(nonce)).await.expect("within the limit");
    }
    let error = client.sign(running.honest(3)).await.expect_err("a flood");
    assert!(matches!(error, Error::Refused { rule: Rule::CallsPerMinute, .. }) && !error.is_final(), "{error:?}");
    assert_eq!(refused(&client, running.response(ANSWERED, "x", 3).into()).await, Rule::CallsPerMinute);
    assert!(home.journal().is_empty(), "what is refused is not an answer");
    client.identity().await.expect("identity is no signature");
}

#[tokio::test]
async fn what_is_refused_uses_no_budget() {
    let home = Home::new();
    home.allow_calls(3);
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    answer_first(&client, &running).await;
    for _ in 0..5 {
        let second = running.response(ANSWERED, "second", 3);
        assert_eq!(refused(&client, second.into()).await, Rule::SecondResponse);
    }
    for nonce in 0..2 {
        client.sign(running.honest(nonce)).await.expect("the budget is the honest calls'");
    }
    assert_eq!(refused(&client, running.honest(2)).await, Rule::CallsPerMinute);
}

/// What a TLS 1.3 endpoint signs: `who` says which end, `hash` what was said before.
fn certificate_verify(who: &str, hash: &[u8]) -> Vec<u8> {
    [&[b' '; 64], format!("TLS 1.3, {who} CertificateVerify").as_bytes(), &[0], hash].concat()
}

#[tokio::test]
async fn the_tls_key_is_no_oracle() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let hash = [7; 32];
    let honest = certificate_verify("client", &hash);
    let mut spaces = honest.clone();
    spaces[63] = b'\t';
    let abuses: [(&str, Vec<u8>); 12] = [
        ("a server's proof", certificate_verify("server", &hash)),
        ("an arbitrary digest", hash.to_vec()),
        ("nothing", Vec::new()),
        ("only the spaces", vec![b' '; 64]),
        ("a short hash", certificate_verify("client", &hash[..31])),
        ("no hash", certificate_verify("client", &[])),
        ("a hash of no cipher suite", certificate_verify("client", &[7; 33])),
        ("a longer hash", certificate_verify("client", &[7; 64])),
        ("other spaces", spaces),
        ("one space less", honest[1..].to_vec()),
        ("something before it", [b" ", &honest[..]].concat()),
        ("a transaction's worth of bytes", vec![0xc0; 8 * 1024]),
    ];
    let mut hostile = home.dial();
    for (nonce, (name, message)) in (0..).zip(abuses) {
        let request = Request::TlsSign { message: message.into() };
        send(&mut hostile, &serde_json::to_vec(&request).expect("json"));
        let answer = receive(&mut hostile).expect("an answer");
        assert!(matches!(answer, Answer::Refused { rule: Rule::TlsMessage, .. }), "{name}: {answer:?}");
        client.sign(running.honest(nonce)).await.expect(name);
    }
    for message in [honest, certificate_verify("client", &[7; 48])] {
        send(&mut hostile, &serde_json::to_vec(&Request::TlsSign { message: message.into() }).expect("json"));
        assert!(matches!(receive(&mut hostile), Some(Answer::TlsSignature { .. })), "the honest proof is given");
    }
    assert!(home.journal().is_empty());
}

#[tokio::test]
async fn what_a_verifier_would_ask_is_bounded_and_needs_a_tpm() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut hostile = home.dial();
    let asking = |what: &str, nonce: &str| format!("{{\"{what}\":{{\"nonce\":\"{nonce}\"}}}}").into_bytes();
    let credential = |blob: &str, secret: &str| {
        let format = "rig-credential-1";
        let credential = serde_json::json!({ "format": format, "blob": blob, "secret": secret });
        serde_json::to_vec(&serde_json::json!({ "activate": { "credential": credential } })).expect("json")
    };
    let malformed = [
        ("an oversize nonce", asking("quote", &"00".repeat(65))),
        ("a nonce of a whole frame", asking("quote", &"00".repeat(30_000))),
        ("a nonce that can be guessed", asking("enrol", "00")),
        ("no nonce", asking("enrol", "")),
        ("a nonce that is no number", asking("quote", &"zz".repeat(16))),
        ("half a byte of nonce", asking("quote", &"0".repeat(33))),
        ("an oversize credential", credential(&"00".repeat(200), "00")),
        ("an empty credential", credential("", "")),
        ("a certificate of anything", b"{\"certify\":{\"key\":\"provider\"}}".to_vec()),
    ];
    for (nonce, (name, json)) in (0..).zip(malformed) {
        send(&mut hostile, &json);
        let answer = receive(&mut hostile).expect("an answer");
        assert!(matches!(answer, Answer::Malformed { .. }), "{name}: {answer:?}");
        client.sign(running.honest(nonce)).await.expect(name);
    }
    let good = "07".repeat(16);
    for json in [asking("enrol", &good), asking("quote", &good), credential(&good, &good)] {
        send(&mut hostile, &json);
        assert!(matches!(receive(&mut hostile), Some(Answer::Refused { rule: Rule::NoTpm, .. })));
    }
    client.sign(running.honest(99)).await.expect("the next honest call");
}

#[tokio::test]
async fn a_flood_of_proofs_is_bounded_and_signatures_go_on() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let message = Bytes::from(certificate_verify("client", &[7; 32]));
    let request = serde_json::to_vec(&Request::TlsSign { message }).expect("json");
    let mut hostile = home.dial();
    let mut given = 0;
    for _ in 0..100 {
        send(&mut hostile, &request);
        match receive(&mut hostile).expect("an answer") {
            Answer::TlsSignature { .. } => given += 1,
            Answer::Refused { rule, .. } => assert_eq!(rule, Rule::TpmCallsPerMinute),
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(given, 60);
    client.sign(running.honest(1)).await.expect("the next honest call");
}

#[tokio::test]
async fn a_closed_key_signs_nothing_for_anybody() {
    let home = Home::new();
    home.address();
    let path = home.path("state/provider.key");
    let mut key = std::fs::read(&path).expect("the key");
    // A version that only newer software writes: this software may not touch the key, nor bear another one.
    key[6] = 0xee;
    std::fs::write(&path, &key).expect("write");
    let running = home.start();
    assert_eq!(running.said["address"], serde_json::Value::Null);
    let client = Client::connect(home.socket()).await.expect("connect");
    let error = client.identity().await.expect_err("nobody signs");
    assert!(matches!(error, Error::Closed { .. }) && !error.is_final(), "{error:?}");
    for tx in [running.honest(1), running.response(ANSWERED, "first", 3).into()] {
        assert_eq!(refused(&client, tx).await, Rule::KeyClosed);
    }
    let mut hostile = home.dial();
    let proof = Request::TlsSign { message: certificate_verify("client", &[7; 32]).into() };
    for request in [Request::TlsIdentity, proof] {
        send(&mut hostile, &serde_json::to_vec(&request).expect("json"));
        assert!(matches!(receive(&mut hostile), Some(Answer::Closed { .. })));
    }
    let _ = hostile.write_all(b"\x01\0\0\0{");
    assert!(matches!(receive(&mut hostile), Some(Answer::Malformed { .. })), "the socket is still served");
    assert!(home.journal().is_empty());
    assert_eq!(std::fs::read(&path).expect("the key"), key, "the key is left as it is");
}
