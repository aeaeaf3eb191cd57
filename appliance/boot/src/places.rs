//! Where things are: the places on a rig, all under one root, so that tests have a rig of their own.

use std::path::{Path, PathBuf};

/// The places of one rig.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
    /// The file system of the partition `RIG`.
    pub stick_kind: String,
}

/// The programs of the image that are run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Makes the state's partition.
    pub repart: PathBuf,
    /// Opens it where it is sealed.
    pub cryptsetup: PathBuf,
    /// Mends it.
    pub e2fsck: PathBuf,
    /// Mends the stick's FAT.
    pub fsck_fat: PathBuf,
    /// Says whether settings are right.
    pub provider: PathBuf,
}

/// Files on the stick's partition.
pub mod on_stick {
    /// The owner's settings.
    pub const SETTINGS: &str = "rig.toml";
    /// The same as Windows names it when it hides the endings of names.
    pub const SETTINGS_TXT: &str = "rig.toml.txt";
    /// What the rig says.
    pub const STATUS: &str = "rig-status.txt";
}

/// The group that may read what the rig's services start with. Source: the image's `passwd`.
pub const RIG_GID: u32 = 800;

/// The signer's user.
pub const SIGNER_UID: u32 = 801;

/// The provider's user.
pub const PROVIDER_UID: u32 = 802;

/// The black box's user.
pub const BLACK_BOX_UID: u32 = 803;

// === impl Places ===

impl Places {
    /// The places below `root`; on a rig that is `/`.
    #[must_use]
    pub fn under(root: &Path) -> Places {
        Places { root: root.to_owned(), stick_kind: "vfat".to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What the first process found out: `disk`, `version`, `machine-id` and others.
    #[must_use]
    pub fn boot_fact(&self, name: &str) -> PathBuf {
        self.at("run/rig/boot").join(name)
    }

    /// This start's machine id.
    #[must_use]
    pub fn machine_id(&self) -> PathBuf {
        self.at("etc/machine-id")
    }

    /// A disk or partition, or what it is called when it is open.
    #[must_use]
    pub fn device(&self, name: &str) -> PathBuf {
        self.at("dev").join(name)
    }

    /// Whether the kernel lets nobody write to a disk: a file with `1`.
    #[must_use]
    pub fn read_only(&self, disk: &str) -> PathBuf {
        self.at("sys/class/block").join(disk).join("ro")
    }

    /// Whether Secure Boot is on, as the firmware says it.
    #[must_use]
    pub fn secure_boot(&self) -> PathBuf {
        self.at("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
    }

    /// What is mounted.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.at("proc/self/mounts")
    }

    /// The kernel's name for this machine.
    #[must_use]
    pub fn hostname(&self) -> PathBuf {
        self.at("proc/sys/kernel/hostname")
    }

    /// A new random UUID at each reading.
    #[must_use]
    pub fn random_id(&self) -> PathBuf {
        self.at("proc/sys/kernel/random/uuid")
    }

    /// The TPM.
    #[must_use]
    pub fn tpm(&self) -> PathBuf {
        self.at("dev/tpmrm0")
    }

    /// What is there if the kernel knows a TPM, whether or not that answers.
    #[must_use]
    pub fn known_tpm(&self) -> PathBuf {
        self.at("sys/class/tpm/tpm0")
    }

    /// The network's cards.
    #[must_use]
    pub fn cards(&self) -> PathBuf {
        self.at("sys/class/net")
    }

    /// The key that signs releases' measurements.
    #[must_use]
    pub fn pcr_key(&self) -> PathBuf {
        self.at("run/systemd/tpm2-pcr-public-key.pem")
    }

    /// Where the state is mounted.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.at("var/lib/rig")
    }

    /// Files of this start only.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.at("run/rig")
    }

    /// What `networkd` reads.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.at("run/systemd/network")
    }
}

// === impl Programs ===

impl Programs {
    /// The same, all in one folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Programs {
        let usual = Programs::default();
        let there = |path: PathBuf| path.file_name().map_or(path.clone(), |name| folder.join(name));
        Programs {
            repart: there(usual.repart),
            cryptsetup: there(usual.cryptsetup),
            e2fsck: there(usual.e2fsck),
            fsck_fat: there(usual.fsck_fat),
            provider: there(usual.provider),
        }
    }
}

impl Default for Programs {
    fn default() -> Programs {
        Programs {
            repart: "/usr/bin/systemd-repart".into(),
            cryptsetup: "/usr/lib/systemd/systemd-cryptsetup".into(),
            e2fsck: "/usr/sbin/e2fsck".into(),
            fsck_fat: "/usr/sbin/fsck.fat".into(),
            provider: "/usr/bin/rig-provider".into(),
        }
    }
}
