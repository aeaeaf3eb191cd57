//! A real node for one test: anvil, on a port of its own, gone with the value.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy::{
    consensus::TypedTransaction,
    primitives::{Address, B256, Bytes, U64, U256, address, keccak256},
    providers::{Provider, RootProvider},
    rpc::types::TransactionRequest,
};
use chain::{
    outbox::{Seal, SealError, Sealed},
    rpc::{Contracts, Network},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

/// The first of the accounts that anvil is born with, and signs for.
pub(crate) const ME: Address = address!("f39fd6e51aad88f6f4ce6ab8827279cfffb92266");
const BINARY: &str = "../../target/devnet/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
/// Nothing that these tests wait for takes a tenth of this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The running node.
pub(crate) struct Anvil {
    child: Child,
    /// Where it writes states of old blocks; goes after it.
    _blocks: TempDir,
    pub(crate) url: Url,
    pub(crate) provider: RootProvider,
}

/// Signs with a key of the node.
pub(crate) struct AnvilSeal(RootProvider);

impl Anvil {
    /// Starts a node with these further arguments and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join(BINARY);
        assert!(
            binary.exists(),
            "anvil is missing: run `npm i --prefix target/devnet @foundry-rs/anvil@1.7.1` at the top"
        );
        let blocks = TempDir::new().expect("a folder");
        let mut child = Command::new(binary)
            .args(["--port", "0", "--host", "127.0.0.1", "--cache-path"])
            .arg(blocks.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("anvil starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with("Listening on")).expect("anvil listens");
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.trim_start_matches("Listening on").trim();
        let url: Url = format!("http://{address}").parse().expect("an address");
        let provider = RootProvider::new_http(url.clone());
        Self { child, _blocks: blocks, url, provider }
    }

    pub(crate) fn network(&self) -> Network {
        network(vec![self.url.clone()])
    }

    pub(crate) fn seal(&self) -> AnvilSeal {
        AnvilSeal(self.provider.clone())
    }

    /// Any call of the node's own.
    pub(crate) async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.provider.raw_request(method.into(), params).await.expect("anvil answers")
    }

    pub(crate) async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([U64::from(blocks)])).await;
    }

    pub(crate) async fn balance(&self, of: Address) -> U256 {
        self.provider.get_balance(of).await.expect("anvil answers")
    }

    /// Mined transactions of our account.
    pub(crate) async fn count(&self) -> u64 {
        self.provider.get_transaction_count(ME).await.expect("anvil answers")
    }

    /// What waits in the pool, as (hash, maximum fee).
    pub(crate) async fn pool(&self) -> Vec<(B256, U256)> {
        let content = self.ask("txpool_content", json!([])).await;
        let of = |transaction: &Value| {
            let read = |field: &str| serde_json::from_value(transaction[field].clone()).ok();
            let hash = serde_json::from_value(transaction["hash"].clone()).expect("a hash");
            (hash, read("maxFeePerGas").unwrap_or_default())
        };
        let senders = content["pending"].as_object().expect("senders").values();
        senders.flat_map(|nonces| nonces.as_object().expect("nonces").values().map(of)).collect()
    }

    pub(crate) async fn drop_from_pool(&self, hash: B256) {
        self.ask("anvil_dropTransaction", json!([hash])).await;
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.child.kill().expect("anvil is ours to kill");
        self.child.wait().expect("anvil ends");
    }
}

impl Seal for AnvilSeal {
    fn address(&self) -> Address {
        ME
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        Box::pin(async move {
            let request = TransactionRequest { from: Some(ME), ..tx.into() };
            match self.0.raw_request::<_, Bytes>("eth_signTransaction".into(), (request,)).await {
                Ok(raw) => Ok(Sealed { hash: keccak256(&raw), raw }),
                Err(error) => Err(SealError::Unreachable { why: error.to_string() }),
            }
        })
    }
}

/// The local network behind these endpoints.
pub(crate) fn network(rpc_urls: Vec<Url>) -> Network {
    let contracts =
        Contracts { nexus: Address::ZERO, controller: Address::ZERO, terminal: Address::ZERO, vault: Address::ZERO };
    Network {
        chain_id: 31_337,
        contracts,
        rpc_urls,
        ws_url: None,
        confirmations: 1,
        head_lag_max_s: 3_600,
        request_timeout_ms: 5_000,
    }
}

/// Asks until the answer is there; a node has no event for most of what it does.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} did not happen in {PATIENCE:?}"))
}
