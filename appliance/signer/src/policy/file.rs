//! The policy file, `signer.toml`.
//!
//! Invariants: unknown keys are errors that name the line, the key and the nearest valid key; every limit is
//! required, so none is ever a default that nobody chose; the three contracts and the owner are four
//! different addresses and none is zero. Only `[identity]` may be absent: it limits nothing, and what a rig does
//! without it (the best that needs no preparation, and no rotation) is what nearly every owner wants.

use std::io;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use serde::Deserialize;

/// Longest policy file that is read, in bytes. The shipped example has about 2 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Every key that the file may hold, for "did you mean". Kept equal to the structs below by a test.
const KEYS: [&str; 13] = [
    "chain_id",
    "owner",
    "max_gas",
    "max_fee_per_gas_wei",
    "max_calls_per_minute",
    "max_gas_wei_per_day",
    "contracts",
    "nexus",
    "terminal",
    "vault",
    "identity",
    "tier",
    "generation",
];

/// What the policy file says. All amounts are wei of the network's own coin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// The only chain that is signed for.
    pub chain_id: u64,
    /// The owner's wallet, called master on the chain. Its key is never on the rig.
    pub owner: Address,
    /// Highest gas limit of one transaction, in gas.
    pub max_gas: u64,
    /// Highest fee per gas, in wei.
    pub max_fee_per_gas_wei: u64,
    /// Most signatures in any 60 seconds. A replacement is a signature.
    pub max_calls_per_minute: u32,
    /// Most gas in any 24 hours, in wei: gas limit times fee per gas, as if every transaction used all of it.
    pub max_gas_wei_per_day: u64,
    /// The contracts that may be called.
    pub contracts: Contracts,
    /// How the key is to be kept.
    #[serde(default)]
    pub identity: KeyWish,
}

/// How the owner wants the key to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyWish {
    /// What is to protect a key that is born from now on. A key that lives already stays as it is.
    pub tier: TierWish,
    /// Counts the keys that the owner asked for. A number above the one of the key that is there asks for a new key.
    pub generation: u32,
}

/// What the owner wants to protect the key: the first one, or none is born. The successor of a key that closed may fall
/// below it, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TierWish {
    /// B, or N where there is no TPM. The default, since S and 4 need preparation, and lose the key to a mistake.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Secure Boot with the vendor's own keys, or no key.
    S,
    /// Measured boot, or no key.
    #[serde(rename = "4")]
    Four,
    /// A TPM, or no key.
    B,
    /// Software, even where there is a TPM.
    N,
}

/// Addresses of the contracts that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contracts {
    /// The registry of sources, tasks and responses.
    pub nexus: Address,
    /// Identities and pairing.
    pub terminal: Address,
    /// Stake and earnings.
    pub vault: Address,
}

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("read policy {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is far longer than any policy.
    #[error("policy {path} has {bytes} bytes, at most {FILE_BYTES_MAX} are read")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A key that no policy has.
    #[error("policy {path} line {line}: unknown key `{key}`, did you mean `{nearest}`?")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The valid key that is closest to it.
        nearest: &'static str,
    },
    /// Not TOML, or a value of the wrong kind, or a key is missing.
    #[error("policy {path} line {line}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser found.
        message: String,
    },
    /// One address stands in two places, or is zero.
    #[error("policy {path}: `{key}` is {address}, which is zero or also stands elsewhere in the file")]
    Address {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        address: Address,
    },
}

// === impl PolicyFile ===

impl PolicyFile {
    /// Reads and checks the policy at `path`. Errors: every variant of [`FileError`].
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let read = |source| FileError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(FileError::TooLong { path: path.to_owned(), bytes });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses `text`; `path` is only for messages. Errors: all of [`FileError`] but those of reading.
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let file: Self = toml::from_str(text).map_err(|error| explain(text, path, &error))?;
        let named = [
            ("owner", file.owner),
            ("nexus", file.contracts.nexus),
            ("terminal", file.contracts.terminal),
            ("vault", file.contracts.vault),
        ];
        for (at, (key, address)) in named.iter().enumerate() {
            let is_repeated = named[..at].iter().any(|(_, earlier)| earlier == address);
            if address.is_zero() || is_repeated {
                return Err(FileError::Address { path: path.to_owned(), key, address: *address });
            }
        }
        Ok(file)
    }
}

/// Turns the parser's error into one that names line and key.
fn explain(text: &str, path: &Path, error: &toml::de::Error) -> FileError {
    let span = error.span().unwrap_or_default();
    let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
    let path = path.to_owned();
    match unknown_key(error.message()) {
        Some(key) => FileError::UnknownKey { path, line, nearest: nearest(key), key: key.to_owned() },
        None => FileError::Syntax { path, line, message: error.message().replace('\n', " ") },
    }
}

/// The key in serde's own sentence for an unknown field. Its wording is pinned by a test.
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn nearest(key: &str) -> &'static str {
    let distance = |valid: &&&str| strsim::damerau_levenshtein(key, valid);
    KEYS.iter().min_by_key(distance).copied().unwrap_or(KEYS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../signer.example.toml");

    fn parse(text: &str) -> Result<PolicyFile, FileError> {
        PolicyFile::parse(text, Path::new("signer.toml"))
    }

    #[test]
    fn the_shipped_example_is_valid_and_uses_every_key() {
        parse(EXAMPLE).expect("the example parses");
        for key in KEYS {
            let is_used = EXAMPLE.lines().any(|line| line.starts_with(key) || line == format!("[{key}]"));
            assert!(is_used, "`{key}` is not in the example");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
        let check = |from: &str, to: &str, line: usize, nearest: &str| {
            let error = parse(&EXAMPLE.replace(from, to)).expect_err("the key is unknown");
            let words = format!("policy signer.toml line {line}: unknown key `{to}`, did you mean `{nearest}`?");
            assert_eq!(error.to_string(), words);
        };
        let line_of = |key: &str| 1 + EXAMPLE.lines().position(|line| line.starts_with(key)).expect("key");
        check("max_fee_per_gas_wei", "max_fee_per_gas", line_of("max_fee_per_gas_wei"), "max_fee_per_gas_wei");
        check("terminal", "terminus", line_of("terminal"), "terminal");
        check("chain_id", "chainid", line_of("chain_id"), "chain_id");
        check("generation", "generations", line_of("generation"), "generation");
    }

    #[test]
    fn a_missing_or_ill_typed_key_is_an_error_with_a_line() {
        for (from, to, words) in [
            ("max_gas = ", "# max_gas = ", "missing field `max_gas`"),
            ("chain_id = 1071", "chain_id = \"mainnet\"", "invalid type: string \"mainnet\", expected u64"),
            ("chain_id = 1071", "chain_id = -1", "invalid value: integer `-1`, expected u64"),
            ("[contracts]", "[contracts", "unclosed table"),
            ("tier = \"auto\"", "tier = \"s\"", "unknown variant `s`, expected one of `auto`, `S`, `4`, `B`, `N`"),
            ("generation = 0", "generation = -1", "invalid value: integer `-1`, expected u32"),
        ] {
            let error = parse(&EXAMPLE.replace(from, to)).expect_err(words);
            assert!(matches!(error, FileError::Syntax { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_said_of_the_key_is_read_and_may_be_absent() {
        let check = |text: &str, tier: TierWish, generation: u32| {
            let (rest, _) = EXAMPLE.split_once("\n[identity]\n").expect("the table is the last");
            let file = parse(&format!("{rest}\n{text}")).expect("a policy");
            assert_eq!(file.identity, KeyWish { tier, generation }, "{text}");
        };
        check("", TierWish::Auto, 0);
        check("[identity]\n", TierWish::Auto, 0);
        check("[identity]\ngeneration = 7\n", TierWish::Auto, 7);
        for (word, tier) in [("S", TierWish::S), ("4", TierWish::Four), ("B", TierWish::B), ("N", TierWish::N)] {
            check(&format!("[identity]\ntier = \"{word}\"\n"), tier, 0);
        }
    }

    #[test]
    fn zero_and_repeated_addresses_are_refused() {
        let file = parse(EXAMPLE).expect("the example parses");
        let vault = file.contracts.vault.to_string();
        for address in [Address::ZERO, file.owner, file.contracts.nexus] {
            let error = parse(&EXAMPLE.replace(&vault, &address.to_string())).expect_err("a bad address");
            assert!(matches!(error, FileError::Address { key: "vault", .. }), "{error:?}");
        }
    }

    #[test]
    fn a_huge_file_and_a_missing_file_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("signer.toml");
        assert!(matches!(PolicyFile::read(&path), Err(FileError::Read { .. })));
        std::fs::write(&path, vec![b'#'; 1 << 17]).expect("write");
        assert!(matches!(PolicyFile::read(&path), Err(FileError::TooLong { bytes: 131_072, .. })));
    }
}
