//! Which of the machine's GPUs a bundle runs on, and if on none, what is missing.
//!
//! Every module must run: machine code for the GPU's architecture, or PTX that the compiler can turn into it. GPUs on
//! which the bundle does not run take other work; that is a note, and only a bundle that runs on no GPU is refused.

use std::collections::BTreeSet;

use bundle::{Arch, Bundle, Kind, Module, Version};
use runner::protocol::Gpus;

use super::DirectError;
use super::choice::why_none;
use crate::gpus::{arch_of, out_of_service};

/// What a bundle runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// At least one.
    pub(super) archs: BTreeSet<Arch>,
    /// The architectures that take other work, with the reason.
    pub(super) notes: Vec<String>,
}

/// What a module needs.
#[derive(Clone, Debug)]
struct Needs<'a> {
    name: &'a str,
    kind: Kind,
    targets: &'a [Arch],
    ptx_isa: Option<Version>,
    min_driver: Version,
}

/// Holds a bundle against the machine. Errors: [`DirectError::NoGpu`] if there is nothing to hold it against now,
/// [`DirectError::Unfit`] if it runs on no GPU of this machine.
pub(super) fn fit(bundle: &Bundle, gpus: &Gpus) -> Result<Fit, DirectError> {
    let needs: Vec<Needs<'_>> = bundle.modules().iter().map(Needs::of).collect();
    fit_all(&needs, gpus)
}

fn fit_all(needs: &[Needs<'_>], gpus: &Gpus) -> Result<Fit, DirectError> {
    let in_service = gpus.gpus.iter().filter(|report| out_of_service(&report.state).is_none());
    let there: BTreeSet<Arch> = in_service.filter_map(|report| arch_of(&report.gpu)).collect();
    if there.is_empty() {
        return Err(DirectError::NoGpu { why: why_none(gpus) });
    }
    let cuda =
        gpus.cuda.ok_or_else(|| DirectError::NoGpu { why: "the driver does not say its CUDA version".into() })?;
    if let Some(newer) = needs.iter().filter(|needs| needs.min_driver > cuda).max_by_key(|needs| needs.min_driver) {
        let (name, least) = (newer.name, newer.min_driver);
        let why = format!("module `{name}` needs a driver for CUDA {least}, this machine's is for {cuda}: update it");
        return Err(DirectError::Unfit { why });
    }
    let missing = |arch: &Arch| needs.iter().find_map(|needs| needs.missing(*arch, gpus.compiler));
    let (mut archs, mut reasons) = (BTreeSet::new(), Vec::new());
    for arch in there {
        match missing(&arch) {
            None => drop(archs.insert(arch)),
            Some(why) => reasons.push(format!("not on {arch}: {why}")),
        }
    }
    if archs.is_empty() {
        return Err(DirectError::Unfit { why: reasons.join("; ") });
    }
    let notes = reasons.into_iter().map(|why| format!("its bundle runs {why}")).collect();
    Ok(Fit { archs, notes })
}

// === impl Needs ===

impl<'a> Needs<'a> {
    fn of(module: &'a Module) -> Needs<'a> {
        Needs {
            name: module.name(),
            kind: module.kind(),
            targets: module.targets(),
            ptx_isa: module.ptx_isa(),
            min_driver: module.min_driver(),
        }
    }

    /// What keeps it from running there.
    fn missing(&self, arch: Arch, compiler: Option<Version>) -> Option<String> {
        let name = self.name;
        let targets = || self.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let runs = self.targets.iter().any(|target| target.runs_on(self.kind, arch));
        let isa = match self.kind {
            Kind::Cubin | Kind::Fatbin if runs => return None,
            Kind::Cubin | Kind::Fatbin => {
                return Some(format!("module `{name}` has machine code for {} only, and no PTX", targets()));
            }
            Kind::Ptx if runs => self.ptx_isa,
            Kind::Ptx => return Some(format!("module `{name}` is PTX for {} and later", targets())),
        };
        let Some(compiler) = compiler else {
            return Some(format!("module `{name}` is PTX, and this machine has no PTX compiler (libnvJitLink)"));
        };
        let least = isa.and_then(Version::cuda_of_isa).filter(|least| *least > compiler)?;
        Some(format!("module `{name}` needs a PTX compiler of CUDA {least}, this machine's is of {compiler}"))
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use gpu::health::{Remedy, State};

    use super::*;
    use crate::gpus::samples;

    fn arch(number: u32) -> Arch {
        Arch::from(number)
    }

    /// A module of that kind for these targets, which needs CUDA 12.4.
    fn needs(kind: Kind, targets: &[Arch]) -> Needs<'_> {
        let ptx_isa = (kind == Kind::Ptx).then_some(Version::new(8, 4));
        Needs { name: "m", kind, targets, ptx_isa, min_driver: Version::new(12, 4) }
    }

    fn gpus(capabilities: &[(u32, u32)]) -> Gpus {
        samples::gpus(&capabilities.iter().map(|each| ("A GPU", Some(*each))).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(needs: &[Needs<'_>], gpus: &Gpus, expected: Result<&[u32], &str>) {
        match (fit_all(needs, gpus), expected) {
            (Ok(fit), Ok(archs)) => assert_eq!(fit.archs, archs.iter().copied().map(arch).collect()),
            (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn code_that_runs_on_a_gpu_is_served() {
        let (sm_75, sm_80, sm_90) = ([arch(75)], [arch(80)], [arch(80), arch(90)]);
        check(&[needs(Kind::Ptx, &sm_75)], &gpus(&[(8, 9)]), Ok(&[89]));
        check(&[needs(Kind::Cubin, &sm_80)], &gpus(&[(8, 6)]), Ok(&[86]));
        check(&[needs(Kind::Fatbin, &sm_90)], &gpus(&[(9, 0), (8, 9), (9, 0)]), Ok(&[89, 90]));
        check(&[needs(Kind::Ptx, &sm_75), needs(Kind::Cubin, &sm_80)], &gpus(&[(8, 0)]), Ok(&[80]));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (sm_80, sm_90) = ([arch(80)], [arch(90)]);
        let (cubin, ptx) = (needs(Kind::Cubin, &sm_80), needs(Kind::Ptx, &sm_90));
        let on = gpus(&[(9, 0)]);
        check(from_ref(&cubin), &on, Err("not on sm_90: module `m` has machine code for sm_80 only, and no PTX"));
        check(from_ref(&ptx), &gpus(&[(8, 9)]), Err("not on sm_89: module `m` is PTX for sm_90 and later"));
        check(&[ptx.clone(), cubin.clone()], &on, Err("machine code for sm_80 only"));
        let (mut none, mut old) = (on.clone(), on.clone());
        none.compiler = None;
        old.compiler = Some(Version::new(12, 3));
        check(from_ref(&ptx), &none, Err("this machine has no PTX compiler"));
        check(from_ref(&ptx), &old, Err("needs a PTX compiler of CUDA 12.4, this machine's is of 12.3"));
        old.compiler = Some(Version::new(12, 4));
        check(from_ref(&ptx), &old, Ok(&[90]));
        none = gpus(&[(8, 6)]);
        none.compiler = None;
        check(&[cubin], &none, Ok(&[86]));
        let newer = Needs { name: "n", min_driver: Version::new(13, 0), ..ptx.clone() };
        check(&[ptx, newer], &on, Err("module `n` needs a driver for CUDA 13.0, this machine's is for 12.8"));
    }

    #[test]
    fn a_bundle_that_runs_on_some_gpus_is_served_there_and_the_others_are_noted() {
        let sm_90 = [arch(90)];
        let fit = fit_all(&[needs(Kind::Ptx, &sm_90)], &gpus(&[(8, 9), (9, 0)])).expect("it runs on one");
        assert_eq!(fit.archs, [arch(90)].into());
        assert_eq!(fit.notes, ["its bundle runs not on sm_89: module `m` is PTX for sm_90 and later"]);
    }

    #[test]
    fn a_machine_without_a_gpu_in_service_may_have_one_later() {
        let sm_75 = [arch(75)];
        let refused = |gpus: &Gpus| {
            let error = fit_all(&[needs(Kind::Ptx, &sm_75)], gpus).expect_err("nothing to run on");
            assert!(!error.is_final(), "{error}");
            error.to_string()
        };
        let mut gone = gpus(&[(8, 9)]);
        gone.gpus[0].state = State::Withdrawn { why: "it fell off the bus".into(), remedy: Remedy::PowerCycle };
        assert!(refused(&gone).contains("it fell off the bus"));
        assert!(refused(&samples::gpus(&[("A GPU", None)])).contains("does not say its compute capability"));
        let mut silent = gpus(&[(8, 9)]);
        silent.cuda = None;
        assert!(refused(&silent).contains("CUDA version"));
    }
}
