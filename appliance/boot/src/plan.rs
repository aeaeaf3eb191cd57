//! What is done about the state: facts in, one plan out. No I/O.
//!
//! Invariants: only a plan that says `Make` writes to the disk's table; over a partition that is there it does so only if
//! that is blank, beginning and copies of what stands at the beginning, or if the owner wrote the word that names this
//! very state. A state that cannot be opened is never wiped for that, except by [`crate::state`] in the start that made it.

use layout::Guid;

/// The least room for a state, in bytes: the ledger, the keys and a small source's image.
pub const STATE_BYTES_MIN: u64 = 512 << 20;

/// What is known before anything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The partition.
    pub partition: Partition,
    /// Whether there is a TPM that answers.
    pub has_tpm: bool,
    /// Whether the owner wrote the word of this partition.
    pub is_erase_wished: bool,
    /// Whether nothing can be written to the disk.
    pub is_read_only: bool,
    /// Room behind the other partitions, in bytes.
    pub room_bytes: u64,
}

/// The partition that holds the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// There is none: this is the first start, or the first one after a power cut in it.
    Absent,
    /// It is there.
    There(Content),
}

/// What a partition looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its first mebibyte is zero, and nothing further on is a copy of what stood there.
    Blank,
    /// Encrypted: LUKS, either of its headers.
    Sealed,
    /// A file system as it is; or one that lost its beginning, and can be mended from a copy.
    Plain,
    /// What is left of a file system that lost the root of its files.
    Broken,
    /// Something else.
    Foreign,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Make a partition with an empty state.
    Make {
        /// Bound to the TPM.
        sealed: bool,
        /// Take away the one that is there.
        anew: bool,
    },
    /// Open it with the TPM and mount it.
    Open,
    /// Mount it.
    Mount,
    /// Do nothing, and say why.
    Refuse(Trouble),
}

/// Why there is no state, and so no earning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The disk is too small.
    NoRoom,
    /// The disk, or the stick by its switch, lets nothing be written.
    ReadOnly,
    /// The state is bound to a TPM, and there is none.
    NoTpm,
    /// The TPM does not open it: it was cleared or is another one, or Secure Boot was switched.
    Refused,
    /// Something is there that is no state.
    Foreign,
    /// Its file system cannot be mended.
    Broken,
    /// A program of the image did not do its work.
    Failed,
}

// === impl Facts ===

impl Facts {
    /// What is done about these facts.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let make = |anew| Plan::Make { sealed: self.has_tpm, anew };
        if self.is_read_only {
            return Plan::Refuse(Trouble::ReadOnly);
        }
        match self.partition {
            Partition::Absent if self.room_bytes < STATE_BYTES_MIN => Plan::Refuse(Trouble::NoRoom),
            Partition::Absent => make(false),
            Partition::There(_) if self.is_erase_wished => make(true),
            Partition::There(Content::Blank) => make(true),
            Partition::There(Content::Sealed) if self.has_tpm => Plan::Open,
            Partition::There(Content::Sealed) => Plan::Refuse(Trouble::NoTpm),
            Partition::There(Content::Plain) => Plan::Mount,
            Partition::There(Content::Broken) => Plan::Refuse(Trouble::Broken),
            Partition::There(Content::Foreign) => Plan::Refuse(Trouble::Foreign),
        }
    }
}

// === impl Trouble ===

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 7] = [
        Trouble::NoRoom,
        Trouble::ReadOnly,
        Trouble::NoTpm,
        Trouble::Refused,
        Trouble::Foreign,
        Trouble::Broken,
        Trouble::Failed,
    ];

    /// What is wrong, in one line.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Trouble::NoRoom => "The disk has no room for the rig's state. Nothing is earned.",
            Trouble::ReadOnly => "The disk cannot be written to. Nothing is earned.",
            Trouble::NoTpm => "The rig's state is sealed to a TPM, and this machine shows none. Nothing is earned.",
            Trouble::Refused => "The TPM does not open the rig's state. Nothing is earned.",
            Trouble::Foreign => "The state partition holds something that is no state. Nothing is earned.",
            Trouble::Broken => "The rig's state is damaged and could not be mended. Nothing is earned.",
            Trouble::Failed => "The rig's state could not be made or opened. Nothing is earned.",
        }
    }

    /// What to do. `word` erases the state that is there, if one is.
    #[must_use]
    pub fn next(self, word: Option<&str>) -> String {
        let advice = match self {
            Trouble::NoRoom => {
                let mib = STATE_BYTES_MIN >> 20;
                return format!("Use a stick or disk of at least 4 GB: {mib} MiB must be free behind the image.");
            }
            Trouble::ReadOnly => {
                return "Look for a small switch on the stick and unlock it. A stick without one that cannot be written \
                    to is worn out: use another."
                    .to_owned();
            }
            Trouble::Failed => return "Restart the machine. If it happens again, use another stick.".to_owned(),
            Trouble::NoTpm => {
                "Switch the TPM on in the firmware's settings (also called fTPM or PTT), or put the stick back into the \
                 machine that it was in."
            }
            Trouble::Refused => {
                "Put back what was changed: this machine, its TPM, and Secure Boot as it was (on or off)."
            }
            Trouble::Foreign => "Is it the right disk?",
            Trouble::Broken => "Use another stick if this happened before: sticks wear out.",
        };
        let Some(word) = word else { return advice.to_owned() };
        format!(
            "{advice}\nOr start anew: this loses the rig's key and its pairing for good. For that write into rig.toml on \
             the stick, and restart:\n[state]\nerase = \"{word}\""
        )
    }
}

/// The word that erases the state with this id and no other.
#[must_use]
pub fn erase_word(state: Guid) -> String {
    let id = state.to_string();
    format!("erase-{}", &id[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: [Partition; 6] = [
        Partition::Absent,
        Partition::There(Content::Blank),
        Partition::There(Content::Sealed),
        Partition::There(Content::Plain),
        Partition::There(Content::Broken),
        Partition::There(Content::Foreign),
    ];

    /// A row of the table: partition, and for a disk with room the plan without and with a TPM, then the same where the
    /// owner wrote the word.
    type Row = (Partition, [Plan; 2], [Plan; 2]);

    fn table() -> [Row; 6] {
        let make = |anew| [Plan::Make { sealed: false, anew }, Plan::Make { sealed: true, anew }];
        let refuse = Plan::Refuse;
        [
            (Partition::Absent, make(false), make(false)),
            (Partition::There(Content::Blank), make(true), make(true)),
            (Partition::There(Content::Sealed), [refuse(Trouble::NoTpm), Plan::Open], make(true)),
            (Partition::There(Content::Plain), [Plan::Mount; 2], make(true)),
            (Partition::There(Content::Broken), [refuse(Trouble::Broken); 2], make(true)),
            (Partition::There(Content::Foreign), [refuse(Trouble::Foreign); 2], make(true)),
        ]
    }

    #[test]
    fn every_combination_of_facts_has_the_plan_that_the_table_says() {
        let mut seen = 0;
        for (partition, plain, wished) in table() {
            for has_tpm in [false, true] {
                for is_erase_wished in [false, true] {
                    for is_read_only in [false, true] {
                        for room_bytes in [0, STATE_BYTES_MIN - 1, STATE_BYTES_MIN, u64::MAX] {
                            let facts = Facts { partition, has_tpm, is_erase_wished, is_read_only, room_bytes };
                            let row = if is_erase_wished { wished } else { plain };
                            let expected = match (is_read_only, partition) {
                                (true, _) => Plan::Refuse(Trouble::ReadOnly),
                                (false, Partition::Absent) if room_bytes < STATE_BYTES_MIN => {
                                    Plan::Refuse(Trouble::NoRoom)
                                }
                                (false, _) => row[usize::from(has_tpm)],
                            };
                            assert_eq!(facts.plan(), expected, "{facts:?}");
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert_eq!((seen, table().map(|row| row.0)), (192, PARTITIONS));
    }

    #[test]
    fn nothing_that_holds_something_is_wiped_without_the_word() {
        for content in [Content::Sealed, Content::Plain, Content::Broken, Content::Foreign] {
            for (has_tpm, is_read_only) in [(false, false), (false, true), (true, false), (true, true)] {
                let partition = Partition::There(content);
                let facts = Facts { partition, has_tpm, is_erase_wished: false, is_read_only, room_bytes: u64::MAX };
                assert!(!matches!(facts.plan(), Plan::Make { .. }), "{facts:?}");
            }
        }
    }

    #[test]
    fn every_trouble_says_what_to_do_and_a_lost_state_how_to_start_anew() {
        let word = erase_word("0123abcd-0000-4000-8000-000000000000".parse().expect("an id"));
        assert_eq!(word, "erase-0123abcd");
        for trouble in Trouble::ALL {
            let erases = trouble.next(Some(&word)).contains("[state]\nerase = \"erase-0123abcd\"");
            let is_lost = matches!(trouble, Trouble::NoTpm | Trouble::Refused | Trouble::Foreign | Trouble::Broken);
            assert_eq!(erases, is_lost, "{trouble:?}");
            assert!(trouble.what().ends_with("Nothing is earned.") && trouble.next(Some(&word)).len() < 1000);
            assert!(!trouble.next(None).contains("erase"));
        }
    }
}
