//! `rig.toml`: everything that an owner can set, parsed once into plain types.
//!
//! Unknown keys are refused with their line and the nearest key. Every key but the owner, the network and the places of
//! things has a default that is safe to earn with.

mod faces;
#[cfg(test)]
mod machine;
mod sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use alloy_primitives::utils::{ParseUnits, parse_units};
use alloy_primitives::{Address, U256};
use boot::sections::{Ethernet, Fleet, KeyWish, StateWish, Wifi};
use chain::content::Gateways;
use chain::rpc::Network;
use chain::settings::{SettingsError, read_toml};
use serde::Deserialize;
use serde::de::Error as _;
use work::policy::{Rig, Sources};
use work::source::{Environment, Environments};
use work::{ProviderId, SourceId, Wei};

pub use self::faces::{Lan, RigName, StatusPage};
use self::sources::listed_once;
pub use self::sources::{Jail, ListedSource, NetworkPolicy, SourcePolicies, SourceSettings};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Who is paid.
    pub owner: Owner,
    /// The chain and its contracts.
    pub network: Network,
    /// Where documents are published and read.
    pub content: Gateways,
    /// What work is taken.
    #[serde(default)]
    pub work: Work,
    /// Limits on what sources bring.
    #[serde(default)]
    pub limits: Limits,
    /// What every source's jail is like.
    #[serde(default)]
    pub jail: Jail,
    /// What the machine's GPUs are used for.
    #[serde(default)]
    pub gpu: Gpu,
    /// What is different for some sources: the tables `[[source]]`.
    #[serde(default, rename = "source", deserialize_with = "listed_once")]
    pub listed: Vec<ListedSource>,
    /// The page that people on the local network can read.
    #[serde(default)]
    pub status_page: StatusPage,
    /// What the local network is told.
    #[serde(default)]
    pub lan: Lan,
    /// Where things are on this machine.
    #[serde(default)]
    pub places: Places,
    /// For the machine, which reads it before the provider starts, as the four tables below it: what people write stands
    /// in one file, so it is checked in one place.
    pub wifi: Option<Wifi>,
    /// A fixed address.
    pub ethernet: Option<Ethernet>,
    /// The fleet that this rig joins.
    pub fleet: Option<Fleet>,
    /// What is to be done with what the rig keeps.
    pub state: Option<StateWish>,
    /// How the signer is to keep the key.
    pub key: Option<KeyWish>,
}

/// Who is paid.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The owner's account. Its key never touches the rig.
    pub address: Address,
    /// A name for this rig, shown to people. Default: one made from its address.
    pub name: Option<RigName>,
}

/// What work is taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Work {
    /// `"any"`, or a list of source addresses to register to.
    pub sources: SourceList,
    /// `"self"`: bid by own policy. `"agent"`: only do what an agent attempts in the rig's name.
    pub attempts: Attempts,
    /// What this rig offers: `cpu`, `nvidia`, `amd`. `nvidia` is offered if and only if there is a GPU that runs bundles
    /// and [`Gpu::enabled`], whether it stands here or not.
    pub environments: Vec<Environment>,
    /// Runs at a time on the rig.
    pub max_runs: usize,
    /// Runs at a time on one source.
    pub max_runs_per_source: usize,
    /// Attempted tasks that may wait for a place.
    pub max_waiting: usize,
    /// The least payment, in coin.
    pub min_payment: Coin,
    /// What must be left of a payment after gas, in coin.
    pub min_profit: Coin,
    /// What is asked where the client chooses, in per cent of the offer, 1 to 100.
    #[serde(deserialize_with = "percent")]
    pub ask_percent: u8,
    /// Other providers' attempts that are still raced against.
    pub max_rivals: u64,
    /// A run's time before its source was measured, in seconds.
    pub expected_run_s: u64,
    /// Time kept for publishing and submitting, in seconds.
    pub respond_margin_s: u64,
    /// First block of a rig that has no ledger yet; default: the head at its first start.
    pub from_block: Option<u64>,
    /// Seconds between polls of what the chain does not announce.
    pub poll_s: u64,
}

/// Which sources to register to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceList(pub Sources);

/// Who attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attempts {
    /// The rig, by its own policy.
    #[serde(rename = "self")]
    Itself,
    /// An agent of the owner, or the network's scheduler.
    Agent,
}

/// An amount written in coin, such as `"0.25"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coin(pub Wei);

/// Limits on what sources bring.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest task input, in bytes.
    pub input_bytes: u64,
    /// Largest result, in bytes.
    pub result_bytes: u64,
    /// Largest image, all layers, as downloaded, in bytes.
    pub image_bytes: u64,
    /// How long a source may take until its port opens, in seconds.
    pub start_s: u64,
    /// Registries that are asked without TLS and may stand in a private network, as an image's name writes them:
    /// `host:port`.
    pub plain_registries: Vec<String>,
}

/// What the machine's GPUs are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Whether kernel bundles run on them.
    pub enabled: bool,
}

/// Where things are on this machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Places {
    /// Ledger and outbox.
    pub state: PathBuf,
    /// The content store.
    pub content: PathBuf,
    /// The provider's own socket, for `rig status`.
    pub provider_socket: PathBuf,
    /// The signer's socket.
    pub signer_socket: PathBuf,
    /// The runner's socket.
    pub runner_socket: PathBuf,
    /// A terminal that shows the rig's card to whoever stands before the machine, such as `/dev/console`.
    pub console: Option<PathBuf>,
    /// Where others leave notices for people, see [`boot::notices`].
    pub notices: PathBuf,
}

// === impl Settings ===

impl Settings {
    /// Reads `rig.toml`. Errors: see [`SettingsError`].
    pub fn read(path: &Path) -> Result<Settings, SettingsError> {
        read_toml(path)
    }

    /// Whether the signer, whose policy is made from the same file, can hold to it. Errors: which address is in the way.
    pub fn check(&self) -> Result<(), String> {
        let contracts = &self.network.contracts;
        let named = [
            ("owner.address", self.owner.address),
            ("network.contracts.nexus", contracts.nexus),
            ("network.contracts.terminal", contracts.terminal),
            ("network.contracts.vault", contracts.vault),
        ];
        for (at, (key, address)) in named.iter().enumerate() {
            if address.is_zero() {
                return Err(format!("{key} is the zero address, which is nobody's"));
            }
            if let Some((other, _)) = named[..at].iter().find(|(_, earlier)| earlier == address) {
                return Err(format!("{key} is the same address as {other}"));
            }
        }
        Ok(())
    }

    /// What holds for one source.
    pub fn source(&self, source: SourceId) -> SourceSettings {
        self.policies().of(source)
    }

    /// What holds for each source.
    pub fn policies(&self) -> SourcePolicies {
        SourcePolicies::new(self.jail, self.listed.clone())
    }

    /// What people call the rig that signs as `address`.
    pub fn name(&self, address: Address) -> RigName {
        self.owner.name.clone().unwrap_or_else(|| RigName::of(address))
    }

    /// What the rig offers on a machine that has a GPU which runs bundles, or has none.
    pub fn environments(&self, has_gpu: bool) -> Environments {
        let others = self.work.environments.iter().copied().filter(|environment| *environment != Environment::Nvidia);
        others.chain((has_gpu && self.gpu.enabled).then_some(Environment::Nvidia)).collect()
    }

    /// The part that decisions need, for the account `provider` that publishes the base data `base_data_cid` and offers
    /// these [environments](Settings::environments).
    pub fn rig(&self, provider: Address, base_data_cid: String, environments: Environments) -> Rig {
        let work = &self.work;
        Rig {
            provider: ProviderId(provider),
            owner: ProviderId(self.owner.address),
            base_data_cid,
            environments,
            sources: work.sources.0.clone(),
            attempts_itself: work.attempts == Attempts::Itself,
            max_runs: work.max_runs,
            max_runs_per_source: work.max_runs_per_source,
            max_waiting: work.max_waiting,
            min_payment_wei: work.min_payment.0,
            min_profit_wei: work.min_profit.0,
            ask_percent: work.ask_percent,
            max_rivals: work.max_rivals,
            expected_run_s: work.expected_run_s,
            respond_margin_s: work.respond_margin_s,
        }
    }
}

fn percent<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(from)?;
    if !(1..=100).contains(&percent) {
        return Err(D::Error::custom(format!("ask_percent is 1 to 100, not {percent}")));
    }
    Ok(percent)
}

impl Default for Work {
    fn default() -> Work {
        Work {
            sources: SourceList(Sources::Listed(BTreeSet::new())),
            attempts: Attempts::Itself,
            environments: vec![Environment::Cpu],
            max_runs: 4,
            max_runs_per_source: 1,
            max_waiting: 8,
            min_payment: Coin::default(),
            min_profit: Coin::default(),
            ask_percent: 100,
            max_rivals: 2,
            expected_run_s: 10,
            respond_margin_s: 5,
            from_block: None,
            poll_s: 15,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            input_bytes: 16 << 20,
            result_bytes: 64 << 20,
            image_bytes: 64 << 30,
            start_s: 1800,
            plain_registries: Vec::new(),
        }
    }
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu { enabled: true }
    }
}

impl Default for Places {
    fn default() -> Places {
        Places {
            state: "/var/lib/rig/provider".into(),
            content: "/var/lib/rig/content".into(),
            provider_socket: "/run/rig/provider.sock".into(),
            signer_socket: "/run/rig/signer.sock".into(),
            runner_socket: "/run/rig/runner.sock".into(),
            console: None,
            notices: "/run/rig/notices".into(),
        }
    }
}

impl<'de> Deserialize<'de> for SourceList {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<SourceList, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "sources is \"any\" or a list of source addresses")]
        enum Written {
            Word(String),
            List(BTreeSet<SourceId>),
        }
        match Written::deserialize(from)? {
            Written::Word(word) if word == "any" => Ok(SourceList(Sources::Any)),
            Written::Word(word) => {
                Err(D::Error::custom(format!("sources is \"any\" or a list of source addresses, not \"{word}\"")))
            }
            Written::List(list) => Ok(SourceList(Sources::Listed(list))),
        }
    }
}

impl<'de> Deserialize<'de> for Coin {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Coin, D::Error> {
        let text = String::deserialize(from)?;
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        // `parse_units` drops what stands after the 18th decimal, whatever it is.
        let is_exact = fraction.len() <= 18 && fraction.chars().all(|c| c.is_ascii_digit());
        match parse_units(&text, "ether") {
            Ok(_) if text.starts_with('-') => {
                Err(D::Error::custom(format!("an amount of coin is not negative, this is \"{text}\"")))
            }
            Ok(ParseUnits::U256(wei)) if is_exact => Ok(Coin(wei)),
            Ok(ParseUnits::U256(_) | ParseUnits::I256(_)) | Err(_) => {
                Err(D::Error::custom(format!("an amount of coin looks like \"0.25\", not \"{text}\"")))
            }
        }
    }
}

impl From<Coin> for U256 {
    fn from(coin: Coin) -> U256 {
        coin.0
    }
}

#[cfg(test)]
mod tests {
    use chain::settings::parse_toml;

    use super::*;

    const EXAMPLE: &str = include_str!("../rig.example.toml");

    fn words(from: &str, to: &str) -> String {
        let text = EXAMPLE.replace(from, to);
        assert_ne!(text, EXAMPLE, "`{from}` is in the example");
        parse_toml::<Settings>(&text, Path::new("rig.toml")).expect_err("the text is bad").to_string()
    }

    #[test]
    fn the_shipped_example_is_valid() {
        let settings: Settings = parse_toml(EXAMPLE, Path::new("rig.toml")).expect("parses");
        assert_eq!(settings.work.sources.0, Sources::Any);
        assert!(EXAMPLE.contains("[gpu]\n") && settings.gpu.enabled);
        assert_eq!(settings.work.min_payment.0, Wei::from(1_000_000_000_000_000_u64));
        let listen = settings.status_page.listen.map(|listen| listen.to_string());
        assert_eq!(listen.as_deref(), Some("0.0.0.0:80"));
        assert!(settings.lan.announce && settings.lan.interface.is_none());
        let text = EXAMPLE.replace("# interface =", "interface =");
        let settings: Settings = parse_toml(&text, Path::new("rig.toml")).expect("parses");
        assert_eq!(settings.lan.interface.as_deref(), Some("eno1"));
        assert_eq!(settings.places.console.as_deref(), Some(Path::new("/dev/console")));
        assert_eq!(settings.name(Address::ZERO).to_string(), "attic");
    }

    #[test]
    fn a_rig_that_is_told_nothing_of_faces_shows_none() {
        let from = EXAMPLE.find("[status_page]").expect("the page is in the example");
        let text = format!("{}[places]\n", &EXAMPLE[..from]).replace("name = \"attic\"", "");
        let settings: Settings = parse_toml(&text, Path::new("rig.toml")).expect("parses");
        assert!(settings.status_page.listen.is_none() && settings.places.console.is_none() && !settings.lan.announce);
        assert_eq!(settings.name(Address::repeat_byte(0xab)).to_string(), "rig-ababab");
    }

    #[test]
    fn nvidia_is_offered_where_a_gpu_is_there_and_the_owner_has_it_used() {
        let check = |written: &str, enabled: &str, has_gpu: bool, expected: &str| {
            let text = EXAMPLE.replace("[\"cpu\"]", written).replace("enabled = true", enabled);
            let settings: Settings = parse_toml(&text, Path::new("rig.toml")).expect(&text);
            assert_eq!(settings.environments(has_gpu).to_string(), expected, "{written} {enabled} {has_gpu}");
        };
        let (yes, no) = ("enabled = true", "enabled = false");
        check("[\"cpu\"]", yes, true, "nvidia+cpu");
        check("[\"cpu\"]", yes, false, "cpu");
        check("[\"cpu\"]", no, true, "cpu");
        check("[\"nvidia\"]", yes, true, "nvidia");
        check("[\"nvidia\"]", yes, false, "nothing known");
        check("[\"nvidia\", \"amd\"]", no, true, "amd");
        check("[]", yes, true, "nvidia");
        assert!(words("enabled = true", "enable = true").contains("unknown key `enable`, did you mean `enabled`?"));
        assert!(words("enabled = true", "enabled = 1").contains("line "));
    }

    #[test]
    fn a_bad_setting_is_named_with_its_line_and_what_would_be_right() {
        assert!(words("max_runs =", "max_run =").contains("unknown key `max_run`, did you mean `max_runs`?"));
        assert!(words("\"any\"", "\"all\"").contains("not \"all\""));
        assert!(words("\"0.001\"", "\"-1\"").contains("not negative"));
        assert!(words("\"0.001\"", "\"a little\"").contains("looks like \"0.25\""));
        assert!(words("\"0.001\"", "\"0.0000000000000000001x\"").contains("looks like \"0.25\""));
        assert!(words("attempts = \"self\"", "attempts = \"me\"").contains("unknown variant `me`"));
        for name in ["", "-attic", "attic-", "my rig", "<b>", "rig.local", "\u{e4}ttic", &"a".repeat(33)] {
            assert!(words("\"attic\"", &format!("\"{name}\"")).contains("a rig's name is"), "{name}");
        }
        assert!(words("0.0.0.0:80", "all").contains("line "));
        assert!(words("announce = true", "announce = \"yes\"").contains("line "));
        assert!(words("announce = true", "anounce = true").contains("did you mean `announce`?"));
    }
}
