//! `rig-init`: process 1 from the kernel to systemd.
//!
//! The start in order is [`start`]; each step is a function in a file that is named after what it deals with. Whatever
//! goes wrong ends in one line that says what, and a restart two seconds later: the boot loader counts, and after three
//! such starts of a new release takes the one before. Process 1 never returns.

mod console;
mod disks;
mod ioctl;
mod machine;
mod root;
mod tpm;
mod watchdog;

use std::convert::Infallible;
use std::panic;
use std::thread;
use std::time::Duration;

use initrd::measure::Phase;
use initrd::wanted::{Wanted, WantedError};
use rustix::system::{RebootCommand, reboot};

/// Long enough for the line to leave a serial port, short enough for three starts to take less than a minute.
const BEFORE_RESTART: Duration = Duration::from_secs(2);

/// Why the rig does not start.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Machine(#[from] machine::MachineError),
    #[error(transparent)]
    Wanted(#[from] WantedError),
    #[error(transparent)]
    Disks(#[from] disks::DisksError),
    #[error(transparent)]
    Root(#[from] root::RootError),
}

fn main() {
    // On the owner's machine it would only unmount and restart things.
    if std::process::id() != 1 {
        eprintln!("rig-init is the first process of a rig, and does nothing anywhere else");
        return;
    }
    // What a panic prints by itself has no place to go to.
    panic::set_hook(Box::new(|panic| console::show(&format!("a fault in rig-init itself: {panic}"))));
    let result = panic::catch_unwind(start);
    if let Ok(Err(fault)) = result {
        console::show(&format!("{}; restarting", chain(&fault)));
    }
    thread::sleep(BEFORE_RESTART);
    let _ = reboot(RebootCommand::Restart);
    // The kernel would not; the watchdog does.
    loop {
        thread::sleep(BEFORE_RESTART);
    }
}

fn start() -> Result<Infallible, Fault> {
    machine::mount_kernel_file_systems()?;
    let line = machine::command_line()?;
    let wanted = Wanted::parse(&line)?;
    console::tell("start");

    let mut watchdog = watchdog::Watchdog::default();
    let modules = machine::load_modules(&mut watchdog);
    console::note(&format!("{modules} modules"));

    tpm::measure(Phase::EnterInitrd);
    // What slow drivers took is not taken from the wait for a disk.
    watchdog.feed();

    let candidate = disks::wait_for(&wanted.root_hash)?;
    console::note(&format!("disk {}, slot {}", candidate.disk, candidate.slot.letter()));

    root::verify_and_mount(&candidate, &wanted.root_hash)?;
    console::note("root is mounted");

    root::keep_extras();
    root::write_facts(&candidate, &wanted, &watchdog.facts())?;
    root::give_machine_id(&candidate);

    tpm::measure(Phase::LeaveInitrd);
    watchdog.feed();
    console::tell("root is ready");
    Ok(root::hand_over()?)
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
