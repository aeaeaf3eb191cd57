//! A provider that was taken over, on the real socket. The table of the policy's own tests is longer; here
//! each kind is tried end to end, and the next honest call must be served.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use alloy::consensus::{TxEip1559, TxEip2930, TxEip4844, TxEip7702, TxLegacy, TypedTransaction};
use alloy::eips::eip2930::{AccessList, AccessListItem};
use alloy::primitives::{Bytes, TxKind, U256};
use alloy::sol_types::SolCall;
use signer::policy::Rule;
use signer::protocol::{Answer, FRAME_BYTES_MAX};
use signer::{Client, Error};
use tokio::time::timeout;

use crate::rig::{CHAIN_ID, Home, OWNER, PATIENCE, Running, STRANGER, TERMINAL, VAULT, receive, send};
use crate::rig::{announceMasterCall, attemptCall, claimCall};

/// What the signer on the wire is asked and which rule must answer.
fn abuses(running: &Running) -> Vec<(Rule, TypedTransaction)> {
    let good = || running.attempt(0);
    let calling = |to, input: Vec<u8>| TxEip1559 { to: TxKind::Call(to), input: input.into(), ..good() };
    let for_other = attemptCall { task: STRANGER, provider: STRANGER, suggestedPayment: U256::ZERO }.abi_encode();
    let honest: Vec<u8> = good().input.to_vec();
    let nexus = crate::rig::NEXUS;
    let list = AccessList(vec![AccessListItem { address: nexus, storage_keys: Vec::new() }]);
    let eip1559 = [
        (Rule::ChainId, TxEip1559 { chain_id: 1071, ..good() }),
        (Rule::ContractCreation, TxEip1559 { to: TxKind::Create, ..good() }),
        (Rule::AccessList, TxEip1559 { access_list: list, ..good() }),
        (Rule::Gas, TxEip1559 { gas_limit: 30_000_000, ..good() }),
        (Rule::FeePerGas, TxEip1559 { max_fee_per_gas: u128::MAX, ..good() }),
        (Rule::CalldataSize, TxEip1559 { input: Bytes::from(vec![0; 9000]), ..good() }),
        (Rule::Destination, calling(STRANGER, honest.clone())),
        (Rule::Destination, TxEip1559 { value: U256::from(1), ..calling(STRANGER, Vec::new()) }),
        (Rule::Value, TxEip1559 { value: U256::from(1), ..good() }),
        (Rule::PlainTransfer, calling(OWNER, vec![1, 2, 3, 4])),
        (Rule::Selector, calling(nexus, claimCall {}.abi_encode())),
        (Rule::Selector, calling(VAULT, honest.clone())),
        (Rule::Selector, calling(nexus, Vec::new())),
        (Rule::Calldata, calling(nexus, honest[..40].to_vec())),
        (Rule::Calldata, calling(nexus, [honest, vec![0; 32]].concat())),
        (Rule::Provider, calling(nexus, for_other)),
        (Rule::Owner, calling(TERMINAL, announceMasterCall { master: STRANGER }.abi_encode())),
    ];
    let mut all: Vec<(Rule, TypedTransaction)> = eip1559.map(|(rule, tx)| (rule, tx.into())).into();
    let no_chain = TxLegacy { chain_id: None, to: TxKind::Call(OWNER), ..TxLegacy::default() };
    all.push((Rule::ChainId, no_chain.into()));
    all.push((Rule::TransactionType, TxEip2930 { chain_id: CHAIN_ID, ..TxEip2930::default() }.into()));
    all.push((Rule::TransactionType, TxEip4844 { chain_id: CHAIN_ID, ..TxEip4844::default() }.into()));
    all.push((Rule::TransactionType, TxEip7702 { chain_id: CHAIN_ID, ..TxEip7702::default() }.into()));
    all
}

#[tokio::test]
async fn every_abuse_is_refused_by_name_and_the_next_honest_call_is_served() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for (nonce, (expected, tx)) in (1..).zip(abuses(&running)) {
        match client.sign(tx).await.expect_err(expected.name()) {
            error @ Error::Refused { rule, .. } => {
                assert_eq!(rule, expected, "{error}");
                assert!(error.is_final());
            }
            error => panic!("{expected}: {error:?}"),
        }
        assert!(home.log().contains(expected.name()), "the refusal is logged by name");
        client.sign(running.honest(nonce)).await.expect("the next honest call");
    }
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
    client.identity().await.expect("identity is no signature");
}

#[tokio::test]
async fn garbage_is_answered_and_disturbs_nobody() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut hostile = home.dial();
    let nested = [b'['; 60_000];
    let garbage: [&[u8]; 8] =
        [b"\0", b"{", b"\"key\"", b"{\"sign\":{}}", b"{\"sign\":{\"tx\":7}}", b"\xff\xfe\xfd", b"null", &nested];
    for (nonce, json) in (0..).zip(garbage) {
        send(&mut hostile, json);
        assert!(matches!(receive(&mut hostile), Some(Answer::Malformed { .. })));
        client.sign(running.honest(nonce)).await.expect("the other peer is served");
    }
    send(&mut hostile, b"\"identity\"");
    assert!(matches!(receive(&mut hostile), Some(Answer::Identity(_))), "garbage in a frame leaves the stream in step");
}

#[tokio::test]
async fn a_frame_of_impossible_length_ends_its_connection_alone() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for (nonce, length) in (0..).zip([0, FRAME_BYTES_MAX + 1, u32::MAX]) {
        let mut hostile = home.dial();
        hostile.write_all(&length.to_le_bytes()).expect("send");
        assert!(matches!(receive(&mut hostile), Some(Answer::Malformed { .. })));
        assert_eq!(receive(&mut hostile), None, "the stream cannot be followed further");
        client.sign(running.honest(nonce)).await.expect("the other peer is served");
    }
}

#[tokio::test]
async fn half_a_frame_ends_its_connection_in_seconds_and_delays_nobody() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut hostile = [home.dial(), home.dial()];
    hostile[0].write_all(&[7]).expect("a quarter of a length");
    hostile[1].write_all(b"\x0a\0\0\0\"iden").expect("half a message");
    let began = Instant::now();
    client.sign(running.honest(1)).await.expect("the other peer is served");
    assert!(began.elapsed() < Duration::from_secs(1), "and at once");
    for stream in &mut hostile {
        assert_eq!(stream.read_to_end(&mut Vec::new()).expect("the signer hangs up"), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_too_long_for_a_frame_is_not_even_sent() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let huge = TxEip1559 { input: Bytes::from(vec![0; FRAME_BYTES_MAX as usize]), ..running.attempt(1) };
    let error = client.sign(huge.into()).await.expect_err("too long");
    assert!(matches!(error, Error::Malformed { .. }) && error.is_final(), "{error:?}");
    client.sign(running.honest(1)).await.expect("the client is still sound");
}

#[tokio::test]
async fn hoarded_connections_are_bounded_and_come_back() {
    let home = Home::new();
    let running = home.start();
    let mut hoard: Vec<_> = (0..16).map(|_| home.dial()).collect();
    for stream in &mut hoard {
        send(stream, b"\"identity\"");
        assert!(matches!(receive(stream), Some(Answer::Identity(_))));
    }
    let client = Client::connect(home.socket()).await.expect("connect");
    let error = client.identity().await.expect_err("all connections are taken");
    assert!(matches!(error, Error::Unreachable { .. }) && !error.is_final(), "{error:?}");
    drop(hoard);
    let served = async { while client.sign(running.honest(1)).await.is_err() {} };
    timeout(PATIENCE, served).await.expect("the freed connections serve again");
}

#[test]
fn another_user_is_turned_away_unheard() {
    let Some(home) = Home::of_nobody() else { return println!("not tried: needs root to be somebody else") };
    // The signer runs as nobody; this test is root, which no rule exempts.
    let _running = home.start();
    let mut stream = home.dial();
    let _ = stream.write_all(b"\x0a\0\0\0\"identity\"");
    assert_eq!(receive(&mut stream), None);
    assert!(home.log().contains("peer turned away"), "{}", home.log());
}

#[test]
fn the_named_user_is_served() {
    let Some(home) = Home::of_nobody() else { return println!("not tried: needs root to be somebody else") };
    let _running = home.start_allowing(0);
    let mut stream = home.dial();
    send(&mut stream, b"\"identity\"");
    assert!(matches!(receive(&mut stream), Some(Answer::Identity(_))));
}
