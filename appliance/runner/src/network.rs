//! The network of a source: its services, the callback, and what of the world its owner lets it reach.
//!
//! ```text
//!   service 1         service 2                 each 10.88.1.i/32 on eth0, all routes lead to the hub
//!      eth0              eth0
//!       |                 |
//!      s1 ----- hub ----- s2                    10.88.0.1/32 on its loopback, where callbacks are awaited
//!                |
//!               up0                             only under Policy::Internet
//!                |
//!             rig-upN in the gateway            the network namespace in which the runner itself runs
//! ```
//!
//! Invariants:
//! - Sources share nothing: each has a hub, all hubs have the same address, and no route leads from one to another.
//!   That a callback arrives at a hub's listener is the proof of which source it is from.
//! - A hub forwards to its services and, with an uplink, to the outside; what it has no route to does not exist.
//! - Nothing but the callback listener ever listens in a hub. That is why a hub without published ports and without
//!   an uplink needs no packet filter; any other has one, whose last word is drop.
//! - Whatever leads outside is filtered before it is plugged in, twice: in the hub and in the gateway.
//! - There is no IPv6 in any of these namespaces, so there is nothing to filter; the rules drop it all the same.
//! - No job has a capability over any of these namespaces. They live by descriptors and processes only, so a killed
//!   runner leaves at most the gateway's rules, which match no other interface than ours, and which
//!   [`clear_abandoned`] or the next internet source removes.
//!
//! At most one runner per gateway may have internet sources: the numbers of its sources name the uplinks.

mod namespace;
mod rtnetlink;
mod rules;

mod hub;
mod uplink;

#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use runner::protocol::CALLBACK_PORT;

pub(crate) use hub::Hub;
pub(crate) use uplink::clear_abandoned;

/// The most services of one source.
pub(crate) const SERVICES_MAX: u8 = 16;

/// The most ports that one source publishes; real sources publish one or two.
pub(crate) const PUBLISHED_MAX: usize = 64;

/// Source numbers stay below this: as many /30 networks as there are in [`UPLINKS`].
pub(crate) const NUMBERS: u16 = 8192;

/// The most resolvers of one source; the C library itself looks at three.
pub(crate) const RESOLVERS_MAX: usize = 8;

/// The lowest rate that can be asked for, in bytes per second. The kernel hands over up to 64 KiB at once.
pub(crate) const RATE_BYTES_PER_S_MIN: u64 = 64 * 1024;

/// Where the services are.
const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 88, 1, 0), 24);

/// The default route.
const EVERYWHERE: (Ipv4Addr, u8) = (Ipv4Addr::UNSPECIFIED, 0);

/// Where the uplinks' networks are: the upper half of 10.88.0.0/16.
const UPLINKS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 88, 128, 0), 17);

/// What a source may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nothing: each service is alone with its loopback. Not even a callback arrives.
    None,
    /// The source's own services, and the callback.
    Internal,
    /// That, and public addresses of the IPv4 internet.
    Internet(Egress),
}

/// How much of the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    /// In either direction, at least [`RATE_BYTES_PER_S_MIN`].
    pub(crate) rate_bytes_per_s: u64,
    /// Both directions together, for as long as the hub lives; then nothing more passes.
    pub(crate) total_bytes: u64,
    /// The only hosts to which port 53 is open; public addresses. Without one there is no DNS.
    pub(crate) resolvers: Vec<Ipv4Addr>,
}

/// A TCP port of the callback address that leads to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// As seen from every service of the source.
    pub(crate) port: u16,
    /// Counted from 1.
    pub(crate) service: u8,
    /// The service's own port.
    pub(crate) target: u16,
}

/// The network of one source, decided in every detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkPlan {
    pub(crate) policy: Policy,
    /// 1 to [`SERVICES_MAX`].
    pub(crate) services: u8,
    pub(crate) published: Vec<Published>,
    /// The source's own number, below [`NUMBERS`]; it names the uplink and its addresses.
    pub(crate) number: u16,
}

/// What went through a source's uplink, in bytes, since its hub was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

/// A network that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("{step}")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("set net/{name}")]
    Setting {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("a source has 1 to {SERVICES_MAX} services, not {services}")]
    Services { services: u8 },
    #[error("there is no service {index}: the source has {services}")]
    NoSuchService { index: u8, services: u8 },
    #[error("source number {number} is not below {NUMBERS}")]
    Number { number: u16 },
    #[error("port {port} cannot be published: {reason}")]
    Port { port: u16, reason: &'static str },
    #[error("{count} ports are published, of at most {PUBLISHED_MAX}")]
    TooManyPorts { count: usize },
    #[error("the internet is limited to {rate_bytes_per_s} bytes per second; give at least {RATE_BYTES_PER_S_MIN}")]
    Rate { rate_bytes_per_s: u64 },
    #[error("the internet is limited to no bytes in total; give a total, or the policy `internal`")]
    Total,
    #[error("{count} resolvers are named, of at most {RESOLVERS_MAX}")]
    TooManyResolvers { count: usize },
    #[error("resolver {resolver} is on a network that no source may reach; name one on the internet")]
    Resolver { resolver: Ipv4Addr },
    #[error("this host forwards no packets, so no source can reach the internet; set net.ipv4.ip_forward = 1")]
    NotForwarding,
    #[error("nft refused the rules of the {place}: {said}")]
    Rules { place: &'static str, said: String },
}

/// A fresh network namespace whose loopback is up, and which has nothing else.
pub(crate) fn isolated() -> Result<OwnedFd, NetworkError> {
    let (netns, ()) = namespace::create(|_| {
        namespace::be_a_service()?;
        rtnetlink::Rtnetlink::open().and_then(|links| links.up(rtnetlink::LOOPBACK)).step("bring the loopback up")
    })?;
    Ok(netns)
}

// === impl NetworkPlan ===

impl NetworkPlan {
    /// Refuses what cannot be built.
    fn check(&self) -> Result<(), NetworkError> {
        let Self { policy, services, published, number } = self;
        if !(1..=SERVICES_MAX).contains(services) {
            return Err(NetworkError::Services { services: *services });
        }
        if *number >= NUMBERS {
            return Err(NetworkError::Number { number: *number });
        }
        if published.len() > PUBLISHED_MAX {
            return Err(NetworkError::TooManyPorts { count: published.len() });
        }
        for (position, Published { port, service, target }) in published.iter().enumerate() {
            let refused = |reason| Err(NetworkError::Port { port: *port, reason });
            if *port == CALLBACK_PORT {
                return refused("callbacks arrive there");
            }
            if *port == 0 || *target == 0 {
                return refused("0 is not a port");
            }
            if !(1..=*services).contains(service) {
                return refused("the source has no such service");
            }
            if *policy == Policy::None {
                return refused("the source has no network");
            }
            if published[..position].iter().any(|other| other.port == *port) {
                return refused("it is published twice");
            }
        }
        match policy {
            Policy::None | Policy::Internal => Ok(()),
            Policy::Internet(egress) => egress.check(),
        }
    }

    /// The address of service `index`.
    pub(crate) fn address(index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, 1, index)
    }

    /// The uplink's two addresses: the gateway's, and the hub's.
    fn uplink_addresses(number: u16) -> (Ipv4Addr, Ipv4Addr) {
        let network = UPLINKS.0.to_bits() + 4 * u32::from(number);
        (Ipv4Addr::from_bits(network + 1), Ipv4Addr::from_bits(network + 2))
    }
}

// === impl Egress ===

impl Egress {
    fn check(&self) -> Result<(), NetworkError> {
        let Self { rate_bytes_per_s, total_bytes, resolvers } = self;
        if *rate_bytes_per_s < RATE_BYTES_PER_S_MIN {
            return Err(NetworkError::Rate { rate_bytes_per_s: *rate_bytes_per_s });
        }
        if *total_bytes == 0 {
            return Err(NetworkError::Total);
        }
        if resolvers.len() > RESOLVERS_MAX {
            return Err(NetworkError::TooManyResolvers { count: resolvers.len() });
        }
        match resolvers.iter().find(|resolver| rules::is_forbidden(**resolver)) {
            Some(resolver) => Err(NetworkError::Resolver { resolver: *resolver }),
            None => Ok(()),
        }
    }
}

/// Names the step that an error belongs to.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, NetworkError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::Step { step, source: source.into() })
    }
}
