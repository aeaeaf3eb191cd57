//! The four device calls that have no safe wrapper: three of the device mapper, one of the watchdog.
#![expect(unsafe_code, reason = "device-mapper and watchdog ioctls have no safe wrapper in any crate that we use")]

use std::os::fd::AsFd;

use initrd::mapper::{Buffer, HEADER_BYTES};
use rustix::io;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

const CREATE: Opcode = opcode::read_write::<[u8; HEADER_BYTES]>(0xfd, 3);
const RESUME: Opcode = opcode::read_write::<[u8; HEADER_BYTES]>(0xfd, 6);
const LOAD: Opcode = opcode::read_write::<[u8; HEADER_BYTES]>(0xfd, 9);
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

/// Makes a device of the mapper. `control` is `/dev/mapper/control` for all three; the answer is in `buffer`.
pub(crate) fn mapper_create(control: impl AsFd, buffer: &mut Buffer) -> io::Result<()> {
    // SAFETY: the call reads and writes as many bytes as the buffer's header says at offset 12, which `mapper` sets to the
    // buffer's length; the buffer is ours alone for the time of the call, and the kernel keeps no pointer to it.
    unsafe { ioctl(control, Updater::<CREATE, Buffer>::new(buffer)) }
}

/// Gives a device its table.
pub(crate) fn mapper_load(control: impl AsFd, buffer: &mut Buffer) -> io::Result<()> {
    // SAFETY: as for `mapper_create`; the one target's line ends with a zero inside the buffer, because `mapper` refuses
    // lines that do not leave room for it.
    unsafe { ioctl(control, Updater::<LOAD, Buffer>::new(buffer)) }
}

/// Starts a device that has a table.
pub(crate) fn mapper_resume(control: impl AsFd, buffer: &mut Buffer) -> io::Result<()> {
    // SAFETY: as for `mapper_create`.
    unsafe { ioctl(control, Updater::<RESUME, Buffer>::new(buffer)) }
}

/// Sets a watchdog's time to run out, in seconds; the driver may round it.
pub(crate) fn watchdog_timeout(watchdog: impl AsFd, seconds: i32) -> io::Result<()> {
    let mut seconds = seconds;
    // SAFETY: WDIOC_SETTIMEOUT reads and writes one C int, which `seconds` is, alive and ours for the time of the call.
    unsafe { ioctl(watchdog, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }
}
