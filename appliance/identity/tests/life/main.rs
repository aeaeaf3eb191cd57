//! The events of a rig's life, each with its real cause: against a TPM emulator, with machines of files.

mod approved;
mod corpus;
mod late;
#[path = "../rig/mod.rs"]
mod rig;
mod sealed;
mod software;

use identity::{Address, KeyState, Tier};

use rig::{Rig, Seen};

/// An open provider key.
fn open(address: Address, tier: Tier) -> Seen {
    Seen { address: Some(address), tier: Some(tier), state: KeyState::Open, replaces: None }
}

/// The key of a rig at its first start.
fn born(rig: &Rig) -> Address {
    let seen = rig.seen();
    assert_eq!((seen.state, seen.replaces), (KeyState::Open, None));
    seen.address.expect("a key is born")
}

/// The provider key stays closed in `state`; the address of its successor, whose tier is `tier`, which is the same at
/// the next start.
fn succeeded(rig: &Rig, old: Address, state: KeyState, tier: Tier) -> Address {
    let before = std::fs::read(rig.file("provider.key")).expect("the old key's file");
    let seen = rig.seen();
    let address = seen.address.expect("a successor");
    assert_eq!(seen, Seen { address: Some(address), tier: Some(tier), state, replaces: Some(old) });
    assert_ne!(address, old);
    assert_eq!(rig.seen(), seen);
    assert_eq!(std::fs::read(rig.file("provider.key")).expect("the old key's file"), before);
    address
}

fn adopt(rig: &Rig) {
    rig.open().succession.expect("a successor is in use").adopt().expect("adopted");
}
