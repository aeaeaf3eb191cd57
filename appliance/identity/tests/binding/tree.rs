//! Which parts of `/sys` and `/proc` are fields, and why the others are not.

use identity::fields::{FIELDS_MAX, Fields, Kind, Why};

use crate::rig::Rig;

fn why(fields: &Fields, place: &str) -> Option<Why> {
    fields.absent().iter().find(|absent| absent.place == place).map(|absent| absent.why)
}

#[test]
fn a_usual_machine_has_seven_fields_and_says_what_it_lacks() {
    let fields = Rig::usual(1).fields();
    assert_eq!(fields.count(), 7);
    let counts = Kind::ALL.map(|kind| fields.count_of(kind));
    assert_eq!(counts, [1, 1, 0, 0, 3, 1, 1]);
    assert_eq!(why(&fields, "product_serial"), Some(Why::Placeholder));
    assert_eq!(why(&fields, "chassis_serial"), Some(Why::Placeholder));
    assert_eq!(fields.absent().len(), 2);
}

#[test]
fn a_machine_that_shows_nothing_has_no_fields_and_no_error() {
    let bare = Rig::bare();
    let nowhere = identity::fields::read(&bare.root().join("nowhere"));
    for fields in [bare.fields(), nowhere] {
        assert_eq!(fields.count(), 0);
        assert_eq!(why(&fields, "product_uuid"), Some(Why::Missing));
        assert_eq!(fields.absent().len(), 4, "{fields}");
    }
}

#[test]
fn a_drive_that_can_be_carried_away_is_no_field() {
    let rig = Rig::bare();
    let usb = "pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block";
    let sata = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block";
    let dock = "pci0000:00/0000:00:1c.0/0000:05:00.0/nvme/nvme3";
    // The stick that says that it is fixed, a drive in a hot-swap frame, a drive in a Thunderbolt dock, a card reader.
    rig.drive("sda", usb, "0").file(&format!("sys/devices/{usb}/wwid"), "t10.USB     STICK   4C530001231");
    rig.drive("sdb", sata, "1").file(&format!("sys/devices/{sata}/wwid"), "naa.5002538e30a1b2c3");
    rig.drive("nvme3n1", dock, "0").file(&format!("sys/devices/{dock}/serial"), "S5GXNX0T000814K");
    rig.file("sys/devices/pci0000:00/0000:00:1c.0/0000:05:00.0/removable", "removable\n");
    rig.drive("mmcblk0", "pci0000:00/0000:00:1a.0/mmc0", "0")
        .file("sys/devices/pci0000:00/0000:00:1a.0/mmc0/serial", "0x1234abcd");
    let fields = rig.fields();
    assert_eq!(fields.count(), 0, "{fields}");
    for name in ["sda", "sdb", "nvme3n1"] {
        assert_eq!(why(&fields, name), Some(Why::Portable), "{name}");
    }
}

#[test]
fn a_drive_across_a_network_or_made_up_by_the_kernel_is_no_field() {
    let rig = Rig::bare();
    rig.drive("nvme5n1", "virtual/nvme-fabrics/ctl/nvme5", "0")
        .file("sys/devices/virtual/nvme-fabrics/ctl/nvme5/serial", "S5GXNX0T000814K");
    rig.drive("sdc", "platform/host9/session1/target9:0:0/9:0:0:1", "0");
    rig.drive("loop0", "virtual/block", "0").drive("dm-0", "virtual/blocks", "0");
    assert_eq!(rig.fields().count(), 0, "{}", rig.fields());
}

#[test]
fn a_drive_of_two_controllers_is_where_its_controllers_are() {
    let rig = Rig::bare();
    let shared = "virtual/nvme-subsystem/nvme-subsys0";
    let controller = "sys/devices/pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0";
    rig.drive("nvme0n1", shared, "0").file(&format!("sys/devices/{shared}/serial"), "S5GXNX0T000814K");
    assert_eq!(rig.fields().count(), 0, "a controller across a network has no path on PCI");
    rig.file(&format!("{controller}/transport"), "pcie\n").link(&format!("sys/devices/{shared}/nvme0"), controller);
    assert_eq!(rig.fields().count_of(Kind::Disk), 1, "{}", rig.fields());
}

#[test]
fn a_sata_drive_is_known_by_its_page_of_serial_or_else_by_its_name_in_the_world() {
    let sata = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0";
    let page = format!("sys/devices/{sata}/vpd_pg80");
    let check = |bytes: &[u8], expected: u8| {
        let rig = Rig::bare();
        rig.drive("sda", sata, "0").file(&page, bytes);
        assert_eq!(rig.fields().count(), expected, "{bytes:02x?}: {}", rig.fields());
        rig.file(&format!("sys/devices/{sata}/wwid"), "naa.5002538e30a1b2c3\n");
        assert_eq!(rig.fields().count(), 1, "{bytes:02x?}: {}", rig.fields());
    };
    check(b"\x00\x80\x00\x14S3Z9NB0K            ", 1);
    check(b"\x00\x80\x00\x08S3Z9NB0K and more", 1);
    check(b"", 0);
    check(b"\x00\x80\x00", 0);
    check(b"\x00\x83\x00\x08S3Z9NB0K", 0);
    check(b"\x00\x80\x00\x09S3Z9NB0K", 0);
    check(b"\x00\x80\xff\xffS3Z9NB0K", 0);
    check(b"\x00\x80\x00\x08        ", 0);
    check(b"\x00\x80\x00\x08\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", 0);
}

#[test]
fn a_network_card_counts_by_the_address_that_it_was_made_with() {
    let rig = Rig::bare();
    let on_pci = |bus: u8| format!("pci0000:00/0000:{bus:02x}:00.0");
    rig.interface("eno1", &on_pci(1), "0", "3c:7c:3f:1a:9e:01");
    rig.interface("eno2", &on_pci(2), "1", "3c:7c:3f:1a:9e:02");
    rig.interface("eno3", &on_pci(3), "3", "3c:7c:3f:1a:9e:03");
    rig.interface("eno4", &on_pci(4), "0", "52:54:00:1a:9e:04");
    rig.interface("enx3c7c3f1a9e05", "pci0000:00/0000:05:00.0/usb1/1-2/1-2:1.0", "0", "3c:7c:3f:1a:9e:05");
    rig.interface("lo", "virtual", "0", "00:00:00:00:00:00").interface("docker0", "virtual", "3", "02:42:ac:11:00:02");
    rig.file("sys/class/net/bonding_masters", "\n");
    let fields = rig.fields();
    assert_eq!((fields.count(), fields.count_of(Kind::Nic)), (1, 1), "{fields}");
    for bus in [2, 3, 4] {
        assert_eq!(why(&fields, &format!("0000:{bus:02x}:00.0")), Some(Why::NotPermanent), "{bus}");
    }
    assert_eq!(why(&fields, "0000:05:00.0"), Some(Why::Portable));
    assert!(!format!("{fields} {fields:?}").contains("9e05"), "the name of an interface may hold its address");
}

#[test]
fn a_gpu_that_the_driver_has_not_started_is_no_field_yet() {
    let rig = Rig::bare();
    let file = |slot: u8| format!("proc/driver/nvidia/gpus/0000:0{slot}:00.0/information");
    rig.gpu(0, 1, 0);
    rig.file(&file(2), "Model: \t\t Unknown\nGPU UUID: \t GPU-????????-????-????-????-????????????\n");
    rig.file(&file(3), "Model: \t\t NVIDIA\n");
    rig.file("proc/driver/nvidia/gpus/strange/information", "GPU UUID: \t GPU-5a1e0d3c-77b2-4f19-8c4d-0b179e0041f7\n");
    let fields = rig.fields();
    assert_eq!(fields.count(), 1, "{fields}");
    assert_eq!(why(&fields, "0000:02:00.0"), Some(Why::Placeholder));
    assert_eq!(why(&fields, "0000:03:00.0"), Some(Why::Malformed));
}

#[test]
fn what_is_no_small_file_of_text_is_absent_with_the_reason() {
    let rig = Rig::bare();
    rig.file("sys/class/dmi/id/product_uuid", vec![b'A'; 4097]);
    rig.file("sys/class/dmi/id/board_serial", [0xff, 0xfe, 0x41, 0x42, 0x43, 0x44]);
    rig.file("sys/class/dmi/id/product_serial/inside", "a directory in the place of a file");
    rig.link("sys/class/dmi/id/chassis_serial", "sys/class/dmi/id/chassis_serial");
    let fields = rig.fields();
    assert_eq!(fields.count(), 0);
    assert_eq!(why(&fields, "product_uuid"), Some(Why::TooLong));
    assert_eq!(why(&fields, "board_serial"), Some(Why::Malformed));
    assert_eq!(why(&fields, "product_serial"), Some(Why::Malformed));
    assert!(matches!(why(&fields, "chassis_serial"), Some(Why::Unreadable(_))));
}

#[test]
fn a_device_that_lies_outside_the_root_is_not_read() {
    let (rig, other) = (Rig::bare(), Rig::usual(1));
    let stranger = other.root().join("sys/block/nvme0n1");
    rig.file("sys/block/none", "");
    std::os::unix::fs::symlink(stranger, rig.root().join("sys/block/nvme0n1")).expect("link");
    assert_eq!(rig.fields().count(), 0, "{}", rig.fields());
}

#[test]
fn a_rig_of_twelve_gpus_keeps_to_the_bound() {
    let rig = Rig::usual(1);
    for slot in 3..12 {
        rig.gpu(slot, 1, slot);
    }
    rig.dmi("product_serial", "PF3K9001Q").dmi("chassis_serial", "CH55120077");
    let fields = rig.fields();
    assert_eq!(usize::from(fields.count()), FIELDS_MAX);
    assert_eq!(Kind::ALL.map(|kind| fields.count_of(kind)), [1, 1, 1, 1, 10, 1, 1]);
    assert_eq!(fields.absent().iter().filter(|absent| absent.why == Why::TooMany).count(), 2);
}
