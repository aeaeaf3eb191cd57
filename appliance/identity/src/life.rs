//! What happened to a key, and what is done about it: a pure function from what was observed.
//!
//! Invariants:
//! * Only a trouble that stays leads to a successor. One that passes leads to asking again, and never to a new key.
//! * Software that is older than what ran here before gets no new key either: that would open the lock from behind.
//! * A key that opens is used, unless the owner asked for a new one.

/// Whether the provider key is open, or which event of a rig's life closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// The key signs.
    Open,
    /// The key is sealed to a TPM and this machine shows none.
    TpmOff,
    /// The same TPM, but it was cleared.
    TpmCleared,
    /// Another TPM in the same machine.
    TpmSwapped,
    /// Another TPM in another machine.
    DiskMoved,
    /// What booted is not approved for this key.
    SoftwareNotApproved,
    /// What booted is older than what this rig has already confirmed.
    SoftwareRolledBack,
    /// The TPM lets nobody in for a while.
    TpmLockout,
    /// The TPM asks to be asked again.
    TpmBusy,
    /// The TPM reports a failure of its own, or answers nonsense.
    TpmFailing,
    /// The TPM has an owner with a password, and no storage key to use.
    TpmOwned,
    /// The TPM keeps no SHA-256 measurements.
    NoSha256Bank,
    /// Too few of the hardware fields that the key is bound to are here.
    BindingBroken,
    /// The key's file is not one that was written here.
    KeyDamaged,
    /// The owner asked for a new key.
    RotationAsked,
}

/// What the key's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// A whole file, whose key a TPM holds at tier B.
    Sealed,
    /// A whole file, whose key a TPM holds for approved software only (tiers S and 4).
    SealedToSoftware,
    /// A whole file with the key in it: version 1, or tier N.
    Software,
    /// Not what was written.
    Damaged,
    /// Of a version that only newer software writes.
    FromTheFuture,
}

/// What came of opening the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It opened.
    Opened,
    /// The TPM said no, or there is none.
    Tpm(tpm::Meaning),
    /// The TPM gave no SHA-256 measurements.
    NoBank,
    /// Too few fields of the binding match.
    Unbound,
}

/// Everything that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// What the file is.
    pub found: Found,
    /// What came of opening it. Without meaning where `found` holds no key.
    pub trial: Trial,
    /// Whether the TPM is the one that the key was sealed to. `None`: it does not say.
    pub same_ek: Option<bool>,
    /// Whether the machine is the one in which the key was sealed. `None`: it has too few fields to tell.
    pub same_machine: Option<bool>,
    /// Whether the owner asked for a newer generation than the key's.
    pub is_rotation_asked: bool,
    /// Whether parts of the machine have yet to show themselves.
    pub is_awaiting_parts: bool,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Use the key.
    Use,
    /// Bear the first key.
    Bear,
    /// Use no key, and try again later.
    Retry,
    /// Use no key until a person did something.
    Wait,
    /// Use the successor; bear it if there is none.
    Succeed,
}

/// The state and the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What people are told.
    pub state: KeyState,
    /// What is done.
    pub step: Step,
}

/// Decides.
pub fn decide(observed: Observed) -> Verdict {
    let state = match observed.found {
        Found::Nothing => return Verdict { state: KeyState::Open, step: Step::Bear },
        Found::Damaged => KeyState::KeyDamaged,
        Found::FromTheFuture => KeyState::SoftwareRolledBack,
        Found::Software | Found::Sealed | Found::SealedToSoftware => match observed.trial {
            Trial::Opened if observed.is_rotation_asked => KeyState::RotationAsked,
            Trial::Opened => KeyState::Open,
            Trial::Unbound => KeyState::BindingBroken,
            Trial::NoBank => KeyState::NoSha256Bank,
            Trial::Tpm(meaning) => meant(meaning, observed),
        },
    };
    let step = match state {
        KeyState::BindingBroken if observed.is_awaiting_parts => Step::Retry,
        state => state.step(),
    };
    Verdict { state, step }
}

fn meant(meaning: tpm::Meaning, observed: Observed) -> KeyState {
    use tpm::Meaning;
    match (meaning, observed.found) {
        (Meaning::Integrity | Meaning::HandleGone, _) => moved(observed.same_ek, observed.same_machine),
        // A key of tier B asks nothing about software, so that its refusal is the TPM's fault.
        (Meaning::PolicyFailed | Meaning::NotApproved, Found::Sealed) => KeyState::TpmFailing,
        (meaning, _) => unborn(meaning),
    }
}

/// What a trouble means for a key that is not there yet.
pub(crate) fn unborn(meaning: tpm::Meaning) -> KeyState {
    use tpm::Meaning;
    match meaning {
        Meaning::Absent => KeyState::TpmOff,
        Meaning::PolicyFailed | Meaning::NotApproved => KeyState::SoftwareNotApproved,
        Meaning::RolledBack => KeyState::SoftwareRolledBack,
        Meaning::PcrChanged | Meaning::Retry => KeyState::TpmBusy,
        Meaning::Lockout => KeyState::TpmLockout,
        Meaning::OwnerAuth => KeyState::TpmOwned,
        Meaning::Integrity | Meaning::HandleGone | Meaning::AuthUnavailable | Meaning::WrongTpm | Meaning::Failing => {
            KeyState::TpmFailing
        }
    }
}

/// The TPM does not know the blob. A clear leaves the endorsement key; where the TPM does not say, a machine that is
/// the same makes a clear likelier than a move.
fn moved(same_ek: Option<bool>, same_machine: Option<bool>) -> KeyState {
    match (same_ek, same_machine) {
        (Some(true), _) | (None, Some(true)) => KeyState::TpmCleared,
        (Some(false), Some(true)) => KeyState::TpmSwapped,
        (Some(false) | None, Some(false) | None) => KeyState::DiskMoved,
    }
}

// === impl KeyState ===

impl KeyState {
    /// Whether asking again, with nothing else done, may come to an open key.
    pub fn passes_with_time(self) -> bool {
        self.step() == Step::Retry
    }

    /// What is done in this state, on a machine that is all there.
    pub fn step(self) -> Step {
        match self {
            Self::Open => Step::Use,
            Self::TpmLockout | Self::TpmBusy => Step::Retry,
            Self::SoftwareRolledBack | Self::TpmFailing => Step::Wait,
            Self::TpmOff
            | Self::TpmCleared
            | Self::TpmSwapped
            | Self::DiskMoved
            | Self::SoftwareNotApproved
            | Self::TpmOwned
            | Self::NoSha256Bank
            | Self::BindingBroken
            | Self::KeyDamaged
            | Self::RotationAsked => Step::Succeed,
        }
    }
}

#[cfg(test)]
mod tests {
    use tpm::Meaning;

    use super::*;

    const FOUND: [Found; 6] =
        [Found::Nothing, Found::Sealed, Found::SealedToSoftware, Found::Software, Found::Damaged, Found::FromTheFuture];
    const MEANINGS: [Meaning; 13] = [
        Meaning::Absent,
        Meaning::Integrity,
        Meaning::HandleGone,
        Meaning::PolicyFailed,
        Meaning::PcrChanged,
        Meaning::NotApproved,
        Meaning::RolledBack,
        Meaning::AuthUnavailable,
        Meaning::Retry,
        Meaning::Lockout,
        Meaning::OwnerAuth,
        Meaning::WrongTpm,
        Meaning::Failing,
    ];
    const ANSWERS: [Option<bool>; 3] = [None, Some(false), Some(true)];

    fn trials() -> impl Iterator<Item = Trial> {
        [Trial::Opened, Trial::NoBank, Trial::Unbound].into_iter().chain(MEANINGS.map(Trial::Tpm))
    }

    /// Every combination: 6 files, 16 trials, 3 by 3 answers, rotation or none.
    fn everything() -> Vec<Observed> {
        let mut all = Vec::new();
        for found in FOUND {
            for trial in trials() {
                for same_ek in ANSWERS {
                    for same_machine in ANSWERS {
                        for is_rotation_asked in [false, true] {
                            let is_awaiting_parts = false;
                            all.push(Observed {
                                found,
                                trial,
                                same_ek,
                                same_machine,
                                is_rotation_asked,
                                is_awaiting_parts,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    /// The table that people read. The first row that fits decides; a dash fits everything.
    ///
    /// file, trial, same TPM, same machine, rotation → state, step
    const TABLE: &[(&str, &str, &str, &str, &str, KeyState, Step)] = {
        use KeyState as K;
        use Step as D;
        &[
            ("nothing", "-", "-", "-", "-", K::Open, D::Bear),
            ("damaged", "-", "-", "-", "-", K::KeyDamaged, D::Succeed),
            ("future", "-", "-", "-", "-", K::SoftwareRolledBack, D::Wait),
            ("-", "opened", "-", "-", "yes", K::RotationAsked, D::Succeed),
            ("-", "opened", "-", "-", "no", K::Open, D::Use),
            ("-", "unbound", "-", "-", "-", K::BindingBroken, D::Succeed),
            ("-", "no bank", "-", "-", "-", K::NoSha256Bank, D::Succeed),
            ("-", "absent", "-", "-", "-", K::TpmOff, D::Succeed),
            ("-", "unknown blob", "yes", "-", "-", K::TpmCleared, D::Succeed),
            ("-", "unknown blob", "no", "yes", "-", K::TpmSwapped, D::Succeed),
            ("-", "unknown blob", "no", "-", "-", K::DiskMoved, D::Succeed),
            ("-", "unknown blob", "-", "yes", "-", K::TpmCleared, D::Succeed),
            ("-", "unknown blob", "-", "-", "-", K::DiskMoved, D::Succeed),
            ("sealed", "not approved", "-", "-", "-", K::TpmFailing, D::Wait),
            ("-", "not approved", "-", "-", "-", K::SoftwareNotApproved, D::Succeed),
            ("-", "rolled back", "-", "-", "-", K::SoftwareRolledBack, D::Wait),
            ("-", "again", "-", "-", "-", K::TpmBusy, D::Retry),
            ("-", "lockout", "-", "-", "-", K::TpmLockout, D::Retry),
            ("-", "owned", "-", "-", "-", K::TpmOwned, D::Succeed),
            ("-", "failing", "-", "-", "-", K::TpmFailing, D::Wait),
        ]
    };

    fn words(observed: Observed) -> [&'static str; 5] {
        let found = match observed.found {
            Found::Nothing => "nothing",
            Found::Sealed => "sealed",
            Found::SealedToSoftware => "sealed to software",
            Found::Software => "software",
            Found::Damaged => "damaged",
            Found::FromTheFuture => "future",
        };
        let trial = match observed.trial {
            Trial::Opened => "opened",
            Trial::NoBank => "no bank",
            Trial::Unbound => "unbound",
            Trial::Tpm(Meaning::Absent) => "absent",
            Trial::Tpm(Meaning::Integrity | Meaning::HandleGone) => "unknown blob",
            Trial::Tpm(Meaning::PolicyFailed | Meaning::NotApproved) => "not approved",
            Trial::Tpm(Meaning::RolledBack) => "rolled back",
            Trial::Tpm(Meaning::PcrChanged | Meaning::Retry) => "again",
            Trial::Tpm(Meaning::Lockout) => "lockout",
            Trial::Tpm(Meaning::OwnerAuth) => "owned",
            Trial::Tpm(Meaning::AuthUnavailable | Meaning::WrongTpm | Meaning::Failing) => "failing",
        };
        let answer = |known: Option<bool>| known.map_or("unknown", |yes| if yes { "yes" } else { "no" });
        let rotation = Some(observed.is_rotation_asked);
        [found, trial, answer(observed.same_ek), answer(observed.same_machine), answer(rotation)]
    }

    #[test]
    fn every_combination_is_decided_as_the_table_says() {
        let all = everything();
        assert_eq!(all.len(), 6 * 16 * 9 * 2);
        let mut used = vec![0; TABLE.len()];
        for observed in all {
            let words = words(observed);
            let fits = |row: &&(&str, &str, &str, &str, &str, KeyState, Step)| {
                [row.0, row.1, row.2, row.3, row.4].iter().zip(words).all(|(cell, word)| *cell == "-" || *cell == word)
            };
            let at = TABLE.iter().position(|row| fits(&row)).unwrap_or_else(|| panic!("no row for {words:?}"));
            let (.., state, step) = TABLE[at];
            assert_eq!(decide(observed), Verdict { state, step }, "{words:?}");
            used[at] += 1;
        }
        assert!(used.iter().all(|count| *count > 0), "{used:?}");
    }

    #[test]
    fn parts_that_are_awaited_cost_no_key() {
        for observed in everything() {
            let (whole, awaiting) = (decide(observed), decide(Observed { is_awaiting_parts: true, ..observed }));
            let step = if whole.state == KeyState::BindingBroken { Step::Retry } else { whole.step };
            assert_eq!(awaiting, Verdict { step, ..whole });
        }
    }

    #[test]
    fn no_trouble_that_passes_leads_to_another_key() {
        for observed in everything() {
            let verdict = decide(observed);
            if verdict.state.passes_with_time() {
                assert_eq!(verdict.step, Step::Retry);
            }
            if verdict.step == Step::Use {
                assert_eq!((verdict.state, observed.trial), (KeyState::Open, Trial::Opened));
            }
            assert_eq!(verdict.step == Step::Bear, observed.found == Found::Nothing);
        }
    }
}
