//! Keys of a service that are not run: what is refused for good, what an owner can allow to go without, what is ignored.
//!
//! A key stands in exactly one of the tables, or is read in [`super::service`]; all others are unknown and refused. A key
//! that says nothing (`privileged: false`, an empty list) is as good as left out.

use super::ComposeError;
use super::document::Value;
use super::exceptions::Exception;
use super::node::{Fields, Reading};

/// Why a key that names another file is refused.
pub(super) const NO_FILES: &str = "there is no file beside the compose file";

const OWN_NAMES: &str = "the rig resolves names";
const BY_RESERVATION: &str = "a job gets devices by reservation only";
const NO_HOOKS: &str = "nothing runs beside a service's own command";

/// Keys that would open the box, or that a source cannot do without, and what to say.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("privileged", "a job gets no privileges"),
    ("uts", "a job has its own host name"),
    ("userns_mode", "a job has its own users"),
    ("cgroup_parent", "a job has its own limits"),
    ("device_cgroup_rules", BY_RESERVATION),
    ("sysctls", "the kernel is not changed for a job"),
    ("volumes_from", "a volume is mounted by its name"),
    ("external_links", "a job does not reach other sources"),
    ("configs", "configs are not run"),
    ("secrets", "secrets are not run"),
    ("env_file", NO_FILES),
    ("label_file", NO_FILES),
    ("extends", NO_FILES),
    ("credential_spec", NO_FILES),
    ("dns", OWN_NAMES),
    ("dns_opt", OWN_NAMES),
    ("dns_search", OWN_NAMES),
    ("use_api_socket", "there is no container engine to talk to"),
    ("provider", "only images are run"),
    ("models", "only images are run"),
    ("post_start", NO_HOOKS),
    ("pre_stop", NO_HOOKS),
];

/// Keys that an owner can allow a source to go without.
pub(super) const EXCEPTED: &[(&str, &str, Exception)] = &[
    ("cap_add", "a job gets no capabilities", Exception::IgnoreCapAdd),
    ("devices", BY_RESERVATION, Exception::IgnoreDevices),
    ("group_add", "a job has the groups of its user in the image", Exception::IgnoreGroupAdd),
    ("runtime", "there is one jail", Exception::IgnoreRuntime),
];

/// Keys whose value decides; see [`decide`].
pub(super) const DECIDED: &[&str] = &["network_mode", "pid", "ipc", "cgroup", "security_opt"];

const RIGS_LIMITS: &str = "the rig's limits hold";
const NO_TERMINAL: &str = "there is no terminal";

/// Keys that change nothing here, and what to note.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("pull_policy", "the image is pinned to the digest that its tag had first"),
    ("logging", "the rig keeps a bounded log"),
    ("build", "the image is used, nothing is built"),
    ("expose", "services of one source reach each other on every port"),
    ("labels", "labels are not read"),
    ("annotations", "annotations are not read"),
    ("attach", "the rig keeps a bounded log"),
    ("develop", "nothing is built"),
    ("platform", "the image's index decides"),
    ("stdin_open", NO_TERMINAL),
    ("tty", NO_TERMINAL),
    ("init", "the rig's own first process reaps"),
    ("stop_signal", "a service is stopped by SIGTERM"),
    ("domainname", "the rig names its jails"),
    ("mac_address", "the jail has its own network"),
    ("cap_drop", "a job has no capabilities anyway"),
    ("mem_reservation", RIGS_LIMITS),
    ("mem_swappiness", RIGS_LIMITS),
    ("memswap_limit", "a job does not swap"),
    ("oom_kill_disable", RIGS_LIMITS),
    ("oom_score_adj", RIGS_LIMITS),
    ("cpu_count", RIGS_LIMITS),
    ("cpu_percent", RIGS_LIMITS),
    ("cpu_period", RIGS_LIMITS),
    ("cpu_quota", RIGS_LIMITS),
    ("cpu_rt_period", RIGS_LIMITS),
    ("cpu_rt_runtime", RIGS_LIMITS),
    ("cpu_shares", RIGS_LIMITS),
    ("cpuset", RIGS_LIMITS),
    ("blkio_config", RIGS_LIMITS),
    ("storage_opt", RIGS_LIMITS),
    ("isolation", "there is one jail"),
];

/// Entries of `security_opt`.
const OPTIONS_MAX: usize = 16;

/// Refuses what is refused, and notes what is ignored.
pub(super) fn sort_out(fields: &Fields<'_>, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    fields.refuse(REFUSED)?;
    decide(fields, reading)?;
    for (key, why, exception) in EXCEPTED {
        if let Some(node) = fields.get(key).filter(|node| !node.value.asks_nothing()) {
            reading.refuse_unless(&node.path, why, *exception)?;
        }
    }
    fields.ignore(IGNORED, reading);
    Ok(())
}

/// Keys that are harmless with some values.
fn decide(fields: &Fields<'_>, reading: &mut Reading<'_>) -> Result<(), ComposeError> {
    const DEFAULT_NETWORK: &str = "all services of a source share one network";
    if let Some(node) = fields.get("network_mode") {
        match node.text(reading)?.as_str() {
            "bridge" | "default" => reading.ignore(&node.path, DEFAULT_NETWORK),
            _ => return Err(node.refuse("a job has its own network")),
        }
    }
    if let Some(node) = fields.get("pid") {
        return Err(node.refuse("a job has its own processes"));
    }
    if let Some(node) = fields.get("cgroup")
        && node.text(reading)? != "private"
    {
        return Err(node.refuse("a job has its own limits"));
    }
    if let Some(node) = fields.get("ipc") {
        const WHY: &str = "a job has its own memory";
        match node.text(reading)?.as_str() {
            "private" | "shareable" => {}
            "host" => reading.refuse_unless(&node.path, WHY, Exception::IgnoreIpcHost)?,
            _ => return Err(node.refuse(WHY)),
        }
    }
    if let Some(node) = fields.get("security_opt").filter(|node| *node.value != Value::List(Vec::new())) {
        let mut weakens = false;
        for option in node.one_or_list(OPTIONS_MAX)? {
            let text = option.text(reading)?;
            weakens |=
                !matches!(text.as_str(), "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true");
        }
        if weakens {
            reading.refuse_unless(&node.path, "the jail is not weakened", Exception::IgnoreSecurityOpt)?;
        }
    }
    Ok(())
}
