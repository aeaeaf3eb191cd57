//! The root: checked block by block as it is read, mounted, and handed the machine.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use initrd::candidate::{self, Candidate};
use initrd::mapper::{self, Buffer, TooLong};
use initrd::wanted::Wanted;
use layout::verity::{RootHash, Superblock, VerityError};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{chdir, chroot};

use crate::machine::read_bounded;
use crate::{console, ioctl};

const SYSROOT: &str = "/sysroot";
const CONTROL: &str = "/dev/mapper/control";
const FACTS: &str = "/run/rig/boot";
const MACHINE_ID: &str = "/run/rig/boot/machine-id";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// The mapper's name of the root; tools look for it under this one.
const NAME: &str = "root";

/// A block that is not the one that was built restarts the machine at once, so that the loader counts a bad start.
const OPTIONS: [&str; 1] = ["restart_on_corruption"];

/// What the firmware's loader leaves beside us for later: what a TPM may release, and whose word that is.
const EXTRAS: [&str; 2] = ["tpm2-pcr-signature.json", "tpm2-pcr-public-key.pem"];

/// Each of them is a few kilobytes.
const EXTRA_MAX: u64 = 256 << 10;

/// Why the root cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("{path} cannot be opened")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the tree of hashes on {disk}")]
    Verity {
        disk: String,
        #[source]
        source: VerityError,
    },
    #[error(transparent)]
    Mapper(#[from] TooLong),
    #[error("the device mapper does not {step} the root of {disk}")]
    Map {
        step: &'static str,
        disk: String,
        #[source]
        source: io::Error,
    },
    #[error("the root of {disk} cannot be mounted")]
    Mount {
        disk: String,
        #[source]
        source: io::Error,
    },
    #[error("the fact {path} cannot be written")]
    Fact {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{step} on the way into the root")]
    Switch {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Puts verity over the disk's root and mounts it, read-only.
pub(crate) fn verify_and_mount(candidate: &Candidate, root: &RootHash) -> Result<(), RootError> {
    let disk = &candidate.disk;
    let data = format!("/dev/{}", candidate.root.device(disk));
    let tree = format!("/dev/{}", candidate.verity.device(disk));
    let superblock = Superblock::read(&mut open(&tree)?);
    let superblock = superblock.map_err(|source| RootError::Verity { disk: disk.clone(), source })?;

    let control = OpenOptions::new().read(true).write(true).open(CONTROL);
    let control = control.map_err(|source| RootError::Open { path: CONTROL.to_owned(), source })?;
    let failed =
        |step| move |errno: rustix::io::Errno| RootError::Map { step, disk: disk.clone(), source: errno.into() };
    // The name that cryptsetup gives, so that its tools know what they look at.
    let uuid = format!("CRYPT-VERITY-{}-{NAME}", candidate::machine_id(root.root_id()));
    let mut made: Buffer = mapper::create(NAME, &uuid)?;
    ioctl::mapper_create(&control, &mut made).map_err(failed("make"))?;
    let line = superblock.table_line(&data, &tree, root, &OPTIONS);
    ioctl::mapper_load(&control, &mut mapper::load(NAME, "verity", superblock.sectors(), &line)?)
        .map_err(failed("take"))?;
    ioctl::mapper_resume(&control, &mut mapper::resume(NAME)?).map_err(failed("start"))?;

    let device = format!("/dev/dm-{}", mapper::minor(&made));
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    let failed = |source| RootError::Mount { disk: disk.clone(), source };
    fs::create_dir_all(SYSROOT).map_err(failed)?;
    mount(device.as_str(), SYSROOT, c"erofs", flags, None).map_err(|errno| failed(errno.into()))
}

/// Copies what the loader left where systemd looks for it; without a loader there is nothing.
pub(crate) fn keep_extras() {
    for name in EXTRAS {
        let from = Path::new("/.extra").join(name);
        match read_bounded(&from, EXTRA_MAX) {
            Ok(text) => {
                let kept = fs::create_dir_all("/run/systemd")
                    .and_then(|()| fs::write(Path::new("/run/systemd").join(name), text));
                if let Err(error) = kept {
                    console::warn(&format!("{name} is not kept: {error}"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => console::warn(&format!("{name} is not kept: {error}")),
        }
    }
}

/// Writes what only we know, for `rig-boot`: a file each, a line each.
pub(crate) fn write_facts(candidate: &Candidate, wanted: &Wanted, watchdogs: &str) -> Result<(), RootError> {
    let mut facts = vec![
        ("disk", candidate.disk.clone()),
        ("slot", candidate.slot.letter().to_owned()),
        ("roothash", wanted.root_hash.to_string()),
    ];
    facts.extend(wanted.version.clone().map(|version| ("version", version)));
    facts.extend(candidate.machine.map(|id| ("machine-id", candidate::machine_id(id))));
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| RootError::Fact { path, source }
    };
    let folder = Path::new(FACTS);
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, fact) in facts {
        let path = folder.join(name);
        fs::write(&path, format!("{fact}\n")).map_err(failed(&path))?;
    }
    let path = folder.join("watchdog");
    fs::write(&path, watchdogs).map_err(failed(&path))
}

/// Lays the machine's id over the root's empty one. A rig that has none yet gets one from systemd for this start.
pub(crate) fn give_machine_id(candidate: &Candidate) {
    if candidate.machine.is_none() {
        return;
    }
    if let Err(error) = mount_bind(MACHINE_ID, format!("{SYSROOT}/etc/machine-id")) {
        console::warn(&format!("the machine's id is not given: {error}"));
    }
}

/// Moves everything into the root and becomes systemd.
pub(crate) fn hand_over() -> Result<Infallible, RootError> {
    let failed = |step| move |errno: rustix::io::Errno| RootError::Switch { step, source: errno.into() };
    for place in ["/proc", "/sys", "/dev", "/run"] {
        mount_move(place, format!("{SYSROOT}{place}")).map_err(failed(place))?;
    }

    // What is left of the first root stays in memory for as long as the machine runs.
    for folder in ["/modules", "/.extra"] {
        let _ = fs::remove_dir_all(folder);
    }
    let _ = fs::remove_file("/init");

    chdir(SYSROOT).map_err(failed("chdir"))?;
    mount_move(".", "/").map_err(failed("mount"))?;
    chroot(".").map_err(failed("chroot"))?;
    chdir("/").map_err(failed("chdir"))?;

    // The kernel made variables of words on its command line that it did not know; they are not for programs.
    let error = Command::new(SYSTEMD).env_clear().env("TERM", "linux").exec();
    Err(RootError::Switch { step: SYSTEMD, source: error })
}

fn open(path: &str) -> Result<File, RootError> {
    File::open(path).map_err(|source| RootError::Open { path: path.to_owned(), source })
}
