//! The compose file of a source: the subset that this rig runs, the rest refused by name.
//!
//! Reading is pure: a text, what is offered for `${…}`, and what the owner allows go in, a [`Plan`] or a reason comes
//! out. Invariants:
//! - Every key is read, refused, or ignored with a note; none is passed over. `x-cuda` names a kernel bundle; every
//!   other `x-…` is for others.
//! - What would open the box is refused, with the path of the key. An [`Exception`] runs a source *without* what it asks
//!   for, never with it.
//! - `${…}` offers `PORT`, `CALLBACK_URL`, `SOURCE_ADDRESS` and `PROVIDER_ADDRESS` and nothing else: on today's network
//!   any source can read the provider's key this way (protocol §3.4).
//! - Whatever the file holds, the time and memory that it takes are bounded, and so is the plan.
//!
//! Read first: [`plan`] (what comes out), then `document` (the tree), `node` (how values are read) and `service`.

mod cuda;
mod depends;
mod document;
mod error;
mod exceptions;
mod health;
mod interpolate;
mod mounts;
mod names;
mod node;
pub mod plan;
mod ports;
mod refusals;
mod resources;
mod service;
mod units;
mod volumes;
mod words;

pub use self::cuda::Cuda;
pub use self::error::ComposeError;
pub use self::exceptions::{Exception, Exceptions};
pub use self::interpolate::Offer;
pub use self::plan::Plan;

use self::document::Value;
use self::names::{Alias, Names};
use self::node::{Node, Reading};
use self::plan::{Condition, Published};
use self::refusals::NO_FILES;
use self::service::Draft;
use self::volumes::Shelf;

/// The largest compose file that is read, in bytes.
pub const COMPOSE_BYTES_MAX: u64 = 256 * 1024;

/// The longest text of a plan, in bytes, after interpolation. Source: none; the longest real ones are shell scripts of a
/// few hundred.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Services of one source. Source: real files have three; each is a jail with a network and a share of the rig's limits.
pub const SERVICES_MAX: usize = 16;

/// Services that a file may describe, those of `profiles` included.
const DESCRIBED_MAX: usize = 4 * SERVICES_MAX;

/// Ports of one source beside the main one.
pub const PUBLISHED_MAX: usize = 32;

/// The port on which the network's service framework listens inside its container; hard-coded there.
pub const SERVICE_PORT: u16 = 5555;

const KEYS: &[&str] =
    &["services", "volumes", "networks", "name", "version", "configs", "secrets", "include", "models"];

const REFUSED: &[(&str, &str)] = &[
    ("include", NO_FILES),
    ("configs", "configs are not run"),
    ("secrets", "secrets are not run"),
    ("models", "only images are run"),
];

// === impl Plan ===

impl Plan {
    /// Understands a compose file, with what the rig offers for `${…}` and what its owner allows this source.
    /// Errors: the first thing that is not run, by its path.
    pub fn parse(text: &str, offer: &Offer, exceptions: &Exceptions) -> Result<Plan, ComposeError> {
        check_length(text)?;
        let tree = document::read(text)?;
        let root = Node { path: String::new(), value: &tree };
        let Value::Map(_) = tree else {
            return Err(ComposeError::Syntax { why: format!("the file is {}, not a map of `services`", tree.kind()) });
        };
        let mut reading = Reading::new(offer, exceptions);
        let fields = root.fields(KEYS)?;
        fields.refuse(REFUSED)?;
        let mut shelf = Shelf::declare(fields.get("volumes").as_ref(), &mut reading)?;
        let networks = names::declare(fields.get("networks").as_ref(), &mut reading)?;
        let cuda = Cuda::of(&root, &reading)?;
        let described = match fields.get("services") {
            None if cuda.is_some() => Vec::new(),
            Some(_) | None => fields.need("services")?.named(DESCRIBED_MAX)?,
        };

        let mut names = Names::default();
        let mut drafts: Vec<Draft<'_>> = Vec::new();
        let mut left_out: Vec<&str> = Vec::new();
        for (at, (name, node)) in described.into_iter().enumerate() {
            names.take_service(at, name, &node)?;
            match service::open(&node, &mut reading)? {
                Some(fields) => drafts.push(service::draft(name, &fields, &mut shelf, &networks, &mut reading)?),
                None => left_out.push(name),
            }
        }
        let least = usize::from(cuda.is_none());
        if !(least..=SERVICES_MAX).contains(&drafts.len()) {
            return Err(ComposeError::Services { count: drafts.len() });
        }
        let drafts = in_order(drafts, &left_out, &mut reading)?;
        let (main, main_port, published) = doors(&drafts, offer.port, &mut reading)?;
        let services = with_aliases(drafts)?;
        let volumes = shelf.finish(&mut reading);
        let (notes, exceptions) = reading.finish();
        Ok(Plan { cuda, services, main, main_port, volumes, published, notes, exceptions })
    }
}

fn check_length(text: &str) -> Result<(), ComposeError> {
    match u64::try_from(text.len()) {
        Ok(bytes) if bytes <= COMPOSE_BYTES_MAX => Ok(()),
        Ok(_) | Err(_) => Err(ComposeError::FileTooLong { bytes: text.len() }),
    }
}

/// Resolves `depends_on` and `links`, and puts services in the order in which they start.
fn in_order<'a>(
    mut drafts: Vec<Draft<'a>>,
    left_out: &[&str],
    reading: &mut Reading<'_>,
) -> Result<Vec<Draft<'a>>, ComposeError> {
    let index = |name: &str, drafts: &[Draft<'_>]| drafts.iter().position(|draft| draft.service.name == name);
    let mut needs: Vec<Vec<usize>> = Vec::new();
    for at in 0..drafts.len() {
        let mut depends_on: Vec<(usize, Condition)> = Vec::new();
        for wait in std::mem::take(&mut drafts[at].waits) {
            match index(&wait.name, &drafts) {
                Some(other) => {
                    let condition = judged(&wait, &drafts[other], reading);
                    depends_on.retain(|(known, weaker)| *known != other || *weaker != Condition::Started);
                    if !depends_on.iter().any(|(known, _)| *known == other) {
                        depends_on.push((other, condition));
                    }
                }
                None if !wait.is_required => reading.ignore(&wait.node.path, "it does not start, and is not required"),
                None if left_out.contains(&wait.name.as_str()) => {
                    return Err(wait.node.refuse("that service has `profiles`, and none is chosen"));
                }
                None => return Err(wait.node.not_declared("service", &wait.name)),
            }
        }
        needs.push(depends_on.iter().map(|(other, _)| *other).collect());
        drafts[at].service.depends_on = depends_on;
    }
    let names: Vec<&str> = drafts.iter().map(|draft| draft.service.name.as_str()).collect();
    let order = depends::start_order(&names, &needs)?;
    let mut place = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = new;
    }
    let mut placed: Vec<(usize, Draft<'_>)> = place.iter().copied().zip(drafts).collect();
    placed.sort_by_key(|(new, _)| *new);
    let mut drafts: Vec<Draft<'_>> = placed.into_iter().map(|(_, draft)| draft).collect();
    for (other, _) in drafts.iter_mut().flat_map(|draft| &mut draft.service.depends_on) {
        *other = place[*other];
    }
    Ok(drafts)
}

/// How far a dependency must be; a service that says nothing of its health is waited for until it has started.
fn judged(wait: &depends::Wait<'_>, other: &Draft<'_>, reading: &mut Reading<'_>) -> Condition {
    if wait.condition == Condition::Healthy && other.service.health.is_none() {
        let path = &wait.node.path;
        reading.note(format!("`{path}` waits for a start only: that service has no `healthcheck` in the file"));
        return Condition::Started;
    }
    wait.condition
}

/// Finds the service that answers on `PORT`, and what else is published.
fn doors(
    drafts: &[Draft<'_>],
    asked: u16,
    reading: &mut Reading<'_>,
) -> Result<(usize, u16, Vec<Published>), ComposeError> {
    let mut main = None;
    let mut published: Vec<Published> = Vec::new();
    for (service, draft) in drafts.iter().enumerate() {
        for port in &draft.ports {
            let is_taken = if port.host == asked {
                main.replace((service, port.inside)).is_some()
            } else {
                published.iter().any(|other| other.host_port == port.host)
            };
            if is_taken {
                return Err(port.node.twice(format!("the host port {}", port.host)));
            }
            if port.host != asked {
                published.push(Published { host_port: port.host, service, port: port.inside });
            }
            if published.len() > PUBLISHED_MAX {
                let path = port.node.path.clone();
                return Err(ComposeError::TooMany { path, count: published.len(), max: PUBLISHED_MAX });
            }
        }
    }
    let (main, main_port) = match main {
        Some(main) => main,
        None if drafts.len() == 1 => {
            reading.note(format!("no port publishes ${{PORT}}: port {SERVICE_PORT} is asked"));
            (0, SERVICE_PORT)
        }
        // A bundle answers no port.
        None if drafts.is_empty() => (0, SERVICE_PORT),
        None => return Err(ComposeError::NoMain),
    };
    Ok((main, main_port, published))
}

/// Gives services their further names, in start order.
fn with_aliases(drafts: Vec<Draft<'_>>) -> Result<Vec<plan::Service>, ComposeError> {
    let own: Vec<String> = drafts.iter().map(|draft| draft.service.name.clone()).collect();
    let mut names = Names::default();
    for (at, name) in own.iter().enumerate() {
        let node = Node { path: format!("services.{name}"), value: &Value::Nothing };
        names.take_service(at, name, &node)?;
    }
    let mut aliases: Vec<Vec<String>> = vec![Vec::new(); own.len()];
    for (at, draft) in drafts.iter().enumerate() {
        let linked = draft.links.iter().filter_map(|(node, to, alias)| {
            let to = own.iter().position(|name| name == to)?;
            Some((to, Alias { node: node.clone(), name: alias.clone()? }))
        });
        for (at, alias) in draft.aliases.iter().cloned().map(|alias| (at, alias)).chain(linked) {
            if names.take_alias(at, &alias)? {
                aliases[at].push(alias.name);
            }
        }
    }
    let with = |(draft, aliases): (Draft<'_>, _)| plan::Service { aliases, ..draft.service };
    Ok(drafts.into_iter().zip(aliases).map(with).collect())
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
        Plan::parse(text, &offer(), &Exceptions::default())
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
        let main = &plan.services[plan.main];
        assert_eq!(main.image, "127.0.0.1:5000/handler:1");
        assert_eq!(main.command, Some(vec!["python".into(), "handler.py".into()]));
        assert_eq!(main.environment[0].1, "http://host.docker.internal:20000/t/task");
        assert_eq!(main.environment[1].1, "fast");
        assert_eq!((plan.main_port, plan.notes.len()), (5555, 1));
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
            "sysctls: {a: 1}",
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
            "`services.a.environment.K` asks for ${PROVIDER_PRIVATE_KEY}, which this rig does not offer"
        );
        let plan = parse("services: {a: {image: i, environment: {K: '${PROVIDER_PRIVATE_KEY:-}'}}}").expect("default");
        assert_eq!(plan.services[0].environment, [("K".to_owned(), String::new())]);
    }

    #[test]
    fn a_bad_file_is_named_not_guessed() {
        for (text, says) in [
            ("", "parse"),
            ("services: 3", "`services` is a number"),
            ("services: {}", "0 services"),
            ("services: {a: {image: i}, b: {image: i}}", "no service publishes ${PORT}"),
            ("services: {a: {}}", "`services.a.image` is missing"),
            ("services: {a: {image: '${PORT'}}", "does not end"),
            ("services: {a: {image: i, read_only: 7}}", "`services.a.read_only` is a number"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
