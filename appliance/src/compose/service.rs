//! One service of a compose file, with names where the plan will have indices.

use runner::protocol::GRACE_MS_MAX;

use super::depends::{self, Wait};
use super::document::Value;
use super::mounts::{self, Targets};
use super::names::{self, Alias};
use super::node::{Fields, Node, Reading};
use super::plan::{Condition, Restart, Service};
use super::ports::{self, Port};
use super::refusals::{DECIDED, EXCEPTED, IGNORED, REFUSED, sort_out};
use super::units::{bytes, duration_ms};
use super::volumes::{Seen, Shelf};
use super::{ComposeError, TEXT_BYTES_MAX, health, resources, words};

/// Words of one command. Source: none; real ones have ten.
pub(super) const WORDS_MAX: usize = 256;

/// Variables of one service. Source: none; real ones have fifty.
const VARIABLES_MAX: usize = 256;

/// Names and values of the variables of one service, in bytes: what one message to the runner can hold with the rest.
const ENVIRONMENT_BYTES_MAX: usize = 32 * 1024;

/// Entries of `profiles`.
const PROFILES_MAX: usize = 16;

/// The longest user, in bytes: two names of 32 and what is between.
const USER_BYTES_MAX: usize = 65;

/// Keys that are read here.
const READ: &[&str] = &[
    "image",
    "entrypoint",
    "command",
    "environment",
    "working_dir",
    "user",
    "read_only",
    "volumes",
    "tmpfs",
    "shm_size",
    "ulimits",
    "mem_limit",
    "cpus",
    "pids_limit",
    "gpus",
    "deploy",
    "healthcheck",
    "depends_on",
    "links",
    "restart",
    "stop_grace_period",
    "container_name",
    "hostname",
    "networks",
    "ports",
    "extra_hosts",
    "profiles",
    "scale",
];

/// A service whose references are names still.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) service: Service,
    pub(super) waits: Vec<Wait<'a>>,
    pub(super) ports: Vec<Port<'a>>,
    pub(super) aliases: Vec<Alias<'a>>,
    /// Where it stands, whom it links to, and under which name.
    pub(super) links: Vec<(Node<'a>, String, Option<String>)>,
}

/// Opens a service, if it is one that starts by itself.
pub(super) fn open<'a>(node: &Node<'a>, reading: &mut Reading<'_>) -> Result<Option<Fields<'a>>, ComposeError> {
    let tables = [REFUSED, IGNORED].into_iter().flatten().map(|(key, _)| *key);
    let excepted = EXCEPTED.iter().map(|(key, ..)| *key);
    let known: Vec<&'static str> = READ.iter().chain(DECIDED).copied().chain(tables).chain(excepted).collect();
    let fields = node.fields(&known)?;
    if let Some(profiles) = fields.get("profiles")
        && !profiles.list(PROFILES_MAX)?.is_empty()
    {
        reading.ignore(&node.path, "it has `profiles`, and none is chosen");
        return Ok(None);
    }
    Ok(Some(fields))
}

/// Reads an opened service.
pub(super) fn draft<'a>(
    name: &str,
    fields: &Fields<'a>,
    shelf: &mut Shelf,
    networks: &[&str],
    reading: &mut Reading<'_>,
) -> Result<Draft<'a>, ComposeError> {
    sort_out(fields, reading)?;
    let image = fields.need("image")?;
    let mut service = Service { name: name.to_owned(), image: image.text(reading)?, ..Service::default() };
    if service.image.is_empty() {
        return Err(image.bad("", "the name of an image"));
    }
    let words = |key: &str, reading: &Reading<'_>| fields.get(key).map(|node| command(&node, reading)).transpose();
    service.entrypoint = words("entrypoint", reading)?;
    service.command = words("command", reading)?;
    if let Some(node) = fields.get("environment") {
        service.environment = environment(&node, reading)?;
    }
    service.working_dir = fields.get("working_dir").map(|node| working_dir(&node, reading)).transpose()?;
    service.user = fields.get("user").map(|node| user(&node, reading)).transpose()?;
    service.read_only = fields.flag("read_only", reading)?;
    if let Some(node) = fields.get("restart") {
        service.restart = restart(&node, reading)?;
    }
    if let Some(node) = fields.get("scale") {
        resources::one(&node, reading)?;
    }
    files(&mut service, fields, shelf, reading)?;
    resources::limits(&mut service, fields, reading)?;
    if let Some(node) = fields.get("healthcheck") {
        service.health = health::health(&node, reading)?;
    }
    service.stop_grace_ms = fields.get("stop_grace_period").map(|node| grace(&node, reading)).transpose()?;
    let mut draft = Draft { service, waits: Vec::new(), ports: Vec::new(), aliases: Vec::new(), links: Vec::new() };
    neighbours(&mut draft, fields, networks, reading)?;
    Ok(draft)
}

/// What it sees beside its image.
fn files(
    service: &mut Service,
    fields: &Fields<'_>,
    shelf: &mut Shelf,
    reading: &mut Reading<'_>,
) -> Result<(), ComposeError> {
    let (mut seen, mut targets) = (Seen::default(), Targets::default());
    if let Some(node) = fields.get("volumes") {
        shelf.mounts(&service.name, &node, &mut seen, &mut targets, reading)?;
    }
    if let Some(node) = fields.get("tmpfs") {
        mounts::tmpfs(&node, &mut seen, &mut targets, reading)?;
    }
    let shm_bytes = fields.get("shm_size").map(|node| bytes(&node, reading)).transpose()?;
    service.shm_bytes = shm_bytes.filter(|bytes| *bytes > 0).or(seen.shm_bytes);
    (service.mounts, service.tmpfs) = (seen.mounts, seen.tmpfs);
    Ok(())
}

/// Whom it needs, and how it is found.
fn neighbours<'a>(
    draft: &mut Draft<'a>,
    fields: &Fields<'a>,
    networks: &[&str],
    reading: &mut Reading<'_>,
) -> Result<(), ComposeError> {
    for key in ["container_name", "hostname"] {
        if let Some(node) = fields.get(key) {
            let name = node.text(reading)?;
            draft.aliases.push(Alias { node, name });
        }
    }
    if let Some(node) = fields.get("networks") {
        names::join(&node, networks, &mut draft.aliases, reading)?;
    }
    if let Some(node) = fields.get("extra_hosts") {
        names::extra_hosts(&node, reading)?;
    }
    if let Some(node) = fields.get("depends_on") {
        draft.waits = depends::depends_on(&node, reading)?;
    }
    if let Some(node) = fields.get("links") {
        draft.links = names::links(&node, reading)?;
        let wait = |(node, name, _): &(Node<'a>, String, _)| Wait {
            node: node.clone(),
            name: name.clone(),
            condition: Condition::Started,
            is_required: true,
        };
        draft.waits.extend(draft.links.iter().map(wait));
    }
    if let Some(node) = fields.get("ports") {
        draft.ports = ports::ports(&node, reading)?;
    }
    Ok(())
}

/// A command: a list of words, or a line that is split as a shell would.
fn command(node: &Node<'_>, reading: &Reading<'_>) -> Result<Vec<String>, ComposeError> {
    let words = match node.value {
        Value::List(_) => {
            node.list(WORDS_MAX)?.iter().map(|word| word.text(reading)).collect::<Result<Vec<String>, _>>()?
        }
        Value::Map(_) => return Err(node.kind("a text or a list")),
        _ => {
            let words = words::split(&node.text(reading)?);
            words.ok_or_else(|| ComposeError::OpenQuote { path: node.path.clone() })?
        }
    };
    words_bound(node, &words)?;
    Ok(words)
}

/// Checks words against the bounds on one command.
pub(super) fn words_bound(node: &Node<'_>, words: &[String]) -> Result<(), ComposeError> {
    if words.len() > WORDS_MAX {
        return Err(ComposeError::TooMany { path: node.path.clone(), count: words.len(), max: WORDS_MAX });
    }
    if words.iter().map(String::len).sum::<usize>() > TEXT_BYTES_MAX {
        return Err(node.too_long(TEXT_BYTES_MAX));
    }
    Ok(())
}

/// Variables, the last of equal names. A name without a value has that of the offer, or is left out.
fn environment(node: &Node<'_>, reading: &Reading<'_>) -> Result<Vec<(String, String)>, ComposeError> {
    let mut all: Vec<(String, String)> = Vec::new();
    node.list_or_map()?;
    let mut add = |node: &Node<'_>, name: &str, value: Option<String>| {
        if name.is_empty() || name.contains(['=', '\0']) || name.chars().any(char::is_control) {
            return Err(node.bad(name, "the name of a variable"));
        }
        if let Some(value) = value.or_else(|| reading.offer.get(name)) {
            all.retain(|(other, _)| other != name);
            all.push((name.to_owned(), value));
        }
        Ok(())
    };
    match node.value {
        Value::List(_) => {
            for entry in node.list(VARIABLES_MAX)? {
                let text = entry.text(reading)?;
                match text.split_once('=') {
                    Some((name, value)) => add(&entry, name, Some(value.to_owned()))?,
                    None => add(&entry, &text, None)?,
                }
            }
        }
        _ => {
            for (name, entry) in node.named(VARIABLES_MAX)? {
                let value = if *entry.value == Value::Nothing { None } else { Some(entry.text(reading)?) };
                add(&entry, name, value)?;
            }
        }
    }
    if all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > ENVIRONMENT_BYTES_MAX {
        return Err(node.too_long(ENVIRONMENT_BYTES_MAX));
    }
    Ok(all)
}

fn working_dir(node: &Node<'_>, reading: &Reading<'_>) -> Result<String, ComposeError> {
    let text = node.text(reading)?;
    if text == "/" { Ok(text) } else { mounts::plain(node, &text) }
}

fn user(node: &Node<'_>, reading: &Reading<'_>) -> Result<String, ComposeError> {
    let text = node.text(reading)?;
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    let is_user = text.len() <= USER_BYTES_MAX && text.splitn(2, ':').all(is_name);
    if is_user { Ok(text) } else { Err(node.bad(&text, "`user`, `uid`, `user:group` or `uid:gid`")) }
}

fn restart(node: &Node<'_>, reading: &Reading<'_>) -> Result<Restart, ComposeError> {
    let text = node.text(reading)?;
    match text.as_str() {
        "no" | "false" | "" => Ok(Restart::No),
        "always" | "unless-stopped" => Ok(Restart::Always),
        "on-failure" => Ok(Restart::OnFailure { max: None }),
        _ => {
            let max = text.strip_prefix("on-failure:").and_then(|max| max.parse().ok());
            let bad = || node.bad(&text, "`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:3`");
            max.map(|max| Restart::OnFailure { max: Some(max) }).ok_or_else(bad)
        }
    }
}

/// The grace of a stop, no longer than the runner gives.
fn grace(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<u64, ComposeError> {
    let ms = duration_ms(node, reading)?;
    if ms > GRACE_MS_MAX {
        reading.note(format!("`{}` is taken for {} s, the longest grace", node.path, GRACE_MS_MAX / 1000));
    }
    Ok(ms.min(GRACE_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_read_refused_or_ignored_and_not_two_of_them() {
        let tables = [REFUSED, IGNORED].into_iter().flatten().map(|(key, _)| *key);
        let all = READ.iter().chain(DECIDED).copied().chain(tables).chain(EXCEPTED.iter().map(|(key, ..)| *key));
        let mut all: Vec<&str> = all.collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
