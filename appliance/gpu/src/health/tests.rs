use super::*;
use proptest::prelude::*;

fn job(name: &str) -> JobId {
    JobId(name.to_owned())
}

fn ended(name: &str, is_sticky: bool) -> Event {
    Event::JobEnded { job: job(name), class: "illegal-address".to_owned(), is_sticky }
}

fn pass(canary: u64) -> Event {
    Event::CanaryPassed { canary: CanaryId(canary), dirty_bytes: 0 }
}

fn fail(canary: u64) -> Event {
    Event::CanaryFailed { canary: CanaryId(canary), why: "wrong sum".to_owned() }
}

/// A GPU whose first canary passed.
fn offered() -> Health {
    let mut health = Health::new(0);
    assert_eq!(health.handle(0, Event::Tick), [Step::RunCanary(CanaryId(1))]);
    assert_eq!(health.handle(0, pass(1)), [Step::Offer]);
    health
}

/// A GPU that runs the job `a`.
fn busy() -> Health {
    let mut health = offered();
    assert_eq!(health.handle(0, Event::JobStarted(job("a"))), []);
    health
}

/// The steps without the words of their reasons.
fn kinds(steps: &[Step]) -> Vec<&'static str> {
    let kind = |step: &Step| match step {
        Step::RunCanary(_) => "canary",
        Step::Kill(_) => "kill",
        Step::WaitFree => "wait",
        Step::Reset => "reset",
        Step::Withdraw(_) => "withdraw",
        Step::Offer => "offer",
        Step::CountAgainst(..) => "count",
        Step::RepeatOffender { .. } => "repeat",
    };
    steps.iter().map(kind).collect()
}

#[test]
fn a_job_that_ends_well_gives_the_gpu_back_at_once() {
    for class in ["ok", "out-of-memory"] {
        let mut health = busy();
        let event = Event::JobEnded { job: job("a"), class: class.to_owned(), is_sticky: false };
        assert_eq!(health.handle(9, event), [Step::Offer]);
        assert!(health.state().is_offered());
    }
}

#[test]
fn a_sticky_error_leads_through_a_free_gpu_and_a_canary_back_to_the_offer() {
    let mut health = busy();
    assert_eq!(kinds(&health.handle(1, ended("a", true))), ["withdraw", "wait"]);
    assert_eq!(health.handle(2, Event::GpuFree), [Step::RunCanary(CanaryId(2))]);
    assert_eq!(health.handle(3, pass(1)), [], "an old canary proves nothing");
    assert_eq!(health.handle(3, pass(2)), [Step::Offer]);
}

#[test]
fn a_killed_job_that_does_not_leave_costs_a_reset() {
    let mut health = busy();
    assert_eq!(kinds(&health.handle(1, Event::DeadlineKill(job("a")))), ["kill", "withdraw", "wait"]);
    assert_eq!(health.handle(2, Event::Xid(45)), [], "the trace of our own kill");
    assert_eq!(health.handle(3, ended("a", true)), [], "its end is no news");
    assert_eq!(kinds(&health.handle(4, Event::GpuNotFree)), ["withdraw", "reset"]);
    assert_eq!(kinds(&health.handle(5, Event::ResetDone)), ["canary"]);
    assert_eq!(health.handle(6, pass(2)), [Step::Offer]);
}

#[test]
fn a_second_job_is_killed_and_the_first_proves_nothing() {
    let mut health = busy();
    assert_eq!(health.handle(1, Event::JobStarted(job("b"))), [Step::Kill(job("b"))]);
    assert_eq!(health.state().job(), Some(&job("a")));
    assert_eq!(kinds(&health.handle(2, ended("a", false))), ["withdraw", "wait"]);
}

#[test]
fn every_xid_of_a_running_job_ends_as_the_table_says() {
    let check = |xid: u32, steps: &[&str], state: &str| {
        let mut health = busy();
        let taken = health.handle(1, Event::Xid(xid));
        assert_eq!(kinds(&taken), steps, "Xid {xid}");
        let text = health.state().to_string();
        assert!(text.starts_with(state), "Xid {xid}: {text}");
    };
    check(13, &["count"], "busy");
    check(31, &["count"], "busy");
    check(43, &["count"], "busy");
    check(45, &[], "busy");
    check(94, &[], "busy");
    check(63, &[], "busy");
    check(92, &[], "busy");
    check(154, &[], "busy");
    check(7_777, &[], "busy");
    check(48, &["kill", "withdraw", "wait"], "to be reset: Xid 48");
    check(74, &["kill", "withdraw", "wait"], "to be reset: Xid 74");
    check(109, &["kill", "withdraw", "wait"], "to be reset: Xid 109");
    check(119, &["kill", "withdraw", "wait"], "to be reset: Xid 119");
    check(54, &["kill", "withdraw"], "withdrawn: Xid 54");
    check(78, &["kill", "withdraw"], "withdrawn: Xid 78");
    check(79, &["kill", "withdraw"], "withdrawn: Xid 79");
    check(151, &["kill", "withdraw"], "withdrawn: Xid 151");
}

#[test]
fn a_doubt_lets_the_job_end_and_then_asks_for_a_canary() {
    let mut health = busy();
    assert_eq!(health.handle(0, Event::Doubt { why: "a notice was missed".to_owned() }), []);
    assert_eq!(health.handle(10 * GRACE_MS, Event::Tick), []);
    assert_eq!(kinds(&health.handle(10 * GRACE_MS, ended("a", false))), ["withdraw", "wait"]);
}

#[test]
fn what_the_driver_asks_for_is_what_happens() {
    let check = |action: RecoveryAction, steps: &[&str], after_the_job: &[&str]| {
        let mut health = busy();
        assert_eq!(kinds(&health.handle(1, Event::Recovery(action))), steps, "{action:?}");
        assert_eq!(kinds(&health.handle(2, ended("a", false))), after_the_job, "{action:?}");
    };
    check(RecoveryAction::None, &[], &["offer"]);
    check(RecoveryAction::GpuReset, &["kill", "withdraw", "wait"], &[]);
    check(RecoveryAction::DrainAndReset, &[], &["withdraw", "wait"]);
    check(RecoveryAction::DrainP2p, &[], &["withdraw", "wait"]);
    for action in [
        RecoveryAction::NodeReboot,
        RecoveryAction::SystemReboot,
        RecoveryAction::BusReset,
        RecoveryAction::Imex,
        RecoveryAction::Unknown(9),
    ] {
        check(action, &["kill", "withdraw"], &[]);
    }
}

#[test]
fn a_job_that_lost_its_context_and_does_not_end_is_killed() {
    let mut health = busy();
    health.handle(0, Event::Xid(31));
    assert_eq!(health.handle(GRACE_MS - 1, Event::Tick), []);
    assert_eq!(kinds(&health.handle(GRACE_MS, Event::Tick)), ["kill", "withdraw", "wait"]);
}

#[test]
fn a_late_xid_is_counted_against_the_job_that_just_ended() {
    let mut health = busy();
    health.handle(10, ended("a", false));
    let steps = health.handle(10 + LATE_XID_MS, Event::Xid(31));
    assert_eq!(steps[0], Step::CountAgainst(job("a"), 31));
    assert_eq!(kinds(&steps[1..]), ["withdraw", "wait"]);

    let mut health = busy();
    health.handle(10, ended("a", false));
    assert_eq!(kinds(&health.handle(11 + LATE_XID_MS, Event::Xid(31))), ["withdraw", "wait"]);
}

#[test]
fn the_same_xid_in_three_jobs_speaks_against_the_gpu() {
    let mut health = offered();
    let mut canary = 1;
    for (round, name) in ["a", "b", "c"].into_iter().enumerate() {
        health.handle(0, Event::JobStarted(job(name)));
        let steps = health.handle(0, Event::Xid(13));
        match round {
            0 | 1 => assert_eq!(steps, [Step::CountAgainst(job(name), 13)]),
            _ => assert_eq!(steps, [Step::RepeatOffender { xid: 13, jobs: vec![job("a"), job("b"), job("c")] }]),
        }
        assert_eq!(health.handle(0, Event::Xid(13)), [], "once per job");
        health.handle(0, ended(name, true));
        health.handle(0, Event::GpuFree);
        canary += 1;
        assert_eq!(health.handle(0, pass(canary)), [Step::Offer]);
    }
}

#[test]
fn canaries_that_fail_wait_longer_and_then_the_gpu_is_given_up() {
    let mut health = Health::new(0);
    health.handle(0, Event::Tick);
    assert_eq!(kinds(&health.handle(0, fail(1))), ["withdraw"]);
    assert_eq!(health.handle(CANARY_BACKOFF_MS - 1, Event::Tick), []);
    assert_eq!(health.handle(CANARY_BACKOFF_MS, Event::Tick), [Step::RunCanary(CanaryId(2))]);
    let dirty = Event::CanaryPassed { canary: CanaryId(2), dirty_bytes: 1 };
    assert_eq!(kinds(&health.handle(CANARY_BACKOFF_MS, dirty)), ["withdraw"]);
    assert_eq!(health.handle(3 * CANARY_BACKOFF_MS - 1, Event::Tick), []);
    assert_eq!(kinds(&health.handle(3 * CANARY_BACKOFF_MS, Event::Tick)), ["canary"]);
    // The third says nothing.
    let late = 3 * CANARY_BACKOFF_MS + CANARY_DEADLINE_MS;
    assert_eq!(kinds(&health.handle(late, Event::Tick)), ["withdraw"]);
    assert!(matches!(health.state(), State::GaveUp { .. }));
    assert_eq!(health.handle(late, pass(3)), [], "too late");
    assert_eq!(health.handle(late, Event::Retry), [Step::RunCanary(CanaryId(4))]);
    assert_eq!(health.handle(late, pass(4)), [Step::Offer]);
}

#[test]
fn a_canary_during_which_something_happened_proves_nothing() {
    let mut health = Health::new(0);
    health.handle(0, Event::Tick);
    health.handle(0, Event::Xid(13));
    assert_eq!(kinds(&health.handle(0, pass(1))), ["withdraw"]);
    assert_eq!(kinds(&health.handle(CANARY_BACKOFF_MS, Event::Tick)), ["canary"]);
}

#[test]
fn a_reset_that_fails_or_says_nothing_withdraws_the_gpu() {
    for answer in [Event::ResetFailed { why: "in use".to_owned() }, Event::Tick] {
        let mut health = offered();
        health.handle(0, Event::EccUncorrected);
        assert_eq!(health.handle(0, Event::GpuFree), [Step::Reset]);
        assert_eq!(kinds(&health.handle(RESET_DEADLINE_MS, answer)), ["withdraw"]);
        assert!(matches!(health.state(), State::Withdrawn { remedy: Remedy::Reboot, .. }));
    }
}

#[test]
fn a_withdrawn_gpu_takes_the_harder_remedy() {
    let mut health = offered();
    health.handle(0, Event::DriverMissing);
    assert_eq!(kinds(&health.handle(0, Event::FallenOffTheBus)), ["withdraw"]);
    assert_eq!(health.handle(0, Event::DriverMissing), []);
    assert!(matches!(health.state(), State::Withdrawn { remedy: Remedy::PowerCycle, .. }));
}

#[test]
fn a_canary_that_always_ends_in_a_reset_is_given_up() {
    let mut health = Health::new(0);
    health.handle(0, Event::Tick);
    let mut last = Vec::new();
    for _ in 0..CANARIES_MAX {
        health.handle(0, Event::Xid(109));
        health.handle(0, Event::GpuFree);
        last = health.handle(0, Event::ResetDone);
    }
    assert_eq!(kinds(&last), ["withdraw"]);
    assert!(matches!(health.state(), State::GaveUp { .. }));
}

#[test]
fn a_state_travels_as_json() {
    let mut health = busy();
    health.handle(0, Event::Xid(31));
    let text = serde_json::to_string(health.state()).expect("it can be written");
    assert_eq!(serde_json::from_str::<State>(&text).expect("it can be read"), *health.state());
    assert!(text.starts_with(r#"{"state":"busy","job":"a","then":{"then":"prove","#), "{text}");
}

// === Generated histories ===

fn any_xid() -> impl Strategy<Value = u32> {
    prop_oneof![proptest::sample::select(vec![13, 31, 43, 45, 48, 54, 63, 78, 79, 94, 109, 119, 151, 154]), 0_u32..200]
}

/// In a generated history: whichever canary was asked for last.
const NEWEST: CanaryId = CanaryId(0);

fn any_event() -> impl Strategy<Value = Event> {
    let name = || proptest::sample::select(vec!["a", "b", "c", "d"]).prop_map(job);
    let canary = || prop_oneof![3 => Just(NEWEST), 1 => (1_u64..12).prop_map(CanaryId)];
    prop_oneof![
        4 => (canary(), 0_u64..2).prop_map(|(canary, dirty_bytes)| Event::CanaryPassed { canary, dirty_bytes }),
        1 => canary().prop_map(|canary| Event::CanaryFailed { canary, why: "x".to_owned() }),
        4 => name().prop_map(Event::JobStarted),
        4 => (name(), any::<bool>())
            .prop_map(|(job, is_sticky)| Event::JobEnded { job, class: "x".to_owned(), is_sticky }),
        1 => name().prop_map(Event::DeadlineKill),
        3 => Just(Event::GpuFree),
        1 => Just(Event::GpuNotFree),
        2 => any_xid().prop_map(Event::Xid),
        1 => Just(Event::EccUncorrected),
        1 => Just(Event::FallenOffTheBus),
        1 => (0_u32..10).prop_map(|code| Event::Recovery(RecoveryAction::from_code(code))),
        2 => Just(Event::ResetDone),
        1 => Just(Event::ResetFailed { why: "x".to_owned() }),
        1 => Just(Event::Doubt { why: "x".to_owned() }),
        1 => Just(Event::DriverMissing),
        1 => Just(Event::Retry),
        6 => Just(Event::Tick),
    ]
}

/// Whether the event speaks against the GPU at that moment, told independently of the machine.
fn is_fault(event: &Event, running: Option<&JobId>) -> bool {
    match event {
        Event::Xid(number) => match crate::xid::explain(*number).action {
            crate::xid::Action::Ignore => *number == crate::xid::ROW_REMAPPED,
            _ => true,
        },
        Event::JobEnded { job, is_sticky, .. } => *is_sticky && running == Some(job),
        Event::DeadlineKill(job) => running == Some(job),
        Event::Recovery(action) => *action != RecoveryAction::None,
        Event::EccUncorrected | Event::FallenOffTheBus | Event::Doubt { .. } | Event::DriverMissing => true,
        Event::CanaryPassed { .. }
        | Event::CanaryFailed { .. }
        | Event::JobStarted(_)
        | Event::GpuFree
        | Event::GpuNotFree
        | Event::ResetDone
        | Event::ResetFailed { .. }
        | Event::Retry
        | Event::Tick => false,
    }
}

/// Follows the steps as the runner would, and holds the machine to its promises.
#[derive(Default)]
struct Observer {
    is_proven: bool,
    jobs: Vec<JobId>,
    newest_canary: Option<CanaryId>,
    is_canary_clean: bool,
}

impl Observer {
    /// The event with the number of the newest canary where it stands for it.
    fn name(&self, event: Event) -> Event {
        let newest = self.newest_canary.unwrap_or(NEWEST);
        match event {
            Event::CanaryPassed { canary: NEWEST, dirty_bytes } => Event::CanaryPassed { canary: newest, dirty_bytes },
            Event::CanaryFailed { canary: NEWEST, why } => Event::CanaryFailed { canary: newest, why },
            other => other,
        }
    }

    fn follow(&mut self, health: &Health, event: &Event, steps: &[Step], running: Option<&JobId>) {
        if is_fault(event, running) {
            (self.is_proven, self.is_canary_clean) = (false, false);
        }
        match event {
            Event::JobStarted(job) if !self.jobs.contains(job) => self.jobs.push(job.clone()),
            Event::JobEnded { job, .. } => self.jobs.retain(|other| other != job),
            Event::CanaryPassed { canary, dirty_bytes: 0 } if Some(*canary) == self.newest_canary => {
                self.is_proven |= self.is_canary_clean;
            }
            _ => {}
        }
        for step in steps {
            match step {
                Step::Kill(job) => self.jobs.retain(|other| other != job),
                Step::RunCanary(canary) => {
                    assert!(Some(*canary) > self.newest_canary, "canaries are numbered upwards");
                    (self.newest_canary, self.is_canary_clean) = (Some(*canary), true);
                }
                Step::Offer => assert!(self.is_proven, "offered without a canary since the last fault"),
                Step::WaitFree
                | Step::Reset
                | Step::Withdraw(_)
                | Step::CountAgainst(..)
                | Step::RepeatOffender { .. } => {}
            }
        }
        assert!(self.jobs.len() <= 1, "more than one job: {:?}", self.jobs);
        assert_eq!(self.jobs.first(), health.state().job(), "the machine knows what runs");
        if health.state().is_offered() {
            assert!(self.is_proven, "offered without a canary since the last fault");
        }
    }
}

/// What an obedient runner answers to a step, where `is_kind` says whether things go well.
fn answer(step: &Step, is_kind: bool) -> Option<Event> {
    match step {
        Step::RunCanary(canary) if is_kind => Some(Event::CanaryPassed { canary: *canary, dirty_bytes: 0 }),
        Step::RunCanary(canary) => Some(Event::CanaryFailed { canary: *canary, why: "x".to_owned() }),
        Step::WaitFree if is_kind => Some(Event::GpuFree),
        Step::WaitFree => Some(Event::GpuNotFree),
        Step::Reset if is_kind => Some(Event::ResetDone),
        Step::Reset => Some(Event::ResetFailed { why: "x".to_owned() }),
        Step::Kill(_) | Step::Withdraw(_) | Step::Offer | Step::CountAgainst(..) | Step::RepeatOffender { .. } => None,
    }
}

/// After so many ticks of a minute every wait and deadline of a settling GPU is over.
const TICKS_TO_SETTLE: u64 = 200;

proptest! {
    #[test]
    fn no_history_offers_an_unproven_gpu_or_runs_two_jobs(
        history in proptest::collection::vec((any_event(), 0_u64..90_000), 0..120),
        obeys in proptest::collection::vec(any::<bool>(), 240),
    ) {
        let (mut health, mut observer, mut now_ms) = (Health::new(0), Observer::default(), 0);
        let mut obeys = obeys.into_iter();
        for (event, later_ms) in history {
            now_ms += later_ms;
            let mut queue = vec![observer.name(event)];
            while let Some(event) = queue.pop() {
                let running = health.state().job().cloned();
                let steps = health.handle(now_ms, event.clone());
                observer.follow(&health, &event, &steps, running.as_ref());
                // A runner that answers at once, sometimes; otherwise the history goes on without it.
                if obeys.next() == Some(true) {
                    queue.extend(steps.iter().filter_map(|step| answer(step, true)));
                }
            }
        }
    }

    #[test]
    fn whatever_happened_the_gpu_settles_even_if_nobody_answers(
        history in proptest::collection::vec((any_event(), 0_u64..90_000), 0..60),
        answers in proptest::collection::vec(any::<Option<bool>>(), 400),
    ) {
        let (mut health, mut now_ms) = (Health::new(0), 0);
        for (event, later_ms) in history {
            now_ms += later_ms;
            health.handle(now_ms, event);
        }
        if let Some(job) = health.state().job().cloned() {
            let mut steps = health.handle(now_ms, Event::JobEnded { job, class: "ok".to_owned(), is_sticky: false });
            steps.clear();
        }
        let mut answers = answers.into_iter();
        for _ in 0..TICKS_TO_SETTLE {
            now_ms += 60_000;
            let mut queue = vec![Event::Tick];
            while let Some(event) = queue.pop() {
                let steps = health.handle(now_ms, event);
                let given = steps.iter().filter_map(|step| answer(step, answers.next().flatten()?));
                queue.extend(given);
            }
        }
        let is_settled = match health.state() {
            State::Offered | State::Withdrawn { .. } | State::GaveUp { .. } => true,
            State::Unproven { .. } | State::Busy { .. } | State::Suspect { .. } | State::NeedsReset { .. } => false,
        };
        prop_assert!(is_settled, "{:?}", health.state());
    }

    #[test]
    fn a_restart_begins_unproven(now_ms: u64) {
        let mut health = Health::new(now_ms);
        let is_unproven = matches!(health.state(), State::Unproven { .. });
        prop_assert!(is_unproven);
        prop_assert_eq!(health.handle(now_ms, Event::JobStarted(job("a"))), [Step::Kill(job("a"))]);
        prop_assert_eq!(health.handle(now_ms, Event::Tick), [Step::RunCanary(CanaryId(1))]);
    }
}
