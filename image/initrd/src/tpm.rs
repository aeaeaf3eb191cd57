//! The TPM, where there is one: two phases of the boot are counted in it.
//!
//! A rig without one starts all the same. One that refuses is said, and what is sealed to the phases stays closed, which
//! `rig-boot` then meets and explains.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use initrd::measure::{self, ANSWER_BYTES_MAX, Phase};

use crate::console;

/// The kernel's resource manager first; without it, the device itself.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

pub(crate) fn measure(phase: Phase) {
    let Some(mut device) = DEVICES.into_iter().find_map(open) else {
        return;
    };
    match ask(&mut device, phase) {
        Ok(answer) => match measure::accepted(&answer) {
            Ok(()) => console::note(&format!("measured {}", phase.word())),
            Err(error) => console::warn(&format!("{} is not measured: {error}", phase.word())),
        },
        Err(error) => console::warn(&format!("{} is not measured: {error}", phase.word())),
    }
}

fn open(path: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(path).ok()
}

fn ask(device: &mut File, phase: Phase) -> io::Result<Vec<u8>> {
    // The driver takes a command in one write and gives the answer in one read.
    device.write_all(&phase.command())?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let read = device.read(&mut answer)?;
    answer.truncate(read);
    Ok(answer)
}
