//! Which GPU takes a launch.
//!
//! Any may, as long as all are of one architecture: then the runner knows best which is free. Where they differ the
//! launch brings machine code for one architecture only, so it names its GPU; those that are offered come first, then
//! those that run a job, in turn.

use std::collections::BTreeSet;

use bundle::Arch;
use gpu::GpuUuid;
use gpu::health::State;
use runner::protocol::{GpuReport, Gpus};

use crate::gpus::{arch_of, out_of_service};

/// Where a launch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its machine code is for this architecture.
    pub(super) arch: Arch,
    /// To this GPU; `None`: to any.
    pub(super) gpu: Option<GpuUuid>,
}

/// What a launch needs of its GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs<'a> {
    /// There is machine code for these.
    pub(super) archs: &'a BTreeSet<Arch>,
    /// All buffers together, in bytes.
    pub(super) vram_bytes: u64,
}

/// Whether a launch may go to any GPU, as all are of one architecture that there is code for, and large enough.
pub(super) fn any(gpus: &Gpus, needs: Needs<'_>) -> Option<Choice> {
    let mut all = gpus.gpus.iter().map(|report| arch_of(&report.gpu));
    let first = all.next()??;
    let is_for_all = needs.archs.contains(&first) && all.all(|other| other == Some(first));
    let fits_all = gpus.gpus.iter().all(|report| is_large_enough(report, needs.vram_bytes));
    (is_for_all && fits_all).then_some(Choice { arch: first, gpu: None })
}

/// Whether some GPU that there is code for has as much memory as a launch takes, whether or not it takes jobs now. One
/// that does not say how much it has is asked.
pub(super) fn fits(gpus: &Gpus, needs: Needs<'_>) -> bool {
    let able = |report: &GpuReport| arch_of(&report.gpu).is_some_and(|arch| needs.archs.contains(&arch));
    gpus.gpus.iter().any(|report| able(report) && is_large_enough(report, needs.vram_bytes))
}

fn is_large_enough(report: &GpuReport, vram_bytes: u64) -> bool {
    report.gpu.vram_bytes.is_none_or(|has| has >= vram_bytes)
}

/// A GPU that there is code for, as `turn` has it among equals.
pub(super) fn choose(gpus: &Gpus, needs: Needs<'_>, turn: usize) -> Option<Choice> {
    if let Some(any) = any(gpus, needs) {
        return gpus.gpus.iter().any(is_in_service).then_some(any);
    }
    let archs = needs.archs;
    let able: Vec<(&GpuReport, Arch)> = gpus
        .gpus
        .iter()
        .filter(|report| is_in_service(report) && is_large_enough(report, needs.vram_bytes))
        .filter_map(|report| Some((report, arch_of(&report.gpu).filter(|arch| archs.contains(arch))?)))
        .collect();
    let best = able.iter().map(|(report, _)| rank(&report.state)).min()?;
    let best: Vec<_> = able.iter().filter(|(report, _)| rank(&report.state) == best).collect();
    let (report, arch) = best[turn % best.len()];
    Some(Choice { arch: *arch, gpu: Some(report.gpu.uuid.clone()) })
}

/// Whether a GPU that there is code for is offered, or may come to be.
pub(super) fn may_take(gpus: &Gpus, archs: &BTreeSet<Arch>) -> bool {
    let able = |report: &GpuReport| arch_of(&report.gpu).is_some_and(|arch| archs.contains(&arch));
    gpus.gpus.iter().any(|report| is_in_service(report) && able(report))
}

/// Why no GPU takes anything, in words for the owner.
pub(super) fn why_none(gpus: &Gpus) -> String {
    let of = |report: &GpuReport| {
        let why = match out_of_service(&report.state) {
            Some(why) => why.to_owned(),
            None => match arch_of(&report.gpu) {
                Some(arch) => format!("the bundle has no code for {arch}"),
                None => "it does not say its compute capability".to_owned(),
            },
        };
        format!("{} ({}): {why}", report.gpu.model, report.gpu.uuid)
    };
    let all: Vec<String> = gpus.gpus.iter().map(of).collect();
    if all.is_empty() { "this machine has no GPU".to_owned() } else { all.join("; ") }
}

fn is_in_service(report: &GpuReport) -> bool {
    out_of_service(&report.state).is_none()
}

/// How soon it may take a job: less is sooner.
fn rank(state: &State) -> u8 {
    match state {
        State::Offered => 0,
        State::Busy { .. } => 1,
        State::Unproven { .. } | State::Suspect { .. } => 2,
        State::NeedsReset { .. } => 3,
        State::Withdrawn { .. } | State::GaveUp { .. } => 4,
    }
}

#[cfg(test)]
mod tests {
    use gpu::health::{JobId, Proof, Then};

    use super::*;
    use crate::gpus::samples;

    const A: Option<(u32, u32)> = Some((8, 9));
    const B: Option<(u32, u32)> = Some((9, 0));

    fn archs(all: &[&str]) -> BTreeSet<Arch> {
        all.iter().map(|arch| arch.parse().expect("an architecture")).collect()
    }

    fn gpus(capabilities: &[Option<(u32, u32)>]) -> Gpus {
        samples::gpus(&capabilities.iter().map(|capability| ("A GPU", *capability)).collect::<Vec<_>>())
    }

    fn busy() -> State {
        State::Busy { job: JobId("j".into()), then: Then::Offer }
    }

    fn gave_up() -> State {
        State::GaveUp { why: "canary".into() }
    }

    #[track_caller]
    fn check(gpus: &Gpus, able: &[&str], expected: &[Option<(&str, Option<u32>)>]) {
        for (turn, expected) in expected.iter().enumerate() {
            let chosen = choose(gpus, Needs { archs: &archs(able), vram_bytes: 0 }, turn);
            let expected = expected.map(|(arch, gpu)| Choice {
                arch: arch.parse().expect("an architecture"),
                gpu: gpu.map(|index| format!("GPU-{index}").parse().expect("a UUID")),
            });
            assert_eq!(chosen, expected, "turn {turn}");
        }
    }

    #[test]
    fn gpus_of_one_architecture_are_the_runners_to_choose_from() {
        check(&gpus(&[A]), &["sm_89"], &[Some(("sm_89", None))]);
        check(&gpus(&[A, A]), &["sm_89", "sm_90"], &[Some(("sm_89", None)), Some(("sm_89", None))]);
        check(&gpus(&[A, A]), &["sm_90"], &[None]);
        check(&gpus(&[]), &["sm_89"], &[None]);
        check(&gpus(&[None]), &["sm_89"], &[None]);
        let mut all = gpus(&[A, A]);
        all.gpus[0].state = gave_up();
        check(&all, &["sm_89"], &[Some(("sm_89", None))]);
        all.gpus[1].state = gave_up();
        check(&all, &["sm_89"], &[None]);
    }

    #[test]
    fn gpus_that_differ_are_named_in_turn_and_the_free_come_first() {
        let (on_0, on_1) = (Some(("sm_89", Some(0))), Some(("sm_90", Some(1))));
        check(&gpus(&[A, B]), &["sm_89", "sm_90"], &[on_0, on_1, on_0, on_1]);
        check(&gpus(&[A, B]), &["sm_90"], &[on_1, on_1]);
        check(&gpus(&[A, B]), &["sm_75"], &[None, None]);
        check(&gpus(&[A, None]), &["sm_89"], &[on_0, on_0]);
        let mut all = gpus(&[A, B]);
        all.gpus[0].state = busy();
        check(&all, &["sm_89", "sm_90"], &[on_1, on_1]);
        all.gpus[1].state = State::Unproven { proof: Proof::Waiting { until_ms: 0 } };
        check(&all, &["sm_89", "sm_90"], &[on_0, on_0]);
        all.gpus[0].state = gave_up();
        check(&all, &["sm_89", "sm_90"], &[on_1, on_1]);
        all.gpus[1].state = gave_up();
        check(&all, &["sm_89", "sm_90"], &[None, None]);
    }

    #[test]
    fn a_job_goes_where_its_buffers_fit() {
        let mut all = gpus(&[A, A]);
        all.gpus[0].gpu.vram_bytes = Some(8 << 30);
        all.gpus[1].gpu.vram_bytes = Some(24 << 30);
        let archs = archs(&["sm_89"]);
        let chosen = |vram_bytes: u64| {
            let needs = Needs { archs: &archs, vram_bytes };
            (choose(&all, needs, 0).map(|choice| choice.gpu.map(|gpu| gpu.to_string())), fits(&all, needs))
        };
        assert_eq!(chosen(8 << 30), (Some(None), true), "on either");
        assert_eq!(chosen(12 << 30), (Some(Some("GPU-1".to_owned())), true), "on the larger");
        assert_eq!(chosen(25 << 30), (None, false), "on none");
    }

    #[test]
    fn why_none_is_there_is_said_of_each() {
        let mut all = gpus(&[A, B, None]);
        all.gpus[0].state = gave_up();
        assert!(may_take(&all, &archs(&["sm_90"])) && !may_take(&all, &archs(&["sm_89"])));
        let why = why_none(&all);
        for part in ["A GPU (GPU-0): canary", "(GPU-1): the bundle has no code for sm_90", "(GPU-2): it does not say"] {
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(why_none(&gpus(&[])), "this machine has no GPU");
    }
}
