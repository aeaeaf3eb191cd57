//! The owner's and the client's commands, against a local network.

use std::process::Stdio;

use alloy::network::EthereumWallet;
use alloy::primitives::{Address, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use chain::abi::{Nexus, ResponseParams, Source, Task, Terminal, Vault};
use provisioning::devnet::{Account, ContractSettings, Devnet, DevnetOptions, Role};
use serde_json::{Value, json};

use crate::stage::{Ended, Stage, utf8};

/// A local network, and its files in a home.
pub(crate) struct Town {
    pub(crate) stage: Stage,
    pub(crate) devnet: Devnet,
    pub(crate) network: String,
}

impl Town {
    pub(crate) async fn up(contracts: ContractSettings) -> Town {
        let devnet = Devnet::up(DevnetOptions { contracts, ..DevnetOptions::default() }).await.unwrap();
        let stage = Stage::new();
        let network = stage.file("devnet.json", serde_json::to_vec(&devnet.ready).unwrap());
        Town { stage, devnet, network }
    }

    /// Runs `rig --json` on this network with the wallet of `role`.
    pub(crate) async fn rig(&self, role: Role, arguments: &[&str]) -> Ended {
        let key = self.stage.key_file(self.devnet.account(role));
        let all = [arguments, &["--json", "--devnet", &self.network, "--key-file", &key]].concat();
        self.run(&all).await
    }

    /// Runs `rig` as it is told to.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        let command = self.stage.command(arguments);
        let output = tokio::process::Command::from(command).output().await.unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn chain(&self, account: &Account) -> DynProvider {
        let wallet = EthereumWallet::new(account.signer());
        ProviderBuilder::new().wallet(wallet).connect_http(self.devnet.ready.rpc.clone()).erased()
    }

    /// The provider's half of a pairing.
    pub(crate) async fn announce_master(&self, provider: &Account) {
        let terminal = Terminal::new(self.devnet.ready.contracts.terminal, self.chain(provider));
        let master = self.devnet.account(Role::Master).address;
        let sent = terminal.announceMaster(master).send().await.unwrap();
        assert!(sent.get_receipt().await.unwrap().status());
    }

    pub(crate) async fn publish_echo(&self, delivery: &str) -> Address {
        let compose = self.stage.file("compose.yml", "services:\n  echo:\n    image: localhost/echo\n");
        let name = ["source", "publish", "--name", "echo", "--cpu-compose", &compose];
        let terms = ["--min-payment", "0.01", "--max-expiry", "1h", "--delivery", delivery];
        let answer = self.rig(Role::Client, &[&name[..], &terms].concat()).await.json();
        answer["source"].as_str().unwrap().parse().unwrap()
    }

    /// Takes `task` and answers it with `payload`, as a rig would.
    async fn answer(&self, provider: &Account, source: Address, task: Address, payload: &Value) {
        let chain = self.chain(provider);
        let nexus = Nexus::new(self.devnet.ready.contracts.nexus, &chain);
        let payment = Task::new(task, &chain).getPayment().call().await.unwrap();
        let registered = nexus.register(source, provider.address, 1).send().await.unwrap();
        assert!(registered.get_receipt().await.unwrap().status());
        let attempted = nexus.attempt(task, provider.address, payment).send().await.unwrap();
        assert!(attempted.get_receipt().await.unwrap().status());
        let mut gateways = chain::content::Gateways::new(self.devnet.ready.ipfs_publish.clone());
        gateways.allow_private = true;
        let content = chain::content::Content::new(gateways).unwrap();
        let link = content.pin("result.json", "application/json", payload.to_string().into_bytes()).await.unwrap();
        let params = ResponseParams { task, provider: provider.address, data: link.url.to_string(), payment };
        let submitted = nexus.submitResponse(params).send().await.unwrap();
        assert!(submitted.get_receipt().await.unwrap().status());
    }
}

#[tokio::test]
async fn pair_waits_for_the_rig_and_gives_it_stake_and_gas() {
    let town = Town::up(ContractSettings::default()).await;
    let provider = Account { ..town.devnet.account(Role::Spare1).clone() };
    let address = provider.address.to_string();
    let pair = ["pair", &address, "--stake", "2", "--gas", "1000001", "--wait", "60s"];
    let (answer, ()) = tokio::join!(town.rig(Role::Master, &pair), town.announce_master(&provider));
    let answer = answer.json();
    assert_eq!(answer["paired"], json!(true));
    assert!(!answer["announced"].is_null() && !answer["funded"].is_null(), "{answer}");

    let chain = town.chain(&provider);
    let vault = Vault::new(town.devnet.ready.contracts.vault, &chain);
    assert_eq!(vault.lockupOf(provider.address).call().await.unwrap(), coin(2));
    assert!(chain.get_balance(provider.address).await.unwrap() > coin(1_000_000));

    let again = town.rig(Role::Master, &["pair", &address, "--wait", "60s"]).await.json();
    assert_eq!((&again["paired"], &again["announced"], &again["funded"]), (&json!(true), &Value::Null, &Value::Null));
    for total in ["5500000000000000000", "11000000000000000000"] {
        let staked = town.rig(Role::Master, &["stake", &address, "--amount", "5.5"]).await.json();
        assert_eq!(staked["balance_wei"], json!(total), "the same wish twice is two deposits");
    }
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn a_rig_that_stays_away_is_a_time_out_and_not_an_error_of_the_chain() {
    let town = Town::up(ContractSettings::default()).await;
    let address = town.devnet.account(Role::Spare2).address.to_string();
    let ended = town.rig(Role::Master, &["pair", &address, "--wait", "1s"]).await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.stdout.contains("has not named"), "{ended:?}");
    let ended = town.rig(Role::Spare3, &["pair", &address, "--wait", "0s"]).await;
    assert_eq!(ended.json()["paired"], json!(false));
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn a_source_and_its_tasks_make_the_round_in_both_deliveries() {
    let town = Town::up(ContractSettings { min_lockup_per_source_wei: Some(coin(3)), ..Default::default() }).await;
    let provider = Account { ..town.devnet.account(Role::Spare1).clone() };
    let address = provider.address.to_string();
    let pair = ["pair", &address, "--wait", "60s"];
    let (paired, ()) = tokio::join!(town.rig(Role::Master, &pair), town.announce_master(&provider));
    assert_eq!(paired.code, Some(0), "{paired:?}");
    for delivery in ["manual", "first-response"] {
        let source = town.publish_echo(delivery).await;
        let written = source.to_string();
        let input = ["task", "publish", &written, "--function", "echo", "--data", r#"{"text":"hello"}"#];
        let task = town.rig(Role::Client, &[&input[..], &["--payment", "0.5"]].concat()).await.json();
        let task: Address = task["task"].as_str().unwrap().parse().unwrap();
        let written = task.to_string();
        let early = town.rig(Role::Client, &["task", "result", &written]).await;
        assert_eq!(early.code, Some(5), "nobody took it yet: {early:?}");

        let payload = json!({ "text": format!("hello by {delivery}") });
        let wait = ["task", "result", &written, "--wait", "60s", "--confirm"];
        let (result, ()) = tokio::join!(town.rig(Role::Client, &wait), town.answer(&provider, source, task, &payload));
        let result = result.json();
        assert_eq!(result["payload"], payload);
        assert_eq!((&result["status"], &result["confirmed"]), (&json!("finalized"), &json!(true)));
    }
    let chain = town.chain(&provider);
    let vault = Vault::new(town.devnet.ready.contracts.vault, &chain);
    let (client, master) = (town.devnet.account(Role::Client).address, town.devnet.account(Role::Master).address);
    assert_eq!(vault.balanceOf(master).call().await.unwrap(), coin(1), "both payments came to the owner");
    assert_eq!(vault.lockupOf(client).call().await.unwrap(), coin(6), "three coins for each source");
    assert_eq!(vault.balanceOf(client).call().await.unwrap(), U256::ZERO, "no more was deposited than was needed");
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn what_is_published_is_what_the_network_expects() {
    let town = Town::up(ContractSettings::default()).await;
    let source = town.publish_echo("manual").await;
    let client = town.devnet.account(Role::Client).clone();
    let params = Source::new(source, town.chain(&client)).getSourceParams().call().await.unwrap();
    assert_eq!((params.client, params.imageEnvironments, params.deliveryMethod), (client.address, 1, 0));
    assert_eq!(params.maxExpiryDuration, U256::from(3600));
    let mut gateways = chain::content::Gateways::new(town.devnet.ready.ipfs_publish.clone());
    gateways.allow_private = true;
    let content = chain::content::Content::new(gateways).unwrap();
    let metadata: Value =
        serde_json::from_slice(&content.fetch(&params.imageMetadataUrl, 4096).await.unwrap()).unwrap();
    assert_eq!((&metadata["name"], &metadata["nvidia"], &metadata["amd"]), (&json!("echo"), &json!(""), &json!("")));
    let compose = content.fetch(metadata["cpu"].as_str().unwrap(), 4096).await.unwrap();
    assert!(compose.starts_with(b"services:"));

    let written = source.to_string();
    let publish = |payment: &'static str, expires: &'static str| {
        let written = written.clone();
        let town = &town;
        async move {
            let input = ["task", "publish", &written, "--function", "echo"];
            town.rig(Role::Client, &[&input[..], &["--payment", payment, "--expires-in", expires]].concat()).await
        }
    };
    for (payment, expires, words) in [("0.001", "10m", "at least 0.01 coin"), ("0.1", "2h", "within 3600 s")] {
        let ended = publish(payment, expires).await;
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.stdout.contains(words), "{ended:?}");
    }
    let stranger = ["task", "publish", &written, "--function", "echo", "--payment", "0.1"];
    let ended = town.rig(Role::Spare3, &stranger).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stdout.contains("NotOwner") && ended.stdout.contains("use the wallet that owns it"), "{ended:?}");
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn a_bundle_is_published_with_the_compose_file_that_names_it() {
    let town = Town::up(ContractSettings::default()).await;
    let bundle = town.stage.path("saxpy.bundle");
    crate::cuda::build(&town.stage, &crate::cuda::saxpy(&town.stage), &bundle, &["--json"]).json();
    let publish = ["source", "publish", "--name", "saxpy", "--min-payment", "0.01", "--bundle", utf8(&bundle)];
    let image = ["--fallback-image", "localhost/saxpy"];
    let answer = town.rig(Role::Client, &[&publish[..], &image].concat()).await.json();
    let client = town.devnet.account(Role::Client).clone();
    let source: Address = answer["source"].as_str().unwrap().parse().unwrap();
    let params = Source::new(source, town.chain(&client)).getSourceParams().call().await.unwrap();
    assert_eq!(params.imageEnvironments, 2);
    let mut gateways = chain::content::Gateways::new(town.devnet.ready.ipfs_publish.clone());
    gateways.allow_private = true;
    let content = chain::content::Content::new(gateways).unwrap();
    let metadata: Value =
        serde_json::from_slice(&content.fetch(&params.imageMetadataUrl, 4096).await.unwrap()).unwrap();
    assert_eq!((&metadata["cpu"], &metadata["amd"]), (&json!(""), &json!("")));
    let compose = content.fetch(metadata["nvidia"].as_str().unwrap(), 4096).await.unwrap();
    let compose = String::from_utf8(compose.to_vec()).unwrap();
    let (services, named) = compose.split_once("x-cuda:\n  bundle: \"").unwrap();
    assert!(services.contains("image: \"localhost/saxpy\""), "{compose}");
    let (link, function) = named.split_once('"').unwrap();
    assert_eq!(function, "\n  function: \"saxpy\"\n");
    assert_eq!(content.fetch(link, 65_536).await.unwrap().to_vec(), std::fs::read(&bundle).unwrap());

    for (more, code, words) in [
        (&["--function", "axpy"][..], 2, "no function"),
        (&["--nvidia-compose", "compose.yml"], 2, "cannot be used with"),
    ] {
        let ended = town.rig(Role::Client, &[&publish[..], more].concat()).await;
        assert!(ended.code == Some(code) && ended.stdout.contains(words), "{ended:?}");
    }
    town.devnet.down().await.unwrap();
}

#[tokio::test]
async fn with_json_nothing_is_said_on_stderr() {
    let town = Town::up(ContractSettings::default()).await;
    let address = town.devnet.account(Role::Spare1).address.to_string();
    let ended = town.rig(Role::Master, &["stake", &address, "--amount", "1"]).await;
    assert_eq!((ended.code, ended.stderr.as_str(), ended.stdout.lines().count()), (Some(0), "", 1));
    let key = town.stage.key_file(town.devnet.account(Role::Master));
    let plain = ["stake", &address, "--amount", "1", "--devnet", &town.network, "--key-file", &key];
    let output = town.stage.command(&plain).stderr(Stdio::piped()).output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.ends_with("has 0 coin locked and 2 coin to lock.\n"), "{words}");
    assert!(!words.contains('\x1b'), "no colours into a pipe");
    assert!(output.stderr.is_empty(), "no movement into a pipe");
    town.devnet.down().await.unwrap();
}

fn coin(whole: u64) -> U256 {
    U256::from(whole) * U256::from(10).pow(U256::from(18))
}
