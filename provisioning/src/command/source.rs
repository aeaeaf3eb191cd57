//! `rig source publish`: offers a kind of work.

use std::path::Path;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use chain::abi::{Nexus, SourceParams, Vault};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use url::Url;

use crate::exit::{Exit, Failure};
use crate::owner::{Owner, OwnerArgs, OwnerError, unread};
use crate::parse::{self, coin_words};
use crate::screen::Screen;

mod bundle;

use self::bundle::BundleArgs;

/// A compose file is a page or two; this is what a rig would still read.
const COMPOSE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Source {
    /// Offer a kind of work: publish a container image's compose files and the terms.
    ///
    /// Local compose files are published first; links are taken as they are. The lockup that the vault asks of a
    /// client for one more source is deposited and locked if it is missing.
    ///
    /// With --bundle the compose file for NVIDIA GPUs is written and published too: it names the bundle, which rigs run,
    /// and the image, if one is given, for providers that run containers.
    #[command(after_help = "\
Examples:
  rig source publish --name echo --cpu-compose compose.yml --min-payment 0.01 --key-file client.key
  rig source publish --name render --bundle render.bundle --min-payment 0.01 --key-file client.key")]
    Publish(Box<Publish>),
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// What to call it.
    #[arg(long)]
    name: String,
    /// What it does.
    #[arg(long, default_value = "")]
    description: String,
    /// A link to a picture.
    #[arg(long, value_name = "URL", default_value = "")]
    logo_url: String,
    /// Its docker-compose file for rigs without an accelerator.
    #[arg(long, value_name = "FILE|URL", required_unless_present_any = ["nvidia_compose", "amd_compose", "bundle"])]
    cpu_compose: Option<String>,
    /// Its docker-compose file for NVIDIA GPUs.
    #[arg(long, visible_alias = "nvidia", value_name = "FILE|URL")]
    nvidia_compose: Option<String>,
    /// Its docker-compose file for AMD GPUs.
    #[arg(long, visible_alias = "amd", value_name = "FILE|URL")]
    amd_compose: Option<String>,
    #[command(flatten)]
    bundle: BundleArgs,
    /// The least that a task must pay.
    #[arg(long, value_name = "COIN", default_value = "0", value_parser = parse::coin)]
    min_payment: U256,
    /// The stake that a rig must have.
    #[arg(long, value_name = "COIN", default_value = "0", value_parser = parse::coin)]
    min_stake: U256,
    /// The longest that a task may take.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse::span)]
    max_expiry: Duration,
    /// How a response becomes payment.
    #[arg(long, value_enum, default_value_t = Delivery::FirstResponse)]
    delivery: Delivery,
    #[command(flatten)]
    owner: OwnerArgs,
}

/// How a response becomes payment. The numbers are the contract's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
enum Delivery {
    /// The client confirms one of the responses.
    Manual = 0,
    /// The first response is paid at once.
    FirstResponse = 1,
}

#[derive(Debug, Serialize)]
struct Answer {
    source: String,
    metadata: String,
    tx: String,
    block: u64,
}

// === impl Source ===

impl Source {
    pub(crate) async fn run(self, screen: Screen) -> Result<(), Failure> {
        match self {
            Source::Publish(publish) => publish.run(screen).await,
        }
    }
}

// === impl Publish ===

impl Publish {
    async fn run(self, screen: Screen) -> Result<(), Failure> {
        // Before anything is sent: a mistyped path should cost nothing.
        let bundled = self.bundle.read()?;
        let composes = [&self.cpu_compose, &self.nvidia_compose, &self.amd_compose];
        let [cpu, nvidia, amd] = composes.map(|file| file.as_deref().map(Compose::read).transpose());
        let (cpu, nvidia, amd) = (cpu?, nvidia?, amd?);
        let offered = [(cpu.is_some(), 1), (nvidia.is_some() || bundled.is_some(), 2), (amd.is_some(), 4)];
        let environments = offered.iter().filter(|(is_offered, _)| *is_offered).map(|(_, bit)| bit).sum();
        let owner = self.owner.open(screen).await?;
        self.lock_what_is_missing(&owner, screen).await?;
        let nvidia = match bundled {
            Some(bundled) => bundled.link(&owner, screen).await?,
            None => Compose::link(nvidia, &owner, screen).await?,
        };
        let metadata = json!({
            "cpu": Compose::link(cpu, &owner, screen).await?,
            "nvidia": nvidia,
            "amd": Compose::link(amd, &owner, screen).await?,
            "name": self.name,
            "description": self.description,
            "logoUrl": self.logo_url,
        });
        let metadata = pin(&owner, screen, "imageMetadata.json", "application/json", metadata.to_string()).await?;
        let at = owner.contracts().nexus;
        let call =
            Nexus::publishSourceCall { _sourceParams: self.params(owner.address, metadata.clone(), environments) };
        let done = owner.send("publishing the source", at, &call, U256::ZERO).await?;
        let event: Nexus::SourcePublished = owner.event("the new source", at, done.tx).await?;
        owner.close().await?;
        let answer = Answer { source: event.source.to_string(), metadata, tx: done.tx.to_string(), block: done.block };
        screen.answer(&answer, || answer.source.clone());
        Ok(())
    }

    fn params(&self, client: Address, metadata: String, environments: u8) -> SourceParams {
        SourceParams {
            client,
            imageMetadataUrl: metadata,
            imageEnvironments: environments,
            minPayment: self.min_payment,
            minAvailableLockup: self.min_stake,
            maxExpiryDuration: U256::from(self.max_expiry.as_secs()),
            privacyEnabled: false,
            optionalParamsUrl: String::new(),
            deliveryMethod: self.delivery as u8,
            lastUpdateTime: U256::ZERO,
        }
    }

    /// Locks what the vault asks of a client with one source more, depositing what the balance lacks of it.
    async fn lock_what_is_missing(&self, owner: &Owner, screen: Screen) -> Result<(), OwnerError> {
        let read = unread("the lockup that a source needs");
        let (at, client) = (owner.contracts().vault, owner.address);
        let (vault, nexus) = (Vault::new(at, owner.provider()), Nexus::new(owner.contracts().nexus, owner.provider()));
        let each = vault.MIN_LOCKUP_PER_SOURCE().call().await.map_err(read)?;
        let sources = nexus.getActiveSourceCount(client).call().await.map_err(read)?;
        let needed = each.saturating_mul(sources.saturating_add(U256::from(1)));
        let missing = needed.saturating_sub(vault.lockupOf(client).call().await.map_err(read)?);
        if missing.is_zero() {
            return Ok(());
        }
        screen.note(&format!("The vault asks for {} coin of lockup more; locking it.", coin_words(missing)));
        top_up(owner, screen, missing).await?;
        owner.send("locking", at, &Vault::lockCall { amount: missing }, U256::ZERO).await?;
        Ok(())
    }
}

/// Deposits what the wallet's vault balance lacks of `needed_wei`, and says so.
pub(super) async fn top_up(owner: &Owner, screen: Screen, needed_wei: U256) -> Result<(), OwnerError> {
    let at = owner.contracts().vault;
    let balance = Vault::new(at, owner.provider()).balanceOf(owner.address).call().await;
    let balance = balance.map_err(unread("the balance in the vault"))?;
    let short = needed_wei.saturating_sub(balance);
    if short.is_zero() {
        return Ok(());
    }
    screen.note(&format!("The vault balance lacks {} coin; depositing it.", coin_words(short)));
    owner.send("depositing", at, &Vault::depositCall { account: owner.address }, short).await?;
    Ok(())
}

/// Publishes a document and returns its link.
pub(super) async fn pin(
    owner: &Owner,
    screen: Screen,
    name: &str,
    content_type: &str,
    document: impl Into<Vec<u8>>,
) -> Result<String, Failure> {
    let _waiting = screen.wait(format!("publishing {name}"));
    match owner.content.pin(name, content_type, document.into()).await {
        Ok(link) => Ok(link.url.to_string()),
        Err(error) => {
            let exit = if error.is_final() { Exit::Failed } else { Exit::Unreachable };
            Err(Failure::new(exit, error).next("check `publish` in the network's [content], or try again later"))
        }
    }
}

/// A compose file, here or somewhere.
#[derive(Debug)]
enum Compose {
    Text(String),
    Link(Url),
}

// === impl Compose ===

impl Compose {
    fn read(given: &str) -> Result<Compose, Failure> {
        if let Ok(url) = Url::parse(given)
            && matches!(url.scheme(), "http" | "https")
        {
            return Ok(Compose::Link(url));
        }
        let path = Path::new(given);
        let usage = |words: String| Failure::new(Exit::Usage, words).next("name a compose file, or an http(s) link");
        let meta = std::fs::metadata(path).map_err(|error| usage(format!("read {given}: {error}")))?;
        if meta.len() > COMPOSE_BYTES_MAX {
            return Err(usage(format!(
                "{given} has {} bytes; compose files have at most {COMPOSE_BYTES_MAX}",
                meta.len()
            )));
        }
        std::fs::read_to_string(path).map(Compose::Text).map_err(|error| usage(format!("read {given}: {error}")))
    }

    /// Its link; an absent one is an empty string, as the network's providers expect it.
    async fn link(compose: Option<Compose>, owner: &Owner, screen: Screen) -> Result<String, Failure> {
        match compose {
            None => Ok(String::new()),
            Some(Compose::Link(url)) => Ok(url.to_string()),
            Some(Compose::Text(text)) => pin(owner, screen, "docker-compose.yml", "application/yaml", text).await,
        }
    }
}
