//! Wallets as people have them: encrypted files, their passwords, and what a person does at a prompt.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use alloy::primitives::{Address, address};
use alloy::providers::Provider;
use provisioning::devnet::{ContractSettings, Role};
use signer::identity::pairing_code;

use crate::owner::Town;
use crate::stage::Stage;
use crate::terminal::Terminal;

const PROVIDER: &str = "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc";
const CLIENT: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");

/// The key of [`CLIENT`], written by the Python package eth-keyfile.
const KEYSTORE: &str = r#"{"address": "70997970C51812dc3A010C7d01b50e0d17dc79C8", "crypto": {"cipher": "aes-128-ctr",
"cipherparams": {"iv": "a019a864a1f34305313635270d99b5be"}, "ciphertext":
"631d28635df311abf18ad59959e2a6674143c5b2c77af96b7e50764abe4aa05d", "kdf": "scrypt", "kdfparams": {"dklen": 32, "n":
4096, "r": 8, "p": 1, "salt": "5f87f936067b55ef121c568924c0dbb7"}, "mac":
"104f861b6677a9e09c64bf02247e18619ddcb480bb998ea704bc0cc6d2316ac8"}, "id": "f6ec21b3-8dbb-48a1-bbab-71d21a73c8ec",
"version": 3}"#;
const PASSWORD: &str = "correct horse ö";

/// A network on which nobody answers, which is what a command with an open wallet comes to here.
const NOBODY: &str = r#"
[network]
chain_id = 1071
rpc_urls = ["http://127.0.0.1:1"]
request_timeout_ms = 2000
[network.contracts]
nexus = "0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1"
controller = "0x8661F4B9c30e07A04d795A192478dfD905625a1D"
terminal = "0xaEBC7b712D38Fc4d841f0732c21B8774339869D3"
vault = "0xa5c582254AA313528898311362bc698b041580cC"
[content]
publish = "http://127.0.0.1:1/file/create"
"#;

#[tokio::test]
async fn an_encrypted_wallet_pays_with_the_password_of_a_file() {
    let town = Town::up(ContractSettings::default()).await;
    let keystore = town.stage.file("owner.json", KEYSTORE);
    let password = town.stage.file("owner.password", format!("{PASSWORD}\n"));
    let wallet = ["--keystore", &keystore, "--password-file", &password, "--devnet", &town.network, "--json"];
    let staked = town.run(&[&["stake", PROVIDER, "--amount", "2"][..], &wallet].concat()).await.json();
    assert_eq!(staked["balance_wei"], serde_json::json!("2000000000000000000"));
    let chain = town.chain(town.devnet.account(Role::Client));
    assert_eq!(chain.get_transaction_count(CLIENT).await.unwrap(), 1, "the file's key has signed");
    town.devnet.down().await.unwrap();
}

#[test]
fn a_wallet_that_cannot_be_used_is_refused_in_words_that_help_and_nothing_of_it_is_said() {
    let stage = Stage::new();
    let network = stage.file("network.toml", NOBODY);
    let keystore = stage.file("owner.json", KEYSTORE);
    let password = stage.file("owner.password", PASSWORD);
    let wrong = stage.file("wrong.password", "correct horse");
    let check = |wallet: &[&str], code: i32, words: &[&str]| {
        for json in [&[][..], &["--json"]] {
            let all = [&["stake", PROVIDER, "--amount", "1", "--network", &network][..], wallet, json].concat();
            let ended = stage.rig(&all);
            assert_eq!(ended.code, Some(code), "{wallet:?}: {ended:?}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            for words in words {
                assert!(said.contains(words), "{words:?} is not in {ended:?}");
            }
            assert!(!said.contains("horse") && !said.contains("59c6995e"), "{ended:?}");
        }
    };
    let with = |file: &str| ["--keystore".to_owned(), file.to_owned(), "--password-file".to_owned(), password.clone()];
    let whole = with(&keystore);
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    check(&whole, 3, &["no endpoint"]);
    check(&["--keystore", &keystore, "--password-file", &wrong], 2, &["the password does not open it", "try again"]);
    check(&["--keystore", &keystore], 2, &["ask for the password", "--password-file"]);
    check(&["--keystore", "/nowhere", "--password-file", &password], 2, &["read the encrypted wallet file /nowhere"]);
    check(&["--keystore", &keystore, "--password-file", "/nowhere"], 2, &["read the password file /nowhere"]);
    check(&["--password-file", &password], 2, &["--keystore"]);
    check(&["--keystore", &keystore, "--key-file", &keystore], 2, &["cannot be used with"]);
    check(&["--unsigned", PROVIDER, "--key-file", &keystore], 2, &["cannot be used with"]);
    check(&["--unsigned", "0x12"], 2, &["40 hexadecimal digits"]);
    check(&[], 2, &["no wallet is named", "--key-file"]);

    let bad = |name: &str, text: String, words: &[&str]| {
        let file = stage.file(name, text);
        let wallet = with(&file);
        check(&wallet.iter().map(String::as_str).collect::<Vec<_>>(), 2, words);
    };
    bad("half.json", KEYSTORE[..KEYSTORE.len() / 2].to_owned(), &["not an encrypted wallet file of version 3"]);
    bad("huge.json", format!("{KEYSTORE}{}", " ".repeat(64 * 1024)), &["longer than 65536 bytes"]);
    bad("bomb.json", KEYSTORE.replace("4096", "1073741824"), &["scrypt memory", "1099511627776"]);
    bad("slow.json", KEYSTORE.replace("\"p\": 1", "\"p\": 4294967295"), &["scrypt work"]);
    bad(
        "other.json",
        KEYSTORE.replace("70997970", "70997971"),
        &["0x70997970C51812dc3A010C7d01b50e0d17dc79C8, and says"],
    );
    for (file, words) in [(&keystore, "the encrypted wallet file"), (&password, "the password file")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
        check(&whole, 2, &[words, "can be read by others (mode 640)", "chmod 600"]);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_ledger_is_understood_by_every_rig_and_used_by_one_that_was_built_for_it() {
    let stage = Stage::new();
    let network = stage.file("network.toml", NOBODY);
    let stake = ["stake", PROVIDER, "--amount", "1", "--network", &network];
    let ended = stage.rig(&[&stake[..], &["--ledger"]].concat());
    let expected = if cfg!(feature = "ledger") { "reach the Ledger" } else { "--features ledger" };
    assert!(ended.code == Some(2) && ended.stderr.contains(expected), "{ended:?}");
    assert!(ended.stderr.contains("m/44'/60'/0'/0/0"), "{ended:?}");
    let ended = stage.rig(&[&stake[..], &["--ledger=m/44h"]].concat());
    assert!(ended.code == Some(2) && ended.stderr.contains("a derivation path looks like"), "{ended:?}");
    assert!(stage.rig(&["stake", "--help"]).stdout.contains("LGPL"));
}

#[test]
fn a_person_has_three_tries_and_what_is_typed_is_not_shown() {
    let stage = Stage::new();
    let network = stage.file("network.toml", NOBODY);
    let keystore = stage.file("owner.json", KEYSTORE);
    let stake = ["stake", PROVIDER, "--amount", "1", "--network", &network, "--keystore", &keystore];
    let check = |typed: &[&str], code: i32, last: &str| {
        let mut terminal = Terminal::run(stage.command(&stake));
        for password in typed {
            terminal.reads("Password of ");
            assert!(!terminal.echoes());
            terminal.types(password);
        }
        terminal.reads(last);
        assert!(terminal.echoes(), "the terminal is as it was");
        let (ended, said) = terminal.ends();
        assert_eq!(ended, Some(code), "{said}");
        assert!(!said.contains("horse"), "{said}");
    };
    check(&["correct horse ö\n"], 3, "no endpoint");
    check(&["horse\n", "\n", "correct horse ö\n"], 3, "no endpoint");
    check(&["horse\n", "horse\n", "horse\n"], 2, "the password does not open it\r\n  next");
    check(&["correct hor\x03"], 2, "ask for the password");
}

#[test]
fn a_person_compares_the_code_and_a_code_that_is_given_must_belong_to_the_address() {
    let stage = Stage::new();
    let network = stage.file("network.toml", NOBODY);
    let key = stage.file("owner.key", "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");
    let pair = ["pair", PROVIDER, "--network", &network, "--key-file", &key];
    let code = pairing_code(PROVIDER.parse().unwrap());
    let ask = |answer: &str, code_wanted: i32, last: &str| {
        let mut terminal = Terminal::run(stage.command(&pair));
        terminal.reads(&code);
        terminal.reads("show the same code? [y/N] ");
        terminal.types(answer);
        terminal.reads(last);
        assert_eq!(terminal.ends().0, Some(code_wanted));
    };
    ask("n\n", 1, "nothing was paired");
    ask("\n", 1, "nothing was paired");
    ask("yes\n", 3, "no endpoint");
    let mut terminal = Terminal::run(stage.command(&[&pair[..], &["--yes"]].concat()));
    terminal.reads("no endpoint");
    assert!(!terminal.ends().1.contains("[y/N]"));

    let other = pairing_code(CLIENT);
    for json in [&[][..], &["--json"]] {
        let right = stage.rig(&[&pair[..], &["--code", &code.to_lowercase()], json].concat());
        assert_eq!(right.code, Some(3), "{right:?}");
        let wrong = stage.rig(&[&pair[..], &["--code", &other], json].concat());
        assert!(wrong.code == Some(2) && format!("{wrong:?}").contains("does not belong to"), "{wrong:?}");
        let none = stage.rig(&[&pair[..], &["--code", "K7F2"], json].concat());
        assert!(none.code == Some(2) && format!("{none:?}").contains("a pairing code looks like"), "{none:?}");
    }
    assert_eq!(stage.rig(&["pair", "--key-file", &key]).code, Some(2), "an address or --all");
    assert_eq!(stage.rig(&["pair", PROVIDER, "--all", "--key-file", &key]).code, Some(2), "not both");
}
