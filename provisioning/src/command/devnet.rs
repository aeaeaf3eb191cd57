//! `rig devnet up`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::devnet::{
    AnvilError, ContractSettings, Devnet as Network, DevnetError, DevnetOptions, Ready, anvil::ENV_ANVIL,
};
use crate::exit::{Exit, Failure};
use crate::screen::{Screen, Table};

/// The port that every Ethereum tool tries first.
const PORT: u16 = 8545;

#[derive(Debug, Subcommand)]
pub(crate) enum Devnet {
    /// Start a local network and run it until SIGINT or SIGTERM.
    ///
    /// A real chain (anvil, chain id 31337), the network's contracts, a content service, and seven funded accounts.
    /// All of it listens on 127.0.0.1 only. When everything answers, one line (or table) says where it is.
    #[command(after_help = "\
Examples:
  rig devnet up --port 0 --json > devnet.json &
  rig devnet up --state ~/devnet --block-time 1")]
    Up(Up),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The chain's port on 127.0.0.1; 0 takes any that is free.
    #[arg(long, value_name = "N", default_value_t = PORT)]
    port: u16,
    /// A block each so many seconds, such as 0.5; without it, a block for each transaction.
    #[arg(long, value_name = "SECONDS", value_parser = parse_block_time)]
    block_time: Option<Duration>,
    /// Keep the chain and the documents here, so that they survive a restart.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The anvil to run; otherwise it is looked for in $PATH and in target/devnet.
    #[arg(long, value_name = "PATH", env = ENV_ANVIL)]
    anvil: Option<PathBuf>,
    /// Use keys that nobody knows instead of the well-known test keys.
    #[arg(long)]
    fresh_keys: bool,
    /// Seconds from unbonding stake to claiming it; 5 unless set.
    #[arg(long, value_name = "SECONDS")]
    unbonding_period: Option<u64>,
    /// Make the account `agent` the network's default agent.
    #[arg(long)]
    default_agent: bool,
    /// Let anybody publish tasks to a source, at their own expense.
    #[arg(long)]
    open_publish: bool,
}

// === impl Devnet ===

impl Devnet {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self {
            Devnet::Up(up) => up.run(screen).await,
        }
    }
}

impl Up {
    async fn run(self, screen: Screen) -> Result<(), Failure> {
        // Before anything is started, so that a signal during the start also ends it in order.
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let waiting = screen.wait("starting the local network");
        let network = tokio::select! {
            network = Network::up(self.options()) => network?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        drop(waiting);
        screen.answer(&network.ready, || describe(screen, &network.ready));
        let ended = tokio::select! {
            () = network.ended() => true,
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
        };
        network.down().await?;
        match ended {
            true => Err(Failure::new(Exit::Failed, "anvil ended by itself")),
            false => Ok(()),
        }
    }

    fn options(self) -> DevnetOptions {
        DevnetOptions {
            port: self.port,
            block_time: self.block_time,
            state: self.state,
            anvil: self.anvil,
            fresh_keys: self.fresh_keys,
            forgets: false,
            contracts: ContractSettings {
                unbonding_period_s: self.unbonding_period,
                has_default_agent: self.default_agent,
                is_publish_open: self.open_publish,
                ..ContractSettings::default()
            },
        }
    }
}

impl From<DevnetError> for Failure {
    fn from(error: DevnetError) -> Failure {
        let next = match &error {
            DevnetError::Anvil(AnvilError::Ended { .. }) => Some("take another port with --port, or any with --port 0"),
            DevnetError::Listen { .. } => Some("stop what listens there, or start from an empty --state folder"),
            DevnetError::State(_) => Some("name another --state folder"),
            _ => None,
        };
        let exit = match &error {
            DevnetError::Anvil(AnvilError::NotThere { .. }) => Exit::Usage,
            _ => Exit::Failed,
        };
        let failure = Failure::new(exit, error);
        match next {
            Some(step) => failure.next(step),
            None => failure,
        }
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, error))
}

fn parse_block_time(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("must be above 0".to_owned()),
    }
}

fn describe(screen: Screen, ready: &Ready) -> String {
    let mut places = Table::with_header(["what", "where"]);
    let contracts = &ready.contracts;
    let addresses = [
        ("NEXUS", contracts.nexus),
        ("CONTROLLER", contracts.controller),
        ("TERMINAL", contracts.terminal),
        ("VAULT", contracts.vault),
        ("MANAGER", contracts.manager),
    ];
    places.push(["rpc".into(), ready.rpc.to_string()]);
    places.push(["ws".into(), ready.ws.to_string()]);
    places.push(["chain id".into(), ready.chain_id.to_string()]);
    for (name, address) in addresses {
        places.push([name.into(), address.to_string()]);
    }
    places.push(["pin API".into(), ready.ipfs_publish.to_string()]);
    places.push(["gateway".into(), ready.ipfs_gateway.to_string()]);
    places.push(["unbonding".into(), format!("{} s", ready.unbonding_period)]);
    let mut accounts = Table::with_header(["role", "address", "key"]);
    for account in &ready.accounts {
        accounts.push([account.role.to_string(), account.address.to_string(), account.key.to_string()]);
    }
    format!("{}\n\n{}\n\nCtrl-C stops it.", screen.table(&places), screen.table(&accounts))
}
