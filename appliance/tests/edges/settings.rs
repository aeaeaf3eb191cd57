//! Settings as people write them, wrong ones above all.

use std::path::Path;

use alloy_primitives::Address;
use appliance::compose::{Exception, Exceptions};
use appliance::settings::{NetworkPolicy, Settings};
use chain::settings::parse_toml;
use work::SourceId;

const EXAMPLE: &str = include_str!("../../rig.example.toml");

/// The message for the example with `from` replaced by `to`.
fn says(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "`{from}` is in the example");
    let parsed = parse_toml::<Settings>(&EXAMPLE.replacen(from, to, 1), Path::new("rig.toml"));
    parsed.map(|_| ()).expect_err(to).to_string()
}

#[test]
fn each_wrong_setting_is_named_with_its_line_and_in_words_that_help() {
    for (from, to, expected) in [
        ("[owner]", "[ownr]", "line 3: unknown key `ownr`, did you mean `owner`?"),
        ("name = \"attic\"", "nmae = \"attic\"", "line 5: unknown key `nmae`, did you mean `name`?"),
        ("max_runs = 4", "max_run = 4", "did you mean `max_runs`?"),
        ("result_bytes", "result_byte", "did you mean `result_bytes`?"),
        ("state =", "stat =", "did you mean `state`?"),
        ("chain_id = 1071", "chain_id = \"1071\"", "line 8"),
        ("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x70997970", "line 4"),
        ("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "alice.eth", "line 4"),
        ("address = \"", "# address = \"", "missing field `address`"),
        ("\"https://mainnet-rpc.ogpuscan.io\"", "\"mainnet-rpc\"", "line 9"),
        ("nexus = \"0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1\"\n", "", "missing field `nexus`"),
        ("sources = \"any\"", "sources = \"all\"", "sources is \"any\" or a list of source addresses, not \"all\""),
        ("sources = \"any\"", "sources = [\"0x12\"]", "sources is \"any\" or a list of source addresses"),
        ("attempts = \"self\"", "attempts = \"me\"", "unknown variant `me`, expected `self` or `agent`"),
        ("[\"cpu\"]", "[\"tpu\"]", "unknown variant `tpu`"),
        ("max_runs = 4", "max_runs = -4", "line 28"),
        ("max_runs = 4", "max_runs = 4.5", "line 28"),
        ("max_runs = 4", "ask_percent = 256", "line 28"),
        ("max_runs = 4", "ask_percent = 0", "ask_percent is 1 to 100, not 0"),
        ("max_runs = 4", "ask_percent = 101", "ask_percent is 1 to 100, not 101"),
        ("max_runs = 4", "max_runs = 4\nmax_runs = 5", "duplicate key"),
        ("\"0.001\"", "\"-1\"", "not negative"),
        ("\"0.001\"", "\"1e18\"", "looks like \"0.25\""),
        ("\"0.001\"", "\"1,5\"", "looks like \"0.25\""),
        ("\"0.001\"", "0.001", "line 29"),
        ("result_bytes = 67108864", "result_bytes = \"64M\"", "line 32"),
        ("volume_bytes_max =", "volume_bytes =", "did you mean `volume_bytes_max`?"),
        (
            "network = \"internal\"",
            "network = \"lan\"",
            "unknown variant `lan`, expected one of `none`, `internal`, `internet`",
        ),
        ("[\"volume-for-bind\"]", "[\"privileged\"]", "unknown variant `privileged`, expected one of `ignore-cap-add`"),
        ("[\"volume-for-bind\"]", "\"volume-for-bind\"", "line 45"),
        ("allow = [", "alow = [", "did you mean `allow`?"),
        ("0x5FbDB2315678afecb367f032d93F642f64180aa3", "0x12", "line 43"),
        ("[[source]]", "[[sources]]", "did you mean `source`?"),
        ("[[source]]", "[source]", "line 42"),
        (
            "[[source]]",
            "[[source]]\naddress = \"0x5FbDB2315678afecb367f032d93F642f64180aa3\"\n[[source]]",
            "[[source]] 0x5FbDB2315678afecb367f032d93F642f64180aa3 stands here twice",
        ),
        ("[limits]", "[limits", "line 31"),
    ] {
        let message = says(from, to);
        assert!(message.contains(expected), "{to}: {message}");
        assert!(message.starts_with("rig.toml line "), "{to}: {message}");
    }
}

#[test]
fn what_is_left_out_has_a_default_that_earns_nothing_by_accident() {
    let work = EXAMPLE.split("[work]").next().expect("the part before");
    let settings: Settings = parse_toml(work, Path::new("rig.toml")).expect("parses");
    assert_eq!(settings.work.sources.0, work::policy::Sources::Listed(std::collections::BTreeSet::new()));
    assert_eq!((settings.work.max_runs, settings.work.ask_percent), (4, 100));
    assert!(settings.limits.plain_registries.is_empty());
    let source = settings.source(SourceId(Address::ZERO));
    assert_eq!((source.network, source.volume_bytes_max), (NetworkPolicy::Internal, 64 << 30));
    assert_eq!(source.allow, Exceptions::default());
}

#[test]
fn a_source_that_is_listed_differs_in_what_its_table_says_and_in_nothing_else() {
    let settings: Settings = parse_toml(EXAMPLE, Path::new("rig.toml")).expect("parses");
    let listed = settings.source("0x5FbDB2315678afecb367f032d93F642f64180aa3".parse().expect("an address"));
    assert_eq!((listed.network, listed.volume_bytes_max), (NetworkPolicy::Internet, 64 << 30));
    assert_eq!(listed.allow, [Exception::VolumeForBind].into_iter().collect());
    let other = settings.source(SourceId(Address::ZERO));
    assert_eq!((other.network, other.allow), (NetworkPolicy::Internal, Exceptions::default()));
}
