//! An open source: what its services share, from when it is opened until it is stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runner::protocol::{
    ALIASES_MAX, Digest, NetworkPolicy, PUBLISHED_MAX, Refusal, SERVICES_MAX, ServiceName, SourceName, SourcePlan,
    VOLUMES_MAX, VolumeName,
};

use super::run::Run;
use crate::disk::Disk;
use crate::furniture::Furniture;
use crate::layers::{Held, LayersError};
use crate::network::{self, Hub, NetworkPlan, Policy};
use crate::slots::Slot;

/// One open source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(super) name: SourceName,
    pub(super) slot: Slot,
    pub(super) plan: SourcePlan,
    /// `None` for a source that talks to nobody.
    pub(super) hub: Option<Hub>,
    pub(super) volumes: BTreeMap<VolumeName, Volume>,
    /// By service; made at its first start.
    furniture: Mutex<BTreeMap<ServiceName, Furniture>>,
    /// The images that it has run, which stay mounted, because mounting and unmounting is half of a start.
    images: Mutex<BTreeMap<Digest, Held>>,
    runs: Mutex<BTreeMap<ServiceName, Arc<Run>>>,
}

/// A mounted volume.
#[derive(Debug)]
pub(super) struct Volume {
    /// The directory that jails see, relative to the state directory.
    pub(super) data: String,
    /// Holds it.
    pub(super) _disk: Disk,
}

// === impl Source ===

impl Source {
    /// Gives the source its network. The volumes are there already.
    pub(super) fn new(
        name: SourceName,
        slot: Slot,
        plan: SourcePlan,
        egress: Option<&network::Egress>,
        volumes: BTreeMap<VolumeName, Volume>,
    ) -> Result<Self, Refusal> {
        let hub = match hub_plan(&plan, slot, egress)? {
            Some(hub) => Some(Hub::open(&hub).map_err(|error| super::internal(&error))?),
            None => None,
        };
        let (furniture, images, runs) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { name, slot, plan, hub, volumes, furniture, images, runs })
    }

    /// The number of a service within the source, from 1; its address is made of it.
    pub(super) fn number(&self, service: &ServiceName) -> Result<u8, Refusal> {
        let index = self.plan.services.iter().position(|name| name == service);
        let number = index.and_then(|index| u8::try_from(index + 1).ok());
        number.ok_or_else(|| Refusal::NoService { source_name: self.name.clone(), service: service.clone() })
    }

    /// The run of a service, running or ended.
    pub(super) fn run(&self, service: &ServiceName) -> Result<Arc<Run>, Refusal> {
        self.number(service)?;
        let run = self.runs().get(service).cloned();
        run.ok_or_else(|| Refusal::NotRunning { source_name: self.name.clone(), service: service.clone() })
    }

    pub(super) fn furniture(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Furniture>> {
        self.furniture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an image mounted until the source is stopped. Of images that are not its services' any more it lets go.
    pub(super) fn keep(
        &self,
        manifest: &Digest,
        hold: impl FnOnce() -> Result<Held, LayersError>,
    ) -> Result<(), LayersError> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.contains_key(manifest) {
            if images.len() >= SERVICES_MAX {
                images.clear();
            }
            images.insert(manifest.clone(), hold()?);
        }
        Ok(())
    }

    pub(super) fn runs(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `/etc/hosts` of a jail.
    pub(super) fn hosts(&self) -> String {
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        if self.hub.is_some() {
            hosts.push_str(&format!("{} {}\n", runner::protocol::CALLBACK_ADDR, runner::protocol::CALLBACK_HOST));
        }
        for (number, service) in (1..).zip(&self.plan.services) {
            let address = match self.hub {
                Some(_) => NetworkPlan::address(number).to_string(),
                None => "127.0.0.1".to_owned(),
            };
            let aliases = self.plan.aliases.iter().filter(|(_, of)| of == service);
            let names = std::iter::once(service).chain(aliases.map(|(alias, _)| alias));
            let names: Vec<&str> = names.map(ServiceName::as_str).collect();
            hosts.push_str(&format!("{address} {}\n", names.join(" ")));
        }
        hosts
    }

    /// The `/etc/resolv.conf` of a jail: empty unless the source may talk to the internet.
    pub(super) fn resolvers(&self, egress: Option<&network::Egress>) -> String {
        match (self.plan.network, egress) {
            (NetworkPolicy::Internet, Some(egress)) => {
                egress.resolvers.iter().map(|resolver| format!("nameserver {resolver}\n")).collect()
            }
            _ => String::new(),
        }
    }
}

/// Whether the plan is one that can be carried out.
pub(super) fn check(plan: &SourcePlan) -> Result<(), Refusal> {
    let bad = |detail: String| Err(Refusal::BadPlan { detail });
    for (what, count, most) in [
        ("services", plan.services.len(), SERVICES_MAX),
        ("aliases", plan.aliases.len(), ALIASES_MAX),
        ("published ports", plan.published.len(), PUBLISHED_MAX),
        ("volumes", plan.volumes.len(), VOLUMES_MAX),
    ] {
        if count > most {
            return bad(format!("it has {count} {what}, of at most {most}"));
        }
    }
    if plan.services.is_empty() {
        return bad("it has no service".to_owned());
    }
    let names: Vec<&ServiceName> = plan.services.iter().chain(plan.aliases.iter().map(|(alias, _)| alias)).collect();
    for (number, name) in names.iter().enumerate() {
        if names[..number].contains(name) {
            return bad(format!("two of its services are called {name}"));
        }
    }
    let known = |service: &ServiceName| plan.services.contains(service);
    if let Some((alias, of)) = plan.aliases.iter().find(|(_, of)| !known(of)) {
        return bad(format!("{alias} is another name of {of}, which is none of its services"));
    }
    if let Some(port) = plan.published.iter().find(|port| !known(&port.service)) {
        return bad(format!("port {} is one of {}, which is none of its services", port.port, port.service));
    }
    if plan.network == NetworkPolicy::None && !plan.published.is_empty() {
        return bad("it publishes a port and has no network".to_owned());
    }
    for (number, volume) in plan.volumes.iter().enumerate() {
        if plan.volumes[..number].iter().any(|other| other.name == volume.name) {
            return bad(format!("two of its volumes are called {}", volume.name));
        }
    }
    Ok(())
}

fn hub_plan(plan: &SourcePlan, slot: Slot, egress: Option<&network::Egress>) -> Result<Option<NetworkPlan>, Refusal> {
    let policy = match (plan.network, egress) {
        (NetworkPolicy::None, _) => return Ok(None),
        (NetworkPolicy::Internal, _) => Policy::Internal,
        (NetworkPolicy::Internet, Some(egress)) => Policy::Internet(egress.clone()),
        (NetworkPolicy::Internet, None) => {
            let detail = "it wants the internet, and this runner was started without --egress".to_owned();
            return Err(Refusal::BadPlan { detail });
        }
    };
    let index = |service: &ServiceName| plan.services.iter().position(|name| name == service);
    let number = |index: usize| u8::try_from(index + 1).unwrap_or(u8::MAX);
    let published = plan.published.iter().filter_map(|port| {
        let service = number(index(&port.service)?);
        Some(network::Published { port: port.port, service, target: port.target })
    });
    let services = u8::try_from(plan.services.len()).unwrap_or(u8::MAX);
    Ok(Some(NetworkPlan { policy, services, published: published.collect(), number: slot.number() }))
}
