//! Machines of files: a bus, what the driver says, a modprobe that does as it is told.

use super::*;

/// As a machine with driver 550 has it, shortened.
const DEVICES: &str = "\
Character devices:
  1 mem
195 nvidia
195 nvidia-modeset
195 nvidiactl
237 nvidia-caps
243 nvidia-nvlink
507 nvidia-uvm

Block devices:
  8 sd
195 nvidia-uvm
";

const INFORMATION: &str = "\
Model: \t\t NVIDIA GeForce RTX 3060
IRQ:   \t\t 152
GPU UUID: \t GPU-6b9d3f8c-0000-0000-0000-000000000000
Bus Location: \t 0000:01:00.0
Device Minor: \t 1
GPU Excluded:\t No
";

/// A machine with these devices (vendor, class) and a modprobe that ends with this code.
fn machine(devices: &[(&str, &str)], modprobe: i32) -> (tempfile::TempDir, Places) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["bus", "gpus", "dev"] {
        fs::create_dir(at(name)).expect("a folder");
    }
    for (number, (vendor, class)) in devices.iter().enumerate() {
        let device = at("bus").join(format!("0000:0{number}:00.0"));
        fs::create_dir(&device).expect("a folder");
        for (name, value) in [("vendor", *vendor), ("class", *class), ("device", "0x2504")] {
            fs::write(device.join(name), format!("{value}\n")).expect("write");
        }
    }
    fs::write(at("devices"), DEVICES).expect("write");
    let program = at("modprobe");
    fs::write(&program, format!("#!/bin/sh\necho \"$@\" >{0}/loaded\nexit {modprobe}\n", folder.path().display()))
        .expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let places = Places {
        bus: at("bus"),
        devices: at("devices"),
        gpus: at("gpus"),
        dev: at("dev"),
        notices: at("notices"),
        modprobe: program,
    };
    (folder, places)
}

#[test]
fn without_a_gpu_nothing_is_loaded_made_or_said() {
    let others = [("0x8086", "0x030000"), ("0x10de", "0x040300"), ("0x10de", "0x068000")];
    let (folder, places) = machine(&others, 1);
    assert_eq!(settle(&places, 0).expect("settles"), []);
    assert!(!folder.path().join("loaded").exists());
    assert!(notices::read(&places.notices).is_empty());
    let nowhere = Places { bus: folder.path().join("no bus"), ..places };
    assert_eq!(settle(&nowhere, 0).expect("settles"), []);
}

#[test]
fn a_gpu_that_the_driver_does_not_take_is_a_notice_and_no_failure() {
    for class in ["0x030000", "0x030200"] {
        let (folder, places) = machine(&[("0x10de", class)], 1);
        assert_eq!(settle(&places, 0).expect("settles"), []);
        assert_eq!(fs::read_to_string(folder.path().join("loaded")).expect("loaded"), "-- nvidia-uvm\n");
        let [notice] = notices::read(&places.notices).try_into().expect("one notice");
        assert!(notice.what.contains("10de:2504") && notice.next.contains("modprobe ended with 1"), "{notice:?}");
    }
    let (_folder, places) = machine(&[("0x10de", "0x030000")], 0);
    assert_eq!(settle(&places, 0).expect("settles"), []);
    let [notice] = notices::read(&places.notices).try_into().expect("one notice");
    assert!(notice.next.contains("takes none"), "{notice:?}");
}

#[test]
fn one_gpu_of_several_that_the_driver_does_not_take_is_a_notice() {
    let found = ["10de:2204".to_owned(), "10de:2504".to_owned()];
    let nodes = |minors: &[u64]| nodes(DEVICES, minors).expect("nodes");
    assert_eq!(left_over(&found, &nodes(&[0, 1])), None);
    let notice = left_over(&found, &nodes(&[1])).expect("a notice");
    assert_eq!(notice.what, "The NVIDIA driver uses 1 of this machine's 2 GPUs.");
    assert!(notice.next.contains("There are 10de:2204, 10de:2504."), "{notice:?}");
}

#[test]
fn a_notice_goes_when_what_it_says_no_longer_holds() {
    let (_folder, places) = machine(&[("0x10de", "0x030000")], 1);
    settle(&places, 0).expect("settles");
    assert_eq!(notices::read(&places.notices).len(), 1);
    fs::remove_dir_all(&places.bus).expect("no bus");
    settle(&places, 0).expect("settles");
    assert!(notices::read(&places.notices).is_empty());
}

#[test]
fn the_numbers_of_nodes_are_those_of_kernel_and_driver() {
    let (_folder, places) = machine(&[], 0);
    fs::create_dir(places.gpus.join("0000:01:00.0")).expect("a folder");
    fs::write(places.gpus.join("0000:01:00.0/information"), INFORMATION).expect("write");
    let minors = minors(&places.gpus).expect("a GPU");
    let found = nodes(DEVICES, &minors).expect("nodes");
    let expected = [("nvidiactl", 195, 255), ("nvidia-uvm", 507, 0), ("nvidia1", 195, 1)];
    let expected = expected.map(|(name, major, minor)| Node { name: name.to_owned(), major, minor });
    assert_eq!(found, expected);
}

#[test]
fn older_drivers_have_other_names() {
    let check = |devices: &str, expected: Result<u64, &str>| match (nodes(devices, &[0]), expected) {
        (Ok(nodes), Ok(major)) => assert_eq!(nodes[0].major, major, "{devices}"),
        (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{devices}: {error}"),
        (found, expected) => panic!("{devices}: {found:?} is not {expected:?}"),
    };
    check("195 nvidia-frontend\n510 nvidia-uvm\n", Ok(195));
    check("195 nvidiactl\n510 nvidia-uvm\n", Ok(195));
    check("195 nvidia-frontend\n", Err("nvidia-uvm"));
    check("510 nvidia-uvm\n", Err("lists no nvidia "));
    check("x nvidia\n510 nvidia-uvm\n", Err("lists no nvidia "));
    check("Character devices:\n1 mem\nBlock devices:\n195 nvidia\n510 nvidia-uvm\n", Err("lists no nvidia "));
    check("", Err("lists no nvidia "));
}

#[test]
fn what_the_driver_says_of_a_gpu_is_read_or_refused() {
    let check = |information: &str, expected: Option<u64>| assert_eq!(minor(information), expected, "{information}");
    check(INFORMATION, Some(1));
    check("Device Minor: 0", Some(0));
    check("Device Minor: 254\n", Some(254));
    for refused in
        ["", "Device Minor:", "Device Minor: 255", "Device Minor: -1", "Device Minor: one", " Device Minor: 1"]
    {
        check(refused, None);
    }
}
