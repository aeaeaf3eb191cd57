//! Which network a command talks to.
//!
//! A network comes from one of three places: a name that is built in, a TOML file with the two tables `[network]` and
//! `[content]` exactly as they stand in a rig's `rig.toml`, or the line that `rig devnet up --json` printed.
//!
//! Invariant: an address in a file is refused when its checksum is wrong, like one on the command line.

use std::io;
use std::path::{Path, PathBuf};

use chain::content::Gateways;
use chain::rpc::{EndpointState, Network, Rpc, RpcError};
use chain::settings::{SettingsError, parse_toml, read_toml};
use clap::Args;
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use crate::devnet::Ready;
use crate::exit::{Exit, Failure};
use crate::parse;

/// Mainnet, as published in the SDK and on the project's site.
const MAINNET: &str = r#"
[network]
chain_id = 1071
rpc_urls = ["https://mainnet-rpc.ogpuscan.io"]
ws_url = "wss://mainnet-rpc.ogpuscan.io"
[network.contracts]
nexus = "0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1"
controller = "0x8661F4B9c30e07A04d795A192478dfD905625a1D"
terminal = "0xaEBC7b712D38Fc4d841f0732c21B8774339869D3"
vault = "0xa5c582254AA313528898311362bc698b041580cC"
[content]
publish = "https://capi.ogpuscan.io/file/create"
gateways = ["https://cipfs.ogpuscan.io"]
"#;

/// The test network, as published in the SDK.
const TESTNET: &str = r#"
[network]
chain_id = 200820172034
rpc_urls = ["https://testnetrpc.ogpuscan.io"]
[network.contracts]
nexus = "0xF87bb2f3edB991a998992f14d35fE142e6Bb50b1"
controller = "0x9fb6022074Fd7Bdb429de0776eb693cA0CB55E09"
terminal = "0x1ea332Fc14a5AFD3AF3852B45C263Ab5b1Dd6f52"
vault = "0x15905a2FbD3EF5d3532b931b5656BB9EB493Bb15"
[content]
publish = "https://capi.ogpuscan.io/file/create"
gateways = ["https://cipfs.ogpuscan.io"]
"#;

/// The network, on the command line.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// `mainnet`, `testnet`, or a TOML file with the tables `[network]` and `[content]` of a rig.toml.
    #[arg(long, value_name = "NAME|FILE", env = "RIG_NETWORK", default_value = "mainnet", conflicts_with = "devnet")]
    network: String,
    /// A local network: a file with the line that `rig devnet up --json` printed.
    #[arg(long, value_name = "FILE", env = "RIG_DEVNET")]
    devnet: Option<PathBuf>,
}

/// Everything that is needed to talk to a network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkSettings {
    /// The chain and its contracts.
    pub(crate) network: Network,
    /// Where documents are published and read.
    pub(crate) content: Gateways,
}

/// Why there is no network to talk to.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{} has a bad address: {why}", .path.display())]
    Address { path: PathBuf, why: String },
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not the line that `rig devnet up --json` prints", .path.display())]
    Devnet {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("no endpoint of chain {chain_id} answers: {}", .states.join("; "))]
    Unreachable { chain_id: u64, states: Vec<String> },
}

// === impl NetworkArgs ===

impl NetworkArgs {
    /// Reads the settings. Contacts nobody.
    pub(crate) fn settings(&self) -> Result<NetworkSettings, NetworkError> {
        if let Some(path) = &self.devnet {
            return from_devnet(path);
        }
        match built_in(&self.network) {
            Some(settings) => Ok(settings),
            None => from_toml(Path::new(&self.network)),
        }
    }
}

/// The network that everybody knows by `name`.
pub(crate) fn built_in(name: &str) -> Option<NetworkSettings> {
    let text = match name {
        "mainnet" => MAINNET,
        "testnet" => TESTNET,
        _ => return None,
    };
    Some(parse_toml(text, Path::new(name)).expect("what is built in is parsed by a test"))
}

// === impl NetworkSettings ===

impl NetworkSettings {
    /// Connects, and insists that somebody answers: a person is waiting, who can do something about it.
    pub(crate) async fn connect(&self) -> Result<Rpc, NetworkError> {
        let rpc = Rpc::connect(self.network.clone()).await?;
        let endpoints = rpc.endpoints();
        if endpoints.iter().any(|each| matches!(each.state, EndpointState::Healthy | EndpointState::Lagging)) {
            return Ok(rpc);
        }
        // The path of an address may hold an access token.
        let host = |url: &Url| url.host_str().unwrap_or("?").to_owned();
        let states = endpoints.iter().map(|each| format!("{}: {}", host(&each.url), words(&each.state))).collect();
        Err(NetworkError::Unreachable { chain_id: self.network.chain_id, states })
    }

    /// Whether the chain is one of this machine, whose history may begin anew at any time.
    pub(crate) fn is_local(&self) -> bool {
        self.network.chain_id == crate::devnet::anvil::CHAIN_ID
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Failure {
        let (exit, next) = match &error {
            NetworkError::Settings(SettingsError::Read { .. }) | NetworkError::Read { .. } => {
                (Exit::Usage, "name a network with --network mainnet, --network FILE.toml or --devnet FILE.json")
            }
            NetworkError::Settings(_) | NetworkError::Address { .. } => (Exit::Usage, "correct the file and try again"),
            NetworkError::Devnet { .. } => (Exit::Usage, "write it with: rig devnet up --json > FILE"),
            NetworkError::Rpc(RpcError::WrongChain { .. }) => {
                (Exit::WrongNetwork, "compare chain_id and rpc_urls: one of them belongs to another network")
            }
            NetworkError::Rpc(_) => (Exit::Usage, "correct rpc_urls"),
            NetworkError::Unreachable { .. } => (Exit::Unreachable, "check the connection, or name another endpoint"),
        };
        Failure::new(exit, error).next(next)
    }
}

fn words(state: &EndpointState) -> String {
    match state {
        EndpointState::Healthy => "healthy".to_owned(),
        EndpointState::Lagging => "its head is old".to_owned(),
        EndpointState::WrongChain { got } => format!("it is on chain {got}"),
        EndpointState::Unreachable { why } => why.clone(),
    }
}

fn from_toml(path: &Path) -> Result<NetworkSettings, NetworkError> {
    let settings = read_toml(path)?;
    let text = std::fs::read_to_string(path).map_err(|source| NetworkError::Read { path: path.to_owned(), source })?;
    checksums(&text).map_err(|why| NetworkError::Address { path: path.to_owned(), why })?;
    Ok(settings)
}

/// Checks the addresses in `[network.contracts]` of `text`, if there are any.
///
/// Errors: a sentence that says which is wrong.
pub(crate) fn checksums(text: &str) -> Result<(), String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let contracts = table.get("network").and_then(|network| network.get("contracts")).and_then(|all| all.as_table());
    for address in contracts.into_iter().flatten().filter_map(|(_, value)| value.as_str()) {
        parse::address(address)?;
    }
    Ok(())
}

/// The tables `[network]` and `[content]` of a network as text, for a rig's `rig.toml`: of one that is built in, of a
/// TOML file, or of a file with the line that `rig devnet up --json` printed.
pub(crate) fn written(named: &str) -> Result<String, NetworkError> {
    let path = Path::new(named);
    match named {
        "mainnet" => return Ok(MAINNET.to_owned()),
        "testnet" => return Ok(TESTNET.to_owned()),
        _ => {}
    }
    let text = std::fs::read_to_string(path).map_err(|source| NetworkError::Read { path: path.to_owned(), source })?;
    if text.trim_start().starts_with('{') {
        let ready: Ready =
            serde_json::from_str(&text).map_err(|source| NetworkError::Devnet { path: path.to_owned(), source })?;
        return Ok(written_devnet(&ready));
    }
    from_toml(path)?;
    Ok(text)
}

fn written_devnet(ready: &Ready) -> String {
    let Ready { rpc, ws, chain_id, contracts, ipfs_publish, ipfs_gateway, .. } = ready;
    format!(
        "[network]\nchain_id = {chain_id}\nrpc_urls = [\"{rpc}\"]\nws_url = \"{ws}\"\n\n[network.contracts]\n\
         nexus = \"{}\"\ncontroller = \"{}\"\nterminal = \"{}\"\nvault = \"{}\"\n\n[content]\n\
         publish = \"{ipfs_publish}\"\ngateways = [\"{ipfs_gateway}\"]\nallow_private = true\n",
        contracts.nexus, contracts.controller, contracts.terminal, contracts.vault
    )
}

fn from_devnet(path: &Path) -> Result<NetworkSettings, NetworkError> {
    let text = std::fs::read(path).map_err(|source| NetworkError::Read { path: path.to_owned(), source })?;
    let ready: Ready =
        serde_json::from_slice(&text).map_err(|source| NetworkError::Devnet { path: path.to_owned(), source })?;
    Ok(NetworkSettings::from(ready))
}

impl From<Ready> for NetworkSettings {
    fn from(ready: Ready) -> NetworkSettings {
        let network = ready.network();
        let mut content = Gateways::new(ready.ipfs_publish);
        content.gateways = vec![ready.ipfs_gateway];
        content.allow_private = true;
        NetworkSettings { network, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(network: &str) -> NetworkArgs {
        NetworkArgs { network: network.to_owned(), devnet: None }
    }

    #[test]
    fn the_built_in_networks_are_valid_and_different() {
        let mainnet = named("mainnet").settings().expect("mainnet parses");
        let testnet = named("testnet").settings().expect("testnet parses");
        assert_eq!(mainnet.network.chain_id, 1071);
        assert_eq!(testnet.network.chain_id, 0x2E_C1D0_A502);
        assert_ne!(mainnet.network.contracts, testnet.network.contracts);
        for text in [MAINNET, TESTNET] {
            for line in text.lines().filter(|line| line.contains("\"0x")) {
                let address = line.split('"').nth(1).expect("a quoted address");
                assert!(parse::address(address).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn a_bad_network_file_is_refused_in_words_that_help() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = TESTNET.replace(from, to);
            assert_ne!(text, TESTNET, "`{from}` is in the example");
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), text).expect("it can be written");
            let path = file.path().display().to_string();
            let words = named(&path).settings().expect_err("the file is bad").to_string();
            assert!(words.contains(expected), "{words}");
        };
        check("rpc_urls", "rpc_url", "line 4: unknown key `rpc_url`, did you mean `rpc_urls`?");
        check("0xF87bb2f3edB9", "0xf87bb2f3edB9", "has a wrong checksum");
        check("nexus =", "nexos =", "did you mean `nexus`?");
        check("200820172034", "\"test\"", "line 3");
    }
}
