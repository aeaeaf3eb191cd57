//! Files of the format's own definition and of another program, and files that nobody should have written.

use alloy::primitives::{address, hex};
use serde_json::{Value, json};

use super::*;

/// The two examples of the format's definition: the same secret, `testpassword`. The second breaks the
/// rule of scrypt's own definition that n is below 2^(16·r), and no wallet in use writes such files.
const DEFINED: [&str; 2] = [
    r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
    "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",
    "kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
    "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
    "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
    "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#,
    r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
    "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
    "kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,
    "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
    "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
    "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#,
];

/// Written by the Python package eth-keyfile 0.10, with fewer rounds than it takes by itself.
const WRITTEN: [&str; 2] = [
    r#"{"address": "70997970C51812dc3A010C7d01b50e0d17dc79C8", "crypto": {"cipher": "aes-128-ctr", "cipherparams":
    {"iv": "a019a864a1f34305313635270d99b5be"}, "ciphertext":
    "631d28635df311abf18ad59959e2a6674143c5b2c77af96b7e50764abe4aa05d", "kdf": "scrypt", "kdfparams": {"dklen": 32,
    "n": 4096, "r": 8, "p": 1, "salt": "5f87f936067b55ef121c568924c0dbb7"}, "mac":
    "104f861b6677a9e09c64bf02247e18619ddcb480bb998ea704bc0cc6d2316ac8"}, "id": "f6ec21b3-8dbb-48a1-bbab-71d21a73c8ec",
    "version": 3}"#,
    r#"{"address": "70997970C51812dc3A010C7d01b50e0d17dc79C8", "crypto": {"cipher": "aes-128-ctr", "cipherparams":
    {"iv": "b9fd35e065c29814a90bad7f2008400b"}, "ciphertext":
    "5e7316faaa28c7a331a5d3660bda6141b02d48255b07a276c62d9361325a2a6d", "kdf": "pbkdf2", "kdfparams": {"c": 1000,
    "dklen": 32, "prf": "hmac-sha256", "salt": "71a1f1d47c8f22e0b6b1254942fe6eed"}, "mac":
    "0c4217c7ce2927b32875807aca2725829bfffad8971bf41ad7b38e458a6584b1"}, "id": "44a1327e-063c-41c4-99f7-2c97fb974dc6",
    "version": 3}"#,
];
/// Written by the same, with as much work as the common wallets ask for.
const USUAL: &str = r#"{"address": "70997970C51812dc3A010C7d01b50e0d17dc79C8", "crypto": {"cipher": "aes-128-ctr",
    "cipherparams": {"iv": "552e0b932908c0d613747877a33b8759"}, "ciphertext":
    "c2811970c48728e8550350d50a3c44e2e6df29eaf56f7f0fe777ee496ec54052", "kdf": "scrypt", "kdfparams": {"dklen": 32, "n":
    262144, "r": 8, "p": 1, "salt": "f7e5497dd449971a81b0f5f1f8770365"}, "mac":
    "584427e6ef6554c89ef4b7626037d8e09e97fc345f6ec28ed0238486b6c1eadf"}, "id": "9b243e9b-b6f1-4a5b-9c3c-4375001ed714",
    "version": 3}"#;
/// The password `short` and a key that begins with a zero, which was left out; computed with the Python package
/// pycryptodome. Its fields are named as the oldest wallets did.
const SHORT: &str = r#"{"Crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"000102030405060708090a0b0c0d0e0f"},
    "ciphertext":"eb8b16302f9d38911e9cb03869919045f9c6f8e2e9e91f81e1d347cb3c0f70","kdf":"scrypt","kdfparams":{"dklen":32,
    "n":2,"p":1,"r":8,"salt":"0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"},
    "mac":"b34a81a03cfce877d64900e7bed5db01259dba5a4a530d31261f662c8505753c"},"version":3,"x":{"y":[1]}}"#;
const PASSWORD: &str = "correct horse ö";
const SECRET: [u8; 32] = hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");

#[test]
fn the_files_of_the_definition_and_of_another_program_open() {
    let defined = Keystore::parse(DEFINED[0].as_bytes()).expect("it is within bounds").open(b"testpassword");
    let expected = hex!("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d");
    assert_eq!(*defined.expect("the password is right"), expected);
    let refused = Keystore::parse(DEFINED[1].as_bytes()).expect_err("scrypt does not allow it").to_string();
    assert!(refused.contains("n is 262144, which is not below 2^16"), "{refused}");
    let short = Keystore::parse(SHORT.as_bytes()).expect("it is within bounds").open(b"short");
    let expected = hex!("00c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");
    assert_eq!(*short.expect("the password is right"), expected);
    for text in [WRITTEN[0], WRITTEN[1], USUAL] {
        let keystore = Keystore::parse(text.as_bytes()).expect("it is within bounds");
        assert_eq!(keystore.address, Some(address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")));
        assert_eq!(*keystore.open(PASSWORD.as_bytes()).expect("the password is right"), SECRET);
    }
}

#[test]
fn a_wrong_password_opens_nothing_and_neither_does_a_changed_file() {
    for text in WRITTEN {
        let keystore = Keystore::parse(text.as_bytes()).expect("it is within bounds");
        for wrong in ["", "correct horse", "correct horse ö ", "Correct horse ö"] {
            assert!(matches!(keystore.open(wrong.as_bytes()), Err(KeystoreError::Password)), "{wrong:?}");
        }
        for what in ["ciphertext", "mac"] {
            let mut file: Value = serde_json::from_str(text).expect("it is JSON");
            let changed = file["crypto"][what].as_str().expect("a field").replacen(['0', '1'], "2", 1);
            file["crypto"][what] = json!(changed);
            let keystore = Keystore::parse(file.to_string().as_bytes()).expect("it is within bounds");
            assert!(matches!(keystore.open(PASSWORD.as_bytes()), Err(KeystoreError::Password)), "{what}");
        }
    }
}

#[test]
fn a_file_that_ends_too_early_is_never_a_key() {
    for text in WRITTEN {
        for length in 0..text.len() {
            assert!(Keystore::parse(&text.as_bytes()[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn absurd_files_are_refused_before_any_work_is_done() {
    let check = |which: usize, path: &str, value: Value, expected: &str| {
        let mut file: Value = serde_json::from_str(WRITTEN[which]).expect("it is JSON");
        *file.pointer_mut(path).expect("the path is in the file") = value;
        let words = Keystore::parse(file.to_string().as_bytes()).expect_err(path).to_string();
        assert!(words.contains(expected), "{path}: {words}");
    };
    let (scrypt, pbkdf2) = (0, 1);
    for n in [0_u64, 1, 3, 4095, 262_143] {
        check(scrypt, "/crypto/kdfparams/n", json!(n), "not a power of two");
    }
    for n in [1_u64 << 21, 1 << 40, 1 << 63] {
        check(scrypt, "/crypto/kdfparams/n", json!(n), "between 1 and 1073741824");
    }
    for r in [0, 1 << 20, u64::from(u32::MAX), u64::MAX] {
        check(scrypt, "/crypto/kdfparams/r", json!(r), "between 1 and 1073741824");
    }
    for p in [0, 1 << 11, u64::MAX] {
        check(scrypt, "/crypto/kdfparams/p", json!(p), "between 1 and 33554432");
    }
    for c in [0, 10_000_001, u64::from(u32::MAX) + 2, u64::MAX] {
        check(pbkdf2, "/crypto/kdfparams/c", json!(c), "between 1 and 10000000");
    }
    for which in [scrypt, pbkdf2] {
        for dklen in [0, 16, 31, 33, u64::MAX] {
            check(which, "/crypto/kdfparams/dklen", json!(dklen), "not 32");
        }
        check(which, "/crypto/kdfparams/dklen", json!(-1), "not an encrypted wallet file");
        check(which, "/crypto/kdfparams/salt", json!("zz"), "salt is not at most 256 bytes");
        check(which, "/crypto/kdfparams/salt", json!("00".repeat(257)), "salt is not at most 256 bytes");
        check(which, "/crypto/cipherparams/iv", json!("00"), "iv is not 16 bytes");
        check(which, "/crypto/cipherparams/iv", json!("00".repeat(17)), "iv is not 16 bytes");
        check(which, "/crypto/ciphertext", json!("00".repeat(33)), "ciphertext is not 1 to 32 bytes");
        check(which, "/crypto/ciphertext", json!(""), "ciphertext is not 1 to 32 bytes");
        check(which, "/crypto/mac", json!(""), "mac is not 32 bytes");
        check(which, "/crypto/cipher", json!("aes-128-cbc"), "only aes-128-ctr is known");
        check(which, "/crypto/kdf", json!("argon2id"), "only scrypt or pbkdf2 is known");
        check(which, "/crypto", json!([]), "not an encrypted wallet file");
        check(which, "/version", json!(1), "version 1");
        check(which, "/version", json!("3"), "not an encrypted wallet file");
    }
    check(pbkdf2, "/crypto/kdfparams/prf", json!("hmac-md5"), "only hmac-sha256 is known");
    check(pbkdf2, "/crypto/kdf", json!("scrypt"), "n is missing");
    check(scrypt, "/crypto/kdf", json!("pbkdf2"), "prf is missing");
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    assert!(matches!(Keystore::parse(deep.as_bytes()), Err(KeystoreError::Format(_))));
}
