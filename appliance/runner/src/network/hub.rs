//! The hub of one source: where its services meet, and where their callbacks arrive.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};

use super::namespace;
use super::rtnetlink::{End, LOOPBACK, Route, Rtnetlink};
use super::rules;
use super::uplink::{Gateway, Uplink};
use super::{EVERYWHERE, NetworkError, NetworkPlan, Policy, SERVICES, Step, Traffic};

/// A service's end of its link, and its number among the service's interfaces: beyond those that some kernels put
/// into every namespace.
const SERVICE_END: End<'static> = End { name: "eth0", index: 100 };

/// The hub's ends are numbered from here.
const HUB_INDEX: u32 = 100;

/// The network of one source. Dropping it takes the way outside away at once; the rest goes with the last process
/// and descriptor in it.
#[derive(Debug)]
pub(crate) struct Hub {
    /// First, so that it is pulled out before its namespace goes.
    uplink: Option<Uplink>,
    netns: OwnedFd,
    listener: Arc<OwnedFd>,
    services: u8,
    links: Mutex<Links>,
}

/// What leads to the services.
#[derive(Debug)]
enum Links {
    /// Veth pairs, made through the hub's own socket.
    Routed(Rtnetlink),
    /// Nothing: under [`Policy::None`] a service is met in its own namespace.
    Apart(BTreeMap<u8, OwnedFd>),
}

// === impl Hub ===

impl Hub {
    /// Makes the hub of `plan` without any service. The calling thread's network namespace is the gateway.
    ///
    /// Errors: a plan that cannot be built, by its field; else the step that the kernel or `nft` refused.
    pub(crate) fn open(plan: &NetworkPlan) -> Result<Self, NetworkError> {
        plan.check()?;
        let gateway = match plan.policy {
            Policy::None | Policy::Internal => None,
            Policy::Internet(_) => Some(Gateway::open()?),
        };
        let rules = rules::of_hub(plan, gateway.as_ref().map(Gateway::nearby).unwrap_or_default());
        let (netns, (links, listener)) = namespace::create(|_| {
            namespace::be_a_hub()?;
            if let Some(rules) = rules {
                rules::feed("hub", &rules)?;
            }
            let links = Rtnetlink::open().step("open rtnetlink")?;
            links.up(LOOPBACK).step("bring the loopback up")?;
            links.add_address(LOOPBACK, CALLBACK_ADDR, 32).step("add the callback address")?;
            let listener = TcpListener::bind((CALLBACK_ADDR, CALLBACK_PORT)).step("listen for callbacks")?;
            listener.set_nonblocking(true).step("listen for callbacks")?;
            Ok((links, listener))
        })?;
        let uplink = gateway.map(|gateway| gateway.plug_in(plan.number, &links)).transpose()?;
        let links = match plan.policy {
            Policy::None => Links::Apart(BTreeMap::new()),
            Policy::Internal | Policy::Internet(_) => Links::Routed(links),
        };
        let listener = Arc::new(listener.into());
        Ok(Self { uplink, netns, listener, services: plan.services, links: Mutex::new(links) })
    }

    /// Links service `index`, counted from 1, to the hub: `netns` is its [`isolated`](super::isolated) namespace. The
    /// link of an earlier namespace of the same service is cut.
    pub(crate) fn attach(&self, index: u8, netns: &OwnedFd) -> Result<(), NetworkError> {
        self.check(index)?;
        match &mut *self.links() {
            Links::Routed(links) => {
                let beyond = if self.uplink.is_some() { EVERYWHERE } else { SERVICES };
                attach_routed(links, index, netns, beyond)
            }
            Links::Apart(services) => {
                services.insert(index, netns.try_clone().step("keep a network namespace")?);
                Ok(())
            }
        }
    }

    /// A stream to `port` of service `index`, non-blocking and without delay.
    ///
    /// Errors: `ConnectionRefused` and `TimedOut` say that nothing answers there; under [`Policy::None`],
    /// `NotConnected` says that the service was never attached.
    pub(crate) fn connect(&self, index: u8, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        self.check(index).map_err(io::Error::other)?;
        let apart = match &*self.links() {
            Links::Routed(_) => None,
            Links::Apart(services) => Some(services.get(&index).ok_or(io::ErrorKind::NotConnected)?.try_clone()?),
        };
        let (netns, address) = match &apart {
            None => (&self.netns, NetworkPlan::address(index)),
            Some(netns) => (netns, Ipv4Addr::LOCALHOST),
        };
        let address = SocketAddr::from((address, port));
        let connected = namespace::inside(netns, || Ok(TcpStream::connect_timeout(&address, timeout)));
        let stream = connected.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The callback listener, non-blocking: the only one in the hub. It listens for as long as a duplicate of it is
    /// open, whatever becomes of the services.
    pub(crate) fn listener(&self) -> &Arc<OwnedFd> {
        &self.listener
    }

    /// What went to and from the internet; nothing under another policy.
    pub(crate) fn traffic(&self) -> Result<Traffic, NetworkError> {
        match (&self.uplink, &*self.links()) {
            (Some(_), Links::Routed(links)) => Uplink::traffic(links),
            _ => Ok(Traffic::default()),
        }
    }

    /// Closes it as if the runner had been killed.
    #[cfg(test)]
    pub(super) fn abandon(self) {
        std::mem::forget(self.uplink);
    }

    /// Where the hub is; for a test to look into.
    #[cfg(test)]
    pub(super) fn netns(&self) -> &OwnedFd {
        &self.netns
    }

    fn check(&self, index: u8) -> Result<(), NetworkError> {
        let services = self.services;
        if (1..=services).contains(&index) { Ok(()) } else { Err(NetworkError::NoSuchService { index, services }) }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `beyond` is all that the service has a route to; the rest is unreachable without a packet being sent.
fn attach_routed(links: &Rtnetlink, index: u8, netns: &OwnedFd, beyond: (Ipv4Addr, u8)) -> Result<(), NetworkError> {
    let name = format!("s{index}");
    let near = End { name: &name, index: HUB_INDEX + u32::from(index) };
    let address = NetworkPlan::address(index);
    links.remove(near).step("cut a service's old link")?;
    namespace::inside(netns, || {
        let own = Rtnetlink::open().step("open rtnetlink")?;
        links.add_veth(near, SERVICE_END, netns.as_fd()).step("link a service")?;
        own.up(SERVICE_END.index).step("bring a service's link up")?;
        own.add_address(SERVICE_END.index, address, 32).step("give a service its address")?;
        let to_hub = Route { to: (CALLBACK_ADDR, 32), via: None, index: SERVICE_END.index, source: None };
        own.add_route(to_hub).step("route a service to the hub")?;
        let onwards = Route { to: beyond, via: Some(CALLBACK_ADDR), index: SERVICE_END.index, source: None };
        own.add_route(onwards).step("route a service beyond the hub")
    })?;
    links.await_up(near.index).step("wait for a service's link")?;
    let back = Route { to: (address, 32), via: None, index: near.index, source: Some(CALLBACK_ADDR) };
    links.add_route(back).step("route the hub to a service")
}
