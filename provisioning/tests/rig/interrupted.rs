//! A command that is killed while its transaction is under way, on a chain that is not a local network.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256, address, bytes};
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use provisioning::devnet::anvil;

use crate::stage::Stage;

const VAULT: Address = address!("0xa5c582254AA313528898311362bc698b041580cC");
const PROVIDER: &str = "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc";
/// The second account of anvil's well-known phrase.
const WALLET: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// Far longer than a transaction takes to reach the node.
const PATIENCE: Duration = Duration::from_secs(30);

/// A chain that mines only when it is told to, with a vault that takes every deposit.
struct Chain {
    anvil: Child,
    url: String,
    rpc: RootProvider,
}

impl Chain {
    async fn start() -> Chain {
        let mut anvil = Command::new(anvil::find(None).unwrap())
            .args(["--port", "0", "--chain-id", "4242", "--no-mining"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(anvil.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("Listening on ")).unwrap();
        let url = format!("http://{}", line.trim_start_matches("Listening on "));
        // Its output must go on being read, or the chain stops.
        std::thread::spawn(move || lines.for_each(drop));
        let rpc: RootProvider = RootProvider::new_http(url.parse().unwrap());
        // Answers every call with a zero.
        rpc.anvil_set_code(VAULT, bytes!("60005f5260205ff3")).await.unwrap();
        Chain { anvil, url, rpc }
    }

    async fn wait_for_pending(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.rpc.get_transaction_count(WALLET).pending().await.unwrap() < count {
            assert!(Instant::now() < deadline, "the transaction does not reach the node");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.anvil.kill();
        let _ = self.anvil.wait();
    }
}

#[tokio::test]
async fn a_command_killed_under_way_is_joined_when_repeated_and_sends_nothing_twice() {
    let chain = Chain::start().await;
    let stage = Stage::new();
    let key = stage.file("wallet.key", KEY);
    let network = format!(
        "[network]\nchain_id = 4242\nrpc_urls = [\"{}\"]\n[network.contracts]\nnexus = \"{VAULT}\"\n\
         controller = \"{VAULT}\"\nterminal = \"{VAULT}\"\nvault = \"{VAULT}\"\n\
         [content]\npublish = \"http://127.0.0.1:1\"\n",
        chain.url
    );
    let network = stage.file("network.toml", network);
    let stake = ["stake", PROVIDER, "--amount", "1", "--key-file", &key, "--network", &network];

    let mut first = stage.command(&stake).spawn().unwrap();
    chain.wait_for_pending(1).await;
    first.kill().unwrap();
    first.wait().unwrap();
    chain.rpc.anvil_set_auto_mine(true).await.unwrap();
    chain.rpc.anvil_mine(Some(1), None).await.unwrap();

    let repeat = || async {
        let output = tokio::process::Command::from(stage.command(&stake)).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        chain.rpc.get_balance(VAULT).await.unwrap() / U256::from(10).pow(U256::from(18))
    };
    assert_eq!(repeat().await, U256::from(1), "the deposit under way was joined");
    assert_eq!(repeat().await, U256::from(2), "after a success the same words are a new wish");
}
