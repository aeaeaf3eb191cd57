//! How a launch ended, in words for the owner and the client, and whose fault it was.
//!
//! What a worker says is a claim: its text is cut and its control characters are taken out before it goes anywhere.

use cuda::class::Class;
use cuda::messages::{Done, Failure, Ran};
use runner::protocol::{End, Exit};

use super::DirectError;
use crate::container::cut;

/// What a job left, if it ran to its end. Errors: [`DirectError::Job`] and [`DirectError::Deadline`] are the job's own
/// fault, [`DirectError::Machine`] is the machine's.
pub(super) fn judged(end: End) -> Result<Ran, DirectError> {
    match end {
        End::Answered { done: Done::Ran(ran) } => Ok(ran),
        End::Answered { done: Done::Failed(failure) } => {
            let words = words(&failure);
            Err(if failure.class.is_jobs_own() { DirectError::Job(words) } else { DirectError::Machine(words) })
        }
        End::Deadline { seconds } => Err(DirectError::Deadline { seconds }),
        End::GpuLost { why } => Err(DirectError::Machine(format!("its GPU was lost: {}", cut(&why)))),
        // Memory that ran out, or a driver that crashed: it is not known whose fault that is, and the book ends a task
        // that it happens to again and again.
        End::Died { exit } => Err(DirectError::Machine(format!("its worker {}", how(exit)))),
    }
}

/// Class, CUDA's own name and number of the error, step.
fn words(failure: &Failure) -> String {
    let Failure { class, code, name, during, detail } = failure;
    let name = cut(name);
    let error = match (name.is_empty(), *code) {
        (true, 0) => String::new(),
        (true, code) => format!(" (CUDA error {code})"),
        (false, code) => format!(" ({name}, {code})"),
    };
    let detail = cut(detail);
    let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
    format!("{}{error} at {}{detail}", class_words(*class), cut(during))
}

fn class_words(class: Class) -> &'static str {
    match class {
        Class::BadBundle => "bad bundle",
        Class::OutOfMemory => "out of memory",
        Class::IllegalAddress => "illegal address",
        Class::LaunchTimeout => "launch timeout",
        Class::Assert => "assert",
        Class::IllegalInstruction => "illegal instruction",
        Class::MisalignedAddress => "misaligned address",
        Class::LaunchFailure => "launch failure",
        Class::HardwareError => "hardware error",
        Class::UnsupportedPtx => "unsupported PTX",
        Class::NoKernelImage => "no kernel image",
        Class::DeviceLost => "device lost",
        Class::Driver => "driver",
    }
}

fn how(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("ended with status {code} and without a word"),
        Exit::Signal(signal) => format!("was ended by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use work::step::TroubleKind;

    use super::*;
    use crate::perform::trouble_of;

    fn failed(class: Class) -> End {
        let failure = Failure {
            class,
            code: 700,
            name: "CUDA_ERROR_X".to_owned(),
            during: "run operation 12 (launch gemm_f32)".to_owned(),
            detail: String::new(),
        };
        End::Answered { done: Done::Failed(failure) }
    }

    #[track_caller]
    fn check(end: End, kind: TroubleKind, says: &str) {
        let error = judged(end).expect_err("no result");
        let trouble = trouble_of(&error, error.is_final());
        assert_eq!((trouble.kind, trouble.why.as_str()), (kind, says));
    }

    #[test]
    fn every_class_is_the_jobs_fault_or_the_machines() {
        let step = "(CUDA_ERROR_X, 700) at run operation 12 (launch gemm_f32)";
        let mut seen = 0;
        for (class, is_job, word) in [
            (Class::BadBundle, true, "bad bundle"),
            (Class::OutOfMemory, true, "out of memory"),
            (Class::IllegalAddress, true, "illegal address"),
            (Class::LaunchTimeout, true, "launch timeout"),
            (Class::Assert, true, "assert"),
            (Class::IllegalInstruction, true, "illegal instruction"),
            (Class::MisalignedAddress, true, "misaligned address"),
            (Class::LaunchFailure, true, "launch failure"),
            (Class::HardwareError, false, "hardware error"),
            (Class::UnsupportedPtx, true, "unsupported PTX"),
            (Class::NoKernelImage, true, "no kernel image"),
            (Class::DeviceLost, false, "device lost"),
            (Class::Driver, false, "driver"),
        ] {
            let (kind, whose) = if is_job {
                (TroubleKind::Final, "the job failed")
            } else {
                (TroubleKind::Passing, "the machine failed the job")
            };
            check(failed(class), kind, &format!("{whose}: {word} {step}"));
            seen += 1;
        }
        assert_eq!(seen, Class::ALL.len());
    }

    #[test]
    fn every_end_is_the_jobs_fault_or_the_machines() {
        check(End::Deadline { seconds: 20 }, TroubleKind::Final, "the job was killed after 20 s, its deadline");
        check(
            End::GpuLost { why: "Xid 79\n".into() },
            TroubleKind::Passing,
            "the machine failed the job: its GPU was lost: Xid 79",
        );
        let died = "the machine failed the job: its worker";
        check(End::Died { exit: Exit::Signal(11) }, TroubleKind::Passing, &format!("{died} was ended by signal 11"));
        check(
            End::Died { exit: Exit::Code(101) },
            TroubleKind::Passing,
            &format!("{died} ended with status 101 and without a word"),
        );
        let ran = Ran { marks_ms: vec![1.5], ..Ran::default() };
        assert_eq!(judged(End::Answered { done: Done::Ran(ran.clone()) }).expect("it ran"), ran);
    }

    #[test]
    fn what_a_worker_says_is_cut_and_made_harmless() {
        let failure = Failure {
            class: Class::BadBundle,
            code: 0,
            name: String::new(),
            during: "load\u{1b}[31m".to_owned(),
            detail: "x".repeat(5000),
        };
        let error = judged(End::Answered { done: Done::Failed(failure) }).expect_err("no result").to_string();
        assert!(error.starts_with("the job failed: bad bundle at load [31m: xxx"), "{error}");
        assert!(error.len() < 400, "{}", error.len());
    }
}
