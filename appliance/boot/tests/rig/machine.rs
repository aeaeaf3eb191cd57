//! A machine whose disk is a file and whose root is a folder.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boot::notices::{self, Notice};
use layout::gpt::Table;

/// Settings that are right as far as the machine's half goes.
pub(crate) const RIGHT: &str = "owner.address = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"\n[network]\nchain_id = 1071\n\
    contracts.nexus = \"0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1\"\n\
    contracts.terminal = \"0xaEBC7b712D38Fc4d841f0732c21B8774339869D3\"\n\
    contracts.vault = \"0xa5c582254AA313528898311362bc698b041580cC\"\n";

/// Room for the stick's partition and the least state.
const DISK_BYTES: u64 = 704 << 20;

/// The machine. What it holds of this one is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

/// What one start said and left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) said: String,
    state: PathBuf,
    notices: PathBuf,
}

// === impl Run ===

impl Run {
    /// Whether one line of it is exactly `line`.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.said.lines().any(|said| said == format!("rig-boot: {line}"))
    }

    /// A file of the state, as it was when the start was done.
    pub(crate) fn state(&self, path: &str) -> PathBuf {
        self.state.join(path)
    }

    pub(crate) fn notices(&self) -> Vec<Notice> {
        notices::read(&self.notices)
    }
}

/// Runs a shell's line, which must work.
fn sh(line: &str) -> String {
    let done = Command::new("/bin/sh").args(["-ec", line]).output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new() -> Machine {
        Machine::with_disk(DISK_BYTES)
    }

    pub(crate) fn with_disk(bytes: u64) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().expect("a folder") };
        for folder in ["dev", "etc", "run/rig/boot", "var/lib", "sys/class/block/vda", "proc/sys/kernel/random", "bin"]
        {
            fs::create_dir_all(machine.at(folder)).expect("makes");
        }
        let fact = |path: &str, text: &str| fs::write(machine.at(path), text).expect("writes");
        fact("run/rig/boot/disk", "vda\n");
        fact("run/rig/boot/version", "0.1.0\n");
        fact("etc/machine-id", "0123abcd111122223333444455556666\n");
        fact("proc/sys/kernel/random/uuid", &fs::read_to_string("/proc/sys/kernel/random/uuid").expect("reads"));
        File::create(machine.at("disk")).and_then(|file| file.set_len(bytes)).expect("makes");
        machine.link("disk", "dev/vda");
        fs::create_dir(machine.at("table")).expect("makes");
        let kind = layout::parts::SETTINGS_KIND;
        let table = format!("[Partition]\nType={kind}\nLabel=RIG\nSizeMinBytes=64M\nSizeMaxBytes=64M\n");
        fs::write(machine.at("table/10.conf"), table).expect("writes");
        let here = machine.folder.path().display();
        sh(&format!("systemd-repart --empty=require --dry-run=no --pretty=no --definitions={here}/table {here}/disk"));
        machine.power_on();
        sh(&format!("mkfs.ext4 -q {here}/dev/vda1"));
        machine.programs();
        machine
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn link(&self, to: &str, from: &str) {
        let from = self.at(from);
        let _ = fs::remove_file(&from);
        std::os::unix::fs::symlink(self.at(to), from).expect("links");
    }

    /// Programs of the image: those of this machine, or what stands in for them.
    fn programs(&self) {
        let here = self.folder.path().display();
        // What a TPM would seal is made plain here, and then given the beginning of something sealed.
        let seal = format!(
            "sealed=\nfor one; do shift; case $one in --tpm2*) sealed=1; continue;; --definitions=*) \
             sed -i s/Encrypt=tpm2/Encrypt=off/ ${{one#*=}}/*.conf;; esac; set -- \"$@\" \"$one\"; done\n\
             seal() {{ [ -z \"$sealed\" ] || printf 'LUKS\\272\\276' | dd of={here}/dev/vda2 conv=notrunc,fsync 2>/dev/null; }}"
        );
        let repart = format!(
            "{seal}\nif [ -e {here}/cut ]; then timeout -s KILL $(cat {here}/cut) systemd-repart \"$@\"; else systemd-repart \"$@\"; fi\n\
             code=$?; {}; seal; exit $code",
            self.attach_line()
        );
        let provider = "grep -n BAD rig.toml | sed 's/:.*//' > at\n\
            if [ -s at ]; then echo \"rig-provider: rig.toml line $(cat at): unknown key \\`BAD\\`\" >&2; exit 1; fi";
        for (name, script) in [
            ("systemd-repart", repart.as_str()),
            ("systemd-cryptsetup", "echo no TPM >&2; exit 1"),
            ("e2fsck", "exec e2fsck \"$@\""),
            ("fsck.fat", "exit 0"),
            ("rig-provider", provider),
        ] {
            let path = self.at("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("sets");
        }
    }

    /// Makes a block device of each partition that has none: a kernel does so by itself where it knows such disks.
    fn attach_line(&self) -> String {
        let here = self.folder.path().display();
        format!(
            "partx -g -o NR,START,SECTORS {here}/disk | while read -r number start sectors; do \
             node={here}/dev/vda$number; [ -e $node ] || ln -s $(losetup -f --show -o $((start * 512)) \
             --sizelimit $((sectors * 512)) {here}/disk) $node; done"
        )
    }

    fn power_on(&self) {
        sh(&self.attach_line());
    }

    /// Whatever is only in memory is gone, and the kernel looks at the disk again.
    pub(crate) fn power_off(&self) {
        self.detach();
        for folder in ["run/rig/config", "run/rig/notices", "run/systemd", "run/rig/repart.d"] {
            let _ = fs::remove_dir_all(self.at(folder));
        }
        let id = self.state_id();
        self.power_on();
        // From the second start on the first process says which machine this is.
        if let Some(id) = id {
            fs::write(self.at("run/rig/boot/machine-id"), id).expect("writes");
        }
    }

    fn detach(&self) {
        for entry in fs::read_dir(self.at("dev")).expect("reads").flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("vda") && name != "vda" {
                let device = fs::read_link(entry.path()).expect("a link");
                // It may be gone already when a test failed half-way.
                let _ = Command::new("losetup").arg("-d").arg(device).output();
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// One start, in a mount namespace of its own.
    pub(crate) fn start(&self) -> Run {
        let here = self.folder.path().display();
        let left = tempfile::tempdir_in(self.folder.path()).expect("a folder").keep();
        let line = format!(
            "{} run --root {here} --stick ext4 --programs {here}/bin; code=$?; cp -a {here}/var/lib/rig/. {}/ 2>/dev/null; exit $code",
            env!("CARGO_BIN_EXE_rig-boot"),
            left.display()
        );
        let done = Command::new("unshare").args(["-m", "--propagation", "private", "/bin/sh", "-c", &line]).output();
        let done = done.expect("unshare runs");
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{said}");
        Run { said, state: left, notices: self.at("run/rig/notices") }
    }

    /// Mounts partition `number` and runs a shell's line in it.
    fn within(&self, number: u32, line: &str) -> String {
        let here = self.folder.path().display();
        let script =
            format!("mkdir -p {here}/mnt; mount -t ext4 {here}/dev/vda{number} {here}/mnt; cd {here}/mnt; {line}");
        let script = script.replace('\'', "'\\''");
        sh(&format!("unshare -m --propagation private /bin/sh -ec '{script}'"))
    }

    /// Writes a file on the stick.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at("putting"), bytes).expect("writes");
        self.within(1, &format!("cp {} {name}; sync", self.at("putting").display()));
        fs::remove_file(self.at("putting")).expect("removes");
    }

    /// A file on the stick.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let got = self.at("got");
        let _ = fs::remove_file(&got);
        self.within(1, &format!("[ ! -e {name} ] || cp {name} {}", got.display()));
        fs::read_to_string(got).ok()
    }

    pub(crate) fn clear_stick(&self) {
        self.within(1, "rm -rf rig*");
    }

    pub(crate) fn ruin_stick(&self) {
        self.overwrite(1, 0, 1 << 20, 0);
    }

    /// Writes a file in the state that `run` left.
    pub(crate) fn put_in_state(&self, run: &Run, path: &str, bytes: &[u8]) {
        assert!(run.state("provider").exists(), "there is a state");
        fs::write(self.at("putting"), bytes).expect("writes");
        self.within(2, &format!("cp {} {path}; sync", self.at("putting").display()));
    }

    /// Makes it look as if the state were sealed.
    pub(crate) fn seal_state(&self) {
        self.overwrite(2, 0, 1 << 20, 0x5a);
        let at = self.partition(2).0;
        self.write_at(at, b"LUKS\xba\xbe\0\x02");
    }

    pub(crate) fn damage_state(&self, at: u64, length: u64, with: u8) {
        self.overwrite(2, at, length, with);
    }

    fn overwrite(&self, number: u32, at: u64, length: u64, with: u8) {
        self.detach();
        let (from, bytes) = self.partition(number);
        let part = vec![with; 1 << 20];
        let (mut at, end) = (from + at, from + (at + length).min(bytes));
        while at < end {
            let count = (end - at).min(1 << 20);
            self.write_at(at, &part[..usize::try_from(count).expect("small")]);
            at += count;
        }
        self.power_on();
    }

    fn write_at(&self, at: u64, bytes: &[u8]) {
        let mut disk = OpenOptions::new().write(true).open(self.at("disk")).expect("opens");
        disk.seek(SeekFrom::Start(at)).and_then(|_| disk.write_all(bytes)).expect("writes");
        disk.sync_all().expect("syncs");
    }

    fn table(&self) -> Table {
        Table::read(&mut File::open(self.at("disk")).expect("opens")).expect("a table")
    }

    /// Where a partition begins, and its length, in bytes.
    fn partition(&self, number: u32) -> (u64, u64) {
        let table = self.table();
        let one = table.partitions.iter().find(|one| one.number == number).expect("is there");
        (one.offset(&table), one.bytes(&table))
    }

    fn bytes(&self, number: u32) -> Vec<u8> {
        let (at, length) = self.partition(number);
        let mut bytes = Vec::new();
        let mut disk = File::open(self.at("disk")).expect("opens");
        disk.seek(SeekFrom::Start(at)).expect("seeks");
        disk.take(length).read_to_end(&mut bytes).expect("reads");
        bytes
    }

    pub(crate) fn stick_bytes(&self) -> Vec<u8> {
        sh("sync");
        self.bytes(1)
    }

    pub(crate) fn state_bytes(&self) -> Vec<u8> {
        self.bytes(2)
    }

    /// The state's id, if there is a state.
    pub(crate) fn state_id(&self) -> Option<String> {
        self.table().by_name("rig-state").map(|one| one.id.to_string())
    }

    pub(crate) fn machine_id(&self) -> String {
        "0123abcd-1111-2222-3333-444455556666".to_owned()
    }

    /// Ends `systemd-repart` after so many milliseconds, as a power cut does.
    pub(crate) fn cut_after(&self, delay_ms: Option<u32>) {
        let path: &Path = &self.at("cut");
        match delay_ms {
            Some(delay_ms) => fs::write(path, format!("0.{delay_ms:03}")).expect("writes"),
            None => fs::remove_file(path).expect("removes"),
        }
    }

    /// A TPM that the kernel knows. One that answers says the same to everything: that all is well.
    pub(crate) fn add_tpm(&self, answers: bool) {
        fs::create_dir_all(self.at("sys/class/tpm/tpm0")).expect("makes");
        if answers {
            fs::write(self.at("dev/tpmrm0"), [0; 64]).expect("writes");
        }
    }

    /// One more wired card.
    pub(crate) fn add_card(&self, name: &str) {
        let card = self.at("sys/class/net").join(name);
        fs::create_dir_all(card.join("device")).expect("makes");
        fs::write(card.join("type"), "1\n").expect("writes");
    }

    pub(crate) fn make_read_only(&self) {
        fs::write(self.at("sys/class/block/vda/ro"), "1\n").expect("writes");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.detach();
    }
}
