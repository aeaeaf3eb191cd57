//! Whole starts of a rig on this machine: a disk in a file with a real partition table, made by the real
//! `systemd-repart`, a real file system on it, mended by the real `e2fsck` and mounted in a mount namespace of its own.
//!
//! Not real here are the TPM and the mapper (this kernel may have neither), the stick's FAT (ext4 in its place), and the
//! provider that checks settings. Root is needed, as for everything that mounts.

mod machine;

use std::fs;
use std::os::unix::fs::MetadataExt;

use machine::{Machine, RIGHT, Run};

const SECRET: &[u8] = b"hunter22";

fn with_secrets() -> String {
    format!(
        "{RIGHT}[wifi]\nnetwork = \"home\"\npassword = \"hunter22\" # hunter22\ncountry = \"DE\"\n[fleet]\njoin_token = \"hunter22-token\"\n"
    )
}

#[test]
fn the_first_start_makes_a_state_and_the_second_opens_it() {
    let machine = Machine::new();
    machine.put("rig.toml", with_secrets().as_bytes());
    let first = machine.start();
    assert!(first.says("state: not encrypted: it was made without a TPM, new"), "{first:?}");
    assert!(first.says("settings: in force") && first.notices().is_empty(), "{first:?}");
    assert_eq!(machine.state_id(), Some(machine.machine_id()));
    for (folder, uid, gid, mode) in [
        ("", 0, 0, 0o755),
        ("signer", 801, 801, 0o700),
        ("provider", 802, 802, 0o700),
        ("content", 802, 800, 0o750),
        ("secrets", 0, 0, 0o700),
    ] {
        let there = fs::metadata(first.state(folder)).expect(folder);
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (uid, gid, mode), "{folder}");
    }
    assert_eq!(fs::read(first.state("secrets/join-token")).expect("is kept"), b"hunter22-token");
    let config = fs::read_to_string(machine.at("run/rig/config/rig.toml")).expect("is there");
    assert!(config.contains("/dev/tty1") && !config.contains("hunter22"), "{config}");
    assert_eq!(fs::metadata(machine.at("run/rig/config/signer.toml")).expect("is there").mode() & 0o777, 0o640);
    let left = machine.get("rig.toml").expect("is there");
    assert!(left.contains("# password: the rig has taken it") && left.contains("network = \"home\""), "{left}");
    let wpa =
        |machine: &Machine| fs::read_to_string(machine.at("run/rig/config/wpa_supplicant.conf")).expect("is there");
    assert!(wpa(&machine).contains("psk=\"hunter22\""));

    machine.put_in_state(&first, "provider/ledger", b"earned");
    machine.power_off();
    let second = machine.start();
    assert!(second.says("state: not encrypted: it was made without a TPM") && second.says("settings: in force"));
    assert!(second.notices().is_empty() && !second.said.contains("new"), "{second:?}");
    assert_eq!(fs::read(second.state("provider/ledger")).expect("is still there"), b"earned");
    assert!(wpa(&machine).contains("psk=\"hunter22\""), "the password is kept");
    assert_eq!(machine.state_id(), Some(machine.machine_id()));
}

#[test]
fn a_secret_that_was_taken_is_nowhere_on_the_stick() {
    let machine = Machine::new();
    machine.put("rig.toml", with_secrets().as_bytes());
    let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET);
    assert!(holds(&machine.stick_bytes()), "the test looks where the secret is");
    machine.start();
    assert!(!holds(&machine.stick_bytes()));
}

#[test]
fn a_stick_that_has_nothing_new_is_not_written() {
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    machine.start();
    machine.power_off();
    // The first start was the one of a new state, and said so.
    machine.start();
    let before = machine.stick_bytes();
    machine.power_off();
    machine.start();
    assert!(before == machine.stick_bytes(), "a third start wrote to the stick");
}

#[test]
fn settings_that_do_not_hold_leave_the_last_right_ones_in_force_or_none() {
    let machine = Machine::new();
    let is_served = || machine.at("run/rig/config/rig.toml").exists();
    let check = |bytes: Option<&[u8]>, name: &str, settings: &str, notice: &str| {
        machine.power_off();
        machine.clear_stick();
        if let Some(bytes) = bytes {
            machine.put(name, bytes);
        }
        let run = machine.start();
        assert!(run.says(&format!("settings: {settings}")), "{run:?}");
        assert!(run.said.contains(notice), "{run:?}");
        if bytes.is_some() {
            let status = machine.get("rig-status.txt").expect("is written");
            assert!(status.contains(notice) && status.contains("\r\n"), "{status}");
        }
        run
    };
    let none = "none, nothing is earned";
    check(None, "", &format!("no rig.toml on the stick: {none}"), "There is no rig.toml on the stick.");
    assert!(!is_served());
    let waiting = RIGHT.replace("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "");
    check(
        Some(waiting.as_bytes()),
        "rig.toml",
        &format!("waiting for an owner: {none}"),
        "This rig waits for an owner.",
    );
    assert!(!is_served());
    let run = check(
        Some(b"BAD = 1\n[owner]\naddress = \"x\"\n"),
        "rig.toml",
        &format!("rig.toml is wrong: {none}"),
        "line 1: unknown key `BAD`",
    );
    assert!(!is_served());
    assert_eq!(run.notices()[0].name, "rig-toml");
    check(Some(b"\xff\xfea\0"), "rig.toml", &format!("rig.toml is wrong: {none}"), "save it again as UTF-8");

    check(Some(RIGHT.as_bytes()), "rig.toml", "in force", "");
    assert!(is_served());
    let last = "the last right ones hold";
    check(Some(b"[owner\n"), "rig.toml", &format!("rig.toml is wrong: {last}"), "rig.toml line 1: ");
    assert!(is_served());
    check(None, "", &format!("no rig.toml on the stick: {last}"), "There is no rig.toml");
    assert!(is_served());
    check(
        Some(format!("\u{feff}{}", RIGHT.replace('\n', "\r\n")).as_bytes()),
        "rig.toml.txt",
        "in force",
        "called rig.toml.txt",
    );
    assert!(is_served());
    // The template beside the file that somebody saved.
    machine.power_off();
    machine.put("rig.toml", waiting.as_bytes());
    assert!(machine.start().says("settings: in force"));
}

#[test]
fn a_state_that_cannot_be_opened_is_never_wiped_but_by_its_own_word() {
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    machine.start();
    machine.power_off();
    let word = format!("erase-{}", &machine.machine_id()[..8]);
    machine.seal_state();
    let before = machine.state_bytes();
    let refused = |run: &Run| {
        assert!(run.said.contains("sealed to a TPM") && run.said.contains(&word), "{run:?}");
        assert!(!machine.at("run/rig/config/rig.toml").exists());
        assert!(before == machine.state_bytes(), "a state that cannot be opened was written to");
    };
    refused(&machine.start());
    machine.power_off();
    machine.put("rig.toml", format!("{RIGHT}[state]\nerase = \"erase-00000000\"\n").as_bytes());
    let run = machine.start();
    refused(&run);
    assert!(run.said.contains("asks to erase a state that is not there"), "{run:?}");

    machine.power_off();
    machine.put("rig.toml", format!("{RIGHT}[state]\nerase = \"{word}\"\n").as_bytes());
    let run = machine.start();
    assert!(
        run.says("state: not encrypted: it was made without a TPM, new") && run.says("settings: in force"),
        "{run:?}"
    );
    assert_ne!(machine.state_id(), Some(machine.machine_id()), "a new state has a new word");
    assert!(machine.get("rig.toml").expect("is there").contains("# erase: the rig has done so."));
    machine.put_in_state(&run, "provider/ledger", b"earned");
    machine.power_off();
    // Somebody puts the old file back: its word is of a state that is no more.
    machine.put("rig.toml", format!("{RIGHT}[state]\nerase = \"{word}\"\n").as_bytes());
    let run = machine.start();
    assert_eq!(fs::read(run.state("provider/ledger")).expect("is still there"), b"earned");
}

#[test]
fn the_word_that_erased_goes_even_from_settings_that_do_not_hold() {
    let waiting = RIGHT.replace("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "");
    for (text, settings) in [(format!("{RIGHT}BAD = 1\n"), "rig.toml is wrong"), (waiting, "waiting for an owner")] {
        let machine = Machine::new();
        machine.put("rig.toml", RIGHT.as_bytes());
        machine.start();
        machine.power_off();
        let word = format!("erase-{}", &machine.machine_id()[..8]);
        let wifi = "[wifi]\nnetwork = \"home\"\npassword = \"hunter22\"\ncountry = \"DE\"\n";
        machine.put("rig.toml", format!("{text}{wifi}[state]\nerase = \"{word}\"\n").as_bytes());
        let run = machine.start();
        assert!(run.said.contains(settings) && run.said.contains("without a TPM, new"), "{run:?}");
        let left = machine.get("rig.toml").expect("is there");
        assert_eq!(left, format!("{text}{wifi}[state]\n# erase: the rig has done so.\n"));
        machine.power_off();
        let run = machine.start();
        assert!(run.said.contains(settings) && !run.said.contains("Nothing was erased"), "{run:?}");
    }
}

#[test]
fn the_word_goes_with_the_state_that_it_erased_even_if_the_new_one_cannot_be_used() {
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    machine.start();
    machine.power_off();
    let word = format!("erase-{}", &machine.machine_id()[..8]);
    machine.put("rig.toml", format!("{RIGHT}[state]\nerase = \"{word}\"\n").as_bytes());
    fs::write(machine.at("bin/e2fsck"), "#!/bin/sh\nexit 8\n").expect("writes");
    let run = machine.start();
    assert!(run.said.contains("could not be mended"), "{run:?}");
    assert_ne!(machine.state_id(), Some(machine.machine_id()), "it was erased");
    let left = machine.get("rig.toml").expect("is there");
    assert_eq!(left, format!("{RIGHT}[state]\n# erase: the rig has done so.\n"));
}

#[test]
fn a_state_that_was_just_sealed_and_does_not_open_is_made_plain_and_said() {
    let machine = Machine::new();
    machine.add_tpm(true);
    machine.put("rig.toml", RIGHT.as_bytes());
    let run = machine.start();
    assert!(
        run.says("state: not encrypted: it was made without a TPM, new") && run.says("settings: in force"),
        "{run:?}"
    );
    let notices = run.notices();
    let notice = notices.iter().find(|notice| notice.name == "seal").expect("it is said");
    let word = format!("erase-{}", &machine.machine_id()[..8]);
    assert!(notice.what.contains("did not open") && notice.next.contains("no TPM"), "{notice:?}");
    assert!(notice.next.contains(&word), "{notice:?}");
    machine.put_in_state(&run, "provider/ledger", b"earned");
    machine.power_off();
    let run = machine.start();
    assert_eq!(fs::read(run.state("provider/ledger")).expect("is still there"), b"earned");
    assert!(run.notices().is_empty(), "{run:?}");
    // One that was sealed at an earlier start is not made anew for that.
    machine.power_off();
    machine.seal_state();
    let before = machine.state_bytes();
    let run = machine.start();
    assert!(run.said.contains("The TPM does not open the rig's state") && before == machine.state_bytes(), "{run:?}");
}

#[test]
fn a_tpm_that_does_not_answer_at_the_first_start_is_a_notice() {
    let machine = Machine::new();
    machine.add_tpm(false);
    machine.put("rig.toml", RIGHT.as_bytes());
    let run = machine.start();
    assert!(run.said.contains("TPM did not answer") && run.says("settings: in force"), "{run:?}");
    assert_eq!(run.notices().iter().map(|notice| notice.name.as_str()).collect::<Vec<_>>(), ["seal"]);
    machine.power_off();
    assert!(machine.start().notices().is_empty());
}

#[test]
fn an_address_for_one_of_two_cards_is_given_to_none() {
    let machine = Machine::new();
    machine.add_card("eno1");
    let text = format!("{RIGHT}[ethernet]\naddress = \"192.168.1.20/24\"\n");
    machine.put("rig.toml", text.as_bytes());
    let file = machine.at("run/systemd/network/10-rig-static.network");
    assert!(machine.start().notices().is_empty() && file.exists());
    machine.power_off();
    machine.add_card("eno2");
    let run = machine.start();
    assert!(run.said.contains("cards: eno1, eno2.") && run.says("settings: in force") && !file.exists(), "{run:?}");
    machine.power_off();
    machine.put("rig.toml", format!("{text}interface = \"eno2\"\n").as_bytes());
    assert!(machine.start().notices().is_empty());
    assert!(fs::read_to_string(&file).expect("is there").contains("Name=eno2\n"));
}

#[test]
fn a_power_cut_while_a_state_is_erased_leaves_no_word_for_the_next_one() {
    // The old one is gone, the new one was not made yet, the word is still on the stick, and the machine always gives
    // itself the same id, as virtual ones do.
    let machine = Machine::new();
    let word = format!("erase-{}", &machine.machine_id()[..8]);
    machine.put("rig.toml", format!("{RIGHT}[state]\nerase = \"{word}\"\n").as_bytes());
    let run = machine.start();
    assert!(run.says("settings: in force"), "{run:?}");
    assert_ne!(machine.state_id(), Some(machine.machine_id()));
}

#[test]
fn a_damaged_state_is_mended_and_a_ruined_one_is_left_for_its_owner() {
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    let run = machine.start();
    machine.put_in_state(&run, "provider/ledger", b"earned");
    machine.power_off();
    // The block after the superblock's: descriptors of all groups, of which there are copies.
    machine.damage_state(4096, 4096, 0xff);
    let run = machine.start();
    assert!(run.said.contains("was damaged, and was mended") && run.says("settings: in force"), "{run:?}");
    assert_eq!(fs::read(run.state("provider/ledger")).expect("is still there"), b"earned");
    machine.power_off();
    machine.damage_state(0, 512 << 20, 0xff);
    let before = machine.state_bytes();
    let run = machine.start();
    assert!(run.said.contains("holds something that is no state"), "{run:?}");
    assert!(before == machine.state_bytes() && !machine.at("run/rig/config/rig.toml").exists());
}

#[test]
fn a_state_whose_beginning_reads_as_zeros_is_mended_or_kept_and_never_made_anew() {
    // Worn flash: everything that says what this is, but for the copies. On a large disk the files lie further on.
    let machine = Machine::with_disk(4 << 30);
    machine.put("rig.toml", RIGHT.as_bytes());
    let run = machine.start();
    machine.put_in_state(&run, "provider/ledger", b"earned");
    machine.power_off();
    machine.damage_state(0, 1 << 20, 0);
    let run = machine.start();
    assert!(run.said.contains("was damaged, and was mended") && run.says("settings: in force"), "{run:?}");
    assert_eq!(fs::read(run.state("provider/ledger")).expect("is still there"), b"earned");
    // On a small one they went with it, and mending would leave an empty state.
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    machine.start();
    machine.power_off();
    machine.damage_state(0, 1 << 20, 0);
    let before = machine.state_bytes();
    let run = machine.start();
    assert!(run.said.contains("is damaged and could not be mended") && run.said.contains("erase-"), "{run:?}");
    assert!(before == machine.state_bytes() && !machine.at("run/rig/config/rig.toml").exists());
}

#[test]
fn a_power_cut_while_the_state_is_made_leaves_none_or_a_whole_one() {
    let (mut none, mut whole) = (0, 0);
    for delay_ms in (10..=250).step_by(20) {
        let machine = Machine::new();
        machine.put("rig.toml", RIGHT.as_bytes());
        machine.cut_after(Some(delay_ms));
        let run = machine.start();
        match machine.state_id() {
            None => {
                none += 1;
                assert!(run.said.contains("could not be made or opened"), "{run:?}");
            }
            Some(_) => whole += 1,
        }
        machine.power_off();
        machine.cut_after(None);
        let run = machine.start();
        assert!(run.says("settings: in force") && !run.said.contains("damaged"), "{delay_ms} ms: {run:?}");
    }
    println!("{none} cuts left no state, {whole} a whole one");
    assert!(none > 0, "no cut came in time");
}

#[test]
fn a_disk_without_room_and_one_that_cannot_be_written_say_so() {
    let machine = Machine::with_disk(256 << 20);
    machine.put("rig.toml", RIGHT.as_bytes());
    let run = machine.start();
    assert!(run.said.contains("no room for the rig's state") && machine.state_id().is_none(), "{run:?}");
    assert!(run.says("settings: right, and waiting for a state"));

    let machine = Machine::new();
    machine.put("rig.toml", with_secrets().as_bytes());
    machine.make_read_only();
    let run = machine.start();
    assert!(run.said.contains("The disk cannot be written to") && machine.state_id().is_none(), "{run:?}");
    let wpa =
        fs::read_to_string(machine.at("run/rig/config/wpa_supplicant.conf")).expect("the network works all the same");
    assert!(wpa.contains("psk=\"hunter22\""));
}

#[test]
fn a_rig_without_its_disk_or_its_stick_says_so_and_goes_on() {
    let machine = Machine::new();
    machine.put("rig.toml", RIGHT.as_bytes());
    fs::remove_file(machine.at("run/rig/boot/disk")).expect("removes");
    let run = machine.start();
    assert!(run.said.contains("The rig's own disk was not found"), "{run:?}");
    assert_eq!(run.notices()[0].name, "state");

    let machine = Machine::new();
    machine.ruin_stick();
    let run = machine.start();
    assert!(run.said.contains("The drive RIG on the stick cannot be read"), "{run:?}");
    assert!(run.says("state: not encrypted: it was made without a TPM, new"), "{run:?}");
}
