//! The machine as the kernel leaves it: its file systems, its command line, its drivers.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use initrd::order::{self, ORDER_BYTES_MAX};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

use crate::console;
use crate::watchdog::Watchdog;

/// The kernel's own limit is 2048 on x86; ours is against a file that does not end.
const COMMAND_LINE_MAX: u64 = 16 << 10;

/// Why the machine could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("{place} cannot be mounted")]
    Mount {
        place: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's command line cannot be read")]
    CommandLine(#[source] io::Error),
}

/// Mounts what the kernel shows of itself, and the folder for what lives as long as the machine runs.
pub(crate) fn mount_kernel_file_systems() -> Result<(), MachineError> {
    let closed = MountFlags::NOSUID | MountFlags::NODEV;
    let places = [
        ("/proc", c"proc", closed | MountFlags::NOEXEC, None),
        ("/sys", c"sysfs", closed | MountFlags::NOEXEC, None),
        ("/dev", c"devtmpfs", MountFlags::NOSUID, Some(c"mode=0755")),
        // As systemd would bound it: services that are not root's write below it.
        ("/run", c"tmpfs", closed, Some(c"mode=0755,size=20%,nr_inodes=800k")),
    ];
    for (place, kind, flags, options) in places {
        let failed = |source| MachineError::Mount { place, source };
        fs::create_dir_all(place).map_err(failed)?;
        mount(kind, place, kind, flags, options).map_err(|errno| failed(errno.into()))?;
    }
    // Else the kernel drops what we say after ten lines.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    Ok(())
}

pub(crate) fn command_line() -> Result<String, MachineError> {
    read_bounded(Path::new("/proc/cmdline"), COMMAND_LINE_MAX).map_err(MachineError::CommandLine)
}

/// Loads the modules of `/modules/order`, and says how many. A module for a device that is not there (ENODEV) and one that
/// is built in or loaded (EEXIST) are as they should be; any other that fails is said, and the start goes on: it may not be
/// the one that this machine needs.
pub(crate) fn load_modules(watchdog: &mut Watchdog) -> usize {
    let text = match read_bounded(Path::new("/modules/order"), ORDER_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => {
            console::warn(&format!("/modules/order cannot be read: {error}"));
            return 0;
        }
    };
    let names = match order::parse(&text) {
        Ok(names) => names,
        Err(error) => {
            console::warn(&format!("no modules are loaded: {error}"));
            return 0;
        }
    };
    let mut loaded = 0;
    for name in names {
        match load(name) {
            Ok(()) => loaded += 1,
            Err(error) => console::warn(&format!("module {name} cannot be loaded: {error}")),
        }
        // As soon as there is one, so that a driver that hangs is covered.
        watchdog.arm_once();
    }
    loaded
}

fn load(name: &str) -> io::Result<()> {
    let file = File::open(format!("/modules/{name}"))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::NODEV | Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The text of a file, or an error if it has more than `most` bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= most) { Ok(text) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}
