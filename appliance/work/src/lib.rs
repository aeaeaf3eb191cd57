//! Decides the next step from the facts so far.
//!
//! It owns the nouns of a task's life, the policy that weighs a task, and the [`Book`] that folds facts into steps. It
//! never does I/O, has no clock and no async: time arrives as [`Fact::at`], and the manifest names nothing that could
//! ask the world. Folding the same facts again gives the same book, which is what makes a crash harmless.
//!
//! Read first: [`task`] (the nouns, in the order of a task's life), then [`fact`] and [`step`] (what comes in and goes
//! out), [`policy`] (why a task is taken or refused), and [`book`] (the fold).
#![forbid(unsafe_code)]

pub mod id;

pub mod task;

pub mod source;

pub mod enrolment;

pub mod fact;

pub mod step;

pub mod policy;

pub mod book;

pub use book::Book;
pub use fact::{Fact, News};
pub use id::{Digest, ProviderId, ResponseId, RunId, SourceId, TaskId, Wei};
pub use step::{Step, StepKey};
