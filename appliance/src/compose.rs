//! The compose file of a source: the subset that this rig runs, the rest refused by name.
//!
//! One service with one image. What is harmless is ignored with a note; what would open the box is refused with the
//! path of the key. `${…}` offers `PORT`, `CALLBACK_URL`, `SOURCE_ADDRESS` and `PROVIDER_ADDRESS` and nothing else:
//! on today's network any source can read the provider's key this way (protocol §3.4).

mod interpolate;
mod words;

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

pub use self::interpolate::Offer;

/// The largest compose file that is read, in bytes.
pub const COMPOSE_BYTES_MAX: u64 = 256 * 1024;

/// How deep values may be nested. Source: real files need eight; each level costs the parser several KiB of stack.
const DEPTH_MAX: usize = 24;

/// Values of one file, aliases expanded.
const NODES_MAX: usize = 50_000;

/// How much of a name that stands in the file is shown in a reason, in characters.
const NAME_CHARS_MAX: usize = 80;

/// How much of what the parser says is shown in a reason, in characters.
const SYNTAX_CHARS_MAX: usize = 300;

/// The port on which the network's service framework listens inside its container; hard-coded there.
pub const SERVICE_PORT: u16 = 5555;

/// A compose file, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The service's name in the file.
    pub service: String,
    /// The image reference as written, after interpolation.
    pub image: String,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment.
    pub environment: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Replaces the image's user.
    pub user: Option<String>,
    /// Whether the root file system cannot be written.
    pub read_only: bool,
    /// Keys that were ignored, and why, in words for the owner.
    pub notes: Vec<String>,
}

/// Why a compose file is not run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ComposeError {
    /// Not YAML, or a value of the wrong kind.
    #[error("the compose file does not parse: {why}")]
    Syntax {
        /// What the parser found, with the line.
        why: String,
    },
    /// Not one service.
    #[error("the compose file has {count} services, this rig runs exactly one")]
    Services {
        /// How many.
        count: usize,
    },
    /// A service whose name is none.
    #[error("`{name}` is no name for a service")]
    BadName {
        /// The name, cut.
        name: String,
    },
    /// A key that is not run.
    #[error("`{path}` is refused: {why}")]
    Refused {
        /// Where in the file.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// A key without which nothing runs.
    #[error("`{path}` is missing")]
    Missing {
        /// Where in the file.
        path: String,
    },
    /// `${NAME}` that is not offered.
    #[error("`{path}` asks for ${{{name}}}, which this rig does not offer")]
    NotOffered {
        /// Where in the file.
        path: String,
        /// The name.
        name: String,
    },
    /// `${…}` that does not parse.
    #[error("`{path}` has a `${{` that does not end, or a name that is none")]
    BadInterpolation {
        /// Where in the file.
        path: String,
    },
    /// A command line whose quote does not end.
    #[error("`{path}` has a quote that does not end")]
    OpenQuote {
        /// Where in the file.
        path: String,
    },
}

/// Why a key that names another file is refused.
const NO_FILES: &str = "there is no file beside the compose file";

/// Keys of a service that would open the box, and what to say.
const REFUSED: &[(&str, &str)] = &[
    ("privileged", "a job gets no privileges"),
    ("cap_add", "a job gets no capabilities"),
    ("network_mode", "a job has its own network"),
    ("pid", "a job has its own processes"),
    ("ipc", "a job has its own memory"),
    ("uts", "a job has its own host name"),
    ("userns_mode", "a job has its own users"),
    ("cgroup", "a job has its own limits"),
    ("cgroup_parent", "a job has its own limits"),
    ("devices", "a job gets devices by reservation only"),
    ("device_cgroup_rules", "a job gets devices by reservation only"),
    ("security_opt", "the jail is not weakened"),
    ("runtime", "there is one jail"),
    ("sysctls", "the kernel is not changed for a job"),
    ("volumes", "volumes are not run yet by this release"),
    ("volumes_from", "volumes are not run yet by this release"),
    ("tmpfs", "own tmpfs mounts are not run yet by this release"),
    ("depends_on", "one service has nothing to depend on"),
    ("links", "one service has nothing to link to"),
    ("configs", "configs are not run"),
    ("secrets", "secrets are not run"),
    ("env_file", NO_FILES),
    ("extends", NO_FILES),
];

/// Keys of a service that change nothing here, and what to note.
const IGNORED: &[(&str, &str)] = &[
    ("pull_policy", "the image is pinned to the digest that its tag had first"),
    ("logging", "the rig keeps a bounded log"),
    ("container_name", "the rig names its jails"),
    ("build", "the image is used, nothing is built"),
    ("restart", "the rig restarts a source with back-off"),
    ("ports", "the rig reaches port 5555 inside the jail"),
    ("expose", "the rig reaches port 5555 inside the jail"),
    ("extra_hosts", "host.docker.internal is the callback, other names do not resolve"),
    ("labels", "labels are not read"),
    ("stop_grace_period", "the rig gives its own grace"),
    ("healthcheck", "the rig asks the port"),
    ("deploy", "this release serves sources without an accelerator"),
    ("hostname", "the rig names its jails"),
    ("platform", "the image's index decides"),
    ("stdin_open", "there is no terminal"),
    ("tty", "there is no terminal"),
    ("init", "the rig's own first process reaps"),
    ("networks", "the jail has its own network"),
    ("shm_size", "/dev/shm has the rig's size"),
    ("ulimits", "the rig's limits hold"),
    ("mem_limit", "the rig's limits hold"),
    ("cpus", "the rig's limits hold"),
    ("cap_drop", "a job has no capabilities anyway"),
];

#[derive(Deserialize)]
struct Document {
    services: BTreeMap<String, Service>,
    include: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Service {
    image: Option<String>,
    entrypoint: Option<Words>,
    command: Option<Words>,
    environment: Option<Environment>,
    working_dir: Option<String>,
    user: Option<Scalar>,
    #[serde(default)]
    read_only: bool,
    #[serde(flatten)]
    rest: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Line(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Environment {
    List(Vec<String>),
    Map(BTreeMap<String, Option<Scalar>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Flag(bool),
    Whole(i64),
    Real(f64),
}

// === impl Scalar ===

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Scalar::Text(text) => text,
            Scalar::Flag(flag) => flag.to_string(),
            Scalar::Whole(number) => number.to_string(),
            Scalar::Real(number) => number.to_string(),
        }
    }
}

// === impl Plan ===

impl Plan {
    /// Understands a compose file, with what the rig offers for `${…}`.
    /// Errors: the first key that is not run, by name.
    pub fn parse(text: &str, offer: &Offer) -> Result<Plan, ComposeError> {
        let bounds = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX },
        };
        let document: Document = serde_saphyr::from_str_with_options(text, bounds)
            .map_err(|error| ComposeError::Syntax { why: first_words(&error) })?;
        if document.include.is_some() {
            return Err(ComposeError::Refused { path: "include".to_owned(), why: NO_FILES });
        }
        let count = document.services.len();
        let mut services = document.services.into_iter();
        let (Some((name, service)), None) = (services.next(), services.next()) else {
            return Err(ComposeError::Services { count });
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            return Err(ComposeError::BadName { name: name.escape_debug().take(NAME_CHARS_MAX).collect() });
        }
        Plan::of_service(name, service, offer)
    }

    fn of_service(name: String, service: Service, offer: &Offer) -> Result<Plan, ComposeError> {
        let at = |key: &str| format!("services.{name}.{key}");
        let notes = sort_out(&name, service.rest.keys())?;
        let image = service.image.ok_or_else(|| ComposeError::Missing { path: at("image") })?;
        let words = |key: &str, words: Option<Words>| -> Result<Option<Vec<String>>, ComposeError> {
            let Some(words) = words else { return Ok(None) };
            let list: Result<Vec<String>, _> = match words {
                Words::List(list) => list.iter().map(|word| offer.fill(&at(key), word)).collect(),
                Words::Line(line) => {
                    let words = words::split(&offer.fill(&at(key), &line)?);
                    words.ok_or_else(|| ComposeError::OpenQuote { path: at(key) })
                }
            };
            list.map(Some)
        };
        let optional = |key: &str, text: Option<String>| text.map(|text| offer.fill(&at(key), &text)).transpose();
        Ok(Plan {
            image: offer.fill(&at("image"), &image)?,
            entrypoint: words("entrypoint", service.entrypoint)?,
            command: words("command", service.command)?,
            environment: environment(&at("environment"), service.environment, offer)?,
            working_dir: optional("working_dir", service.working_dir)?,
            user: optional("user", service.user.map(Scalar::into_text))?,
            read_only: service.read_only,
            notes,
            service: name,
        })
    }
}

/// What the parser says, without the excerpts that it draws below.
fn first_words(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SYNTAX_CHARS_MAX).collect()
}

/// Refuses what is refused, and notes what is ignored.
fn sort_out<'a>(service: &str, keys: impl Iterator<Item = &'a String>) -> Result<Vec<String>, ComposeError> {
    let mut notes = Vec::new();
    for key in keys {
        let key_shown: String = key.escape_debug().take(NAME_CHARS_MAX).collect();
        let path = format!("services.{service}.{key_shown}");
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| name == key) {
            return Err(ComposeError::Refused { path, why });
        }
        match IGNORED.iter().find(|(name, _)| name == key) {
            Some((_, why)) => notes.push(format!("`{path}` is ignored: {why}")),
            None if key.starts_with("x-") => {}
            None => return Err(ComposeError::Refused { path, why: "this rig does not know it" }),
        }
    }
    Ok(notes)
}

fn environment(path: &str, given: Option<Environment>, offer: &Offer) -> Result<Vec<(String, String)>, ComposeError> {
    let pairs: Vec<(String, String)> = match given {
        None => Vec::new(),
        Some(Environment::Map(map)) => {
            map.into_iter().filter_map(|(key, value)| Some((key, value?.into_text()))).collect()
        }
        Some(Environment::List(list)) => list
            .into_iter()
            .filter_map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
            .collect(),
    };
    pairs.into_iter().map(|(key, value)| Ok((key, offer.fill(path, &value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            port: SERVICE_PORT,
            callback_url: "http://host.docker.internal:20000/t/task".into(),
            source_address: "0xS".into(),
            provider_address: "0xP".into(),
        }
    }

    fn parse(text: &str) -> Result<Plan, ComposeError> {
        Plan::parse(text, &offer())
    }

    #[test]
    fn an_official_compose_file_is_understood() {
        let plan = parse(
            r#"
services:
  handler:
    image: 127.0.0.1:5000/handler:1
    pull_policy: always
    ports: ["${PORT}:5555"]
    environment:
      - CALLBACK_URL=${CALLBACK_URL}
      - MODE=${MODE:-fast}
    extra_hosts: ["host.docker.internal:host-gateway"]
    command: python handler.py
x-note: kept for other providers
"#,
        )
        .expect("it is understood");
        assert_eq!(plan.image, "127.0.0.1:5000/handler:1");
        assert_eq!(plan.command, Some(vec!["python".into(), "handler.py".into()]));
        assert_eq!(plan.environment[0].1, "http://host.docker.internal:20000/t/task");
        assert_eq!(plan.environment[1].1, "fast");
        assert_eq!(plan.notes.len(), 3);
    }

    #[test]
    fn what_would_open_the_box_is_refused_by_name() {
        for key in [
            "privileged: true",
            "cap_add: [SYS_PTRACE]",
            "network_mode: host",
            "pid: host",
            "ipc: host",
            "devices: [/dev/kfd]",
            "security_opt: [seccomp=unconfined]",
            "runtime: nvidia",
            "volumes: [/:/host]",
            "sysctls: {a: 1}",
            "no_such_key: 1",
        ] {
            let error = parse(&format!("services: {{a: {{image: i, {key}}}}}")).expect_err(key);
            let name = key.split(':').next().expect("a key");
            assert!(
                matches!(&error, ComposeError::Refused { path, .. } if *path == format!("services.a.{name}")),
                "{error}"
            );
        }
    }

    #[test]
    fn the_providers_key_is_not_offered() {
        let error =
            parse("services: {a: {image: i, environment: {K: '${PROVIDER_PRIVATE_KEY}'}}}").expect_err("refused");
        assert_eq!(
            error.to_string(),
            "`services.a.environment` asks for ${PROVIDER_PRIVATE_KEY}, which this rig does not offer"
        );
        let plan = parse("services: {a: {image: i, environment: {K: '${PROVIDER_PRIVATE_KEY:-}'}}}").expect("default");
        assert_eq!(plan.environment, [("K".to_owned(), String::new())]);
    }

    #[test]
    fn a_bad_file_is_named_not_guessed() {
        for (text, says) in [
            ("", "parse"),
            ("services: 3", "parse"),
            ("services: {}", "0 services"),
            ("services: {a: {image: i}, b: {image: i}}", "2 services"),
            ("services: {a: {}}", "`services.a.image` is missing"),
            ("services: {a: {image: '${PORT'}}", "does not end"),
            ("services: {a: {image: i, read_only: 7}}", "parse"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
