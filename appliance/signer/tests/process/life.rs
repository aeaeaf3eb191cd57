//! Birth, restarts, and what the process is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEnvelope, TxLegacy, TypedTransaction};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{TxKind, U256, keccak256};
use signer::{Client, Error};

use crate::rig::{CHAIN_ID, Home, NOBODY, OWNER, socket_inodes, stderr};

#[test]
fn the_address_survives_restarts_of_every_kind() {
    let home = Home::new();
    let born = home.address();
    assert_eq!(home.address(), born);
    let first = home.start();
    assert_eq!(first.address, born);
    assert_eq!(home.address(), born, "the address can be asked while the signer runs");
    first.kill();
    let second = home.start();
    assert_eq!(second.address, born);
    assert!(second.terminate().success());
    assert!(!home.socket().exists(), "an orderly end removes the socket");
    assert_eq!(home.start().address, born);
}

#[test]
fn the_address_is_also_told_as_json() {
    let home = Home::new();
    let output = home.command(&["address", "--json", "--allow-swap"]).output().expect("run rig-signer");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(said, serde_json::json!({ "address": home.address().to_string().to_lowercase(), "tier": "N" }));
}

#[test]
fn a_kill_during_the_first_start_leaves_a_key_or_nothing() {
    let (mut keys, mut nothings) = (0, 0);
    // The delay before the kill is what is varied here, from before `main` to well after the birth.
    for step in 0..60 {
        let home = Home::new();
        let mut command = home.command(&["address", "--allow-swap"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start rig-signer");
        thread::sleep(Duration::from_micros(step * 250));
        child.kill().expect("kill");
        child.wait().expect("wait");
        match fs::metadata(home.path("state").join("provider.key")) {
            Ok(key) => {
                assert_eq!((key.len(), key.mode() & 0o7777), (40, 0o600), "a key is whole and private");
                keys += 1;
            }
            Err(_) => nothings += 1,
        }
        let born = home.address();
        assert_eq!(home.address(), born);
        assert!(!home.path("state").join("provider.key.new").exists());
    }
    println!("killed with a key {keys} times, without one {nothings} times");
}

#[test]
fn many_first_starts_at_once_bear_one_key() {
    let home = Home::new();
    let mut starts = Vec::new();
    for _ in 0..8 {
        let mut command = home.command(&["address", "--allow-swap"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        starts.push(command.spawn().expect("start rig-signer"));
    }
    let said: Vec<_> = starts.into_iter().map(|child| child.wait_with_output().expect("wait").stdout).collect();
    assert!(said.iter().all(|line| *line == said[0] && !line.is_empty()), "{said:?}");
}

#[test]
fn one_key_is_served_by_one_signer() {
    let home = Home::new();
    let _first = home.start();
    let output = home.run_command().output().expect("run rig-signer");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("provider.key is in use by another signer"), "{}", stderr(&output));
}

#[test]
fn a_bad_policy_is_named_before_the_socket_opens() {
    let home = Home::new();
    let path = home.path("signer.toml");
    let text = fs::read_to_string(&path).expect("the policy").replace("max_gas =", "max_gaz =");
    fs::write(&path, text).expect("write");
    let output = home.run_command().output().expect("run rig-signer");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 3: unknown key `max_gaz`, did you mean `max_gas`?"), "{}", stderr(&output));
    assert!(!home.socket().exists());
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let home = Home::new();
    fs::write(home.socket(), "precious").expect("write");
    let output = home.run_command().output().expect("run rig-signer");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("exists and is no socket"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(home.socket()).expect("still there"), "precious");
}

#[tokio::test]
async fn the_signed_bytes_recover_to_the_address_and_hash_to_the_hash() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let identity = client.identity().await.expect("identity");
    assert_eq!(identity.address, running.address);

    let to = TxKind::Call(OWNER);
    let legacy =
        TxLegacy { chain_id: Some(CHAIN_ID), nonce: 4, gas_price: 7, gas_limit: 21_000, to, ..TxLegacy::default() };
    let legacy = TypedTransaction::from(TxLegacy { value: U256::from(10).pow(U256::from(20)), ..legacy });
    for tx in [running.honest(3), legacy] {
        let signed = client.sign(tx.clone()).await.expect("allowed");
        let envelope = TxEnvelope::decode_2718_exact(&signed.raw).expect("EIP-2718 bytes");
        let signature = envelope.signature();
        let recovered = signature.recover_address_from_prehash(&tx.signature_hash()).expect("a signature");
        assert_eq!(recovered, running.address);
        assert_eq!((*envelope.tx_hash(), keccak256(&signed.raw)), (signed.hash, signed.hash));
        assert_eq!(TypedTransaction::from(envelope), tx, "the signer changed nothing");
        assert_eq!(client.sign(tx).await.expect("allowed again"), signed, "twice gives the same bytes");
    }
}

#[tokio::test]
async fn a_client_outlives_its_signer() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let before = client.sign(running.honest(1)).await.expect("allowed");
    running.kill();
    let error = client.identity().await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unreachable { .. }) && !error.is_final(), "{error:?}");
    let running = home.start();
    assert_eq!(client.sign(running.honest(1)).await.expect("allowed"), before);
}

#[tokio::test]
async fn a_signer_that_is_not_there_can_be_asked_later() {
    let home = Home::new();
    let error = Client::connect(home.socket()).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unreachable { .. }) && !error.is_final(), "{error:?}");
}

#[test]
fn no_network_socket_is_ever_opened() {
    let home = Home::new();
    let running = home.start();
    let _connection = home.dial();
    let Some(inodes) = socket_inodes(running.pid()) else {
        return println!("not looked: the process is undumpable and this user is not root");
    };
    assert!(!inodes.is_empty(), "it listens on its Unix socket");
    let unix = fs::read_to_string("/proc/net/unix").expect("unix sockets");
    for inode in inodes {
        let is_unix = unix.lines().any(|line| line.split_whitespace().nth(6) == Some(inode.as_str()));
        assert!(is_unix, "socket {inode} is no Unix socket");
    }
}

#[test]
fn memory_is_locked_or_the_signer_says_how() {
    let home = Home::new();
    let output = home.command(&["address"]).output().expect("run rig-signer");
    if output.status.success() {
        let running = home.start();
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("status");
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned();
        assert_ne!(field("VmLck:"), "0 kB");
        return;
    }
    assert_eq!(output.status.code(), Some(1));
    for words in ["LimitMEMLOCK=infinity", "ulimit -l unlimited", "--allow-swap"] {
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    assert!(!home.path("state").exists(), "no key is born into memory that may be swapped");
}

#[test]
fn the_process_cannot_be_dumped_or_traced_by_its_own_user() {
    let Some(home) = Home::of_nobody() else { return println!("not looked: needs root to be somebody else") };
    let running = home.start();
    // The kernel gives the /proc entries of an undumpable process to root.
    let memory = fs::metadata(format!("/proc/{}/mem", running.pid())).expect("the process");
    assert_eq!(memory.uid(), 0);
    assert_eq!(fs::metadata(home.path("state")).expect("the state").uid(), NOBODY);
}
