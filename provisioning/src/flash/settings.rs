//! What goes into `rig.toml`: an owner's wishes, laid over the text that is on the stick.
//!
//! Checked here, before a stick is written: that it is TOML, that every table is one that a rig knows, the owner's
//! address with its checksum, the rig's name, `[network]` and `[content]` as the chain's own reader has them, and the
//! tables for the machine (`[wifi]`, `[ethernet]`, `[fleet]`, `[state]`, `[key]`) as the rig's own reader has them. What
//! stands inside `[work]`, `[limits]`, `[jail]`, `[gpu]`, `[[source]]`, `[status_page]`, `[lan]` and `[places]` is checked
//! on the rig, by the program that lives with it: it says so on its screen and in `rig-status.txt`.
//!
//! Invariants: comments and the order of what is there stay; so do its line ends; what is shown never holds a secret.

use std::path::Path;

use alloy::primitives::Address;
use boot::sections::{Ethernet, Fleet, KeyWish, StateWish, Wifi};
use chain::content::Gateways;
use chain::rpc::Network;
use chain::settings::{SettingsError, parse_toml};
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};
use zeroize::Zeroizing;

use super::stick::SETTINGS_FILE;
use crate::network::NetworkSettings;
use crate::parse;

/// The longest name of a rig, in characters. It is part of a host name, and of lines of 80.
const NAME_MAX: usize = 32;

/// Words in the name of a key whose value is not shown.
const SECRET: [&str; 4] = ["password", "token", "secret", "private"];

/// What an owner wants to be in `rig.toml`. What is left out stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) owner: Option<Address>,
    pub(crate) name: Option<String>,
    pub(crate) wifi: Option<WifiWish>,
    pub(crate) country: Option<String>,
    /// The tables `[network]` and `[content]`, as text.
    pub(crate) network: Option<String>,
    pub(crate) join_token: Option<Hidden>,
    pub(crate) set: Vec<Assignment>,
}

/// A wireless network to join.
#[derive(Debug)]
pub(crate) struct WifiWish {
    pub(crate) network: String,
    /// `None`: it has no password.
    pub(crate) password: Option<Hidden>,
    pub(crate) is_hidden: bool,
}

/// A secret on its way to the stick.
pub(crate) struct Hidden(pub(crate) Zeroizing<String>);

/// `work.max_runs=8`
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    path: Vec<String>,
    value: Value,
}

/// A text that can go on a stick, and what it says. It may hold secrets: nothing prints it.
pub(crate) struct Checked {
    pub(crate) text: Zeroizing<String>,
    pub(crate) owner: Option<Address>,
    pub(crate) network: Option<NetworkSettings>,
}

/// Why a text cannot go on a stick.
#[derive(Debug, Error)]
pub(crate) enum WishError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{SETTINGS_FILE}: [{table}] {why}")]
    Value { table: &'static str, why: String },
    #[error("{SETTINGS_FILE}: `{0}` is no table there")]
    NoTable(String),
}

/// All tables that a rig knows. The ones that are only known by name are checked on the rig.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some are only parsed so that what is wrong with them is said")]
struct Tables {
    owner: Option<Owner>,
    network: Option<Network>,
    content: Option<Gateways>,
    wifi: Option<Wifi>,
    ethernet: Option<Ethernet>,
    fleet: Option<Fleet>,
    state: Option<StateWish>,
    key: Option<KeyWish>,
    work: Option<IgnoredAny>,
    limits: Option<IgnoredAny>,
    jail: Option<IgnoredAny>,
    gpu: Option<IgnoredAny>,
    source: Option<IgnoredAny>,
    status_page: Option<IgnoredAny>,
    lan: Option<IgnoredAny>,
    places: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    address: Option<String>,
    name: Option<String>,
}

// === impl Hidden ===

impl std::fmt::Debug for Hidden {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Hidden")
    }
}

// === impl Assignment ===

impl Assignment {
    /// Reads `table.key=value`. What is no TOML value is text. Errors: a sentence.
    pub(crate) fn parse(text: &str) -> Result<Assignment, String> {
        let wrong = || format!("`{text}` is not like work.max_runs=8");
        let (path, written) = text.split_once('=').ok_or_else(wrong)?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        let is_key = |key: &String| {
            !key.is_empty() && key.bytes().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, b'_' | b'-'))
        };
        if path.len() < 2 || !path.iter().all(is_key) {
            return Err(wrong());
        }
        if path.last().is_some_and(|key| is_secret(key)) {
            return Err("a secret on a command line is seen by everybody on this machine: use a file".to_owned());
        }
        let written = written.trim();
        let value = written.parse().unwrap_or_else(|_| Value::from(written));
        Ok(Assignment { path, value })
    }
}

/// Checks a rig's name. Errors: a sentence.
pub(crate) fn rig_name(text: &str) -> Result<String, String> {
    let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || sign == b'-';
    let is_name = (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(is_sign)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_name {
        return Ok(text.to_owned());
    }
    Err(format!("a rig's name is 1 to {NAME_MAX} letters, digits and hyphens inside, such as attic, not {text:?}"))
}

// === impl Wishes ===

impl Wishes {
    /// Whether nothing is wished for.
    pub(crate) fn is_empty(&self) -> bool {
        let Wishes { owner, name, wifi, country, network, join_token, set } = self;
        owner.is_none()
            && name.is_none()
            && wifi.is_none()
            && country.is_none()
            && network.is_none()
            && join_token.is_none()
            && set.is_empty()
    }

    /// `text` with the wishes in it. Its comments, order and line ends stay.
    pub(crate) fn laid_over(&self, text: &str) -> Result<String, WishError> {
        let mut document = parsed(text)?;
        let root = document.as_table_mut();
        if let Some(owner) = self.owner {
            put(table(root, "owner")?, "address", value(owner.to_checksum(None)));
        }
        if let Some(name) = &self.name {
            put(table(root, "owner")?, "name", value(name));
        }
        if let Some(wifi) = &self.wifi {
            wifi.lay(table(root, "wifi")?);
        }
        if let Some(country) = &self.country {
            put(table(root, "wifi")?, "country", value(country));
        }
        if let Some(network) = &self.network {
            let from = parsed(network)?;
            for name in ["network", "content"] {
                if let Some(from) = from.get(name).and_then(Item::as_table_like) {
                    replace(table(root, name)?, from)?;
                }
            }
        }
        if let Some(token) = &self.join_token {
            put(table(root, "fleet")?, "join_token", value(token.0.as_str()));
        }
        for Assignment { path, value } in &self.set {
            assign(root, path, value.clone())?;
        }
        Ok(with_line_ends_of(text, &document.to_string()))
    }
}

impl WifiWish {
    fn lay(&self, wifi: &mut dyn TableLike) {
        put(wifi, "network", value(&self.network));
        // What belonged to another network goes.
        let is_open = self.password.is_none();
        let password = self.password.as_ref().map(|password| value(password.0.as_str()));
        let wanted = [
            ("password", password),
            ("open", is_open.then(|| value(true))),
            ("hidden", self.is_hidden.then(|| value(true))),
        ];
        for (key, item) in wanted {
            match item {
                Some(item) => put(wifi, key, item),
                None => drop(wifi.remove(key)),
            }
        }
    }
}

fn parsed(text: &str) -> Result<DocumentMut, WishError> {
    // The same words as for every other fault, with the line.
    parse_toml::<toml::Table>(text, Path::new(SETTINGS_FILE))?;
    text.parse().map_err(|_| WishError::NoTable(SETTINGS_FILE.to_owned()))
}

/// The table `name` of `root`, made if it is not there.
fn table<'a>(root: &'a mut dyn TableLike, name: &str) -> Result<&'a mut dyn TableLike, WishError> {
    let item = root.entry(name).or_insert_with(|| Item::Table(Table::new()));
    item.as_table_like_mut().ok_or_else(|| WishError::NoTable(name.to_owned()))
}

/// Puts `item` at `key`; the comment behind an old value stays.
fn put(table: &mut dyn TableLike, key: &str, mut item: Item) {
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    match table.get_mut(key) {
        Some(old) => *old = item,
        None => drop(table.insert(key, item)),
    }
}

/// Makes `to` hold what `from` holds and nothing else.
fn replace(to: &mut dyn TableLike, from: &dyn TableLike) -> Result<(), WishError> {
    let gone: Vec<String> = to.iter().map(|(key, _)| key.to_owned()).filter(|key| !from.contains_key(key)).collect();
    for key in gone {
        to.remove(&key);
    }
    for (key, item) in from.iter() {
        match item.as_table_like() {
            Some(inner) => replace(table(to, key)?, inner)?,
            None => put(to, key, item.clone()),
        }
    }
    Ok(())
}

fn assign(root: &mut dyn TableLike, path: &[String], to: Value) -> Result<(), WishError> {
    match path {
        [] => Ok(()),
        [key] => {
            put(root, key, Item::Value(to));
            Ok(())
        }
        [first, rest @ ..] => assign(table(root, first)?, rest, to),
    }
}

/// `text` with the line ends that `model` has: Windows' if its first line has them.
fn with_line_ends_of(model: &str, text: &str) -> String {
    let plain = text.replace("\r\n", "\n");
    let is_windows = model.find('\n').is_some_and(|at| model[..at].ends_with('\r'));
    if is_windows { plain.replace('\n', "\r\n") } else { plain }
}

/// Checks what can be checked here; see the top of this file. Errors: the first thing that is wrong.
pub(crate) fn checked(text: String) -> Result<Checked, WishError> {
    let tables: Tables = parse_toml(&text, Path::new(SETTINGS_FILE))?;
    let wrong = |table| move |why: String| WishError::Value { table, why };
    // The machine's tables as a whole, by the rig's own rules.
    boot::judge::sections(&text).map_err(wrong("wifi or ethernet"))?;
    let owner = match tables.owner.as_ref().and_then(|owner| owner.address.as_deref()).map(str::trim) {
        None | Some("") => None,
        Some(address) => Some(parse::address(address).map_err(wrong("owner"))?),
    };
    if let Some(name) = tables.owner.as_ref().and_then(|owner| owner.name.as_deref()) {
        rig_name(name).map_err(wrong("owner"))?;
    }
    let network = match (tables.network, tables.content) {
        (Some(network), Some(content)) => Some(NetworkSettings { network, content }),
        (_, _) => None,
    };
    crate::network::checksums(&text).map_err(wrong("network"))?;
    Ok(Checked { text: Zeroizing::new(text), owner, network })
}

/// What `text` sets, a line each, without secrets and comments.
pub(crate) fn shown(text: &str) -> Result<Vec<(String, String)>, WishError> {
    let table: toml::Table = parse_toml(text, Path::new(SETTINGS_FILE))?;
    let mut lines = Vec::new();
    gather("", &toml::Value::Table(table), &mut lines);
    Ok(lines)
}

fn gather(path: &str, found: &toml::Value, lines: &mut Vec<(String, String)>) {
    match found {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                gather(&path, inner, lines);
            }
        }
        toml::Value::Array(all) if all.iter().any(toml::Value::is_table) => {
            for (index, inner) in all.iter().enumerate() {
                gather(&format!("{path}[{index}]"), inner, lines);
            }
        }
        other => {
            let is_hidden = path.rsplit('.').next().is_some_and(is_secret);
            let is_empty = other.as_str().is_some_and(str::is_empty);
            let shown = if is_hidden && !is_empty { "(set, not shown)".to_owned() } else { words(other) };
            lines.push((path.to_owned(), shown));
        }
    }
}

/// A value as TOML writes it, near enough for a person.
fn words(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(is) => is.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(all) => format!("[{}]", all.iter().map(words).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(_) => "{}".to_owned(),
    }
}

fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|word| key.to_lowercase().contains(word))
}

#[cfg(test)]
mod tests;
