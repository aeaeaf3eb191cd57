//! `rig seed`: what is on a stick, shown and changed.

use std::fs;
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use crate::flash::{Desk, OWNER};
use crate::sample::{RIG, TEMPLATE, tool};
use crate::stage::{Ended, utf8};

fn seed(desk: &Desk, arguments: &[&str]) -> Ended {
    desk.stage.rig(&[&["seed", utf8(&desk.stick)], arguments].concat())
}

#[test]
fn settings_are_changed_one_by_one_and_secrets_are_not_shown() {
    let desk = Desk::new(512);
    assert_eq!(desk.flash(&[]).code, Some(0));
    let password = desk.stage.file("password", "correct horse\r\n");
    let token = desk.stage.file("token", "join-me-0123\n");
    let check = |arguments: &[&str], line: &str| {
        let ended = seed(&desk, &[arguments, &["--no-reach"]].concat());
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        assert!(desk.settings().contains(line), "{line}: {}", desk.settings());
        assert!(desk.settings().contains("# at a time\r\n"), "a comment is lost: {}", desk.settings());
    };
    check(&["--owner", OWNER], &format!("address = \"{OWNER}\" # 0x and 40 digits\r\n"));
    check(&["--name", "attic"], "name = \"attic\"\r\n");
    check(&["--name", "cellar"], "name = \"cellar\"\r\n");
    check(&["--network", "testnet"], "chain_id = 200820172034\r\n");
    check(&["--wifi", "Up", "--country", "de", "--wifi-password-file", &password], "password = \"correct horse\"\r\n");
    check(&["--join-token-file", &token], "join_token = \"join-me-0123\"\r\n");
    check(&["--set", "work.max_runs=9"], "max_runs = 9 # at a time\r\n");
    check(&["--set", "status_page.listen=0.0.0.0:8080"], "listen = \"0.0.0.0:8080\"\r\n");
    for arguments in [&[][..], &["--json"], &["--show", "--name", "attic"]] {
        let ended = seed(&desk, arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains(OWNER) && ended.stdout.contains("not shown"), "{ended:?}");
        assert!(!ended.stdout.contains("horse") && !ended.stdout.contains("join-me"), "{ended:?}");
    }
    // A whole file in place of all that, and Unix' line ends.
    let whole = desk.stage.file("whole.toml", format!("[owner]\naddress = \"{OWNER}\"\n"));
    check_whole(&desk, &whole);
}

fn check_whole(desk: &Desk, file: &str) {
    let ended = seed(desk, &["--settings", file, "--name", "new"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(desk.settings(), format!("[owner]\naddress = \"{OWNER}\"\nname = \"new\"\n"));
}

#[test]
fn a_bad_setting_changes_nothing() {
    let desk = Desk::new(512);
    assert_eq!(desk.flash(&[]).code, Some(0));
    let before = fs::read(&desk.stick).unwrap();
    let wrong = [
        (&["--owner", "0x7099"][..], "40 hexadecimal digits"),
        (&["--set", "work=1"], "is not like"),
        (&["--set", "owner.address=0x70997970C51812dc3A010C7d01b50e0d17dc79c8"], "wrong checksum"),
        (&["--set", "owner.adress=x"], "did you mean `address`?"),
        (&["--country", "DE"], "missing field `network`"),
        (&["--wifi-open"], "--wifi"),
    ];
    for (arguments, words) in wrong {
        let ended = seed(&desk, arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{arguments:?}: {ended:?}");
    }
    assert!(before == fs::read(&desk.stick).unwrap());
}

#[test]
fn what_the_rig_wrote_is_shown_and_cannot_steer_the_terminal() {
    let desk = Desk::new(512);
    assert_eq!(desk.flash(&[]).code, Some(0));
    assert!(seed(&desk, &[]).stdout.contains("No rig has started"));
    let status = desk.stage.file("status", "attic is serving.\n\x1b[2Jred\n");
    let at = format!("{}@@{}", utf8(&desk.stick), RIG.start);
    tool("mcopy", &["-i", &at, &status, "::rig-status.txt"]);
    let ended = seed(&desk, &[]);
    assert!(ended.stdout.contains("attic is serving.") && !ended.stdout.contains('\x1b'), "{ended:?}");
}

#[test]
fn what_is_no_stick_is_said() {
    let desk = Desk::new(512);
    let ended = seed(&desk, &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let file = fs::File::create(&desk.stick).unwrap();
    file.set_len(64 << 20).unwrap();
    let ended = seed(&desk, &["--name", "attic"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("no partition table"), "{ended:?}");
    // A rig's table, and nothing where RIG should be.
    file.write_all_at(&desk.sample.bytes[..1 << 20], 0).unwrap();
    let ended = seed(&desk, &["--name", "attic"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("not a FAT16 or FAT32 volume"), "{ended:?}");
    // Somebody deleted the file, or Windows calls it something else now.
    assert_eq!(desk.flash(&[]).code, Some(0));
    let at = format!("{}@@{}", utf8(&desk.stick), RIG.start);
    tool("mren", &["-i", &at, "::rig.toml", "::rig.toml.txt"]);
    assert_eq!(seed(&desk, &["--owner", OWNER]).code, Some(0));
    assert_eq!(desk.settings(), format!("[owner]\naddress = \"{OWNER}\"\n"));
    assert_eq!(tool("mcopy", &["-n", "-i", &at, "::rig.toml.txt", "-"]), TEMPLATE);
}

#[test]
fn a_network_that_is_another_is_an_error_and_one_that_sleeps_is_a_word() {
    let desk = Desk::new(512);
    assert_eq!(desk.flash(&[]).code, Some(0));
    let mut devnet = desk.stage.devnet(&[]);
    let line = desk.stage.file("devnet.json", &devnet.line);
    let ended = seed(&desk, &["--network", &line, "--owner", OWNER]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(desk.settings().contains("chain_id = 31337\r\n") && desk.settings().contains("allow_private = true"));
    let other = desk.stage.file("other.json", devnet.line.replace("31337", "31338"));
    let ended = seed(&desk, &["--network", &other]);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(desk.settings().contains("chain_id = 31337\r\n"));
    devnet.signal(Signal::SIGTERM);
    let ended = seed(&desk, &["--network", &line, "--name", "attic"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("Warning: no endpoint of chain 31337 answers"), "{ended:?}");
    assert!(desk.settings().contains("name = \"attic\""));
}
