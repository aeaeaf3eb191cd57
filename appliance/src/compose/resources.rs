//! How much a service may use: `deploy`, `ulimits`, `mem_limit` and their kin, and the graphics processors it reserves.

use super::ComposeError;
use super::document::Value;
use super::node::{Fields, Node, Reading};
use super::plan::{Gpus, Restart, Service};
use super::units::{bytes, cpu_millis};

/// The most descriptors that a file can ask for. Source: the kernel's default for `fs.nr_open`.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// The most processes that a file can ask for. Source: the kernel's largest `pid_max`.
const PROCESSES_MAX: u64 = 1 << 22;

/// The most graphics processors that a file can ask for. Source: none; machines have eight.
const GPUS_MAX: u32 = 64;

/// Entries of one list of devices.
const DEVICES_MAX: usize = 16;

const DEPLOY_KEYS: &[&str] = &[
    "resources",
    "mode",
    "replicas",
    "restart_policy",
    "placement",
    "update_config",
    "rollback_config",
    "labels",
    "endpoint_mode",
];
const LIMIT_KEYS: &[&str] = &["cpus", "memory", "pids"];
const RESERVE_KEYS: &[&str] = &["cpus", "memory", "generic_resources", "devices"];
const DEVICE_KEYS: &[&str] = &["driver", "count", "device_ids", "capabilities", "options"];
const POLICY_KEYS: &[&str] = &["condition", "max_attempts", "delay", "window"];

/// Limits that the rig does not keep for the kernel's sake but for the owner's.
const ULIMITS: [&str; 14] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

const RIGS_OWN: &str = "the rig's own limits hold";

/// Reads the limits of a service into it.
pub(super) fn limits(
    service: &mut Service,
    fields: &Fields<'_>,
    reading: &mut Reading<'_>,
) -> Result<(), ComposeError> {
    service.memory_bytes = fields.get("mem_limit").map(|node| memory(&node, reading)).transpose()?.flatten();
    service.cpu_millis = fields.get("cpus").map(|node| cpu_millis(&node, reading)).transpose()?.flatten();
    service.processes =
        fields.get("pids_limit").map(|node| count(&node, PROCESSES_MAX, reading)).transpose()?.flatten();
    if let Some(node) = fields.get("ulimits") {
        ulimits(service, &node, reading)?;
    }
    if let Some(node) = fields.get("gpus") {
        service.gpus = gpus(&node, reading)?;
    }
    if let Some(node) = fields.get("deploy") {
        deploy(service, &node, reading)?;
    }
    Ok(())
}

fn deploy(service: &mut Service, node: &Node<'_>, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    let fields = node.fields(DEPLOY_KEYS)?;
    fields.ignore(
        &[
            ("placement", "there is one rig"),
            ("update_config", "a source is replaced at once"),
            ("rollback_config", "a source is replaced at once"),
            ("labels", "labels are not read"),
            ("endpoint_mode", "there is one of each service"),
        ],
        reading,
    );
    if let Some(mode) = fields.get("mode") {
        match mode.text(reading)?.as_str() {
            "replicated" | "global" => {}
            other => return Err(mode.bad(other, "`replicated`")),
        }
    }
    if let Some(replicas) = fields.get("replicas") {
        one(&replicas, reading)?;
    }
    if let Some(policy) = fields.get("restart_policy") {
        service.restart = restart_policy(&policy, reading)?;
    }
    let Some(resources) = fields.get("resources") else { return Ok(()) };
    let resources = resources.fields(&["limits", "reservations"])?;
    if let Some(limits) = resources.get("limits") {
        let limits = limits.fields(LIMIT_KEYS)?;
        if let Some(node) = limits.get("cpus") {
            service.cpu_millis = cpu_millis(&node, reading)?;
        }
        if let Some(node) = limits.get("memory") {
            service.memory_bytes = memory(&node, reading)?;
        }
        if let Some(node) = limits.get("pids") {
            service.processes = count(&node, PROCESSES_MAX, reading)?;
        }
    }
    if let Some(reserved) = resources.get("reservations") {
        let reserved = reserved.fields(RESERVE_KEYS)?;
        const NOTHING_RESERVED: &str = "nothing is set aside but graphics processors";
        let keys = [("cpus", NOTHING_RESERVED), ("memory", NOTHING_RESERVED), ("generic_resources", NOTHING_RESERVED)];
        reserved.ignore(&keys, reading);
        if let Some(node) = reserved.get("devices") {
            service.gpus = merged(service.gpus, devices(&node, reading)?);
        }
    }
    Ok(())
}

/// `scale` and `replicas`: there is one of each service.
pub(super) fn one(node: &Node<'_>, reading: &Reading<'_>) -> Result<(), ComposeError> {
    match node.whole::<i64>(reading, "1")? {
        1 => Ok(()),
        _ => Err(node.refuse("one of each service runs")),
    }
}

fn restart_policy(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<Restart, ComposeError> {
    let fields = node.fields(POLICY_KEYS)?;
    const BACK_OFF: &str = "the rig restarts with its own back-off";
    fields.ignore(&[("delay", BACK_OFF), ("window", BACK_OFF)], reading);
    let max = fields.get("max_attempts").map(|node| node.whole(reading, "a number of tries")).transpose()?;
    let Some(condition) = fields.get("condition") else { return Ok(Restart::Always) };
    match condition.text(reading)?.as_str() {
        "none" => Ok(Restart::No),
        "on-failure" => Ok(Restart::OnFailure { max }),
        "any" => Ok(Restart::Always),
        other => Err(condition.bad(other, "`none`, `on-failure` or `any`")),
    }
}

fn ulimits(service: &mut Service, node: &Node<'_>, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    for (name, limit) in node.named(ULIMITS.len() + 2)? {
        let hard = match limit.value {
            Value::Map(_) => limit.fields(&["soft", "hard"])?.need("hard")?,
            _ => limit.clone(),
        };
        match name {
            "nofile" => service.open_files = count(&hard, OPEN_FILES_MAX, reading)?,
            "nproc" => service.processes = count(&hard, PROCESSES_MAX, reading)?,
            name if ULIMITS.contains(&name) => reading.ignore(&limit.path, RIGS_OWN),
            _ => return Err(ComposeError::Unknown { path: limit.path, nearest: None }),
        }
    }
    Ok(())
}

/// A limit that is a count; `None` for -1 and 0, which mean none. A larger one than `max` is `max`.
fn count(node: &Node<'_>, max: u64, reading: &mut Reading<'_>) -> Result<Option<u64>, ComposeError> {
    let number: i64 = node.whole(reading, "a limit, or -1 for the rig's own")?;
    match u64::try_from(number) {
        Ok(0) => Ok(None),
        Ok(number) if number > max => {
            reading.note(format!("`{}` is {number}, taken for {max}", node.path));
            Ok(Some(max))
        }
        Ok(number) => Ok(Some(number)),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(node.bad(&number.to_string(), "a limit, or -1 for the rig's own")),
    }
}

/// A limit on memory, `None` for 0, which means none.
fn memory(node: &Node<'_>, reading: &Reading<'_>) -> Result<Option<u64>, ComposeError> {
    Ok(Some(bytes(node, reading)?).filter(|bytes| *bytes > 0))
}

/// `gpus`: `all`, or a list like that of `devices`.
fn gpus(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<Option<Gpus>, ComposeError> {
    match node.value {
        Value::List(_) => devices_of(node, false, reading),
        _ => match node.text(reading)?.as_str() {
            "all" => Ok(Some(Gpus::All)),
            other => Err(node.bad(other, "`all` or a list of devices")),
        },
    }
}

/// `deploy.resources.reservations.devices`.
fn devices(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<Option<Gpus>, ComposeError> {
    devices_of(node, true, reading)
}

fn devices_of(
    node: &Node<'_>,
    needs_capability: bool,
    reading: &mut Reading<'_>,
) -> Result<Option<Gpus>, ComposeError> {
    let mut all = None;
    for device in node.list(DEVICES_MAX)? {
        let fields = device.fields(DEVICE_KEYS)?;
        fields.ignore(&[("options", "the driver has none")], reading);
        if let Some(driver) = fields.get("driver") {
            let text = driver.text(reading)?;
            if text != "nvidia" {
                return Err(driver.bad(&text, "`nvidia`, other drivers are not run"));
            }
        }
        let capabilities = match fields.get("capabilities") {
            None if !needs_capability => vec!["gpu".to_owned()],
            _ => texts(&fields.need("capabilities")?, reading)?,
        };
        if !capabilities.iter().any(|capability| matches!(capability.as_str(), "gpu" | "nvidia")) {
            return Err(device.refuse("only devices with the capability `gpu` are reserved"));
        }
        all = merged(all, Some(quantity(&device, &fields, reading)?));
    }
    Ok(all)
}

/// How many devices one entry asks for; all of them if it does not say.
fn quantity(device: &Node<'_>, fields: &Fields<'_>, reading: &mut Reading<'_>) -> Result<Gpus, ComposeError> {
    const WANTED: &str = "`all` or a number of devices from 1 to 64";
    let (count, ids) = (fields.get("count"), fields.get("device_ids"));
    match (count, ids) {
        (Some(_), Some(_)) => Err(device.refuse("`count` and `device_ids` exclude each other")),
        (None, Some(ids)) => {
            let texts = texts(&ids, reading)?;
            if texts.iter().any(|id| id == "all") {
                return Ok(Gpus::All);
            }
            reading.ignore(&ids.path, "the rig chooses the devices, as many as are named");
            let number = u32::try_from(texts.len()).ok().filter(|number| *number > 0);
            number.map(Gpus::Count).ok_or_else(|| ids.bad("", WANTED))
        }
        (Some(count), None) => {
            let text = count.text(reading)?;
            match text.as_str() {
                // As the tools that these files are written for mean it.
                "all" | "-1" => Ok(Gpus::All),
                text => {
                    let number = text.parse().ok().filter(|number| (1..=GPUS_MAX).contains(number));
                    number.map(Gpus::Count).ok_or_else(|| count.bad(text, WANTED))
                }
            }
        }
        (None, None) => Ok(Gpus::All),
    }
}

fn texts(node: &Node<'_>, reading: &Reading<'_>) -> Result<Vec<String>, ComposeError> {
    node.list(DEVICES_MAX)?.iter().map(|node| node.text(reading)).collect()
}

fn merged(one: Option<Gpus>, other: Option<Gpus>) -> Option<Gpus> {
    match (one, other) {
        (Some(Gpus::Count(one)), Some(Gpus::Count(other))) => Some(Gpus::Count((one + other).min(GPUS_MAX))),
        (Some(Gpus::All), _) | (_, Some(Gpus::All)) => Some(Gpus::All),
        (one, other) => one.or(other),
    }
}
