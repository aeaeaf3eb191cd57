//! 81 things that a job may not do, and the few that it may, asked in a real jail and compared with a golden file.
//!
//! A line of `probes.golden` is a name, what the kernel says, and for what reads `OK` the reason why that is meant.
//! `$RIG_BLESS` set to anything writes the file anew, without the reasons of new lines: those are for a reviewer.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use hostile::attacks::{attacked, rig};
use hostile::rig::name;

/// As many as the list has always had; a probe that goes is replaced.
const COUNT: usize = 81;

#[test]
fn what_a_job_may_do_is_what_it_always_could() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("probes.golden");
    let known = fs::read_to_string(&golden).unwrap_or_default();
    // Name, outcome, reason.
    let known: BTreeMap<&str, (&str, &str)> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, rest) = line.split_once('\t')?;
            let (outcome, reason) = rest.split_once('\t').unwrap_or((rest, ""));
            Some((name, (outcome, reason)))
        })
        .collect();
    let rig = rig();
    let address = SocketAddr::from_abstract_name("rig-hostile-probe").expect("an address");
    let _listener = UnixListener::bind_addr(&address).expect("listen");
    let said = attacked(&rig, &name("a"), &["probes"]);
    let found: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(" => ")).collect();
    assert_eq!(found.len(), COUNT, "{said}");
    if std::env::var_os("RIG_BLESS").is_some() {
        let lines = found.iter().map(|(name, outcome)| match known.get(name) {
            Some((_, reason)) if *outcome == "OK" => format!("{name}\t{outcome}\t{reason}\n"),
            _ => format!("{name}\t{outcome}\n"),
        });
        let heading = "# What a job hears when it asks for what it should not have. See tests/probes.rs.\n";
        fs::write(&golden, heading.to_owned() + &lines.collect::<String>()).expect("write");
    }
    let mut wrong = Vec::new();
    for (name, outcome) in &found {
        match known.get(name) {
            Some((expected, reason)) if *expected == "OK" && reason.is_empty() => {
                wrong.push(format!("{name}: the golden file allows it without a reason"));
            }
            Some((expected, _)) if expected == outcome => {}
            _ if *outcome == "OK" => {
                wrong.push(format!("{name}: A JOB CAN DO THIS NOW. Close it; nothing may be let through unnoticed"))
            }
            Some((expected, _)) => {
                wrong.push(format!("{name}: was {expected}, is {outcome}; if that is as well, change probes.golden"))
            }
            None => wrong.push(format!("{name}: {outcome}; add it to probes.golden")),
        }
    }
    let gone: Vec<_> = known.keys().filter(|name| !found.iter().any(|(found, _)| found == *name)).collect();
    assert!(wrong.is_empty() && gone.is_empty(), "{}\nno longer asked: {gone:?}", wrong.join("\n"));
    let allowed: Vec<_> = found.iter().filter(|(_, outcome)| *outcome == "OK").map(|(name, _)| *name).collect();
    println!("{} of {COUNT} probes are stopped; meant to be allowed: {}", COUNT - allowed.len(), allowed.join(", "));
}
