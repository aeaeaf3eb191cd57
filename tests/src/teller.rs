//! The outbox and the watch of one account, on a devnet behind a [`Proxy`]: where RPC faults are played without a rig.
//!
//! An intent here is a deposit into the vault for an account that nobody else deposits for. So "mined exactly once" is
//! that account's balance, and "no event was lost" is that the watch has told of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::consensus::{SignableTransaction, TypedTransaction};
use alloy::eips::Encodable2718;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use alloy_primitives::{Address, B256, Bytes, U256};
use chain::abi::Vault;
use chain::outbox::{Intent, Outbox, OutboxLimits, Seal, SealError, Sealed, SendError, Sent, Standing};
use chain::rpc::{Contracts, Network, Rpc};
use chain::watch::{Event, Watch, WatchLimits};
use futures::future::BoxFuture;
use provisioning::devnet::{Devnet, DevnetOptions, Role};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::node::{Node, eventually};
use crate::proxy::Proxy;

/// What every deposit is worth.
pub const DEPOSIT_WEI: U256 = U256::from_limbs([1_000, 0, 0, 0]);

/// The number of the deposit that shows that the account is not stuck.
const LAST: u64 = 0xffff;

/// No outcome takes a third of this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a deposit came to.
pub type Sending = JoinHandle<Result<Sent, SendError>>;

/// How a teller differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct TellerOptions {
    /// Where the devnet is kept; nowhere when absent.
    pub state: Option<PathBuf>,
    /// Endpoints before the proxy's.
    pub before: Vec<Url>,
    /// Whether the node itself is an endpoint after the proxy.
    pub has_node_behind: bool,
    /// Depth at which a transaction counts as done; 1 when 0.
    pub confirmations: u64,
    /// How long the outbox waits before it raises a bid, in milliseconds; far beyond a test when 0.
    pub replace_after_ms: u64,
}

/// A devnet, a proxy, and an account that sends and watches through it.
#[derive(Debug)]
pub struct Teller {
    /// The chain; `None` while it is down.
    pub devnet: Option<Devnet>,
    /// The chain, asked directly.
    pub node: Node,
    /// What the outbox and the watch ask.
    pub proxy: Proxy,
    /// The account that sends.
    pub me: Address,
    network: Network,
    key: PrivateKeySigner,
    limits: OutboxLimits,
    folder: TempDir,
    seen: Arc<Mutex<BTreeSet<Address>>>,
    watch: JoinSet<()>,
}

/// An outbox at work. Dropping it kills it.
#[derive(Debug)]
pub struct Desk {
    /// The handle.
    pub outbox: Outbox,
    task: JoinHandle<()>,
}

/// Signs with a key in memory.
struct KeySeal(PrivateKeySigner);

// === impl Teller ===

impl Teller {
    /// A fresh devnet that mines each transaction at once.
    pub async fn start(options: &TellerOptions) -> Teller {
        let of_devnet = DevnetOptions { state: options.state.clone(), ..DevnetOptions::default() };
        let devnet = Devnet::up(of_devnet).await.expect("the devnet starts; tests/setup.sh installs what it needs");
        let proxy = Proxy::start(&devnet.ready.rpc).await;
        let mut rpc_urls = options.before.clone();
        rpc_urls.push(proxy.url.clone());
        rpc_urls.extend(options.has_node_behind.then(|| devnet.ready.rpc.clone()));
        let at = devnet.ready.contracts;
        let contracts =
            Contracts { nexus: at.nexus, controller: at.controller, terminal: at.terminal, vault: at.vault };
        let network = Network {
            chain_id: devnet.ready.chain_id,
            contracts,
            rpc_urls,
            ws_url: None,
            confirmations: options.confirmations.max(1),
            head_lag_max_s: 3_600,
            request_timeout_ms: 700,
        };
        let replace_after_ms = if options.replace_after_ms == 0 { 600_000 } else { options.replace_after_ms };
        let limits =
            OutboxLimits { poll_ms: 50, rebroadcast_after_ms: 300, replace_after_ms, ..OutboxLimits::default() };
        let key = devnet.account(Role::Spare1).signer();
        let (node, folder) = (Node::new(&devnet.ready.rpc), tempfile::tempdir().expect("a folder"));
        let seen = Arc::default();
        let me = key.address();
        let watch = JoinSet::new();
        let mut teller = Teller { devnet: Some(devnet), node, proxy, me, network, key, limits, folder, seen, watch };
        teller.start_watch().await;
        teller
    }

    /// A handle on the endpoints, as the outbox and the watch have.
    pub async fn rpc(&self) -> Rpc {
        Rpc::connect(self.network.clone()).await.expect("an endpoint is on the right chain, or none answers")
    }

    /// Opens the outbox on its file, as after a crash.
    pub async fn open(&self) -> Desk {
        let path = self.folder.path().join("outbox.db");
        let seal = Arc::new(KeySeal(self.key.clone()));
        let (outbox, task) = Outbox::open(&path, self.rpc().await, seal, self.limits).expect("the outbox opens");
        let task = tokio::spawn(async move { task.run(CancellationToken::new()).await.expect("the outbox stores") });
        Desk { outbox, task }
    }

    /// The intent of a number.
    pub fn deposit(&self, number: u64) -> Intent {
        let data = Vault::depositCall { account: account(number) }.abi_encode().into();
        Intent { key: format!("deposit {number}"), to: self.network.contracts.vault, data, value_wei: DEPOSIT_WEI }
    }

    /// A call of the vault without coins.
    pub fn call(&self, key: &str, call: &impl SolCall) -> Intent {
        let (to, data) = (self.network.contracts.vault, call.abi_encode().into());
        Intent { key: key.to_owned(), to, data, value_wei: U256::ZERO }
    }

    /// Spends a nonce of the account without its outbox, past the proxy. The transaction waits in the pool.
    pub async fn spend_nonce(&self, nonce: u64) -> B256 {
        let tx = alloy::consensus::TxLegacy {
            chain_id: Some(self.network.chain_id),
            nonce,
            gas_price: 100_000_000_000,
            gas_limit: 21_000,
            to: Address::repeat_byte(0xEE).into(),
            value: U256::from(1),
            input: Bytes::new(),
        };
        let sealed = KeySeal(self.key.clone()).seal(tx.into()).await.expect("a key signs");
        let sent = self.node.ask("eth_sendRawTransaction", json!([sealed.raw])).await;
        assert_eq!(sent, json!(sealed.hash));
        sealed.hash
    }

    /// Forgets what the watch has told, so that it must be told again.
    pub fn forget_events(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Stops the chain and starts it again from its state, behind the same proxy.
    pub async fn restart_node(&mut self, state: PathBuf) {
        self.proxy.close().await;
        self.devnet.take().expect("the chain runs").down().await.expect("the chain stops well");
        let of_devnet = DevnetOptions { state: Some(state), ..DevnetOptions::default() };
        let devnet = Devnet::up(of_devnet).await.expect("the devnet starts again");
        self.node = Node::new(&devnet.ready.rpc);
        self.proxy.point_to(&devnet.ready.rpc);
        self.devnet = Some(devnet);
        self.proxy.reopen().await;
    }

    /// The end of every scenario: without faults, each of `numbers` was deposited exactly once and told of by the watch,
    /// the account has no stuck nonce, and a further deposit goes through. `others` are transactions of the account that
    /// are no deposits.
    pub async fn ends_well(&self, desk: &Desk, numbers: &[u64], others: u64) {
        self.proxy.lift_all();
        self.node.automine(true).await;
        self.node.mine(1).await;
        mined(desk.send(self.deposit(LAST))).await;
        let all: Vec<u64> = numbers.iter().copied().chain([LAST]).collect();
        let vault = Vault::new(self.network.contracts.vault, self.node.provider.clone());
        for number in &all {
            let balance = vault.balanceOf(account(*number)).call().await.expect("the vault answers");
            assert_eq!(balance, DEPOSIT_WEI, "deposit {number} was made exactly once");
        }
        let mined = u64::try_from(all.len()).expect("few") + others;
        assert_eq!(self.node.counts(self.me).await, (mined, mined), "no transaction more, and none stuck");
        let is_told = || async {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().all(|number| seen.contains(&account(*number))).then_some(())
        };
        eventually("an event of each deposit", is_told).await;
    }

    async fn start_watch(&mut self) {
        let limits = WatchLimits { poll_ms: 100, ..WatchLimits::default() };
        let mut watch = Watch::new(self.rpc().await, None, 0, limits);
        let seen = self.seen.clone();
        self.watch.spawn(async move {
            loop {
                // Weather: the next call waits by itself.
                let Ok(scan) = watch.next().await else { continue };
                let told = scan.events.iter().filter_map(|event| match event {
                    Event::VaultMoved { account } => Some(account.0),
                    _ => None,
                });
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
            }
        });
    }
}

// === impl Desk ===

impl Desk {
    /// Sends in the background.
    pub fn send(&self, intent: Intent) -> Sending {
        let outbox = self.outbox.clone();
        tokio::spawn(async move { outbox.send(intent).await })
    }

    /// Kills the outbox: whatever it awaited is dropped.
    pub async fn kill(self) {
        let Desk { outbox, task } = self;
        drop(outbox);
        task.abort();
        // It ends by being aborted.
        let _ = task.await;
    }

    /// Waits until the outbox says so of itself.
    pub async fn becomes(&self, is_so: impl Fn(&Standing) -> bool) {
        let mut standing = self.outbox.standing();
        let becoming = tokio::time::timeout(PATIENCE, standing.wait_for(|standing| is_so(standing))).await;
        becoming.expect("the outbox gets there in time").expect("the outbox lives");
    }
}

/// The outcome of a sending. Panics when it does not come.
pub async fn outcome(sending: Sending) -> Result<Sent, SendError> {
    tokio::time::timeout(PATIENCE, sending).await.expect("it is sent in time").expect("sending does not panic")
}

/// The hash of a sending that is mined with success. Panics otherwise.
pub async fn mined(sending: Sending) -> B256 {
    match outcome(sending).await.expect("it is sent") {
        Sent::Mined { tx, .. } => tx,
        Sent::Reverted { reason, .. } => panic!("it reverted: {reason}"),
    }
}

fn account(number: u64) -> Address {
    Address::left_padding_from(&(0xdead_0000_0000 + number).to_be_bytes())
}

// === impl KeySeal ===

impl Seal for KeySeal {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn seal(&self, tx: TypedTransaction) -> BoxFuture<'_, Result<Sealed, SealError>> {
        Box::pin(async move {
            let signature = self.0.sign_hash_sync(&tx.signature_hash()).expect("a key in memory signs");
            let signed = tx.into_envelope(signature);
            Ok(Sealed { raw: signed.encoded_2718().into(), hash: *signed.tx_hash() })
        })
    }
}
