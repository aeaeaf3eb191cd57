//! A network namespace that lives by its descriptor: nothing names it, so nothing is left of it when the last
//! descriptor, socket and process in it are gone.
//!
//! A thread changes its namespace for good, so every visit is a thread of its own that ends. All namespaces belong
//! to the user namespace of the runner: a job, which is in one below, has no capability over any of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{NetworkError, Step};

/// Makes a network namespace, and lets `configure` work in it.
pub(super) fn create<T: Send>(
    configure: impl FnOnce(BorrowedFd<'_>) -> Result<T, NetworkError> + Send,
) -> Result<(OwnedFd, T), NetworkError> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).step("make a network namespace")?;
        let netns = current()?;
        let configured = configure(netns.as_fd())?;
        Ok((netns, configured))
    })
}

/// Lets `visit` work in `netns`.
pub(super) fn inside<T: Send>(
    netns: &OwnedFd,
    visit: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    on_a_thread(|| {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).step("enter a network namespace")?;
        visit()
    })
}

/// The network namespace of the calling thread.
pub(super) fn current() -> Result<OwnedFd, NetworkError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty()).step("open a network namespace")
}

/// Sets `net.{name}` of the calling thread's namespace; `/proc/sys/net` is whatever the opening thread is in.
pub(super) fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let written = std::fs::write(format!("/proc/sys/net/{name}"), value);
    written.map_err(|source| NetworkError::Setting { name: name.to_owned(), source })
}

/// Keeps IPv6 from an interface of the calling thread's namespace; `all` and `default` are all that it has and all
/// that it will have.
pub(super) fn forget_ipv6_on(interface: &str) -> Result<(), NetworkError> {
    match set(&format!("ipv6/conf/{interface}/disable_ipv6"), "1") {
        // A kernel without IPv6 needs no telling.
        Err(NetworkError::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Settings of a service's namespace. A new namespace begins with the host's IPv4 settings, whatever they are.
pub(super) fn be_a_service() -> Result<(), NetworkError> {
    forget_ipv6_on("all")?;
    forget_ipv6_on("default")?;
    set("ipv4/ip_forward", "0")?;
    // Services listen on port 80 without a capability.
    set("ipv4/ip_unprivileged_port_start", "0")
}

/// Settings of a hub's namespace.
pub(super) fn be_a_hub() -> Result<(), NetworkError> {
    forget_ipv6_on("all")?;
    forget_ipv6_on("default")?;
    set("ipv4/ip_forward", "1")?;
    for conf in ["all", "default"] {
        for (name, value) in HUB_SETTINGS {
            set(&format!("ipv4/conf/{conf}/{name}"), value)?;
        }
    }
    Ok(())
}

/// Of all interfaces and of those to come.
const HUB_SETTINGS: [(&str, &str); 7] = [
    // A packet is taken only from the interface to which its source address leads.
    ("rp_filter", "1"),
    ("accept_source_route", "0"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    // 127.0.0.0/8 stays on the loopback.
    ("route_localnet", "0"),
    // The callback address is on the loopback, and is asked for on the services' links.
    ("arp_ignore", "0"),
    ("arp_filter", "0"),
];

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        let joined = thread.step("start a thread")?.join();
        joined.map_err(|_| io::Error::other("the thread panicked")).step("work in a network namespace")?
    })
}
