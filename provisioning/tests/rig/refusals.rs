//! Bad input: each gets its exit code, its words, and a next step, and nothing is sent.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::stage::Stage;

const PROVIDER: &str = "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc";
const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// A network file on which nobody answers.
fn network(rpc_url: &str, chain_id: u64) -> String {
    format!(
        r#"
[network]
chain_id = {chain_id}
rpc_urls = ["{rpc_url}"]
request_timeout_ms = 2000
[network.contracts]
nexus = "0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1"
controller = "0x8661F4B9c30e07A04d795A192478dfD905625a1D"
terminal = "0xaEBC7b712D38Fc4d841f0732c21B8774339869D3"
vault = "0xa5c582254AA313528898311362bc698b041580cC"
[content]
publish = "http://127.0.0.1:1/file/create"
"#
    )
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn check(stage: &Stage, arguments: &[&str], code: i32, words: &[&str]) {
    let people = stage.rig(arguments);
    assert_eq!(people.code, Some(code), "{arguments:?}: {people:?}");
    assert_eq!(people.stdout, "", "a failure has no answer: {people:?}");
    for words in words {
        assert!(people.stderr.contains(words), "{words:?} is not in {people:?}");
    }
    let program = stage.rig(&[arguments, &["--json"]].concat());
    let line: serde_json::Value = serde_json::from_str(&program.stdout).unwrap();
    assert_eq!((program.code, &line["exit"], program.stderr.as_str()), (Some(code), &serde_json::json!(code), ""));
}

#[test]
fn a_mistyped_address_or_amount_is_refused_before_anything_is_opened() {
    let stage = Stage::new();
    let slip = PROVIDER.replace("dc", "dC");
    check(&stage, &["stake", &slip, "--amount", "1", "--key-file", "none"], 2, &["wrong checksum"]);
    check(&stage, &["stake", "0x12", "--amount", "1", "--key-file", "none"], 2, &["40 hexadecimal digits"]);
    check(&stage, &["stake", PROVIDER, "--amount=-1", "--key-file", "none"], 2, &["not negative"]);
    check(&stage, &["stake", PROVIDER, "--amount", "1"], 2, &["--key-file"]);
    check(&stage, &["pair", PROVIDER, "--wait", "1", "--key-file", "none"], 2, &["looks like 90s"]);
    let data = ["task", "publish", PROVIDER, "--function", "f", "--payment", "1", "--key-file", "none", "--data"];
    check(&stage, &[&data[..], &["{"]].concat(), 2, &["not JSON"]);
    check(&stage, &[&data[..], &["@nowhere.json"]].concat(), 2, &["read nowhere.json"]);
}

#[test]
fn a_key_that_others_can_read_and_a_key_that_is_none_are_refused() {
    let stage = Stage::new();
    let key = stage.file("wallet.key", KEY);
    let stake = ["stake", PROVIDER, "--amount", "1", "--key-file", &key];
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    check(&stage, &stake, 2, &["can be read by others (mode 644)", "next: chmod 600"]);
    stage.file("wallet.key", "0x1234");
    check(&stage, &stake, 2, &["64 hexadecimal digits"]);
    check(&stage, &["stake", PROVIDER, "--amount", "1", "--key-file", "/nowhere"], 2, &["read the key file /nowhere"]);
    let ended = stage.rig(&stake);
    assert!(!ended.stderr.contains("0x1234"), "a key is never printed");
}

#[test]
fn a_bad_network_file_is_named_with_its_line_and_the_nearest_key() {
    let stage = Stage::new();
    let key = stage.file("wallet.key", KEY);
    let bad = |from: &str, to: &str, words: &[&str]| {
        let text = network("http://127.0.0.1:1", 1071).replace(from, to);
        let file = stage.file("network.toml", text);
        let stake = ["stake", PROVIDER, "--amount", "1", "--key-file", &key, "--network", &file];
        check(&stage, &stake, 2, words);
    };
    bad("rpc_urls", "rpc_url", &["line 4: unknown key `rpc_url`, did you mean `rpc_urls`?"]);
    bad("0x2b0cC605", "0x2b0CC605", &["wrong checksum"]);
    bad("1071", "\"mainnet\"", &["line 3"]);
    let stake = ["stake", PROVIDER, "--amount", "1", "--key-file", &key];
    check(&stage, &[&stake[..], &["--network", "minnet"]].concat(), 2, &["read minnet", "--network mainnet"]);
    let empty = stage.file("devnet.json", "{}");
    check(&stage, &[&stake[..], &["--devnet", &empty]].concat(), 2, &["rig devnet up --json"]);
}

#[test]
fn a_network_that_does_not_answer_and_one_that_is_another_have_their_own_codes() {
    let stage = Stage::new();
    let key = stage.file("wallet.key", KEY);
    let silent = stage.file("silent.toml", network(&format!("http://127.0.0.1:{}", closed_port()), 1071));
    let stake = ["stake", PROVIDER, "--amount", "1", "--key-file", &key, "--network"];
    check(&stage, &[&stake[..], &[&silent]].concat(), 3, &["no endpoint of chain 1071 answers: 127.0.0.1"]);
    let devnet = stage.devnet(&[]);
    let other = stage.file("other.toml", network(devnet.ready.rpc.as_str(), 1071));
    check(&stage, &[&stake[..], &[&other]].concat(), 6, &["chain 31337, not on chain 1071", "next: compare chain_id"]);
}

#[test]
fn a_rig_that_is_not_there_gets_a_next_step() {
    let stage = Stage::new();
    let run_dir = stage.path("run");
    for ask in ["status", "tasks"] {
        let words = ["no rig listens at", "next: start it"];
        check(&stage, &[ask, "--rig", run_dir.to_str().unwrap()], 3, &words);
    }
}

#[test]
fn a_missing_anvil_names_the_command_that_installs_it() {
    let stage = Stage::new();
    check(&stage, &["devnet", "up", "--anvil", "/nowhere/anvil"], 2, &["there is no anvil at /nowhere/anvil"]);
    let mut command = stage.command(&["devnet", "up"]);
    // Away from the checkout, where target/devnet would be found.
    let output = command.current_dir("/").env("PATH", "/nowhere").env_remove("RIG_ANVIL").output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("npm install --prefix target/devnet @foundry-rs/anvil"), "{words}");
}

#[test]
fn help_teaches_with_an_example_for_every_command() {
    let stage = Stage::new();
    let commands: [&[&str]; 12] = [
        &["devnet", "up"],
        &["pair"],
        &["stake"],
        &["source", "publish"],
        &["cuda", "build"],
        &["cuda", "check"],
        &["task", "publish"],
        &["task", "result"],
        &["status"],
        &["tasks"],
        &["completions"],
        &["man"],
    ];
    for command in commands {
        let help = stage.rig(&[command, &["--help"]].concat());
        assert!(help.stdout.contains("Example"), "{command:?}: {}", help.stdout);
    }
    assert!(stage.rig(&["--help"]).stdout.contains("Exit codes:"));
    assert!(stage.rig(&["completions", "bash"]).stdout.contains("_rig()"));
    let pages = stage.path("man");
    let man = stage.rig(&["man", pages.to_str().unwrap(), "--json"]).json();
    assert!(man["pages"].as_array().unwrap().len() > 10, "{man}");
}
