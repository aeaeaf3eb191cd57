//! The programs, the root and its tree of hashes: made once, used by every guest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use layout::Guid;
use layout::verity::{self, RootHash};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const STATE_ID: Guid = Guid::from_u128(0x1f2e_3d4c_5b6a_4798_8877_6655_4433_2211);

/// Stands in the root many times over, where a block can be changed that nothing reads by itself.
pub(crate) const FILLER: &[u8] = b"sixteen letters.";

/// Named, as the build of the image does: so cargo keeps what is static apart from build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a slot is filled with, and what a guest starts with.
pub(crate) struct Parts {
    pub(crate) init: PathBuf,
    pub(crate) root: Vec<u8>,
    pub(crate) tree: Vec<u8>,
    hash: RootHash,
}

pub(crate) fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(make)
}

pub(crate) fn root_hash() -> RootHash {
    parts().hash
}

/// What a register of the TPM holds after these events.
pub(crate) fn register_after(events: &[&str]) -> String {
    let extended = |register: [u8; 32], event: &&str| {
        Sha256::new().chain_update(register).chain_update(Sha256::digest(event)).finalize().into()
    };
    hex::encode(events.iter().fold([0; 32], extended))
}

fn make() -> Parts {
    let programs = build();
    let work = TempDir::new().expect("a folder for the root");
    let root = work.path().join("root");
    for folder in ["proc", "sys", "dev", "run", "etc", "usr/lib/systemd", "usr/share"] {
        fs::create_dir_all(root.join(folder)).expect("the root takes folders");
    }
    fs::write(root.join("etc/machine-id"), "").expect("the root takes files");
    fs::copy(programs.join("examples/witness"), root.join("usr/lib/systemd/systemd")).expect("the witness was built");
    fs::write(root.join("usr/share/filler"), FILLER.repeat(1 << 17)).expect("the root takes files");
    let (image, tree) = (work.path().join("root.erofs"), work.path().join("root.verity"));
    ran(Command::new("mkfs.erofs").arg("--all-root").arg(&image).arg(&root));
    let hash = work.path().join("hash");
    let blocks = fs::metadata(&image).expect("it was made").len() / verity::BLOCK_BYTES;
    let salt = format!("--salt={}", hex::encode(verity::salt(blocks, "boot")));
    ran(Command::new("veritysetup").args(["format", &salt, "--root-hash-file"]).arg(&hash).arg(&image).arg(&tree));
    let read = |path: &Path| fs::read(path).expect("it was made");
    let hash = String::from_utf8(read(&hash)).expect("digits").trim().parse().expect("a root hash");
    Parts { init: programs.join("rig-init"), root: read(&image), tree: read(&tree), hash }
}

/// Builds the first process as it ships, and the witness beside it; returns where they are.
fn build() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(repository.join("target"), PathBuf::from);
    let mut cargo = Command::new(env!("CARGO"));
    let target = target.join("static");
    cargo.current_dir(&repository).env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Crelocation-model=static");
    cargo.args(["build", "--quiet", "--locked", "--profile", "initrd", "--package", "initrd"]).arg("--target-dir");
    ran(cargo.arg(&target).args(["--target", TARGET, "--bin", "rig-init", "--example", "witness"]));
    let programs = target.join(TARGET).join("initrd");
    let bytes = fs::metadata(programs.join("rig-init")).expect("rig-init was built").len();
    assert!(bytes <= 2 << 20, "rig-init has {bytes} bytes, and may have two MiB");
    programs
}

fn ran(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} is not here: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
