//! Why a task is taken or refused, and a source served or not: tables.

use work::Wei;
use work::fact::Look;
use work::policy::{ATTEMPT_GAS, Load, RESPOND_GAS, Refusal, Rig, Sources, accept_source, sift, weigh};
use work::source::{Environment, Environments, Served, SourceReading, SourceStage};
use work::step::Trouble;
use work::task::{Bid, Delivery, Task, TaskReading, TaskStatus};

use crate::world::chain::cents;
use crate::world::{source_id, source_reading, task_id, willing_rig};

/// Unix seconds of every decision here.
const NOW: u64 = 1_800_000_000;

/// Everything that a decision depends on. As it is thrown together here, the task is taken.
#[derive(Clone, Debug)]
struct Case {
    rig: Rig,
    reading: TaskReading,
    source: Option<Served>,
    look: Look,
    load: Load,
}

fn taken() -> Case {
    let task = Task {
        id: task_id(0),
        source: source_id(0),
        config_url: "ipfs://config".into(),
        expires_at: NOW + 600,
        payment_wei: cents(50),
        delivery: Delivery::Manual,
    };
    let served = Served {
        reading: source_reading(0, Delivery::Manual),
        environment: Environment::Cpu,
        stage: SourceStage::Serving,
        is_removed: false,
        prepared_from: Some(NOW),
        functions: None,
        conditions: None,
        notes: Vec::new(),
        has_volumes: false,
        up_at: 0,
        is_asked: false,
        tries: 0,
        falls: 0,
        not_before: 0,
        trouble: None,
        given_up: None,
        usual_run_ms: None,
    };
    Case {
        rig: willing_rig(),
        reading: TaskReading {
            task,
            status: TaskStatus::New,
            attempts: 0,
            my_attempt: None,
            my_response: None,
            winner: None,
        },
        source: Some(served),
        look: Look {
            function: Ok("answer".into()),
            gas_wei: cents(100),
            gas_price_wei: Wei::from(1_000_000_000_u64),
            lockup_wei: cents(10),
        },
        load: Load { is_draining: false, waiting: 0 },
    }
}

impl Case {
    fn weigh(&self) -> Result<Bid, Refusal> {
        weigh(&self.rig, &self.reading, self.source.as_ref(), &self.look, self.load, NOW)
    }

    fn served(&mut self) -> &mut Served {
        self.source.as_mut().expect("the case has a source")
    }
}

/// The change to what would be taken, and the words for the owner.
fn check(change: impl FnOnce(&mut Case), words: &str) -> Refusal {
    let mut case = taken();
    change(&mut case);
    let refusal = case.weigh().expect_err(words);
    assert_eq!(refusal.to_string(), words);
    let json = serde_json::to_string(&refusal).expect("a refusal can be written");
    assert_eq!(serde_json::from_str::<Refusal>(&json).expect("and read back"), refusal);
    refusal
}

/// The change to what would be taken, and what is asked in wei.
fn check_taken(change: impl FnOnce(&mut Case), payment_wei: Wei) {
    let mut case = taken();
    change(&mut case);
    assert_eq!(case.weigh(), Ok(Bid { task: case.reading.task.clone(), payment_wei }));
}

#[test]
fn each_final_refusal_says_its_numbers_and_is_not_looked_at_again() {
    let all = [
        check(|c| c.reading.status = TaskStatus::Canceled, "the task is canceled"),
        check(|c| c.reading.status = TaskStatus::Expired, "the task is expired"),
        check(|c| c.reading.status = TaskStatus::Finalized, "the task is finalized"),
        check(
            |c| c.rig.attempts_itself = false,
            "this rig waits for an agent to attempt in its name (attempts = \"agent\" in rig.toml)",
        ),
        check(
            |c| {
                c.reading.status = TaskStatus::Responded;
                c.reading.task.delivery = Delivery::FirstResponse;
            },
            "another provider has already responded",
        ),
        check(|c| c.reading.attempts = 2, "2 other providers have attempted it, this rig races at most 1"),
        check(
            |c| c.rig.min_payment_wei = cents(51),
            "it pays 0.500000000000000000 and the owner's floor is 0.510000000000000000",
        ),
        check(|c| c.reading.task.expires_at = NOW + 29, "it expires in 29 s and needs 30 s here"),
        check(|c| c.reading.task.expires_at = NOW - 5, "it expires in 0 s and needs 30 s here"),
        check(|c| c.served().usual_run_ms = Some(600_001), "it expires in 600 s and needs 611 s here"),
        check(|c| c.look.function = Err("it is not JSON".into()), "its input cannot be used: it is not JSON"),
        check(
            |c| c.served().functions = Some(["paint".to_owned()].into_iter().collect()),
            "its source has no function `answer`",
        ),
    ];
    for refusal in all {
        assert_eq!(refusal.again_in_s(), None, "{refusal}");
    }
}

#[test]
fn each_refusal_for_now_says_its_numbers_and_when_to_look_again() {
    let all = [
        (30, check(|c| c.source = None, "its source is not served here: it is not on this rig's list")),
        (
            30,
            check(
                |c| c.served().stage = SourceStage::Refused { why: "it needs amd, this rig has cpu".into() },
                "its source is not served here: it needs amd, this rig has cpu",
            ),
        ),
        (30, check(|c| c.served().stage = SourceStage::Stopping, "its source is not served here: it is being stopped")),
        (2, check(|c| c.served().stage = SourceStage::Preparing, "its source is not ready yet: it is being prepared")),
        (
            2,
            check(
                |c| {
                    c.served().stage = SourceStage::Preparing;
                    c.served().trouble = Some(Trouble::passing("the registry answers 503"));
                },
                "its source is not ready yet: the registry answers 503",
            ),
        ),
        (
            2,
            check(
                |c| c.served().stage = SourceStage::Registering,
                "its source is not ready yet: it is being registered",
            ),
        ),
        (30, check(|c| c.load.is_draining = true, "the rig is draining")),
        (2, check(|c| c.load.waiting = 2, "2 attempted tasks are waiting already, the bound is 2")),
        (
            30,
            check(
                |c| c.look.lockup_wei = cents(9),
                "its source asks for a stake of 0.100000000000000000, 0.090000000000000000 is locked: \
                 run `rig stake`",
            ),
        ),
        (
            30,
            check(
                |c| c.look.gas_wei = Wei::from(1_949_999_999_999_999_u64),
                "the account holds 0.001949999999999999 and finishing needs 0.001950000000000000: \
                 send gas to the rig's address",
            ),
        ),
        (
            30,
            check(
                |c| c.rig.min_profit_wei = cents(40),
                "after 0.001950000000000000 for gas, 0.400000000000000000 of the payment would not leave the \
                 wanted profit",
            ),
        ),
    ];
    for (wait_s, refusal) in all {
        assert_eq!(refusal.again_in_s(), Some(wait_s), "{refusal}");
    }
}

#[test]
fn what_just_suffices_is_taken() {
    let ask_wei = cents(40);
    let cost_wei = Rig::gas_to_finish_wei(Wei::from(1_000_000_000_u64));
    assert_eq!(cost_wei, Wei::from((ATTEMPT_GAS + RESPOND_GAS) * 1_000_000_000));
    check_taken(|_| {}, ask_wei);
    check_taken(|c| c.reading.attempts = 1, ask_wei);
    check_taken(|c| c.rig.min_payment_wei = cents(50), ask_wei);
    check_taken(|c| c.reading.task.expires_at = NOW + 30, ask_wei);
    check_taken(|c| c.served().usual_run_ms = Some(590_000), ask_wei);
    check_taken(|c| c.load.waiting = 1, ask_wei);
    check_taken(|c| c.look.lockup_wei = cents(10), ask_wei);
    check_taken(|c| c.look.gas_wei = cost_wei, ask_wei);
    check_taken(|c| c.rig.min_profit_wei = ask_wei - cost_wei, ask_wei);
    check_taken(|c| c.served().functions = Some(["answer".to_owned()].into_iter().collect()), ask_wei);
    check_taken(|c| c.reading.status = TaskStatus::Attempted, ask_wei);
    check_taken(|c| c.reading.status = TaskStatus::Responded, ask_wei);
}

#[test]
fn a_share_is_asked_where_the_client_compares_and_all_of_it_in_a_race() {
    for (delivery, ask_percent, ask_wei) in [
        (Delivery::Manual, 100, cents(50)),
        (Delivery::Manual, 1, cents(50) / Wei::from(100)),
        (Delivery::FirstResponse, 0, cents(50)),
        (Delivery::FirstResponse, 80, cents(50)),
        (Delivery::FirstResponse, u8::MAX, cents(50)),
    ] {
        check_taken(
            |c| {
                c.rig.ask_percent = ask_percent;
                c.reading.task.delivery = delivery;
            },
            ask_wei,
        );
    }
}

#[test]
fn no_ask_is_above_what_the_client_put_up() {
    for ask_percent in [101, 200, u8::MAX] {
        check_taken(|c| c.rig.ask_percent = ask_percent, cents(50));
    }
}

#[test]
fn asking_for_nothing_never_pays_for_the_gas() {
    check(
        |c| c.rig.ask_percent = 0,
        "after 0.001950000000000000 for gas, 0.000000000000000000 of the payment would not leave the wanted profit",
    );
}

#[test]
fn the_largest_numbers_overflow_nothing() {
    let no_gas = |c: &mut Case| c.look.gas_price_wei = Wei::MAX;
    let mut case = taken();
    no_gas(&mut case);
    assert!(matches!(case.weigh(), Err(Refusal::NoGas { need_wei: Wei::MAX, .. })));
    case.look.gas_wei = Wei::MAX;
    assert!(matches!(case.weigh(), Err(Refusal::Unprofitable { cost_wei: Wei::MAX, .. })));
    check_taken(|c| c.look.gas_wei = Wei::MAX, cents(40));
    check_taken(|c| c.reading.task.expires_at = u64::MAX, cents(40));
    for (ask_percent, ask_wei) in [(100, Wei::MAX), (99, Wei::MAX / Wei::from(100) * Wei::from(99))] {
        check_taken(
            |c| {
                c.reading.task.payment_wei = Wei::MAX;
                c.rig.ask_percent = ask_percent;
            },
            ask_wei,
        );
    }
    let mut case = taken();
    case.rig.expected_run_s = u64::MAX;
    assert_eq!(case.weigh(), Err(Refusal::TooLate { left_s: 600, need_s: u64::MAX }));
    case = taken();
    case.rig.min_profit_wei = Wei::MAX;
    assert!(matches!(case.weigh(), Err(Refusal::Unprofitable { .. })));
}

#[test]
fn a_task_that_no_look_can_save_is_refused_without_one() {
    let case = taken();
    let sifted = |case: &Case| sift(&case.rig, &case.reading, case.source.as_ref(), case.load, NOW);
    assert_eq!(sifted(&case), Ok(()));
    let mut short = case.clone();
    short.look.gas_wei = Wei::ZERO;
    assert_eq!(sifted(&short), Ok(()), "gas is seen by a look only");
    short.reading.attempts = 2;
    assert_eq!(sifted(&short), Err(Refusal::TooManyRivals { attempts: 2, max: 1 }));
}

#[test]
fn the_cheapest_check_speaks_first() {
    let mut case = taken();
    case.reading.status = TaskStatus::Finalized;
    case.reading.attempts = 9;
    case.rig.min_payment_wei = Wei::MAX;
    case.source = None;
    case.look.gas_wei = Wei::ZERO;
    assert_eq!(case.weigh(), Err(Refusal::Closed { status: TaskStatus::Finalized }));
    case.reading.status = TaskStatus::New;
    assert!(matches!(case.weigh(), Err(Refusal::TooManyRivals { .. })));
    case.reading.attempts = 0;
    assert!(matches!(case.weigh(), Err(Refusal::PaysTooLittle { .. })));
    case.rig.min_payment_wei = Wei::ZERO;
    assert!(matches!(case.weigh(), Err(Refusal::NotServed { .. })));
}

#[test]
fn a_source_is_accepted_in_its_best_common_environment_or_refused_with_the_reason() {
    type Change = fn(&mut Rig, &mut SourceReading);
    let cases: [(Change, Result<Environment, &str>); 8] = [
        (|_, _| {}, Ok(Environment::Cpu)),
        (|_, source| source.environments = Environments(7), Ok(Environment::Nvidia)),
        (
            |rig, source| (rig.environments, source.environments) = (Environments(5), Environments(7)),
            Ok(Environment::Amd),
        ),
        (|_, source| source.environments = Environments(4), Err("it needs amd, this rig has nvidia+cpu")),
        (|_, source| source.environments = Environments(0), Err("it needs nothing known, this rig has nvidia+cpu")),
        (|_, source| source.is_active = false, Err("its client has inactivated it")),
        (
            |rig, _| rig.sources = Sources::Listed([source_id(7)].into_iter().collect()),
            Err("it is not on this rig's list (sources in rig.toml)"),
        ),
        (
            |rig, source| {
                rig.sources = Sources::Listed([source_id(7)].into_iter().collect());
                source.is_registered = true;
            },
            Ok(Environment::Cpu),
        ),
    ];
    for (change, expected) in cases {
        let (mut rig, mut source) = (willing_rig(), source_reading(0, Delivery::Manual));
        change(&mut rig, &mut source);
        assert_eq!(accept_source(&rig, &source), expected.map_err(str::to_owned));
    }
    let mut rig = willing_rig();
    rig.sources = Sources::Listed([source_id(0)].into_iter().collect());
    assert_eq!(accept_source(&rig, &source_reading(0, Delivery::Manual)), Ok(Environment::Cpu));
}
