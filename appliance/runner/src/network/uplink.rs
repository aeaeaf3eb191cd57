//! The way of one source to the outside: a veth pair between its hub and the gateway.
//!
//! Invariants: the gateway's rules are there before the first uplink and until after the last; which uplinks there
//! are, the kernel knows, so no count of them can be wrong.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::namespace;
use super::rtnetlink::{End, Route, Rtnetlink};
use super::rules::{self, UPLINK, UPLINK_PREFIX};
use super::{EVERYWHERE, NetworkError, NetworkPlan, Step, Traffic};

/// The number of the hub's end among the hub's interfaces.
const HUB_INDEX: u32 = 200;

/// Held while uplinks or the gateway's rules change, so that nobody removes rules that another is about to need.
static GATEWAY: Mutex<()> = Mutex::new(());

/// The gateway, before anything is plugged in.
#[derive(Debug)]
pub(super) struct Gateway {
    netns: OwnedFd,
    links: Rtnetlink,
    nearby: Vec<(Ipv4Addr, u8)>,
}

/// A plugged-in uplink; dropping it pulls it out.
#[derive(Debug)]
pub(super) struct Uplink {
    gateway: Gateway,
    name: String,
    /// The gateway's number for it, never given again; 0 while it is not known.
    index: u32,
}

/// Removes the gateway's rules if a killed runner left them: if there are no uplinks, which die with their hubs.
/// To be called when the runner starts, in the gateway.
pub(crate) fn clear_abandoned() -> Result<(), NetworkError> {
    let _turn = turn();
    let links = Rtnetlink::open().step("open rtnetlink")?;
    match remove_rules_if_unused(&links, || rules::feed("gateway", rules::REMOVE_GATEWAY)) {
        Err(error) if rules::is_without_nft(&error) => Ok(()),
        other => other,
    }
}

// === impl Gateway ===

impl Gateway {
    /// The network namespace of the calling thread, which has to forward.
    pub(super) fn open() -> Result<Self, NetworkError> {
        let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").step("read net/ipv4/ip_forward")?;
        if forwards.trim() != "1" {
            return Err(NetworkError::NotForwarding);
        }
        let netns = namespace::current()?;
        let links = Rtnetlink::open().step("open rtnetlink")?;
        let nearby = links.addresses().step("list the host's addresses")?;
        Ok(Self { netns, links, nearby })
    }

    /// The networks that the gateway itself is on.
    pub(super) fn nearby(&self) -> &[(Ipv4Addr, u8)] {
        &self.nearby
    }

    /// Connects a hub, whose own rules are in force already.
    pub(super) fn plug_in(self, number: u16, hub_links: &Rtnetlink) -> Result<Uplink, NetworkError> {
        let mut uplink = Uplink { gateway: self, name: format!("{UPLINK_PREFIX}{number}"), index: 0 };
        let turn = turn();
        let connected = uplink.connect(number, hub_links);
        // An uplink that is not complete is dropped, which takes a turn of its own.
        drop(turn);
        connected.map(|()| uplink)
    }
}

// === impl Uplink ===

impl Uplink {
    fn connect(&mut self, number: u16, hub_links: &Rtnetlink) -> Result<(), NetworkError> {
        let (gateway_address, hub_address) = NetworkPlan::uplink_addresses(number);
        let Gateway { netns, links, nearby } = &self.gateway;
        let rules = rules::of_gateway(nearby);
        namespace::inside(netns, || rules::feed("gateway", &rules))?;
        // Of a killed runner, whose hub is about to vanish, or of this source before it was started again.
        links.remove(self.end()).step("remove an old uplink")?;
        let near = End { name: UPLINK, index: HUB_INDEX };
        hub_links.add_veth(near, self.end(), netns.as_fd()).step("add an uplink")?;
        namespace::inside(netns, || {
            namespace::set(&format!("ipv4/conf/{}/rp_filter", self.name), "1")?;
            namespace::forget_ipv6_on(&self.name)
        })?;
        self.index = links.interface(&self.name).step("find the uplink")?.index;
        links.up(self.index).step("bring the uplink up")?;
        links.add_address(self.index, gateway_address, 30).step("give the uplink its address")?;
        hub_links.await_up(HUB_INDEX).step("wait for the uplink")?;
        hub_links.add_address(HUB_INDEX, hub_address, 30).step("give the hub its address outside")?;
        let out = Route { to: EVERYWHERE, via: Some(gateway_address), index: HUB_INDEX, source: None };
        hub_links.add_route(out).step("route to the gateway")
    }

    /// What went through it.
    pub(super) fn traffic(hub_links: &Rtnetlink) -> Result<Traffic, NetworkError> {
        let uplink = hub_links.interface(UPLINK).step("read the uplink's counters")?;
        Ok(Traffic { received_bytes: uplink.received_bytes, sent_bytes: uplink.sent_bytes })
    }

    /// The gateway's end.
    fn end(&self) -> End<'_> {
        End { name: &self.name, index: self.index }
    }

    fn pull_out(&self) -> Result<(), NetworkError> {
        let _turn = turn();
        let Gateway { netns, links, .. } = &self.gateway;
        links.remove(self.end()).step("remove the uplink")?;
        remove_rules_if_unused(links, || namespace::inside(netns, || rules::feed("gateway", rules::REMOVE_GATEWAY)))
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if let Err(error) = self.pull_out() {
            // Nothing gets out: the uplink goes with its hub, and rules without an uplink match nothing.
            tracing::warn!(error = &error as &dyn std::error::Error, "an uplink's rules are left");
        }
    }
}

fn remove_rules_if_unused(
    links: &Rtnetlink,
    remove: impl FnOnce() -> Result<(), NetworkError>,
) -> Result<(), NetworkError> {
    let interfaces = links.interfaces().step("list the gateway's interfaces")?;
    if interfaces.iter().any(|interface| interface.name.starts_with(UPLINK_PREFIX)) { Ok(()) } else { remove() }
}

fn turn() -> MutexGuard<'static, ()> {
    GATEWAY.lock().unwrap_or_else(PoisonError::into_inner)
}
