//! An owner whose key is on another machine: transactions are shown, carried there, and seen again on the chain.

use std::process::Stdio;
use std::time::Duration;

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::TransactionRequest;
use chain::abi::Vault;
use provisioning::devnet::{Account, ContractSettings, Role};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use crate::owner::Town;
use crate::terminal::Terminal;

const PATIENCE: Duration = Duration::from_secs(60);

/// A command that answers in lines.
struct Running {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn begin(town: &Town, arguments: &[&str]) -> Running {
        let command = town.stage.command(&[arguments, &["--json", "--devnet", &town.network]].concat());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { _child: child, lines }
    }

    async fn line(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("it says something in time");
        serde_json::from_str(&line.unwrap().expect("there is one more line")).unwrap()
    }
}

/// What the other machine does: signs what it was shown, and nothing else.
async fn carry(chain: &DynProvider, shown: &Value) {
    let text = |name: &str| shown[name].as_str().unwrap();
    let request = TransactionRequest::default()
        .with_to(text("to").parse::<Address>().unwrap())
        .with_input(text("data").parse::<Bytes>().unwrap())
        .with_value(text("value_wei").parse::<U256>().unwrap());
    let sent = chain.send_transaction(request).await.unwrap();
    assert!(sent.get_receipt().await.unwrap().status());
}

fn coin(coins: u64) -> U256 {
    U256::from(coins) * U256::from(10).pow(U256::from(18))
}

#[tokio::test]
async fn a_pairing_without_a_key_goes_step_by_step_as_the_chain_shows_each() {
    let town = Town::up(ContractSettings::default()).await;
    let provider = Account { ..town.devnet.account(Role::Spare1).clone() };
    let (rig, master) = (provider.address.to_string(), town.devnet.account(Role::Master));
    let owner = master.address.to_string();
    let chain = town.chain(master);
    let pair = ["pair", &rig, "--unsigned", &owner, "--stake", "2", "--gas", "1000001", "--wait", "60s"];
    let mut running = Running::begin(&town, &pair);

    let first = running.line().await["unsigned"].clone();
    let terminal = town.devnet.ready.contracts.terminal.to_string();
    assert_eq!((&first["from"], &first["to"]), (&json!(owner), &json!(terminal)));
    assert_eq!((&first["chain_id"], &first["value"], &first["nonce"]), (&json!(31337), &json!("2"), &json!(0)));
    let uri = format!("ethereum:{terminal}@31337/announceProvider?address={rig}&uint256={0}&value={0}", coin(2));
    assert_eq!(first["uri"], json!(uri));
    // Something else of the same account comes first, and the same call with another value.
    let other = json!({ "to": rig, "data": "0x", "value_wei": "1" });
    carry(&chain, &other).await;
    carry(&chain, &first).await;

    let second = running.line().await["unsigned"].clone();
    assert_eq!((&second["to"], &second["data"], &second["nonce"]), (&json!(rig), &json!("0x"), &json!(2)));
    let lacks = coin(1) - U256::from(1);
    assert_eq!(second["uri"], json!(format!("ethereum:{rig}@31337?value={lacks}")));
    carry(&chain, &second).await;
    town.announce_master(&provider).await;

    let answer = running.line().await;
    assert_eq!((&answer["paired"], &answer["owner"]), (&json!(true), &json!(owner)));
    assert!(!answer["announced"]["tx"].is_null() && answer["funded"]["fee_wei"] != json!("0"), "{answer}");
    let vault = Vault::new(town.devnet.ready.contracts.vault, &chain);
    assert_eq!(vault.lockupOf(provider.address).call().await.unwrap(), coin(2));

    // The rig has paid for its half, so it lacks a little of that much gas.
    let pair = ["pair", &rig, "--unsigned", &owner, "--wait", "60s", "--json", "--devnet", &town.network];
    let again = town.run(&pair).await.json();
    assert_eq!((&again["paired"], &again["announced"], &again["funded"]), (&json!(true), &Value::Null, &Value::Null));
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn what_the_chain_would_refuse_is_not_shown_at_all() {
    let town = Town::up(ContractSettings::default()).await;
    let rig = town.devnet.account(Role::Spare1).address.to_string();
    let check = async |from: &str, arguments: &[&str], code: i32, words: &str| {
        let all = [arguments, &["--unsigned", from, "--json", "--devnet", &town.network]].concat();
        let ended = town.run(&all).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stdout.contains(words) && !ended.stdout.contains("unsigned\":{"), "{ended:?}");
    };
    let stranger = Address::repeat_byte(7).to_string();
    check(&stranger, &["stake", &rig, "--amount", "1"], 4, "the wallet has 0 coin and needs 1").await;
    let vault = town.devnet.ready.contracts.vault.to_string();
    check(&vault, &["stake", &rig, "--amount", "1"], 2, "is a contract").await;
    let nobody = Address::ZERO.to_string();
    let master = town.devnet.account(Role::Master).address.to_string();
    check(&master, &["pair", &nobody, "--wait", "0s"], 4, "the contract refuses: ZeroAddress").await;
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn a_person_sees_all_that_a_wallet_asks_for_and_a_code_to_scan() {
    let town = Town::up(ContractSettings::default()).await;
    let rig = town.devnet.account(Role::Spare1).address.to_string();
    let master = town.devnet.account(Role::Master);
    let from = master.address.to_string();
    let stake = ["stake", &rig, "--amount", "1.5", "--unsigned", &from, "--devnet", &town.network];
    let mut terminal = Terminal::run(town.stage.command(&stake));
    let chain = town.chain(master);
    let to = town.devnet.ready.contracts.vault;
    let data = alloy::sol_types::SolCall::abi_encode(&Vault::depositCall { account: rig.parse().unwrap() });
    let data = Bytes::from(data);
    let shown = json!({ "to": to.to_string(), "data": data, "value_wei": "1500000000000000000" });
    let words = [
        "To be signed elsewhere: depositing the stake".to_owned(),
        "chain id  31337".to_owned(),
        format!("from      {from}"),
        format!("to        {to}"),
        "value     1.5 coin (1500000000000000000 wei)".to_owned(),
        format!("data      {data}"),
        "nonce     0".to_owned(),
        format!("URI       ethereum:{to}@31337/deposit?address={rig}&value=1500000000000000000"),
        "█ ▄▄▄▄▄ █".to_owned(),
    ];
    let terminal = tokio::task::spawn_blocking(move || {
        words.iter().for_each(|words| terminal.reads(words));
        terminal
    });
    let mut terminal = terminal.await.unwrap();
    carry(&chain, &shown).await;
    let ended = tokio::task::spawn_blocking(move || {
        terminal.reads("1.5 coin to lock.");
        terminal.ends()
    });
    assert_eq!(ended.await.unwrap().0, Some(0));
    town.devnet.down().await.unwrap();
}
