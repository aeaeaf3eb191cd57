//! Any bytes as what a peer sends to the signer's socket: requests that read as they are written, and a policy that
//! permits only what it says.

use std::path::Path;
use std::time::Duration;

use alloy::consensus::{Transaction, TypedTransaction};
use alloy::primitives::{Address, TxKind, U256, address};
use signer::policy::{Policy, PolicyFile, Usage};
use signer::protocol::{Answer, Request, frame, read_length_blocking, read_message_blocking};

const OWN: Address = address!("0x00000000000000000000000000000000000000f1");
const NOON: Duration = Duration::from_secs(12 * 3600);

/// Reads `data` as the bytes of one connection.
pub(crate) fn run(data: &[u8]) {
    let text = include_str!("../../../appliance/signer/signer.example.toml");
    let file = PolicyFile::parse(text, Path::new("signer.toml")).expect("the example parses");
    let policy = Policy::bind(file.clone(), OWN).expect("the example binds");
    let mut stream = data;
    while let Ok(Some(bytes)) = read_length_blocking(&mut stream) {
        let start = stream;
        if let Ok(request) = read_message_blocking::<Request>(&mut stream, bytes) {
            let written = serde_json::to_vec(&request).expect("a request is plain data");
            assert_eq!(serde_json::from_slice::<Request>(&written).expect("it reads as it is written"), request);
            if let Request::Sign { tx } = &request {
                check(&policy, &file, tx);
            }
        }
        let Some(rest) = start.get(bytes as usize..) else { return };
        // What the other end would make of the same bytes.
        if let Ok(answer) = serde_json::from_slice::<Answer>(&start[..bytes as usize]) {
            let written = frame(&answer).expect("what came in a frame fits into one");
            assert_eq!(serde_json::from_slice::<Answer>(&written[4..]).expect("it reads as it is written"), answer);
        }
        stream = rest;
    }
}

fn check(policy: &Policy, file: &PolicyFile, tx: &TypedTransaction) {
    let permit = match policy.check(tx, NOON, &Usage::default()) {
        Ok(permit) => permit,
        Err(refusal) => return assert!(refusal.why.len() < 1024, "{refusal}"),
    };
    let contracts = &file.contracts;
    let TxKind::Call(to) = tx.kind() else { panic!("a contract was permitted") };
    assert_eq!(tx.chain_id(), Some(file.chain_id));
    assert!(tx.gas_limit() <= file.max_gas && tx.max_fee_per_gas() <= u128::from(file.max_fee_per_gas_wei));
    assert!(permit.gas_wei() <= u128::from(file.max_gas_wei_per_day));
    match to == file.owner {
        true => assert!(tx.input().is_empty() && permit.response().is_none()),
        false => {
            assert!([contracts.nexus, contracts.terminal, contracts.vault].contains(&to));
            assert_eq!(tx.value(), U256::ZERO);
        }
    }
}
