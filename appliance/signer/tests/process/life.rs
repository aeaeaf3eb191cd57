//! Birth, restarts, and what the process is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction, TxEnvelope, TxLegacy, TypedTransaction};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, TxKind, U256, keccak256};
use signer::identity::pairing_code;
use signer::policy::Rule;
use signer::{Client, Error, KeyState};

use crate::rig::{CHAIN_ID, Home, NOBODY, OWNER, PATIENCE, Running, stderr};

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
    let address = home.address();
    let expected = serde_json::json!({
        "address": address.to_string().to_lowercase(),
        "tier": "N",
        "fields": 0,
        "state": "open",
        "replaces": null,
        "pairing_code": pairing_code(address),
    });
    assert_eq!(said, expected);
}

#[test]
fn people_are_told_the_address_the_tier_the_state_and_the_pairing_code() {
    let home = Home::new();
    let address = home.address();
    let output = home.command(&["address", "--allow-swap"]).output().expect("run rig-signer");
    let said = String::from_utf8(output.stdout).expect("text");
    let code = pairing_code(address);
    let expected =
        format!("{address}\npairing code {code}\ntier N (software, bound to nothing)\nID-00: the key is open\n");
    assert_eq!(said, expected);
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
                assert_eq!((key.len() > 0, key.mode() & 0o7777), (true, 0o600), "a key is whole and private");
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
    assert!(stderr(&output).contains("is in use by another signer"), "{}", stderr(&output));
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

#[test]
fn a_key_of_version_1_signs_as_ever() {
    let home = Home::new();
    home.address();
    let path = home.path("state/provider.key");
    let scalar_1 = [&b"RIGKEY\x01\x00"[..], &[0; 31], &[1]].concat();
    fs::write(&path, &scalar_1).expect("write");
    assert_eq!(home.start().address.to_string(), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
    assert_eq!(fs::read(&path).expect("the key"), scalar_1, "it stays as it is");
}

async fn asks(home: &Home) -> (Client, signer::Identity) {
    let client = Client::connect(home.socket()).await.expect("connect");
    let identity = client.identity().await.expect("somebody signs");
    (client, identity)
}

async fn successor_takes_over(home: &Home, running: Running, state: KeyState, old: Option<Address>) {
    let (client, identity) = asks(home).await;
    assert_eq!((identity.state, identity.replaces), (state, old));
    assert_eq!(identity.address, running.address);
    let successor = running.address;
    assert_ne!(Some(successor), old);
    running.kill();
    // Looking at it is not using it: it is the same one, and still only a successor.
    let running = home.start();
    assert_eq!((running.address, asks(home).await.1), (successor, identity));
    // What the policy refuses is no use either.
    let error = client.sign(TxLegacy::default().into()).await.expect_err("not allowed");
    assert!(matches!(error, Error::Refused { rule: Rule::ChainId, .. }), "{error:?}");
    assert_eq!(asks(home).await.1, identity);
    client.sign(running.honest(1)).await.expect("its first signature");
    let (_, after) = asks(home).await;
    assert_eq!((after.address, after.state, after.replaces), (successor, KeyState::Open, None));
    assert_eq!(fs::read_dir(home.path("state/retired")).expect("the retired").count(), 1);
    running.kill();
    let running = home.start();
    assert_eq!(running.address, successor);
    assert_eq!(asks(home).await.1, after);
}

#[tokio::test]
async fn a_damaged_key_is_kept_and_its_successor_waits_for_its_first_signature() {
    let home = Home::new();
    home.address();
    let path = home.path("state/provider.key");
    let mut key = fs::read(&path).expect("the key");
    key.truncate(20);
    fs::write(&path, &key).expect("write");
    let running = home.start();
    assert_eq!(fs::read(&path).expect("the key"), key, "the damaged file is left alone");
    successor_takes_over(&home, running, KeyState::KeyDamaged, None).await;
    let retired = fs::read_dir(home.path("state/retired")).expect("the retired").next().expect("one").expect("one");
    assert_eq!(fs::read(retired.path()).expect("the old key"), key);
}

#[tokio::test]
async fn an_owner_who_asks_gets_a_new_key_and_the_old_one_is_kept() {
    let home = Home::new();
    let old = home.start();
    let address = old.address;
    old.kill();
    home.ask_generation(1);
    let running = home.start();
    assert_eq!(running.said["state"], "rotation-asked");
    assert_eq!(running.said["replaces"], address.to_string().to_lowercase());
    successor_takes_over(&home, running, KeyState::RotationAsked, Some(address)).await;
}

#[tokio::test]
async fn a_rotation_that_was_taken_back_leaves_the_old_key() {
    let home = Home::new();
    let address = home.address();
    home.ask_generation(1);
    assert_ne!(home.start().address, address);
    home.ask_generation(0);
    let running = home.start();
    assert_eq!((running.address, running.said["state"].as_str()), (address, Some("open")));
}

#[tokio::test]
async fn a_signer_that_starts_before_the_drivers_of_the_gpus_waits_for_them() {
    let home = Home::new();
    let write = |path: &str, text: &str| {
        let path = home.path("hardware").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, text).expect("write");
    };
    write("proc/uptime", "12.50 3.00\n");
    for slot in 1..=3 {
        write(&format!("sys/bus/pci/devices/0000:0{slot}:00.0/vendor"), "0x10de\n");
        write(&format!("sys/bus/pci/devices/0000:0{slot}:00.0/class"), "0x030200\n");
    }
    let running = home.start();
    assert_eq!((running.address, &running.said["state"]), (Address::ZERO, &serde_json::json!("binding-broken")));
    for slot in 1..=3 {
        let id = format!("GPU UUID: \t GPU-5a3c1e92-7b40-4d6f-8e15-c2a90{slot}d0f374\n");
        write(&format!("proc/driver/nvidia/gpus/0000:0{slot}:00.0/information"), &id);
    }
    let client = Client::connect(home.socket()).await.expect("connect");
    let until = Instant::now() + PATIENCE;
    let identity = loop {
        match client.identity().await {
            Ok(identity) => break identity,
            Err(error) => assert!(Instant::now() < until, "{error}: {}", home.log()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((identity.fields, identity.state), (3, KeyState::Open));
}
