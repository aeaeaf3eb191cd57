//! What each number means that the driver prints as `NVRM: Xid`, what follows from it, and whose fault it was.
//!
//! Invariants: every number has an explanation, listed or not; an unlisted number asks for a canary and blames nobody.
//! The table follows NVIDIA's catalogue of Xid errors for Ampere and later ("immediate action"); the blame rule is ours
//! and decides payouts, so it names only what is certain.

use serde::{Deserialize, Serialize};

/// What follows from an Xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The process is lost; the GPU stays, and proves itself by a canary.
    RestartApp,
    /// Nothing by itself.
    Ignore,
    /// The GPU needs a reset.
    ResetGpu,
    /// A person has to look at the machine.
    Operator,
    /// The machine needs a reboot, or power off and on.
    Reboot,
    /// The virtual machine around the driver needs a restart.
    RestartVm,
    /// The driver or what talks to it is too old.
    UpdateSoftware,
    /// The catalogue gives a procedure that starts with stopping all work on the GPU.
    Workflow,
}

/// Whose fault a failed run was, for its payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The job did what no job may do.
    Job,
    /// The machine failed the job.
    Hardware,
    /// The Xid alone does not tell.
    Unknown,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The Xid that was asked for.
    pub number: u32,
    /// In plain words.
    pub meaning: &'static str,
    /// What follows.
    pub action: Action,
    /// Whose fault, if it comes alone.
    pub blame: Blame,
    /// Whether the catalogue lists it.
    pub is_listed: bool,
}

/// The GPU removed a channel because its process was killed: the normal trace of a kill, never a cause.
pub const PREEMPTIVE_REMOVAL: u32 = 45;

/// A row of memory was remapped; the remapping takes effect at the next reset.
pub const ROW_REMAPPED: u32 = 63;

/// The driver changed its mind about what the GPU needs; [`crate::recovery`] reads what.
pub const RECOVERY_CHANGED: u32 = 154;

/// Xids that a job's own code causes.
const CAUSED_BY_JOBS: [u32; 6] = [13, 31, 32, 43, 45, 69];

/// Xids that no code can cause on sound hardware.
const CAUSED_BY_HARDWARE: [u32; 9] = [48, 63, 64, 79, 94, 95, 119, 120, 140];

/// What Xid `number` means. Total: a number that the catalogue does not list gives [`Action::RestartApp`], which asks
/// for a canary, and [`Blame::Unknown`].
pub fn explain(number: u32) -> Explanation {
    let listed = line(number);
    let (meaning, action) = listed.unwrap_or(("an error that the catalogue does not list", Action::RestartApp));
    let blame = if CAUSED_BY_JOBS.contains(&number) {
        Blame::Job
    } else if CAUSED_BY_HARDWARE.contains(&number) {
        Blame::Hardware
    } else {
        Blame::Unknown
    };
    Explanation { number, meaning, action, blame, is_listed: listed.is_some() }
}

/// Whose fault a run was that ended with these Xids on its GPU. Hardware as soon as one of them is hardware's; the job
/// only if all of them are a job's; nobody's if there were none. That the same Xid over many jobs speaks against the
/// GPU is [`crate::health`]'s to notice.
pub fn blame(numbers: &[u32]) -> Blame {
    let blames = || numbers.iter().map(|number| explain(*number).blame);
    if blames().any(|blame| blame == Blame::Hardware) {
        Blame::Hardware
    } else if !numbers.is_empty() && blames().all(|blame| blame == Blame::Job) {
        Blame::Job
    } else {
        Blame::Unknown
    }
}

fn line(number: u32) -> Option<(&'static str, Action)> {
    use Action::{Ignore, Operator, Reboot, ResetGpu, RestartApp, RestartVm, UpdateSoftware, Workflow};
    let line = match number {
        8 => ("a channel stopped making progress", RestartApp),
        11 => ("a program sent the GPU commands that it does not have", RestartApp),
        13 => ("a kernel made the compute engine raise an exception", RestartApp),
        14 => ("an error that the driver injected to test itself", Ignore),
        25 => ("a program asked for a notification that is not allowed", RestartApp),
        31 => ("a kernel or copy touched memory that is not mapped", RestartApp),
        32 => ("the command stream of a program is corrupt", RestartApp),
        37 => ("the context switcher got a request that it does not know", Ignore),
        38 => ("the context switcher's watchdog fired", Ignore),
        39..=41 | 70..=72 | 75..=77 | 85 => ("a copy engine failed", RestartApp),
        43 => ("the driver stopped a program's channel after its fault", Ignore),
        44 => ("a fault during a switch of contexts", Ignore),
        PREEMPTIVE_REMOVAL => ("the driver removed the channels of a process that ended or was killed", Ignore),
        46 => ("the GPU stopped answering", ResetGpu),
        48 => ("memory lost bits that error correction could not restore", Workflow),
        54 => ("the power cable or power brake holds the board back: check its power cables", Operator),
        60 => ("the security engine failed", RestartApp),
        62 => ("the power microcontroller halted", ResetGpu),
        ROW_REMAPPED => ("a failing row of memory was remapped; it takes effect at the next reset", Ignore),
        64 => ("a failing row of memory could not be remapped", ResetGpu),
        66 => ("the context switcher was asked for a register it may not touch", Ignore),
        67 => ("the context switcher refused a setting", Ignore),
        68 | 83 | 84 | 88 | 89 | 96..=98 => ("a video decoder failed", RestartApp),
        69 => ("a program sent the compute engine methods that its class does not have", RestartApp),
        74 => ("a link between GPUs failed", Workflow),
        78 => ("a virtual GPU could not start: its driver and the host's do not fit", UpdateSoftware),
        79 => ("the GPU fell off the bus", Reboot),
        80 => ("the command stream of a program does not match its checksum", RestartApp),
        82 | 99..=105 => ("an image decoder failed", RestartApp),
        86 | 139 => ("the optical flow engine failed", RestartApp),
        92 => ("many corrected memory errors in a short time: watch this GPU", Ignore),
        93 => ("the board's information store was erased as often as it may be", Ignore),
        94 => ("a memory error that only one program could see", RestartApp),
        95 => ("a memory error that any program may have seen", ResetGpu),
        106 | 107 => ("a test message of the board's management bus", Ignore),
        108 => ("an address between GPUs could not be translated", Ignore),
        109 => ("a switch of contexts did not end", ResetGpu),
        110 => ("a security fault", ResetGpu),
        119 => ("the GPU's system processor did not answer in time", ResetGpu),
        120 => ("the GPU's system processor failed", ResetGpu),
        121 => ("the link between chips corrected an error", Ignore),
        126..=135 => ("a copy engine failed", RestartApp),
        136 => ("a link between GPUs could not be trained", ResetGpu),
        137 => ("a link between GPUs refused an address", Ignore),
        140 => ("memory lost bits, and the error may have escaped", ResetGpu),
        141 => ("the fast path of an engine reported an error", Ignore),
        143 => ("the GPU could not be initialised", ResetGpu),
        144..=150 => ("a part of the link between GPUs failed", Workflow),
        151 => ("the keys of confidential computing could not be renewed", RestartVm),
        152 => ("an accelerator's memory unit reported an error", Ignore),
        RECOVERY_CHANGED => ("the driver changed what it says the GPU needs", Workflow),
        155 => ("a link between GPUs reported an error, or was put to sleep on purpose", ResetGpu),
        156 => ("a part of the GPU was retired; it takes effect at the next reset", ResetGpu),
        _ => return None,
    };
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The research table, written out again the other way round: the numbers of each action.
    fn table() -> Vec<(Action, Vec<u32>)> {
        let numbers = |ranges: &[(u32, u32)]| ranges.iter().flat_map(|(from, to)| *from..=*to).collect::<Vec<_>>();
        let one = |singles: &[u32]| singles.iter().map(|number| (*number, *number)).collect::<Vec<_>>();
        let mut restart = one(&[13, 31, 32, 69, 8, 11, 25, 85, 60, 68, 80, 86, 88, 89, 94, 139]);
        restart.extend([(39, 41), (70, 72), (75, 77), (82, 84), (96, 105), (126, 135)]);
        let mut ignore = one(&[14, 37, 38, 43, 44, 45, 63, 66, 67, 92, 93, 121, 137, 141, 152]);
        ignore.push((106, 108));
        vec![
            (Action::RestartApp, numbers(&restart)),
            (Action::Ignore, numbers(&ignore)),
            (Action::ResetGpu, numbers(&one(&[46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156]))),
            (Action::Workflow, numbers(&[(48, 48), (74, 74), (144, 150), (154, 154)])),
            (Action::Operator, vec![54]),
            (Action::UpdateSoftware, vec![78]),
            (Action::Reboot, vec![79]),
            (Action::RestartVm, vec![151]),
        ]
    }

    #[test]
    fn every_listed_xid_has_the_catalogues_action() {
        let table = table();
        for (action, numbers) in &table {
            for number in numbers {
                let explanation = explain(*number);
                assert_eq!(explanation.action, *action, "Xid {number}");
                assert!(explanation.is_listed, "Xid {number}");
            }
        }
        let listed: Vec<_> = (0..1_000).filter(|number| explain(*number).is_listed).collect();
        let mut expected: Vec<_> = table.into_iter().flat_map(|(_, numbers)| numbers).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected, "nothing is listed that the table does not name");
        assert_eq!(listed.len(), 93);
    }

    #[test]
    fn blame_falls_on_those_xids_that_are_certain() {
        for number in 0..1_000 {
            let expected = match number {
                13 | 31 | 32 | 43 | 45 | 69 => Blame::Job,
                48 | 63 | 64 | 79 | 94 | 95 | 119 | 120 | 140 => Blame::Hardware,
                _ => Blame::Unknown,
            };
            assert_eq!(explain(number).blame, expected, "Xid {number}");
        }
    }

    #[test]
    fn a_job_is_blamed_only_when_nothing_else_went_wrong() {
        let check = |numbers: &[u32], expected| assert_eq!(blame(numbers), expected, "{numbers:?}");
        check(&[], Blame::Unknown);
        check(&[31], Blame::Job);
        check(&[13, 43, 45], Blame::Job);
        check(&[13, 109], Blame::Unknown);
        check(&[13, 48], Blame::Hardware);
        check(&[109], Blame::Unknown);
        check(&[79, 13], Blame::Hardware);
    }

    proptest! {
        #[test]
        fn every_number_has_an_explanation_in_words(number: u32) {
            let explanation = explain(number);
            prop_assert_eq!(explanation.number, number);
            prop_assert!(!explanation.meaning.is_empty());
            prop_assert!(explanation.is_listed || explanation.action == Action::RestartApp);
        }
    }
}
