//! What anybody may see of this rig: one picture of it for the console, the page on the local network and the
//! announcement there.
//!
//! Invariants: a face holds no secret and nothing of any task. Every text in it that came from somebody else is printable,
//! has a bound, and names no more of a URL than its host, since a path may hold an access token.

pub mod keep;
mod machine;
mod network;
#[cfg(test)]
pub(crate) mod samples;

use std::path::PathBuf;

use alloy_primitives::utils::format_ether;
use alloy_primitives::{Address, U256};
use boot::notices::Notice;
use serde::Serialize;
use serde_json::Value;
use signer::{Identity, KeyState, Tier};

pub use self::machine::Machine;
use crate::identity::Seen;
use crate::settings::RigName;

/// The longest text of somebody else that is shown, in characters.
const TEXT_MAX: usize = 240;

/// Sources that are shown; the number of all is beside them.
const SOURCES_MAX: usize = 50;

/// GPUs that are shown. No board holds more.
const GPUS_MAX: usize = 32;

/// Notices that are shown.
const NOTICES_MAX: usize = boot::notices::NOTICES_MAX;

/// Lines of what to do that a notice shows.
const NOTICE_LINES_MAX: usize = 12;

/// Decimals of an amount of coin that are shown.
const DECIMALS: usize = 6;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Plate {
    /// Where notices lie.
    pub notices: PathBuf,
    /// What people call the rig.
    pub name: RigName,
    /// The owner of `rig.toml`.
    pub owner: Address,
    /// EIP-155 chain id.
    pub chain_id: u64,
}

/// The rig at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Face {
    /// What people call the rig.
    pub name: RigName,
    /// The software's version.
    pub version: &'static str,
    /// What it runs on.
    pub machine: Machine,
    /// The account that signs.
    #[serde(serialize_with = "checksummed")]
    pub address: Address,
    /// Who is to be paid.
    #[serde(serialize_with = "checksummed")]
    pub owner: Address,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// What protects the key.
    pub tier: Tier,
    /// The same in words.
    pub kept: String,
    /// What a person compares when pairing.
    pub code: String,
    /// Whether the key is open.
    pub state: KeyState,
    /// [`KeyState::code`].
    pub state_code: &'static str,
    /// [`KeyState::what`].
    pub what: &'static str,
    /// [`KeyState::next`].
    pub next: &'static str,
    /// Whose place `address` takes once the owner rotates.
    pub replaces: Option<String>,
    /// Why the signer does not answer, if it does not.
    pub silence: Option<String>,
    /// Where the rig stands on its way to being a provider, in words; `None` before the first reading.
    pub phase: Option<String>,
    /// Whether both halves of the pairing are on chain.
    pub is_paired: bool,
    /// Whether the rig takes no more work, because it is about to end.
    pub is_draining: bool,
    /// Why the last step of enrolment fell through, if it did.
    pub trouble: Option<String>,
    /// Coin on the rig's account, for gas.
    pub gas: Option<String>,
    /// Coin that is locked as stake.
    pub stake: Option<String>,
    /// Tasks in work, and tasks that were paid.
    pub tasks: Option<(u64, u64)>,
    /// Sources that this rig knows, the first [`SOURCES_MAX`].
    pub sources: Vec<SourceRow>,
    /// How many there are.
    pub sources_known: usize,
    /// The machine's GPUs, if they are used.
    pub gpus: Vec<GpuRow>,
    /// What others found wrong with this rig, the first [`NOTICES_MAX`].
    pub notices: Vec<NoticeRow>,
    /// Where it is in its network, an interface and its address each; not before the first look.
    pub network: Option<Vec<String>>,
}

/// A notice in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoticeRow {
    /// What is wrong.
    pub what: String,
    /// What to do, line by line; may be empty.
    pub next: Vec<String>,
}

/// A source in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceRow {
    /// Its address on chain.
    pub address: String,
    /// Where it stands, in a word.
    pub stage: String,
    /// What is done for it now, or why it stands there.
    pub why: Option<String>,
}

/// A GPU in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuRow {
    /// As its maker calls it.
    pub model: String,
    /// Whether it can be used, in a word.
    pub state: String,
}

// === impl Face ===

impl Face {
    /// The rig of `plate`, whose signer said `seen`, that answers `rig status` with `status`, and `rig gpu` with `gpus`
    /// if GPUs are used.
    pub fn of(plate: &Plate, seen: &Seen, status: &Value, gpus: &Value, machine: Machine) -> Face {
        let identity: &Identity = &seen.identity;
        let sources = status["sources"].as_array().map_or(&[][..], Vec::as_slice);
        let gpus = gpus["gpus"].as_array().map_or(&[][..], Vec::as_slice);
        let coin = |name: &str| status[name].as_str()?.parse().ok().map(coin_words);
        let count = |name: &str| status["jobs"][name].as_u64();
        Face {
            name: plate.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            machine,
            address: identity.address,
            owner: plate.owner,
            chain_id: plate.chain_id,
            tier: identity.tier,
            kept: identity.kept(),
            code: identity.pairing_code(),
            state: identity.state,
            state_code: identity.state.code(),
            what: identity.state.what(),
            next: identity.state.next(),
            replaces: identity.replaces.map(|address| address.to_string()),
            silence: seen.silence.as_deref().map(plain),
            phase: seen.phase_words().map(str::to_owned).or_else(|| text_of(&status["phase_text"])),
            is_paired: matches!(status["phase"].as_str(), Some("paired" | "describing")),
            is_draining: status["draining"] == Value::Bool(true),
            trouble: text_of(&status["trouble"]["why"]),
            gas: coin("gas_wei"),
            stake: coin("lockup_wei"),
            tasks: count("running").zip(count("settled")),
            sources: sources.iter().take(SOURCES_MAX).map(SourceRow::of).collect(),
            sources_known: sources.len(),
            gpus: gpus.iter().take(GPUS_MAX).map(GpuRow::of).collect(),
            notices: Vec::new(),
            network: None,
        }
    }

    /// The same with what others found wrong.
    pub fn with_notices(mut self, notices: &[Notice]) -> Face {
        self.notices = notices.iter().take(NOTICES_MAX).map(NoticeRow::of).collect();
        self
    }

    /// The same with the addresses that it has now.
    pub fn with_network(mut self, addresses: Vec<String>) -> Face {
        self.network = Some(addresses);
        self
    }

    /// The account as wallets read it from a QR code. Source: EIP-681.
    pub fn link(&self) -> String {
        format!("ethereum:{}@{}", self.address, self.chain_id)
    }

    /// Whether the key is open and the signer answers.
    pub fn is_well_kept(&self) -> bool {
        self.state == KeyState::Open && self.silence.is_none()
    }
}

// === impl NoticeRow ===

impl NoticeRow {
    fn of(notice: &Notice) -> NoticeRow {
        let next = notice.next.lines().take(NOTICE_LINES_MAX).map(plain).filter(|line| !line.is_empty());
        NoticeRow { what: plain(&notice.what), next: next.collect() }
    }
}

// === impl SourceRow ===

impl SourceRow {
    fn of(source: &Value) -> SourceRow {
        let doing = text_of(&source["doing"]["doing"]).map(|doing| doing.replace('-', " "));
        SourceRow {
            address: text_of(&source["source"]).unwrap_or_default(),
            stage: text_of(&source["stage"]).unwrap_or_default(),
            why: doing.or_else(|| text_of(&source["why"])),
        }
    }
}

// === impl GpuRow ===

impl GpuRow {
    fn of(report: &Value) -> GpuRow {
        let state = text_of(&report["state"]["state"]).unwrap_or_default();
        GpuRow {
            model: text_of(&report["gpu"]["model"]).unwrap_or_else(|| "unknown model".to_owned()),
            state: state.replace('-', " "),
        }
    }
}

fn checksummed<S: serde::Serializer>(address: &Address, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(address)
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(plain)
}

/// An amount with few decimals, cut and never rounded up.
fn coin_words(wei: U256) -> String {
    let exact = format_ether(wei);
    let (whole, decimals) = exact.split_once('.').unwrap_or((&exact, ""));
    let decimals = decimals[..decimals.len().min(DECIMALS)].trim_end_matches('0');
    match decimals {
        "" if whole == "0" && !wei.is_zero() => "less than 0.000001".to_owned(),
        "" => whole.to_owned(),
        decimals => format!("{whole}.{decimals}"),
    }
}

/// Somebody else's text, fit to be shown: without control characters, bounded, its URLs cut to their hosts.
pub fn plain(text: &str) -> String {
    let spaced: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
    let words: Vec<String> = spaced.split_whitespace().map(without_path).collect();
    let joined = words.join(" ");
    match joined.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}...", &joined[..at]),
        None => joined,
    }
}

/// A word, and if it is a URL only `scheme://host:port` of it with what stands around it.
fn without_path(word: &str) -> String {
    let Some((before, after)) = word.split_once("://") else { return word.to_owned() };
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{before}://{}", host.trim_end_matches([')', ',', ';', '"', '\'', '`', '>']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_cut_to_what_people_read() {
        let check = |wei: u128, expected: &str| assert_eq!(coin_words(U256::from(wei)), expected);
        check(0, "0");
        check(1, "less than 0.000001");
        check(1_500_000_000_000_000_000, "1.5");
        check(1_999_999_999_999_999_999, "1.999999");
        check(20_000_000_000_000_000_000, "20");
    }

    #[test]
    fn somebody_elses_text_is_bounded_and_gives_no_token_away() {
        let check = |text: &str, expected: &str| assert_eq!(plain(text), expected);
        check("all well", "all well");
        check("a\x1b[2Jb\r\n\tc\u{9b}d", "a [2Jb c d");
        check("ask https://rpc.example/v1/SECRET?key=K: refused", "ask https://rpc.example refused");
        check("(https://user:pass@rpc.example:8545)", "(https://rpc.example:8545");
        check("wss://rpc.example#SECRET", "wss://rpc.example");
        assert_eq!(plain(&"x".repeat(5000)).chars().count(), TEXT_MAX + 3);
        assert_eq!(plain(&"\u{e4}".repeat(5000)).chars().count(), TEXT_MAX + 3);
    }

    #[test]
    fn a_face_is_made_of_what_rig_status_says() {
        let face = samples::paired();
        assert_eq!(face.link(), "ethereum:0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf@1071");
        assert_eq!((face.gas.as_deref(), face.stake.as_deref()), (Some("0.842"), Some("25")));
        assert!(face.is_paired && face.is_well_kept());
        assert_eq!(face.gpus[1], GpuRow { model: "NVIDIA GeForce RTX 4090".into(), state: "needs reset".into() });
        assert_eq!(face.sources[1].why.as_deref(), Some("pulling"));
        let empty =
            Face::of(&samples::plate(), &samples::seen(KeyState::Open), &Value::Null, &Value::Null, Machine::default());
        assert!(empty.phase.is_none() && !empty.is_paired && empty.sources.is_empty() && empty.gpus.is_empty());
    }

    #[test]
    fn notices_are_bounded_in_number_lines_and_signs() {
        let long = Notice::new("a", "x".repeat(2000), "line\n\n".repeat(40) + &"y".repeat(500));
        let face = samples::paired().with_notices(&vec![long; 40]);
        assert_eq!(face.notices.len(), NOTICES_MAX);
        let row = &face.notices[0];
        assert_eq!(row.what.chars().count(), TEXT_MAX + 3);
        assert!(row.next.len() <= NOTICE_LINES_MAX && row.next.iter().all(|line| line == "line"), "{row:?}");
    }

    #[test]
    fn a_face_shows_so_many_sources_and_says_how_many_there_are() {
        let many: Vec<Value> = (0..500).map(|_| serde_json::json!({ "source": "0x1", "stage": "serving" })).collect();
        let status = serde_json::json!({ "sources": many });
        let face =
            Face::of(&samples::plate(), &samples::seen(KeyState::Open), &status, &Value::Null, Machine::default());
        assert_eq!((face.sources.len(), face.sources_known), (SOURCES_MAX, 500));
    }
}
