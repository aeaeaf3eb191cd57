//! The names by which services find each other, and those that none of them may take.
//!
//! Invariant: no two services answer to one name, whatever its case, and none answers to the host's: whoever takes the
//! host's name takes every callback of the source.

use std::collections::BTreeMap;

use super::ComposeError;
use super::document::Value;
use super::node::{Node, Reading, cut};

/// The longest name of a service, in bytes. Source: the longest label of a host name.
const SERVICE_BYTES_MAX: usize = 63;

/// The longest host name, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// Further names of one service.
const ALIASES_MAX: usize = 16;

/// Networks of one file, and of one service.
const NETWORKS_MAX: usize = 16;

/// Names that mean the host, or the jail itself, or end so.
const RESERVED: [&str; 2] = ["localhost", "docker.internal"];

const NETWORK_KEYS: &[&str] = &[
    "driver",
    "driver_opts",
    "external",
    "internal",
    "ipam",
    "attachable",
    "enable_ipv4",
    "enable_ipv6",
    "labels",
    "name",
];
const JOIN_KEYS: &[&str] = &[
    "aliases",
    "ipv4_address",
    "ipv6_address",
    "link_local_ips",
    "mac_address",
    "priority",
    "gw_priority",
    "driver_opts",
    "interface_name",
];

const ONE_NETWORK: &str = "all services of a source share one network";

/// A further name of a service, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Alias<'a> {
    pub(super) node: Node<'a>,
    pub(super) name: String,
}

/// Whom each host name means.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, usize>);

// === impl Names ===

impl Names {
    /// Takes the name of the service `at`, whose place in the file is `node`.
    pub(super) fn take_service(&mut self, at: usize, name: &str, node: &Node<'_>) -> Result<(), ComposeError> {
        if name.len() > SERVICE_BYTES_MAX || !is_host(name) {
            return Err(ComposeError::BadName { name: cut(name), what: "service" });
        }
        self.take(at, name, node).map(drop)
    }

    /// Takes a further name of the service `at`. Returns whether it is new to it.
    pub(super) fn take_alias(&mut self, at: usize, alias: &Alias<'_>) -> Result<bool, ComposeError> {
        if !is_host(&alias.name) {
            return Err(alias.node.bad(&alias.name, "a host name"));
        }
        self.take(at, &alias.name, &alias.node)
    }

    fn take(&mut self, at: usize, name: &str, node: &Node<'_>) -> Result<bool, ComposeError> {
        let lower = name.to_ascii_lowercase();
        if RESERVED.iter().any(|end| lower.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        {
            return Err(node.refuse("this name means the host or the jail itself"));
        }
        match self.0.insert(lower, at) {
            None => Ok(true),
            Some(other) if other == at => Ok(false),
            Some(_) => Err(node.twice(format!("the host name `{}`", cut(name)))),
        }
    }
}

/// Reads the `networks` of the file; returns their names.
pub(super) fn declare<'a>(node: Option<&Node<'a>>, reading: &mut Reading<'_>) -> Result<Vec<&'a str>, ComposeError> {
    let mut names = vec!["default"];
    for (name, node) in node.map(|node| node.named(NETWORKS_MAX)).transpose()?.unwrap_or_default() {
        names.push(name);
        if *node.value == Value::Nothing {
            continue;
        }
        let fields = node.fields(NETWORK_KEYS)?;
        fields.refuse(&[("external", "a job does not reach other sources")])?;
        if let Some(driver) = fields.get("driver") {
            let text = driver.text(reading)?;
            if !matches!(text.as_str(), "bridge" | "default") {
                return Err(driver.bad(&text, "`bridge`, other drivers are not run"));
            }
        }
        fields.ignore(
            &[("internal", "`network` in rig.toml decides what a source reaches"), ("ipam", ONE_NETWORK)],
            reading,
        );
    }
    Ok(names)
}

/// Reads the `networks` of a service, for the aliases in them.
pub(super) fn join<'a>(
    node: &Node<'a>,
    declared: &[&str],
    aliases: &mut Vec<Alias<'a>>,
    reading: &mut Reading<'_>,
) -> Result<(), ComposeError> {
    node.list_or_map()?;
    let check = |node: &Node<'_>, name: &str| {
        if declared.contains(&name) { Ok(()) } else { Err(node.not_declared("network", name)) }
    };
    if let Value::List(_) = node.value {
        for entry in node.list(NETWORKS_MAX)? {
            check(&entry, &entry.text(reading)?)?;
        }
        return Ok(());
    }
    for (name, entry) in node.named(NETWORKS_MAX)? {
        check(&entry, name)?;
        if *entry.value == Value::Nothing {
            continue;
        }
        let fields = entry.fields(JOIN_KEYS)?;
        fields.ignore(&[("ipv4_address", ONE_NETWORK), ("ipv6_address", ONE_NETWORK)], reading);
        if let Some(list) = fields.get("aliases") {
            for node in list.list(ALIASES_MAX)? {
                let name = node.text(reading)?;
                aliases.push(Alias { node, name });
            }
        }
    }
    Ok(())
}

/// Reads `links`: `service` or `service:alias`.
pub(super) fn links<'a>(
    node: &Node<'a>,
    reading: &Reading<'_>,
) -> Result<Vec<(Node<'a>, String, Option<String>)>, ComposeError> {
    let link = |node: Node<'a>| {
        let text = node.text(reading)?;
        let (service, alias) = text.split_once(':').map_or((text.as_str(), None), |(to, alias)| (to, Some(alias)));
        Ok((node, service.to_owned(), alias.map(str::to_owned)))
    };
    node.list(ALIASES_MAX)?.into_iter().map(link).collect()
}

/// Reads `extra_hosts`: the one that each source has is the rig's own, others lead to addresses that mean nothing here.
pub(super) fn extra_hosts(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    const HOSTS_MAX: usize = 64;
    node.list_or_map()?;
    let mut note = |node: &Node<'_>, host: &str, to: &str| {
        if (host, to) != ("host.docker.internal", "host-gateway") {
            reading.ignore(&node.path, "only host.docker.internal is a name of the host");
        }
    };
    if let Value::Map(_) = node.value {
        for (host, entry) in node.named(HOSTS_MAX)? {
            let to = match entry.value {
                Value::Text(text) => text.as_str(),
                _ => "",
            };
            note(&entry, host, to);
        }
        return Ok(());
    }
    for entry in node.list(HOSTS_MAX)? {
        let Value::Text(text) = entry.value else { return Err(entry.kind("a text such as `name:address`")) };
        let (host, to) = text.split_once([':', '=']).unwrap_or((text, ""));
        note(&entry, host, to);
    }
    Ok(())
}

/// Whether a text can stand as a host name, in the loose sense of container engines, which allow `_`.
fn is_host(name: &str) -> bool {
    name.len() <= HOST_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        // With a dot at its end it would be another way to write a name that is taken.
        && !name.ends_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}
