//! What is left of a source's network when it ends, or when the runner is killed: nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runner::protocol::{CALLBACK_ADDR, CALLBACK_PORT};

use super::super::rtnetlink::{End, Rtnetlink};
use super::super::{Hub, clear_abandoned, namespace, rules};
use super::world::*;

/// How many network namespaces the kernel has, after `slabinfo`; within a few, because it is counted per page.
fn namespaces() -> usize {
    let slabs = std::fs::read_to_string("/proc/slabinfo").expect("slabinfo");
    let line = slabs.lines().find(|line| line.starts_with("net_namespace ")).expect("namespaces are counted");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

#[test]
fn a_restarted_service_gets_a_new_network_and_the_old_one_is_cut() {
    let hub = Hub::open(&internal(2, &[])).expect("a hub");
    let (old, other) = (hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second"));
    let callbacks: TcpListener = hub.listener().try_clone().expect("a duplicate").into();
    connect(&old, CALLBACK_ADDR, CALLBACK_PORT);
    callbacks.accept().expect("a callback");
    let new = hub.attach_new(1).expect("first again");
    assert_eq!(refused(&old, CALLBACK_ADDR, CALLBACK_PORT).kind(), ErrorKind::NetworkUnreachable);
    connect(&new, CALLBACK_ADDR, CALLBACK_PORT);
    callbacks.accept().expect("a callback");
    let listener = listen(&new, Ipv4Addr::UNSPECIFIED, 5555);
    connect(&other, Ipv4Addr::new(10, 88, 1, 1), 5555);
    listener.accept().expect("a stream");
}

#[test]
fn the_listener_outlives_its_hub() {
    let hub = Hub::open(&internal(1, &[])).expect("a hub");
    let service = hub.attach_new(1).expect("a service");
    connect(&service, CALLBACK_ADDR, CALLBACK_PORT);
    let listener = hub.listener().clone();
    drop((hub, service));
    let callbacks: TcpListener = listener.try_clone().expect("a duplicate").into();
    callbacks.accept().expect("the callback that came before");
}

#[test]
fn the_gateways_rules_go_with_the_last_source() {
    let world = World::new();
    let first = world.open(&internet(3, 1 << 20, 1 << 20));
    let second = world.open(&internet(4, 1 << 20, 1 << 20));
    assert_eq!(world.uplinks(), ["rig-up3", "rig-up4"]);
    drop(first);
    assert_eq!(world.uplinks(), ["rig-up4"]);
    assert_eq!(world.tables().trim(), "table inet rig");
    inside(&world.gateway, clear_abandoned).expect("nothing to do");
    assert_eq!(world.tables().trim(), "table inet rig", "rules in use were removed");
    drop(second);
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}

#[test]
fn a_source_that_starts_again_before_its_old_hub_is_gone_keeps_its_new_uplink() {
    let world = World::new();
    let plan = internet(5, 1 << 20, 1 << 20);
    let old = world.open(&plan);
    let new = world.open(&plan);
    drop(old);
    assert_eq!(world.uplinks(), ["rig-up5"]);
    let _server = listen(&world.outside, Ipv4Addr::UNSPECIFIED, 443);
    connect(&new.attach_new(1).expect("a service"), PUBLIC, 443);
    drop(new);
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}

#[test]
fn the_uplink_of_a_killed_runner_goes_by_itself_and_its_rules_with_the_next() {
    let world = World::new();
    let hub = world.open(&internet(5, 1 << 20, 1 << 20));
    let service = hub.attach_new(1).expect("a service");
    // As the kernel does to a killed process: descriptors are closed, and no destructor runs.
    hub.abandon();
    drop(service);
    eventually("an uplink is left", || world.uplinks().is_empty());
    assert_eq!(world.tables().trim(), "table inet rig");
    inside(&world.gateway, clear_abandoned).expect("cleared");
    assert_eq!(world.tables(), "");
}

#[test]
fn what_a_killed_runner_left_is_removed_by_the_next() {
    let world = World::new();
    let left = || rules::feed("gateway", &rules::of_gateway(&[]));
    inside(&world.gateway, left).expect("rules");
    inside(&world.gateway, clear_abandoned).expect("cleared");
    assert_eq!(world.tables(), "");
    // An uplink of the same number whose hub has not vanished yet.
    inside(&world.gateway, left).expect("rules");
    let (hub, ()) = namespace::create(|_| Ok(())).expect("a hub");
    let (near, far) = (End { name: "rig-up5", index: 0 }, End { name: "up0", index: 0 });
    inside(&world.gateway, || Rtnetlink::open()?.add_veth(near, far, hub.as_fd())).expect("an uplink");
    let source = world.open(&internet(5, 1 << 20, 1 << 20));
    assert_eq!(world.uplinks(), ["rig-up5"]);
    drop(source);
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}

#[test]
fn a_hub_that_cannot_be_plugged_in_leaves_nothing() {
    let world = World::new();
    let hub = world.open(&internet(6, 1 << 20, 1 << 20));
    let again = inside(&world.gateway, || Hub::open(&internet(super::NUMBERS, 1, 1)));
    again.expect_err("no such number");
    assert_eq!(world.uplinks(), ["rig-up6"]);
    drop(hub);
    // The gateway for a hub: it has a default route already, so the last step fails.
    let broken = inside(&world.gateway, || {
        let gateway = super::super::uplink::Gateway::open()?;
        gateway.plug_in(6, &Rtnetlink::open().expect("a socket"))
    });
    broken.expect_err("a default route is there already");
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}

#[test]
fn a_thousand_sources_leave_nothing() {
    const SOURCES: u32 = 1000;
    let world = World::new();
    let plan = internal(2, &[]);
    let (namespaces_before, descriptors_before) = (namespaces(), descriptors());
    let (mut opening, mut attaching, mut dropping) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..SOURCES {
        let began = Instant::now();
        let hub = world.open(&plan);
        opening += began.elapsed();
        let began = Instant::now();
        let services = [hub.attach_new(1).expect("first"), hub.attach_new(2).expect("second")];
        attaching += began.elapsed() / 2;
        let began = Instant::now();
        drop((hub, services));
        dropping += began.elapsed();
    }
    println!(
        "mean of {SOURCES}: open {:?}, attach {:?}, drop {:?}",
        opening / SOURCES,
        attaching / SOURCES,
        dropping / SOURCES
    );
    // Other tests run meanwhile, with a few tens of each.
    let began = Instant::now();
    eventually("namespaces are left", || namespaces() < namespaces_before + 300);
    println!(
        "namespaces {namespaces_before} -> {} after {:?}; descriptors {descriptors_before} -> {}",
        namespaces(),
        began.elapsed(),
        descriptors()
    );
    assert!(descriptors() < descriptors_before + 300, "descriptors are left");
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}

#[test]
fn fifty_sources_with_the_internet_leave_nothing() {
    const SOURCES: u32 = 50;
    let world = World::new();
    let (mut opening, mut attaching, mut dropping) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for number in 0..50 {
        let began = Instant::now();
        let hub = world.open(&internet(number, 1 << 20, 1 << 20));
        opening += began.elapsed();
        let began = Instant::now();
        let service = hub.attach_new(1).expect("a service");
        attaching += began.elapsed();
        let began = Instant::now();
        drop((hub, service));
        dropping += began.elapsed();
    }
    println!(
        "mean of {SOURCES} with the internet: open {:?}, attach {:?}, drop {:?}",
        opening / SOURCES,
        attaching / SOURCES,
        dropping / SOURCES
    );
    assert_eq!((world.uplinks().len(), world.tables().as_str()), (0, ""));
}
