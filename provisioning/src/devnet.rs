//! A local OpenGPU Network: a real chain, the contracts, and the content service, on this machine.
//!
//! [`Devnet::up`] starts it inside the calling process, for tests and measurements; `rig devnet up` is the same for
//! people. Invariants:
//! * [`Ready`] is told when everything it names answers, never before.
//! * Everything listens on the loopback interface only.
//! * Nothing survives the process: anvil ends with it (see [`anvil`]), and without a state folder the files go too.
//! * With a state folder, contracts, balances, tasks and documents are the same after a restart.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy::primitives::Address;
use alloy::providers::ext::AnvilApi;
use alloy::providers::{Provider, RootProvider};
use alloy::transports::TransportError;
use chain::rpc::{Contracts, Network};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::anvil::{Anvil, AnvilOptions, CHAIN_ID};
use self::kept::{Kept, StateFolder};

pub mod anvil;
pub mod content;

mod accounts;
mod deploy;
mod kept;

pub use self::accounts::{Account, Role};
pub use self::anvil::AnvilError;
pub use self::deploy::{ContractSettings, DeployError, DevnetContracts};
pub use self::kept::StateError;

/// How the local network should be.
#[derive(Clone, Debug, Default)]
pub struct DevnetOptions {
    /// The port of the chain's RPC, on 127.0.0.1; 0 for any.
    pub port: u16,
    /// A block each so often; `None` for a block per transaction.
    pub block_time: Option<Duration>,
    /// Where the network is kept between runs; `None` for nowhere.
    pub state: Option<PathBuf>,
    /// The anvil to use; `None` to look for one, see [`anvil::find`].
    pub anvil: Option<PathBuf>,
    /// Whether the accounts have keys that nobody knows, instead of the well-known ones.
    pub fresh_keys: bool,
    /// Whether the states of old blocks are dropped, which a chain of very many blocks needs.
    pub forgets: bool,
    /// What the contracts do where the real ones are unknown. Ignored by a network that was kept.
    pub contracts: ContractSettings,
}

/// What `rig devnet up --json` prints, in one line, when all is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// JSON-RPC over HTTP.
    pub rpc: Url,
    /// JSON-RPC over a WebSocket.
    pub ws: Url,
    /// 31337.
    pub chain_id: u64,
    /// Where the contracts stand.
    pub contracts: DevnetContracts,
    /// The pin API: `POST` a multipart part named `file`.
    pub ipfs_publish: Url,
    /// The gateway: `GET` below it by CID.
    pub ipfs_gateway: Url,
    /// From `unbond` to `claim`, in seconds.
    pub unbonding_period: u64,
    /// The funded accounts, the deployer left out.
    pub accounts: Vec<Account>,
}

/// A running local network. Dropping it stops it without waiting; [`Devnet::down`] waits, and is what keeps a state
/// folder whole.
#[derive(Debug)]
pub struct Devnet {
    /// Where everything is.
    pub ready: Ready,
    deployer: Account,
    chain: Anvil,
    content: ContentService,
    _folder: Folder,
}

/// Why there is no local network.
#[derive(Debug, Error)]
pub enum DevnetError {
    /// No folder for its files.
    #[error("make a temporary folder")]
    Scratch(#[source] io::Error),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The chain did not start, or did not stop well.
    #[error(transparent)]
    Anvil(#[from] AnvilError),
    /// The chain did not answer.
    #[error("ask the local chain")]
    Chain(#[source] TransportError),
    /// The contracts could not be deployed.
    #[error("deploy the contracts")]
    Deploy(#[from] DeployError),
    /// Anvil gave other accounts than it was asked for.
    #[error("anvil gave fewer accounts than it was asked for")]
    Accounts,
    /// The content service has no port.
    #[error("listen on 127.0.0.1:{port} for the content service")]
    Listen {
        /// The port; 0 means any.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
struct ContentService {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Where the network's files are; held until it is down.
#[derive(Debug)]
struct Folder {
    scratch: TempDir,
    kept: Option<StateFolder>,
}

// === impl Devnet ===

impl Devnet {
    /// Starts a local network and waits until it is ready. Must be called on a tokio runtime with I/O and time, which
    /// also carries the content service: a test that blocks its only thread gets no documents.
    ///
    /// Errors: anvil is missing or does not start, a port is taken, or the state folder is in use or foreign.
    pub async fn up(options: DevnetOptions) -> Result<Devnet, DevnetError> {
        let program = anvil::find(options.anvil.as_deref())?;
        let folder = Folder::open(options.state.as_deref())?;
        let kept = folder.load()?;
        let chain = Anvil::start(&AnvilOptions {
            forgets: options.forgets,
            program: &program,
            port: options.port,
            block_time: options.block_time,
            state: folder.kept.as_ref().map(StateFolder::chain_file).as_deref(),
            fresh_keys: options.fresh_keys,
            scratch: folder.scratch.path(),
        })
        .await?;
        let provider = RootProvider::new_http(local_url("http", chain.port, ""));
        // Anvil prints a line per request unless told otherwise, and each would be read and thrown away.
        provider.anvil_set_logging(false).await.map_err(DevnetError::Chain)?;
        let kept = match kept {
            Some(kept) if is_deployed(&provider, kept.contracts.nexus).await? => Some(kept),
            _ => None,
        };
        let (content, content_port) = folder.serve_content(kept.as_ref().map_or(0, |kept| kept.content_port)).await?;
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let accounts = accounts::assign(&chain.keys).ok_or(DevnetError::Accounts)?;
                let contracts = deploy::deploy(&provider, &accounts, &options.contracts).await?;
                folder.save(Kept::new(deploy::fingerprint(), contracts, accounts, content_port))?
            }
        };
        let unbonding_period = deploy::unbonding_period_s(&provider, kept.contracts.vault).await?;
        let (deployer, accounts) = without_deployer(kept.accounts);
        let ready = Ready {
            rpc: local_url("http", chain.port, ""),
            ws: local_url("ws", chain.port, ""),
            chain_id: CHAIN_ID,
            contracts: kept.contracts,
            ipfs_publish: local_url("http", content_port, "file/create"),
            ipfs_gateway: local_url("http", content_port, "ipfs"),
            unbonding_period,
            accounts,
        };
        Ok(Devnet { ready, deployer, chain, content, _folder: folder })
    }

    /// Stops everything and waits until it has stopped.
    ///
    /// Errors: anvil had to be killed, or failed to write its state.
    pub async fn down(self) -> Result<(), DevnetError> {
        let Devnet { chain, content, _folder, .. } = self;
        content.stop().await;
        Ok(chain.stop().await?)
    }

    /// Resolves if the chain ends by itself, which it should not.
    pub async fn ended(&self) {
        self.chain.ended().await;
    }

    /// The account that administers the contracts.
    pub fn deployer(&self) -> &Account {
        &self.deployer
    }

    /// The account that has `role`.
    pub fn account(&self, role: Role) -> &Account {
        match role {
            Role::Deployer => &self.deployer,
            role => self.ready.account(role).expect("every other role is in the ready line"),
        }
    }
}

// === impl Ready ===

impl Ready {
    /// The account that has `role`; none for the deployer.
    pub fn account(&self, role: Role) -> Option<&Account> {
        self.accounts.iter().find(|account| account.role == role)
    }

    /// The network as those who speak to it describe it.
    pub fn network(&self) -> Network {
        let at = &self.contracts;
        Network {
            chain_id: self.chain_id,
            contracts: Contracts { nexus: at.nexus, controller: at.controller, terminal: at.terminal, vault: at.vault },
            rpc_urls: vec![self.rpc.clone()],
            ws_url: Some(self.ws.clone()),
            confirmations: 1,
            // A chain that mines only when it is asked to has a head of any age.
            head_lag_max_s: u64::from(u32::MAX),
            request_timeout_ms: 10_000,
        }
    }
}

// === impl Folder ===

impl Folder {
    fn open(state: Option<&Path>) -> Result<Folder, DevnetError> {
        let kept = state.map(StateFolder::open).transpose()?;
        let scratch = tempfile::Builder::new().prefix("rig-devnet-").tempdir().map_err(DevnetError::Scratch)?;
        Ok(Folder { scratch, kept })
    }

    fn load(&self) -> Result<Option<Kept>, StateError> {
        self.kept.as_ref().map_or(Ok(None), |folder| folder.load(deploy::fingerprint()))
    }

    fn save(&self, kept: Kept) -> Result<Kept, StateError> {
        self.kept.as_ref().map_or(Ok(()), |folder| folder.save(&kept))?;
        Ok(kept)
    }

    /// Starts the content service on `port`, 0 for any, and tells which it is.
    async fn serve_content(&self, port: u16) -> Result<(ContentService, u16), DevnetError> {
        let fault = |source| DevnetError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(fault)?;
        let bound = listener.local_addr().map_err(fault)?.port();
        let dir = self.kept.as_ref().map_or_else(|| self.scratch.path().join("content"), StateFolder::content_folder);
        std::fs::create_dir_all(&dir).map_err(DevnetError::Scratch)?;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(content::serve(listener, dir, cancel.clone()));
        Ok((ContentService { cancel, task }, bound))
    }
}

// === impl ContentService ===

impl ContentService {
    async fn stop(mut self) {
        self.cancel.cancel();
        // A panic in it was printed when it happened.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ContentService {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn local_url(scheme: &str, port: u16, path: &str) -> Url {
    format!("{scheme}://127.0.0.1:{port}/{path}").parse().expect("the parts make a URL")
}

async fn is_deployed(provider: &RootProvider, nexus: Address) -> Result<bool, DevnetError> {
    Ok(!provider.get_code_at(nexus).await.map_err(DevnetError::Chain)?.is_empty())
}

fn without_deployer(mut accounts: Vec<Account>) -> (Account, Vec<Account>) {
    let at = accounts.iter().position(|account| account.role == Role::Deployer);
    let deployer = accounts.remove(at.expect("every role has an account"));
    (deployer, accounts)
}

/// Addresses in JSON with their checksum, because web3 refuses them without.
mod checksummed {
    use alloy::primitives::Address;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        address.to_checksum(None).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        Address::deserialize(deserializer)
    }
}
