//! Sources: which are served, and what each awaits.
//!
//! `Preparing → Registering → Serving`, and from anywhere `→ Stopping → Refused`; `rest` adds a way off and back. A source is prepared before the rig
//! registers to it, so that nothing is promised that cannot be run; it is stopped only when no task of ours needs it,
//! and prepared again for such a task even if it is to be stopped after it. `Refused` is reached through `Stopping`, so
//! that no container is left behind. What a source keeps between its runs goes when the owner wants it no more: a source
//! that is refused by then is stopped once more for that.

use std::collections::BTreeSet;

use super::job::backoff_s;
use super::{Book, SOURCES_KEPT};
use crate::enrolment::Phase;
use crate::id::SourceId;
use crate::policy::{Rig, accept_source};
use crate::source::{Conditions, Environment, GivenUp, Served, SourceReading, SourceStage};
use crate::step::{Step, StepKey, Trouble, TroubleKind};

/// Weight of the newest run in the smoothed run time: one in four.
const USUAL_RUN_SHARE: u64 = 4;

/// What a source that came up said of itself and was given.
pub(super) struct Given {
    pub(super) functions: Option<BTreeSet<String>>,
    pub(super) conditions: Option<Conditions>,
    pub(super) notes: Vec<String>,
}

// === impl Served ===

impl Served {
    fn new(reading: SourceReading) -> Served {
        Served {
            reading,
            environment: Environment::Cpu,
            stage: SourceStage::Refused { why: "it has not been weighed yet".into() },
            is_removed: false,
            prepared_from: None,
            functions: None,
            conditions: None,
            notes: Vec::new(),
            up_at: 0,
            has_volumes: false,
            is_asked: false,
            tries: 0,
            falls: 0,
            not_before: 0,
            trouble: None,
            given_up: None,
            usual_run_ms: None,
        }
    }

    pub(super) fn move_to(&mut self, stage: SourceStage) {
        self.stage = stage;
        self.is_asked = false;
        self.tries = 0;
        self.not_before = 0;
        self.trouble = None;
    }

    /// Whether what it keeps between its runs is to go: the owner took it down, or off the list and wants it no more.
    fn is_unwanted(&self, rig: &Rig) -> bool {
        self.is_removed || (!self.reading.is_registered && !rig.wants(self.reading.id))
    }

    /// Notes that a run gave a result, and how long it took, in milliseconds.
    pub(super) fn note_run(&mut self, elapsed_ms: u64) {
        self.falls = 0;
        self.usual_run_ms = Some(match self.usual_run_ms {
            None => elapsed_ms,
            Some(usual) => {
                let sum = usual.saturating_mul(USUAL_RUN_SHARE - 1).saturating_add(elapsed_ms);
                sum / USUAL_RUN_SHARE
            }
        });
    }
}

// === impl Book ===

impl Book {
    /// After a start no container is known to run; each is prepared again, which costs nothing if it does.
    pub(super) fn begin_sources(&mut self) {
        for served in self.sources.values_mut() {
            served.is_asked = false;
            served.prepared_from = None;
            served.given_up = None;
            served.falls = 0;
            if matches!(served.stage, SourceStage::Registering | SourceStage::Serving | SourceStage::Resting) {
                served.move_to(SourceStage::Preparing);
            }
        }
        let all: Vec<SourceId> = self.sources.keys().copied().collect();
        for source in all {
            self.judge_source(source);
            self.index_source(source);
        }
    }

    pub(super) fn source_read(&mut self, reading: SourceReading, touched: &mut BTreeSet<StepKey>) {
        let source = reading.id;
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_KEPT && !reading.is_registered {
            return;
        }
        let served = self.sources.entry(source).or_insert_with(|| Served::new(reading.clone()));
        if reading.is_registered && !served.reading.is_registered {
            served.is_removed = false;
        }
        served.reading = reading;
        self.judge_source(source);
        self.index_source(source);
        touched.insert(StepKey::Source { source });
    }

    /// Brings a source's stage in line with its reading and the settings.
    pub(super) fn judge_source(&mut self, source: SourceId) {
        let is_going_home = self.is_going_home();
        let Some(rig) = &self.rig else { return };
        let Some(served) = self.sources.get_mut(&source) else { return };
        let given_up = served.given_up.as_ref().filter(|g| g.updated_at == served.reading.updated_at);
        let verdict = if is_going_home {
            Err("the owner has removed this rig (`rig pair` takes it back)".into())
        } else if served.is_removed {
            Err("its owner took it down (RemoveContainer); registering the rig again brings it back".into())
        } else if let Some(given_up) = given_up {
            Err(given_up.why.clone())
        } else {
            accept_source(rig, &served.reading)
        };
        let is_stale = served.prepared_from.is_some_and(|from| from != served.reading.updated_at);
        let needed = self.index.needing.get(&source).is_some_and(|tasks| !tasks.is_empty());
        let can_finish = needed && given_up.is_none();
        let has_left = served.prepared_from.is_some() || (served.has_volumes && served.is_unwanted(rig));
        match (verdict, &served.stage) {
            (Err(why), SourceStage::Refused { .. }) if !has_left => {
                served.stage = SourceStage::Refused { why };
            }
            (Err(_), SourceStage::Refused { .. }) => served.move_to(SourceStage::Stopping),
            (Err(_), SourceStage::Preparing) if can_finish => {}
            (Err(_), SourceStage::Resting) if can_finish && !served.is_asked => {
                served.move_to(SourceStage::Preparing);
            }
            // The stop in hand is the stop that is wanted.
            (Err(_), SourceStage::Resting) if served.is_asked => served.stage = SourceStage::Stopping,
            (Err(_), SourceStage::Resting) => served.move_to(SourceStage::Stopping),
            (Err(_), SourceStage::Stopping) if can_finish && served.prepared_from.is_none() && !served.is_asked => {
                served.move_to(SourceStage::Preparing);
            }
            (Err(_), SourceStage::Preparing | SourceStage::Registering | SourceStage::Serving) => {
                served.move_to(SourceStage::Stopping);
            }
            (Err(_), SourceStage::Stopping) => {}
            (Ok(environment), SourceStage::Refused { .. } | SourceStage::Stopping) => {
                served.environment = environment;
                served.move_to(SourceStage::Preparing);
            }
            (Ok(environment), SourceStage::Registering | SourceStage::Serving) if is_stale && !needed => {
                served.environment = environment;
                served.move_to(SourceStage::Preparing);
            }
            (Ok(environment), SourceStage::Resting)
                if (needed || !served.reading.is_registered) && !served.is_asked =>
            {
                served.environment = environment;
                served.move_to(SourceStage::Preparing);
            }
            (Ok(_), SourceStage::Registering) if served.reading.is_registered => {
                served.move_to(SourceStage::Serving);
            }
            (Ok(_), SourceStage::Serving) if !served.reading.is_registered => {
                served.move_to(SourceStage::Registering);
            }
            (Ok(environment), SourceStage::Preparing) if !served.is_asked => served.environment = environment,
            (
                Ok(_),
                SourceStage::Preparing | SourceStage::Registering | SourceStage::Serving | SourceStage::Resting,
            ) => {}
        }
    }

    pub(super) fn source_up(
        &mut self,
        source: SourceId,
        prepared_from: u64,
        given: Given,
        touched: &mut BTreeSet<StepKey>,
    ) {
        touched.insert(StepKey::Source { source });
        let now = self.now;
        let Some(served) = self.sources.get_mut(&source) else { return };
        served.prepared_from = Some(prepared_from);
        served.up_at = now;
        served.functions = given.functions;
        if let Some(environment) = given.conditions.as_ref().and_then(|given| given.environment) {
            served.environment = environment;
        }
        served.conditions = given.conditions;
        served.notes = given.notes;
        if served.stage == SourceStage::Preparing {
            served.move_to(SourceStage::Registering);
        }
        self.judge_source(source);
        self.index_source(source);
    }

    pub(super) fn source_down(&mut self, source: SourceId, why: String, touched: &mut BTreeSet<StepKey>) {
        touched.insert(StepKey::Source { source });
        let now = self.now;
        let Some(served) = self.sources.get_mut(&source) else { return };
        served.prepared_from = None;
        let is_needed = self.index.needing.contains_key(&source);
        let was_up = match served.stage {
            SourceStage::Registering | SourceStage::Serving => true,
            SourceStage::Stopping => is_needed,
            SourceStage::Refused { .. } | SourceStage::Preparing | SourceStage::Resting => false,
        };
        if was_up {
            served.move_to(SourceStage::Preparing);
            // A container that comes up and dies again would otherwise be started every second for ever.
            served.falls = served.falls.saturating_add(1);
            served.not_before = now.saturating_add(backoff_s(served.falls));
        }
        served.trouble = Some(Trouble::passing(why));
        self.index_source(source);
    }

    pub(super) fn source_stopped(&mut self, source: SourceId, is_forgotten: bool, touched: &mut BTreeSet<StepKey>) {
        touched.insert(StepKey::Source { source });
        let Some(served) = self.sources.get_mut(&source) else { return };
        served.prepared_from = None;
        served.has_volumes &= !is_forgotten;
        match served.stage {
            SourceStage::Stopping if self.index.needing.contains_key(&source) => {
                served.move_to(SourceStage::Preparing);
            }
            SourceStage::Stopping => served.move_to(SourceStage::Refused { why: "it was stopped".into() }),
            SourceStage::Registering | SourceStage::Serving => served.move_to(SourceStage::Preparing),
            SourceStage::Resting => served.move_to(SourceStage::Resting),
            SourceStage::Refused { .. } | SourceStage::Preparing => {}
        }
        self.judge_source(source);
        self.index_source(source);
    }

    /// The owner's newest word: whether the source is taken down.
    pub(super) fn source_removed(&mut self, source: SourceId, is_removed: bool, touched: &mut BTreeSet<StepKey>) {
        touched.insert(StepKey::Source { source });
        if let Some(served) = self.sources.get_mut(&source) {
            served.is_removed = is_removed;
            self.judge_source(source);
            self.index_source(source);
        }
    }

    pub(super) fn source_fell(&mut self, source: SourceId, trouble: Trouble, touched: &mut BTreeSet<StepKey>) {
        let now = self.now;
        let Some(served) = self.sources.get_mut(&source) else { return };
        match trouble.kind {
            TroubleKind::Final if served.stage == SourceStage::Preparing => {
                let given_up = GivenUp { updated_at: served.reading.updated_at, why: trouble.why.clone() };
                served.given_up = Some(given_up);
            }
            TroubleKind::Passing | TroubleKind::Final | TroubleKind::Lost => {
                served.is_asked = false;
                served.tries = served.tries.saturating_add(1);
                served.not_before = now.saturating_add(backoff_s(served.tries));
            }
        }
        served.trouble = Some(trouble);
        self.judge_source(source);
        self.index_source(source);
        touched.insert(StepKey::Source { source });
    }

    /// A task that needed the source is done with it: a stop or an update may have waited for that.
    pub(super) fn source_released(&mut self, source: SourceId, touched: &mut BTreeSet<StepKey>) {
        self.judge_source(source);
        self.index_source(source);
        touched.insert(StepKey::Source { source });
    }

    /// The step that a source's stage awaits, if the rig stands well enough to do it.
    pub(super) fn source_step(&self, source: SourceId, served: &Served) -> Option<Step> {
        let standing = self.enrolment.standing.as_ref()?;
        let is_paired = self.phase() == Phase::Paired;
        let is_needed = self.index.needing.get(&source).is_some_and(|tasks| !tasks.is_empty());
        match &served.stage {
            SourceStage::Preparing if is_paired || served.reading.is_registered => Some(Step::Prepare {
                source,
                metadata_url: served.reading.metadata_url.clone(),
                environment: served.environment,
                updated_at: served.reading.updated_at,
            }),
            SourceStage::Registering if is_paired && standing.lockup_wei >= served.reading.min_lockup_wei => {
                Some(Step::Register { source, environment: served.environment })
            }
            SourceStage::Resting if served.prepared_from.is_some() && !is_needed => {
                Some(Step::StopSource { source, forgets: false })
            }
            SourceStage::Stopping if !is_needed => {
                let forgets = self.rig.as_ref().is_some_and(|rig| served.is_unwanted(rig));
                Some(Step::StopSource { source, forgets })
            }
            SourceStage::Refused { .. }
            | SourceStage::Preparing
            | SourceStage::Registering
            | SourceStage::Serving
            | SourceStage::Resting
            | SourceStage::Stopping => None,
        }
    }

    pub(super) fn ask_source(&mut self, source: SourceId) -> Option<Step> {
        let served = self.sources.get(&source)?;
        if served.is_asked || served.not_before > self.now {
            return None;
        }
        let step = self.source_step(source, served)?;
        let served = self.sources.get_mut(&source)?;
        served.is_asked = true;
        served.has_volumes |= matches!(step, Step::Prepare { .. });
        self.index_source(source);
        Some(step)
    }

    pub(super) fn index_source(&mut self, source: SourceId) {
        let retry = self.sources.get(&source).and_then(|s| (!s.is_asked).then_some(s.not_before));
        self.set_wake(StepKey::Source { source }, retry);
    }
}
