//! `ports`: which port of the rig's inner host leads to which port of a service.
//!
//! A source's services see each other on every port; what is published is reachable as `host.docker.internal:<port>`
//! too, and the one that is published as `PORT` is where the rig asks. Nothing is published on the host's network.

use std::net::IpAddr;

use runner::protocol::CALLBACK_PORT;

use super::ComposeError;
use super::document::Value;
use super::node::{Node, Reading};

/// Entries of one service's `ports`. Source: real files have two.
const PORTS_MAX: usize = 32;

const KEYS: &[&str] = &["target", "published", "host_ip", "protocol", "mode", "app_protocol", "name"];

const WANTED: &str = "a port such as `12436:11434`";
const NUMBER: &str = "a port from 1 to 65535";

/// One entry of `ports` that leads somewhere.
#[derive(Debug)]
pub(super) struct Port<'a> {
    /// Where it stands.
    pub(super) node: Node<'a>,
    /// Port of the inner host.
    pub(super) host: u16,
    /// Port in the container.
    pub(super) inside: u16,
}

/// Reads `ports`.
pub(super) fn ports<'a>(node: &Node<'a>, reading: &mut Reading<'_>) -> Result<Vec<Port<'a>>, ComposeError> {
    let mut ports = Vec::new();
    for entry in node.list(PORTS_MAX)? {
        let (host, inside) = match entry.value {
            Value::Map(_) => long(&entry, reading)?,
            _ => short(&entry, reading)?,
        };
        match host {
            None | Some(0) => reading.ignore(&entry.path, "no port of the host is named, so nobody could find it"),
            // The address of the callback stands there.
            Some(CALLBACK_PORT) => return Err(entry.refuse("this port of host.docker.internal takes the callbacks")),
            Some(host) => ports.push(Port { node: entry, host, inside }),
        }
    }
    Ok(ports)
}

/// `[[address:]host:]inside[/protocol]`
fn short(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<(Option<u16>, u16), ComposeError> {
    let text = node.text(reading)?;
    let (text, protocol) = text.rsplit_once('/').unwrap_or((&text, "tcp"));
    check_protocol(node, protocol)?;
    let (rest, inside) = text.rsplit_once(':').map_or((None, text), |(rest, inside)| (Some(rest), inside));
    let (address, host) = match rest.map(|rest| rest.rsplit_once(':').map_or((None, rest), |(a, h)| (Some(a), h))) {
        Some((address, host)) => (address, Some(host).filter(|host| !host.is_empty())),
        None => (None, None),
    };
    if let Some(address) = address {
        check_address(node, address, reading)?;
    }
    Ok((host.map(|host| number(node, host)).transpose()?, inside_number(node, inside)?))
}

/// The map form.
fn long(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<(Option<u16>, u16), ComposeError> {
    let fields = node.fields(KEYS)?;
    if let Some(protocol) = fields.text("protocol", reading)? {
        check_protocol(node, &protocol)?;
    }
    if let Some(address) = fields.text("host_ip", reading)? {
        check_address(node, &address, reading)?;
    }
    let number_at = |node: Node<'_>| node.text(reading).and_then(|text| number(&node, &text));
    let target = fields.need("target")?;
    let inside = inside_number(&target, &target.text(reading)?)?;
    Ok((fields.get("published").map(number_at).transpose()?, inside))
}

fn number(node: &Node<'_>, text: &str) -> Result<u16, ComposeError> {
    if text.split_once('-').is_some_and(|(from, to)| is_digits(from) && is_digits(to)) {
        return Err(node.refuse("ranges of ports are not run, name each port"));
    }
    if !is_digits(text) {
        return Err(node.bad(text, WANTED));
    }
    text.parse().map_err(|_| node.bad(text, NUMBER))
}

fn inside_number(node: &Node<'_>, text: &str) -> Result<u16, ComposeError> {
    match number(node, text)? {
        0 => Err(node.bad(text, NUMBER)),
        port => Ok(port),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn check_protocol(node: &Node<'_>, protocol: &str) -> Result<(), ComposeError> {
    match protocol {
        "tcp" => Ok(()),
        "udp" => Err(node.refuse("udp ports are not published, only tcp")),
        "sctp" => Err(node.refuse("sctp ports are not published, only tcp")),
        other => Err(node.bad(other, "the protocol `tcp`")),
    }
}

/// An address of the host means nothing here; one that is not this host's own says that the file means another machine.
fn check_address(node: &Node<'_>, address: &str, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    let parsed: IpAddr = bare.parse().map_err(|_| node.bad(address, WANTED))?;
    if !parsed.is_loopback() && !parsed.is_unspecified() {
        return Err(node.refuse("a source has no address of the host's network"));
    }
    reading.note(format!("`{}` names an address of the host: nothing is published on the host", node.path));
    Ok(())
}
