//! Makes or opens the state and mounts it: does what [`crate::plan`] decided.
//!
//! A power cut at any moment of the first start leaves either no partition, and the next start begins again, or a whole
//! one: `systemd-repart` fills the place of the partition first and writes the disk's table last.
//!
//! A state that was sealed a moment ago and does not open is empty, and stays shut at every later start. In that start,
//! and in no other, it is made anew without the TPM.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layout::{Guid, parts};
use nix::mount::{MsFlags, mount};

use crate::disk::{Disk, content};
use crate::exec::{Call, ExecError};
use crate::files::{self, Access};
use crate::places::{BLACK_BOX_UID, PROVIDER_UID, Places, Programs, RIG_GID, SIGNER_UID};
use crate::plan::{Content, Plan, STATE_BYTES_MIN, Trouble};

/// Time for making a state. A slow stick writes the journal and the tables of a big file system.
const MAKE_TIME: Duration = Duration::from_secs(20 * 60);

/// Time for opening it. A slow chip takes seconds.
const OPEN_TIME: Duration = Duration::from_secs(120);

/// Time for mending it.
const MEND_TIME: Duration = Duration::from_secs(30 * 60);

/// The name of an opened state under `/dev/mapper`.
const MAPPED: &str = "rig-state";

/// How the file system is made: one block in a hundred is kept for root, who writes the ledger's last lines on a full
/// disk.
const MKFS_OPTIONS: &str = "-m 1";

/// How it is mounted. Nobody needs to know when a file was read; what must last is flushed by whoever wrote it, so
/// the rest may wait a minute: each commit costs a stick some 12 KiB, which makes 17 MB a day and not 200.
const MOUNT_OPTIONS: &str = "commit=60,errors=remount-ro";

/// Below this much free space a notice says so, in bytes.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Exit codes of `e2fsck` that mean: right, or right now. Source: e2fsck(8).
const MENDED: [i32; 2] = [0, 1];

/// The folders of a state, with their owners.
const FOLDERS: [(&str, Access); 8] = [
    ("", Access::root(0o755)),
    ("signer", Access { uid: SIGNER_UID, gid: SIGNER_UID, mode: 0o700 }),
    ("provider", Access { uid: PROVIDER_UID, gid: PROVIDER_UID, mode: 0o700 }),
    ("content", Access { uid: PROVIDER_UID, gid: RIG_GID, mode: 0o750 }),
    ("runner", Access::root(0o700)),
    ("config", Access::root(0o700)),
    ("secrets", Access::root(0o700)),
    ("black-box", Access { uid: BLACK_BOX_UID, gid: BLACK_BOX_UID, mode: 0o700 }),
];

/// A state that is there to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Whether it is bound to the TPM.
    pub is_sealed: bool,
    /// Whether it was made just now.
    pub is_new: bool,
    /// Where it was made twice, because the TPM did not open what it had just sealed: what was said of it.
    pub unsealed: Option<String>,
    /// Whether its file system had to be mended with losses.
    pub is_mended: bool,
    /// Whether it is nearly full.
    pub is_full: bool,
}

/// A state that cannot be used, and what was said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What it is.
    pub trouble: Trouble,
    /// The words of whoever noticed, in one line; may be empty.
    pub said: String,
}

/// What a new state is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The key that signs releases' measurements; `None`: bound to the TPM and an untouched command line alone.
    pub key: Option<PathBuf>,
    /// Also bound to the firmware's Secure Boot settings.
    pub secure_boot: bool,
}

// === impl Unusable ===

impl Unusable {
    fn new(trouble: Trouble, said: impl ToString) -> Unusable {
        Unusable { trouble, said: said.to_string() }
    }
}

// === impl Seal ===

impl Seal {
    /// What this machine can bind to now.
    #[must_use]
    pub fn of(places: &Places) -> Seal {
        let key = Some(places.pcr_key()).filter(|key| key.is_file());
        // Four bytes of attributes, then one that is 1. Source: UEFI, global variables; efivarfs.
        let variable = files::read(&places.secure_boot(), 5).ok().flatten();
        Seal { key, secure_boot: variable.is_some_and(|bytes| bytes.get(4) == Some(&1)) }
    }

    /// The arguments that say so to `systemd-repart`.
    fn arguments(&self) -> Vec<String> {
        // 12 is what was added to the command line or laid beside the kernel on the boot partition: nothing, ever.
        let pcrs = if self.secure_boot { "7+12" } else { "12" };
        let mut arguments =
            vec!["--tpm2-device=auto".to_owned(), format!("--tpm2-pcrs={pcrs}"), "--tpm2-pcrlock=".to_owned()];
        if let Some(key) = &self.key {
            arguments.push(format!("--tpm2-public-key={}", key.display()));
            arguments.push("--tpm2-public-key-pcrs=11".to_owned());
        }
        arguments
    }
}

/// What `systemd-repart` is to make. `anew`: in place of the one that is there.
#[must_use]
pub fn definition(id: Guid, sealed: bool, anew: bool) -> String {
    let encrypt = if sealed { "tpm2" } else { "off" };
    let reset = if anew { "yes" } else { "no" };
    format!(
        "[Partition]\nType={}\nLabel={}\nUUID={id}\nFormat=ext4\nEncrypt={encrypt}\nFactoryReset={reset}\n\
         SizeMinBytes={STATE_BYTES_MIN}\n",
        parts::STATE_KIND,
        parts::STATE_LABEL,
    )
}

/// Does `plan` and mounts the state. `id` is what a new one is called. Errors: why there is none.
pub fn settle(places: &Places, programs: &Programs, plan: Plan, id: Guid) -> Result<Settled, Unusable> {
    let mut settled = Settled::default();
    match plan {
        Plan::Refuse(trouble) => return Err(Unusable::new(trouble, "")),
        Plan::Make { sealed, anew } => {
            make(places, programs, id, sealed, anew)?;
            settled.is_new = true;
        }
        Plan::Open | Plan::Mount => {}
    }
    if is_mounted(places) {
        return Ok(settled);
    }
    let partition = find_again(places)?;
    let seen = content(&partition).map_err(|error| Unusable::new(Trouble::Failed, error))?;
    settled.is_sealed = seen == Content::Sealed;
    let device = match settled.is_sealed.then(|| open(places, programs, &partition)) {
        None => partition,
        Some(Ok(device)) => device,
        Some(Err(unusable)) if settled.is_new => {
            // Nothing is in it yet.
            make(places, programs, id, false, true)?;
            settled.is_sealed = false;
            settled.unsealed = Some(unusable.said);
            find_again(places)?
        }
        Some(Err(unusable)) => return Err(unusable),
    };
    settled.is_mended = mend(programs, &device)?;
    let target = places.state();
    let failed = |error: &dyn ToString| Unusable::new(Trouble::Broken, error.to_string());
    files::folder(&target, Access::root(0o755)).map_err(|error| Unusable::new(Trouble::Failed, error))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME | MsFlags::MS_LAZYTIME;
    mount(Some(&device), &target, Some("ext4"), flags, Some(MOUNT_OPTIONS)).map_err(|error| failed(&error))?;
    for (folder, access) in FOLDERS {
        match files::folder(&target.join(folder), access) {
            Err(error) if error.kind() == ErrorKind::StorageFull => settled.is_full = true,
            Err(error) => return Err(failed(&error)),
            Ok(()) => {}
        }
    }
    settled.is_full |= nix::sys::statvfs::statvfs(&target)
        .is_ok_and(|free| free.blocks_available().saturating_mul(free.fragment_size()) < FREE_BYTES_MIN);
    Ok(settled)
}

/// The state's partition as the disk's table says now. Errors: it is not there.
fn find_again(places: &Places) -> Result<PathBuf, Unusable> {
    let disk = Disk::find(places).map_err(|error| Unusable::new(Trouble::Failed, error))?;
    let name = disk.state_name().ok_or_else(|| Unusable::new(Trouble::Failed, "no partition was made"))?;
    Ok(places.device(&name))
}

fn make(places: &Places, programs: &Programs, id: Guid, sealed: bool, anew: bool) -> Result<(), Unusable> {
    let failed = |error: &dyn ToString| Unusable::new(Trouble::Failed, error.to_string());
    let definitions = places.run().join("repart.d");
    files::folder(&definitions, Access::root(0o755)).map_err(|error| failed(&error))?;
    let text = definition(id, sealed, anew);
    files::write(&definitions.join("50-state.conf"), text.as_bytes(), Access::root(0o644))
        .map_err(|error| failed(&error))?;
    let disk = Disk::find(places).map_err(|error| failed(&error))?;
    let mut arguments: Vec<String> = ["--dry-run=no", "--empty=refuse", "--discard=no", "--no-pager", "--pretty=no"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    arguments.push(format!("--definitions={}", definitions.display()));
    if anew {
        arguments.push("--factory-reset=yes".to_owned());
    }
    if sealed {
        arguments.extend(Seal::of(places).arguments());
    }
    arguments.push(disk.device.display().to_string());
    let call = Call::new(&programs.repart, arguments, MAKE_TIME);
    call.with("SYSTEMD_REPART_MKFS_OPTIONS_EXT4", MKFS_OPTIONS).must().map_err(|error| failed(&error))
}

fn open(places: &Places, programs: &Programs, partition: &Path) -> Result<PathBuf, Unusable> {
    let mapped = places.device("mapper").join(MAPPED);
    if mapped.exists() {
        return Ok(mapped);
    }
    let arguments = [
        "attach".into(),
        MAPPED.into(),
        partition.as_os_str().to_owned(),
        "-".into(),
        "tpm2-device=auto,headless=1".into(),
    ];
    match Call::new(&programs.cryptsetup, arguments, OPEN_TIME).must() {
        Ok(()) => Ok(mapped),
        Err(error @ ExecError::Start { .. }) => Err(Unusable::new(Trouble::Failed, error)),
        Err(error @ (ExecError::Late { .. } | ExecError::Failed { .. })) => Err(Unusable::new(Trouble::Refused, error)),
    }
}

/// Mends the file system; says whether that took more than its journal. Errors: it cannot be mended.
fn mend(programs: &Programs, device: &Path) -> Result<bool, Unusable> {
    let call = |how: &str| {
        let arguments = [how.into(), device.as_os_str().to_owned()];
        Call::new(&programs.e2fsck, arguments, MEND_TIME).run().map_err(|error| Unusable::new(Trouble::Failed, error))
    };
    if MENDED.contains(&call("-p")?.code) {
        return Ok(false);
    }
    let ended = call("-y")?;
    if MENDED.contains(&ended.code) {
        return Ok(true);
    }
    Err(Unusable::new(Trouble::Broken, ended.said()))
}

/// Whether an earlier run of this start mounted it.
fn is_mounted(places: &Places) -> bool {
    let target = places.state();
    let mounts = std::fs::read_to_string(places.mounts()).unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|place| Path::new(place) == target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_state_is_described_as_its_plan_says() {
        let id = "11111111-2222-4333-8444-555555555555".parse().expect("an id");
        let check = |sealed, anew, encrypt: &str, reset: &str| {
            let expected = format!(
                "[Partition]\nType=4d21b016-b534-45c2-a9fb-5c16e091fd2d\nLabel=rig-state\n\
                 UUID=11111111-2222-4333-8444-555555555555\nFormat=ext4\nEncrypt={encrypt}\nFactoryReset={reset}\n\
                 SizeMinBytes=536870912\n"
            );
            assert_eq!(definition(id, sealed, anew), expected);
        };
        check(false, false, "off", "no");
        check(true, false, "tpm2", "no");
        check(true, true, "tpm2", "yes");
        check(false, true, "off", "yes");
    }

    #[test]
    fn a_seal_is_bound_to_the_release_key_and_to_secure_boot_where_they_are() {
        let root = tempfile::tempdir().expect("a folder");
        let places = Places::under(root.path());
        let bare = Seal { key: None, secure_boot: false };
        assert_eq!(Seal::of(&places), bare);
        assert_eq!(bare.arguments(), ["--tpm2-device=auto", "--tpm2-pcrs=12", "--tpm2-pcrlock="]);
        for (path, bytes) in [(places.pcr_key(), &b"key"[..]), (places.secure_boot(), &[6, 0, 0, 0, 1][..])] {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
            std::fs::write(path, bytes).expect("writes");
        }
        let seal = Seal::of(&places);
        assert!(seal.secure_boot && seal.key.is_some());
        let arguments = seal.arguments();
        assert_eq!(arguments[1], "--tpm2-pcrs=7+12");
        assert!(arguments[3].starts_with("--tpm2-public-key=/") && arguments[4] == "--tpm2-public-key-pcrs=11");
        std::fs::write(places.secure_boot(), [6, 0, 0, 0, 0]).expect("writes");
        assert!(!Seal::of(&places).secure_boot);
    }
}
