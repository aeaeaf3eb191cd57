//! A real announcement on a network of the test's own, found by a real browser.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use mdns_sd::ServiceEvent;
use nix::sched::{CloneFlags, unshare};
use signer::KeyState;
use tokio::sync::watch;

use super::*;
use crate::face::samples;

const WITHIN: Duration = Duration::from_secs(30);

/// Runs `work` on a thread in a network namespace of its own, with a link to the local network and
/// one to a jail, each with both ends here. Threads that it
/// starts are in the namespace too.
fn in_own_network(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run the tests as root");
        for words in [
            "link add rig0 type veth peer name rig1",
            "address add 192.0.2.1/24 dev rig0",
            "link set rig0 up",
            "link set rig1 up",
            "link add rig-up7 type veth peer name rig-in7",
            "address add 198.51.100.1/24 dev rig-up7",
            "link set rig-up7 up",
            "link set rig-in7 up",
        ] {
            let ran = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
            assert!(ran.status.success(), "ip {words}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Browses until a rig is found about which `is_it` is true, and returns its port and what it told.
fn find(browser: &ServiceDaemon, is_it: impl Fn(&[(String, String)]) -> bool) -> (u16, Vec<(String, String)>) {
    let found = browser.browse(SERVICE).expect("browses");
    let until = Instant::now() + WITHIN;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let event = found.recv_timeout(left).expect("the rig is found in time");
        let ServiceEvent::ServiceResolved(rig) = event else { continue };
        let told = rig.get_properties().iter().map(|one| (one.key().to_owned(), one.val_str().to_owned()));
        let told: Vec<_> = told.collect();
        if is_it(&told) {
            assert_eq!(rig.get_hostname(), "attic.local.");
            let addresses = rig.get_addresses_v4();
            assert!(addresses.iter().all(|address| address.octets()[0] == 192), "{addresses:?}");
            return (rig.get_port(), told);
        }
    }
}

#[test]
fn a_rig_is_found_with_all_that_pairing_compares_and_its_changes_are_told() {
    found_by(Lan { announce: true, interface: Some("rig0".to_owned()) });
}

#[test]
fn a_rig_that_speaks_on_all_links_leaves_those_of_jails_out() {
    found_by(Lan { announce: true, interface: None });
}

fn found_by(lan: Lan) {
    in_own_network(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (change, shown) = watch::channel(Arc::new(samples::fresh()));
        let stop = CancellationToken::new();
        let browser = ServiceDaemon::new().expect("a browser");
        let looked = {
            let (browser, stop) = (browser.clone(), stop.clone());
            std::thread::spawn(move || {
                let word = |told: &[(String, String)], key: &str, value: &str| {
                    told.iter().any(|(one, said)| one == key && said == value)
                };
                let first = find(&browser, |told| word(told, "paired", "0"));
                change.send_replace(Arc::new(samples::troubled(KeyState::TpmCleared)));
                let second = find(&browser, |told| word(told, "state", "ID-02"));
                stop.cancel();
                (first, second)
            })
        };
        runtime.block_on(announce(lan, None, shown, stop));
        let (first, second) = looked.join().expect("both are found");
        let face = samples::fresh();
        let expected: Vec<(String, String)> =
            told(&face).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        assert_eq!(first.0, NO_PORT);
        let mut sorted = (first.1, expected);
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1);
        assert!(second.1.contains(&("address".to_owned(), face.address.to_string())));
        let ended = browser.shutdown().expect("ends");
        ended.recv_timeout(WITHIN).expect("the browser ends");
    });
}

#[test]
fn what_is_told_fits_its_fields() {
    for state in KeyState::ALL {
        for (key, value) in told(&samples::troubled(state)) {
            // One length byte for key, equals sign and value; keys of at most nine. Source: RFC 6763 §6.
            assert!(key.len() <= 9 && key.len() + 1 + value.len() <= 255, "{key}={value}");
        }
    }
    assert_eq!(told(&samples::paired()).map(|(_, value)| value)[7], "1");
}

#[test]
fn a_network_without_that_interface_ends_nothing() {
    in_own_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_change, shown) = watch::channel(Arc::new(samples::fresh()));
        let stop = CancellationToken::new();
        stop.cancel();
        let lan = Lan { announce: true, interface: Some("no-such-link".to_owned()) };
        runtime.block_on(announce(lan, Some(80), shown, stop));
    });
}
