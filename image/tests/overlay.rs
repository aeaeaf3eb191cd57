//! The files that the image puts over Debian's: `image/root/etc` and `image/root/usr`.
//!
//! What is checked here needs no image. The scores of `systemd-analyze security` need Debian's systemd, which the build has
//! unpacked where somebody has built; elsewhere that test says so and is content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use image::archive::Archive;
use image::lock::Lock;
use image::mirrors::Mirrors;
use image::workshop::Workshop;

/// Units of ours, and the time of Debian's that we rewrote.
const UNITS: &str = "usr/lib/systemd/system";

/// What the rig's programs are started as; the code knows them by number.
const USERS: [(&str, u32, u32); 2] = [("rig-signer", 801, 800), ("rig-provider", 802, 800)];

fn overlay() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("root")
}

fn text(path: &str) -> String {
    fs::read_to_string(overlay().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Services of ours by name, with their text.
fn services() -> BTreeMap<String, String> {
    let mut services = BTreeMap::new();
    for entry in fs::read_dir(overlay().join(UNITS)).expect("the units").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".service") {
            services.insert(name, fs::read_to_string(entry.path()).expect("a unit"));
        }
    }
    services
}

/// All values of a key of a unit, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn every_service_gives_up_what_none_needs() {
    let services = services();
    assert!(services.len() >= 8, "{:?}", services.keys());
    for (name, unit) in &services {
        for wanted in [
            "NoNewPrivileges=yes",
            "LockPersonality=yes",
            "RestrictRealtime=yes",
            "SystemCallArchitectures=native",
            "SystemCallErrorNumber=EPERM",
        ] {
            assert!(unit.lines().any(|line| line == wanted), "{name}: {wanted}");
        }
        for key in ["CapabilityBoundingSet", "RestrictAddressFamilies", "SystemCallFilter"] {
            assert!(!values(unit, key).is_empty(), "{name}: {key}");
        }
    }
}

#[test]
fn the_signer_has_no_network_and_no_power() {
    let unit = &services()["rig-signer.service"];
    for wanted in
        ["PrivateNetwork=yes", "IPAddressDeny=any", "CapabilityBoundingSet=", "RestrictAddressFamilies=AF_UNIX"]
    {
        assert!(unit.lines().any(|line| line == wanted), "{wanted}");
    }
    assert_eq!(values(unit, "DeviceAllow"), ["char-tpm rw"]);
}

#[test]
fn the_provider_may_bind_port_80_and_has_the_time_to_drain() {
    let unit = &services()["rig-provider.service"];
    assert_eq!(values(unit, "CapabilityBoundingSet"), ["CAP_NET_BIND_SERVICE"]);
    let start = values(unit, "ExecStart")[0];
    let drain: u64 = start.rsplit_once("--drain-s ").expect("the drain").1.trim().parse().expect("seconds");
    let stop: u64 = values(unit, "TimeoutStopSec")[0].trim_end_matches('s').parse().expect("seconds");
    assert!(stop >= drain + 20, "{stop} s to stop, {drain} s to drain");
    assert!(stop <= 120, "whoever pressed the button waits: {stop} s");
}

#[test]
fn nothing_covers_what_jails_need_to_see() {
    let unit = &services()["rig-runner.service"];
    // Each hides or narrows a part of /proc or /sys, or forbids what makes a jail.
    for key in [
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ProtectHostname",
        "PrivateUsers",
        "RestrictNamespaces",
        "RestrictSUIDSGID",
        "MemoryDenyWriteExecute",
        "IPAddressDeny",
    ] {
        assert_eq!(values(unit, key), Vec::<&str>::new(), "{key}");
    }
}

#[test]
fn wifi_is_started_under_the_name_that_the_card_keeps() {
    let rules = fs::read_dir(overlay().join("etc/udev/rules.d")).expect("the rules").flatten();
    let names: Vec<_> = rules.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for name in names.iter().filter(|name| text(&format!("etc/udev/rules.d/{name}")).contains("$name")) {
        assert!(name.as_str() > "80-net-setup-link.rules", "{name} is read before cards are renamed");
    }
}

#[test]
fn what_may_start_others_is_not_to_be_written_by_who_needs_it_least() {
    let services = services();
    assert!(values(&services["rig-wifi@.service"], "ReadWritePaths").is_empty());
    let hidden = values(&services["rig-runner.service"], "InaccessiblePaths").join(" ");
    assert!(hidden.split(' ').any(|path| path == "-/run/rig/config"), "{hidden}");
}

#[test]
fn users_are_those_that_the_programs_know_and_none_can_log_in() {
    let groups: BTreeMap<String, u32> = text("etc/group")
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .map(|fields| (fields[0].to_owned(), fields[2].parse().expect("a number")))
        .collect();
    let mut seen = BTreeSet::new();
    let mut users = BTreeMap::new();
    for line in text("etc/passwd").lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let (user, group): (u32, u32) = (fields[2].parse().expect("a number"), fields[3].parse().expect("a number"));
        assert!(seen.insert(user), "{line}");
        assert!(groups.values().any(|known| *known == group), "{line}");
        assert!(fields[6].ends_with("/nologin"), "{line}");
        users.insert(fields[0].to_owned(), (user, group));
    }
    assert_eq!(groups["rig"], 800);
    for (name, user, group) in USERS {
        assert_eq!(users[name], (user, group), "{name}");
    }
    let shadow = text("etc/shadow");
    assert_eq!(shadow.lines().count(), users.len());
    assert!(shadow.lines().all(|line| line.split(':').nth(1) == Some("!*")), "{shadow}");
    for (name, unit) in services() {
        for user in values(&unit, "User") {
            assert!(users.contains_key(user), "{name}: {user}");
        }
        for group in values(&unit, "Group").into_iter().chain(values(&unit, "SupplementaryGroups")) {
            assert!(group.split(' ').all(|group| groups.contains_key(group)), "{name}: {group}");
        }
    }
}

#[test]
fn what_is_wanted_at_boot_is_there_and_what_is_masked_is_not_wanted() {
    let services = services();
    let wants = overlay().join("etc/systemd/system/multi-user.target.wants");
    let mut wanted: BTreeSet<String> =
        fs::read_dir(wants).expect("wants").flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    for (name, unit) in &services {
        let is_wanted = values(unit, "WantedBy") == ["multi-user.target"];
        assert_eq!(wanted.remove(name), is_wanted, "{name}");
    }
    let debian = ["systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"];
    assert_eq!(wanted, debian.map(str::to_owned).into());
    for entry in fs::read_dir(overlay().join("etc/systemd/system")).expect("units").flatten() {
        let is_mask = fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/null"));
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!is_mask || !(wanted.contains(&name) || services.contains_key(&name)), "{name}");
    }
}

#[test]
fn nobody_is_asked_for_a_password_or_given_a_prompt() {
    let masked = |name: &str| {
        let path = overlay().join("etc/systemd/system").join(name);
        assert_eq!(fs::read_link(path).expect(name), Path::new("/dev/null"), "{name}");
    };
    for name in ["getty.target", "getty@.service", "serial-getty@.service", "debug-shell.service", "user@.service"] {
        masked(name);
    }
    for name in ["emergency.service", "rescue.service"] {
        assert!(
            text(&format!("etc/systemd/system/{name}")).contains("ExecStart=/usr/bin/systemctl --no-block reboot\n")
        );
    }
}

/// The scores in `image/tests/security.txt`, from 0 (nothing is left to take) to 10: `systemd-analyze security` over the units,
/// without a running systemd. A score that changes is changed there by hand, with its reason in the commit.
#[test]
fn the_scores_of_the_units_are_those_that_were_agreed() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let cache =
        std::env::var_os("RIG_IMAGE_CACHE").map_or_else(|| repository.join("target/image/cache"), PathBuf::from);
    if !cache.join("workshops").is_dir() {
        eprintln!("nobody has built an image here: {} has no workshops", cache.display());
        return;
    }
    let lock = Lock::read(&repository.join("image/release/release.lock")).expect("the lock");
    let archive = Archive::new(Mirrors::of_this_machine().expect("mirrors"), &cache);
    let workshop = Workshop::open(&cache, &lock, "builder", &archive).expect("systemd, unpacked");
    // systemd wants to write there, and nobody may write in a workshop.
    let run = tempfile::tempdir().expect("a directory");
    let agreed = include_str!("security.txt");
    let scores: String = agreed.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let found = services().into_keys().fold(scores, |scores, name| {
        let argv = ["systemd-analyze", "security", "--offline=true", "--root=/w", "--no-pager", &name];
        let said = workshop.run_with(&overlay(), &[(run.path(), "/run")], &argv, &[], &[]).expect("an analysis");
        let said = String::from_utf8_lossy(&said).into_owned();
        let score = said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_once(": "));
        let (_, score) = score.unwrap_or_else(|| panic!("no score: {said}"));
        format!("{scores}{name} {}\n", score.split(' ').next().unwrap_or_default())
    });
    assert_eq!(found, agreed);
}
