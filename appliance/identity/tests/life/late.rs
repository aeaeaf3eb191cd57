//! Machines that show themselves bit by bit: drivers that come up after the signer, firmware that says what there is.

use std::fs;
use std::time::{Duration, Instant};

use identity::{KeyState, Tier, Wish};
use swtpm::Emulator;
use tpm::Place;

use crate::rig::{Rig, Seen, firmware};
use crate::{adopt, born, open, succeeded};

const GPUS: u8 = 5;

/// A rig whose board has no serials: one field of the board, and five GPUs. Bound to six fields, four are needed.
fn rig_of_gpus() -> Rig {
    let rig = Rig::new(1);
    for name in ["board_serial", "product_serial"] {
        fs::remove_file(rig.machine(&format!("sys/class/dmi/id/{name}"))).expect("no serial");
    }
    for slot in 1..=GPUS {
        rig.with_slot(slot);
        rig.with_driver(slot);
    }
    rig
}

#[test]
fn gpus_whose_driver_comes_late_cost_no_key() {
    let rig = rig_of_gpus();
    rig.up_for(3600);
    let address = born(&rig);
    let file = fs::read(rig.file("provider.key")).expect("a key file");
    rig.without_driver();
    rig.up_for(20);
    let waiting = Seen { address: None, tier: None, state: KeyState::BindingBroken, replaces: Some(address) };
    assert_eq!(rig.seen(), waiting);
    // The driver is there, and has started one of the GPUs.
    (1..=GPUS).for_each(|slot| rig.with_idle_driver(slot));
    rig.with_driver(1);
    assert_eq!(rig.seen(), waiting);
    assert!(!rig.file("successor.key").exists());
    (2..=GPUS).for_each(|slot| rig.with_driver(slot));
    assert_eq!(rig.seen(), open(address, Tier::N));
    assert_eq!(fs::read(rig.file("provider.key")).expect("a key file"), file);
}

#[test]
fn gpus_that_never_come_are_gone() {
    let rig = rig_of_gpus();
    let address = born(&rig);
    rig.without_driver();
    rig.up_for(3600);
    succeeded(&rig, address, KeyState::BindingBroken, Tier::N);
}

#[test]
fn a_binding_is_not_narrowed_while_gpus_are_awaited() {
    let rig = rig_of_gpus();
    rig.up_for(20);
    let address = born(&rig);
    let file = fs::read(rig.file("provider.key")).expect("a key file");
    rig.with_idle_driver(GPUS);
    let outcome = rig.open();
    let active = outcome.active.expect("four of six fields are here");
    assert_eq!((active.address, active.fields), (address, 1 + GPUS));
    assert_eq!(fs::read(rig.file("provider.key")).expect("a key file"), file);
}

#[test]
fn no_first_key_is_bound_to_nothing_while_gpus_are_awaited() {
    let rig = rig_of_gpus();
    rig.without_driver();
    rig.up_for(20);
    assert_eq!((rig.seen().state, rig.seen().address), (KeyState::BindingBroken, None));
    (1..=GPUS).for_each(|slot| rig.with_driver(slot));
    assert_eq!(rig.open().active.expect("a key").fields, 1 + GPUS);
}

#[test]
fn a_tpm_that_the_firmware_lists_is_waited_for() {
    let mut rig = Rig::new(1);
    let device = rig.path().join("tpmrm0");
    rig.options.tpm = Some(Place::Device(device.clone()));
    rig.write("sys/firmware/acpi/tables/TPM2", "");
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        fs::write(device, "").expect("the driver is there");
    });
    // It says nothing, being a file: that is a TPM that fails, and no reason for a lesser key.
    assert_eq!((rig.seen().state, rig.seen().address), (KeyState::TpmFailing, None));
    late.join().expect("joined");
    assert!(!rig.file("provider.key").exists());
}

#[test]
fn a_tpm_that_nobody_lists_is_not_waited_for() {
    let mut rig = Rig::new(1);
    rig.options.tpm = Some(Place::Device(rig.path().join("tpmrm0")));
    let began = Instant::now();
    assert_eq!(rig.seen().tier, Some(Tier::N));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_successor_in_a_tpm_that_is_off_is_waited_for_and_not_retired() {
    let mut emulator = Emulator::start();
    let mut rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    firmware::clear(&emulator);
    // Its owner may have sent it coins already.
    let successor = succeeded(&rig, address, KeyState::TpmCleared, Tier::B);
    emulator.kill();
    let waiting = Seen { address: None, tier: None, state: KeyState::TpmOff, replaces: Some(address) };
    assert_eq!(rig.seen(), waiting);
    emulator.power_cycle();
    assert_eq!(succeeded(&rig, address, KeyState::TpmCleared, Tier::B), successor);
    // A person can have another one.
    emulator.kill();
    rig.options.generation = 1;
    let other = succeeded(&rig, address, KeyState::TpmOff, Tier::N);
    assert_ne!(other, successor);
    assert!(rig.file("retired").join(format!("{}.key", hex::encode(successor))).exists());
    adopt(&rig);
    assert_eq!(rig.seen(), open(other, Tier::N));
}

#[test]
fn another_storage_key_that_a_program_left_in_the_tpm_does_not_close_the_key() {
    let emulator = Emulator::start();
    let rig = Rig::with_tpm(1, &emulator);
    let address = born(&rig);
    let tls = rig.open().active.expect("a key").tls.public();
    firmware::persist_another_srk(&emulator);
    assert_eq!(rig.seen(), open(address, Tier::B));
    assert_eq!(rig.open().active.expect("a key").tls.public(), tls);
}

#[test]
fn a_tls_key_that_is_lost_often_stops_no_signer() {
    let emulator = Emulator::start();
    let mut rig = Rig::with_tpm(1, &emulator);
    rig.options.wish = Wish::Exactly(Tier::B);
    let address = born(&rig);
    for number in 0..20 {
        fs::write(rig.file("tls.key"), format!("damage {number}")).expect("write");
        assert_eq!(rig.seen(), open(address, Tier::B), "{number}");
    }
}
