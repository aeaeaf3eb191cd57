//! What the first process does, start by start.

use crate::disk::{Disk, Sectors};
use crate::guest::{Bus, Guest, Run};
use crate::parts;

/// What every good start says, in this order.
const STEPS: [&str; 6] = [
    "rig-init: start",
    "modules",
    "rig-init: disk",
    "rig-init: root is mounted",
    "rig-init: root is ready",
    "witness: process 1",
];

#[track_caller]
fn starts(run: &Run, device: &str) {
    run.says_in_order(&STEPS);
    run.says(&format!("rig-init: disk {device}, slot a"));
    run.says(&format!("witness: /run/rig/boot/disk = {device}"));
    run.says("witness: /run/rig/boot/slot = a");
    run.says(&format!("witness: /run/rig/boot/roothash = {}", parts::root_hash()));
    run.says("witness: writable false");
    run.says("witness: done");
}

#[track_caller]
fn restarts(run: &Run, why: &str) {
    run.says(why);
    run.says("; restarting");
    run.says("reboot: Restarting system");
    run.never_says("witness: process 1");
}

#[test]
fn a_disk_on_any_bus_is_found() {
    for (bus, device) in
        [(Bus::Virtio, "vda"), (Bus::Usb, "sda"), (Bus::Nvme, "nvme0n1"), (Bus::Ahci, "sda"), (Bus::Card, "mmcblk0")]
    {
        starts(&Guest::new().disk(bus, &Disk::whole(Sectors::Small)).run(), device);
    }
}

#[test]
fn a_disk_with_large_sectors_is_found() {
    for (bus, device) in [(Bus::VirtioLarge, "vda"), (Bus::NvmeLarge, "nvme0n1")] {
        starts(&Guest::new().disk(bus, &Disk::whole(Sectors::Large)).run(), device);
    }
}

#[test]
fn the_machine_gets_its_id_its_facts_and_what_the_loader_left() {
    let disk = Disk::whole(Sectors::Small).with_state();
    let run = Guest::new().disk(Bus::Virtio, &disk).extra().words("rig.version=1.2.3 strange=word").run();
    starts(&run, "vda");
    let id = parts::STATE_ID.to_string().replace('-', "");
    run.says(&format!("witness: /run/rig/boot/machine-id = {id}"));
    run.says(&format!("witness: machine-id = {id}"));
    run.says("witness: /run/rig/boot/version = 1.2.3");
    run.says("witness: /run/systemd/tpm2-pcr-signature.json = {\"sha256\":[]}");
    run.says("witness: /run/systemd/tpm2-pcr-public-key.pem = a key");
    run.never_says("/run/systemd/other");
    // What the kernel did not know on its line is not for programs.
    run.says("witness: environment TERM=linux\n");
    run.says("witness: mount /dev/dm-0 / erofs ro,nodev,");
    for place in ["proc /proc proc", "sysfs /sys sysfs", "devtmpfs /dev devtmpfs", "tmpfs /run tmpfs rw,nosuid,nodev,"]
    {
        run.says(&format!("witness: mount {place}"));
    }
}

#[test]
fn both_phases_are_counted_in_the_tpm() {
    let run = Guest::new().disk(Bus::Virtio, &Disk::whole(Sectors::Small)).tpm().run();
    starts(&run, "vda");
    run.says_in_order(&[
        "rig-init: measured enter-initrd",
        "rig-init: root is mounted",
        "rig-init: measured leave-initrd",
    ]);
    run.says(&format!("witness: pcr 11 = {}", parts::register_after(&["enter-initrd", "leave-initrd"])));
}

#[test]
fn a_changed_block_of_the_root_restarts_the_machine_when_it_is_read() {
    let disk = Disk::whole(Sectors::Small).with_changed_filler();
    let run = Guest::new().disk(Bus::Virtio, &disk).words("witness=read").run();
    run.says("witness: process 1");
    run.says_in_order(&["is corrupted", "reboot: Restarting system"]);
    run.never_says("witness: read");
    let whole = Guest::new().disk(Bus::Virtio, &Disk::whole(Sectors::Small)).words("witness=read").run();
    whole.says("witness: read Ok(");
}

#[test]
fn a_disk_that_cannot_be_right_is_passed_over_with_a_reason_and_the_machine_restarts() {
    let start = |disk: Disk| Guest::new().disk(Bus::Virtio, &disk).run();
    let run = start(Disk::whole(Sectors::Small).without_verity());
    restarts(&run, "disk vda is passed over: it has the root of this release and not the tree of hashes");
    run.says("rig-init: no disk has the root");
    // On a quiet console too, the reasons before the end.
    run.says_in_order(&["\nrig-init: disk vda is passed over", "after 30 s; looked at: vda; restarting"]);
    let run = start(Disk::whole(Sectors::Small).with_empty_verity());
    restarts(&run, "disk vda is passed over: no verity superblock");
    let run = start(Disk::whole(Sectors::Small).with_changed_first_block());
    restarts(&run, "disk vda is passed over: block 0 of the data is not the one that was built");
}

#[test]
fn a_damaged_primary_table_leaves_the_backup() {
    let disk = Disk::whole(Sectors::Small).without_primary_table();
    starts(&Guest::new().disk(Bus::Virtio, &disk).words("gpt").run(), "vda");
    // Without that word the kernel itself does not read the backup, and the line says where to look.
    let run = Guest::new().disk(Bus::Virtio, &disk).run();
    restarts(&run, "disk vda is passed over: the kernel does not show its partition 3");
}

#[test]
fn of_two_disks_the_one_that_is_right_is_taken() {
    let (bad, good) = (Disk::whole(Sectors::Small).with_empty_verity(), Disk::whole(Sectors::Small));
    let run = Guest::new().disk(Bus::Virtio, &bad).disk(Bus::Nvme, &good).run();
    starts(&run, "nvme0n1");
    // Half on one disk and half on another make no whole.
    let run = Guest::new()
        .disk(Bus::Virtio, &Disk::whole(Sectors::Small).without_verity())
        .disk(Bus::Nvme, &Disk::whole(Sectors::Small).without_root())
        .run();
    restarts(&run, "disk nvme0n1 is passed over: it has the tree of hashes of this release and not the root");
}

#[test]
fn the_watchdog_runs_on_into_a_system_that_hangs() {
    let run = Guest::new().disk(Bus::Virtio, &Disk::whole(Sectors::Small)).watchdog().words("witness=hang").run();
    run.says("witness: /run/rig/boot/watchdog = watchdog0|i6300ESB timer|60|0");
    run.says("witness: hangs");
    // QEMU ends because the watchdog did, not because the guest did.
    run.never_says("reboot: Restarting system");
    assert!(run.ended_after_hang() > std::time::Duration::from_secs(40), "it ended by itself");
}

#[test]
fn a_line_that_names_no_root_restarts_the_machine() {
    let run = Guest::without_root_hash().disk(Bus::Virtio, &Disk::whole(Sectors::Small)).run();
    restarts(&run, "rig-init: the kernel's command line names no root (roothash=)");
}
