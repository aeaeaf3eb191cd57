//! Whole lives, written by hand: a crash after any one fact changes nothing of how they end.

use work::enrolment::{Phase, REMOVAL_GRACE_S};
use work::source::SourceStage;
use work::task::Delivery;
use work::{News, Step, StepKey, Wei};

use crate::world::chain::{COOLDOWN_S, DUST_WEI, OWNER, RIVAL, cents};
use crate::world::{Luck, World, empty_standing, good_standing, source_id, task_id, willing_rig};

/// The key of the step for task number 0.
fn the_task() -> StepKey {
    StepKey::Task { task: task_id(0) }
}

/// A rig that serves source number 0.
fn serving(world: &mut World, delivery: Delivery) {
    world.add_source(0, delivery);
    world.begin();
    world.calm_down();
}

fn publish_one(world: &mut World) {
    let task = world.terms(0, 0, 600);
    world.publish(task);
}

/// Performs what is in hand for task number 0 until its run is under way.
fn get_to_its_run(world: &mut World) {
    let is_running = |world: &World| world.hand.get(&the_task()).is_some_and(|step| step.name() == "run");
    for _ in 0..8 {
        for key in [StepKey::Source { source: source_id(0) }, the_task()] {
            if is_running(world) {
                return;
            }
            world.perform(key, Luck::Good);
        }
    }
    panic!("it does not get to its run: {:#?}", world.book.jobs());
}

/// Plays `life` without a crash and then once for each fact with a crash after it, and compares the ends.
fn check(expected: &str, life: impl Fn(&mut World)) {
    let play = |crash_after: Option<usize>, loses_power: bool| {
        let mut world = World::new(0, willing_rig(), good_standing());
        world.crash_after = crash_after;
        world.loses_power = loses_power;
        world.keeps_snapshots = crash_after.is_some_and(|facts| facts % 2 == 0);
        life(&mut world);
        world.calm_down();
        world.check_payments();
        world.check_replay();
        world
    };
    let undisturbed = play(None, false);
    let ends = undisturbed.ends();
    let words: Vec<&str> = ends.values().map(String::as_str).collect();
    assert_eq!(words, [expected]);
    for crash_after in 1..=undisturbed.ledger.len() {
        for loses_power in [false, true] {
            let disturbed = play(Some(crash_after), loses_power);
            assert_eq!(disturbed.ends(), ends, "after a crash behind fact {crash_after}");
            assert_eq!(disturbed.submissions(task_id(0)), undisturbed.submissions(task_id(0)));
            let stages = |world: &World| world.book.sources().values().map(|s| s.stage.clone()).collect::<Vec<_>>();
            assert_eq!(stages(&disturbed), stages(&undisturbed), "after a crash behind fact {crash_after}");
            assert_eq!(disturbed.up, undisturbed.up, "after a crash behind fact {crash_after}");
        }
    }
}

#[test]
fn a_first_response_is_paid_through_any_crash() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
    });
}

#[test]
fn a_manual_response_is_paid_through_any_crash_once_its_client_confirms() {
    check(&format!("settled for {}", cents(40)), |world| {
        serving(world, Delivery::Manual);
        publish_one(world);
        world.calm_down();
        world.chain.confirm(task_id(0), true, world.now);
    });
}

#[test]
fn an_agents_attempt_on_what_was_left_to_it_is_paid_through_any_crash() {
    check(&format!("settled for {}", cents(30)), |world| {
        world.rig.attempts_itself = false;
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        assert!(world.book.jobs()[&task_id(0)].is_closed(), "it is refused until the agent attempts it");
        world.chain.attempt(task_id(0), cents(30), world.now).expect("the task takes attempts");
        world.read_task(task_id(0));
    });
}

#[test]
fn a_task_is_paid_through_any_crash_when_its_source_is_updated_under_it() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        get_to_its_run(world);
        let now = world.now;
        world.chain.sources.get_mut(&source_id(0)).expect("it was added").updated_at = now;
        world.read_source(source_id(0));
        world.calm_down();
        assert_eq!(world.up.get(&source_id(0)), Some(&now), "the update waits only for the task");
    });
}

#[test]
fn a_task_is_paid_through_any_crash_when_its_source_is_inactivated_under_it() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        get_to_its_run(world);
        world.chain.sources.get_mut(&source_id(0)).expect("it was added").is_active = false;
        world.read_source(source_id(0));
        world.calm_down();
        assert!(world.up.is_empty(), "its container is stopped after the task");
    });
}

#[test]
fn a_task_is_paid_through_any_crash_when_its_owner_removes_the_container_under_it() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        get_to_its_run(world);
        world.tell(News::SourceRemoved { source: source_id(0) });
        world.registered(source_id(0), false);
        world.calm_down();
        let stage = &world.book.sources()[&source_id(0)].stage;
        assert!(matches!(stage, SourceStage::Refused { .. }), "{stage:?}");
        assert!(world.up.is_empty(), "its container is stopped after the task");
    });
}

#[test]
fn a_rig_without_gas_enrols_and_is_paid_through_any_crash_once_it_is_funded() {
    check(&format!("settled for {}", cents(50)), |world| {
        world.chain.standing = empty_standing();
        world.add_source(0, Delivery::FirstResponse);
        world.begin();
        world.calm_down();
        world.chain.standing.gas_wei = cents(100);
        world.calm_down();
        world.chain.standing.is_announced = true;
        world.chain.standing.vault_wei = cents(100);
        world.calm_down();
        assert_eq!(world.chain.standing.lockup_wei, cents(100), "what the owner deposits is locked");
        publish_one(world);
    });
}

#[test]
fn a_container_that_dies_under_a_run_costs_a_second_run_and_no_second_response() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        get_to_its_run(world);
        world.up.clear();
        world.tell(News::SourceDown { source: source_id(0), why: "it exited with 137".into() });
        world.perform(the_task(), Luck::Weather);
    });
}

#[test]
fn a_response_that_a_reorg_takes_is_sent_again_through_any_crash() {
    check(&format!("settled for {}", cents(40)), |world| {
        serving(world, Delivery::Manual);
        publish_one(world);
        world.calm_down();
        world.chain.reorg(task_id(0), world.now);
        assert_eq!(world.chain.task(task_id(0)).response, None);
        world.read_task(task_id(0));
        world.calm_down();
        world.chain.confirm(task_id(0), true, world.now);
    });
}

/// The owner removes the rig and does not take it back.
fn remove(world: &mut World) {
    world.chain.remove_provider();
    world.stays_away = true;
    world.calm_down();
    world.check_home();
    assert!(world.book.phase_text().starts_with("home: nothing is left here"), "{}", world.book.phase_text());
}

#[test]
fn a_rig_that_was_removed_brings_all_that_it_has_home_through_any_crash() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        world.calm_down();
        remove(world);
        assert_eq!(world.chain.home_wei, cents(200) - DUST_WEI, "gas and stake came to the owner");
    });
}

#[test]
fn what_was_begun_before_a_removal_is_finished_and_paid_through_any_crash() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        get_to_its_run(world);
        world.chain.remove_provider();
        world.read_standing();
        assert_eq!(world.chain.standing.lockup_wei, cents(100), "the stake waits for the work");
        remove(world);
    });
}

#[test]
fn a_rig_that_its_owner_takes_back_on_its_way_home_serves_again_through_any_crash() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        world.chain.remove_provider();
        begin_home(world);
        world.perform(StepKey::Enrol, Luck::Good);
        world.perform(StepKey::Source { source: source_id(0) }, Luck::Good);
        world.chain.announce_provider();
        // What is unbonding cannot be called back on every network: the owner stakes anew.
        world.chain.standing.vault_wei += cents(100);
        world.calm_down();
        assert!(!world.book.is_going_home());
        publish_one(world);
    });
}

/// Every reading says long enough that the rig was removed.
fn begin_home(world: &mut World) {
    world.read_standing();
    assert!(world.book.is_going_home());
    world.now += REMOVAL_GRACE_S;
    world.tell(News::Ticked);
}

#[test]
fn what_was_unbonded_before_its_owner_took_it_back_is_stake_again_through_any_crash() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        world.calm_down();
        world.chain.remove_provider();
        begin_home(world);
        world.perform(StepKey::Enrol, Luck::Good);
        world.chain.announce_provider();
        world.calm_down();
        world.now += COOLDOWN_S;
        world.tell(News::Ticked);
        world.calm_down();
        assert_eq!((world.book.phase(), world.chain.standing.lockup_wei), (Phase::Paired, cents(100)));
        assert_eq!(world.chain.standing.unbonding_wei, Wei::ZERO, "it would lie there until the next removal");
    });
}

#[test]
fn stake_that_came_during_an_unbonding_goes_home_from_a_vault_that_unbonds_one_at_a_time() {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.begin();
    world.calm_down();
    let free_at = world.now + COOLDOWN_S;
    (world.chain.standing.unbonding_wei, world.chain.standing.unbonds_at) = (cents(50), free_at);
    world.chain.remove_provider();
    begin_home(&mut world);
    assert_eq!((world.hand.get(&StepKey::Enrol), world.book.wakes_at()), (None, Some(free_at)));
    world.now = free_at;
    world.tell(News::Ticked);
    for name in ["claim", "unbond"] {
        assert_eq!(world.hand.get(&StepKey::Enrol).map(Step::name), Some(name));
        world.perform(StepKey::Enrol, Luck::Good);
    }
}

#[test]
fn a_pairing_that_is_out_of_sight_for_a_moment_sends_nothing_home() {
    // A re-org takes the owner's announcement back until it is mined again; or one endpoint says so, and no other.
    let mut world = World::new(0, willing_rig(), good_standing());
    world.begin();
    world.calm_down();
    world.chain.remove_provider();
    world.read_standing();
    assert!(world.book.is_going_home(), "it takes no work meanwhile");
    world.now += REMOVAL_GRACE_S - 1;
    world.tell(News::Ticked);
    assert_eq!(world.hand.get(&StepKey::Enrol), None);
    world.chain.standing.master = Some(OWNER);
    world.chain.announce_provider();
    world.read_standing();
    assert_eq!((world.book.phase(), world.book.enrolment().removed_since), (Phase::Paired, None));
    world.now += REMOVAL_GRACE_S;
    world.chain.remove_provider();
    world.read_standing();
    assert_eq!(world.hand.get(&StepKey::Enrol), None, "the time begins anew");
    assert_eq!(world.book.wakes_at(), Some(world.now + REMOVAL_GRACE_S));
}

#[test]
fn a_stranger_that_names_a_removed_rig_does_not_keep_it_from_going_home() {
    check(&format!("settled for {}", cents(50)), |world| {
        serving(world, Delivery::FirstResponse);
        publish_one(world);
        world.calm_down();
        world.chain.remove_provider();
        world.chain.standing.is_announced = true;
        remove_named(world);
    });
}

fn remove_named(world: &mut World) {
    world.stays_away = true;
    world.calm_down();
    world.check_home();
}

#[test]
fn a_rig_that_was_never_paired_waits_for_its_owner_instead_of_going_home() {
    let mut world = World::new(0, willing_rig(), empty_standing());
    world.chain.standing.gas_wei = cents(100);
    world.begin();
    world.calm_down();
    assert_eq!(world.book.phase(), Phase::AwaitingOwner);
    assert_eq!(world.chain.home_wei, Wei::ZERO);
}

#[test]
fn a_rig_with_a_new_owner_sends_nothing_to_it_when_the_old_one_lets_it_go() {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.begin();
    world.calm_down();
    world.rig.owner = RIVAL;
    world.crash();
    assert_eq!(world.book.phase(), Phase::ForeignOwner);
    world.chain.remove_provider();
    world.read_standing();
    assert_eq!(world.book.phase(), Phase::Announcing, "it asks to be paired with its new owner");
}

#[test]
fn the_way_home_is_told_with_amounts_and_times() {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.chain.standing.lockup_wei = cents(150);
    world.begin();
    world.calm_down();
    world.chain.remove_provider();
    begin_home(&mut world);
    let words = |world: &World| world.book.phase_text();
    assert_eq!(words(&world), "going home: 1.5 coin of stake are to be unbonded");
    world.perform(StepKey::Enrol, Luck::Good);
    let free_at = world.chain.standing.unbonds_at;
    assert_eq!(free_at, 1_800_000_230);
    assert_eq!(words(&world), "going home: unbonding 1.5 coin, free at 2027-01-15 08:03:50 UTC");
    assert_eq!((world.hand.get(&StepKey::Enrol), world.book.wakes_at()), (None, Some(free_at)));
    world.now = free_at;
    world.tell(News::Ticked);
    world.perform(StepKey::Enrol, Luck::Good);
    assert_eq!(words(&world), "going home: withdrawing 1.5 coin from the vault");
    world.perform(StepKey::Enrol, Luck::Good);
    assert_eq!(words(&world), "going home: sending 2.5 coin to the owner, less the gas");
    world.perform(StepKey::Enrol, Luck::Good);
    assert_eq!(words(&world), "home: nothing is left here but 0.00003 coin that would not pay for its own transfer");
    world.chain.standing.gas_wei = cents(7);
    world.read_standing();
    assert_eq!(world.hand.get(&StepKey::Enrol).map(Step::name), Some("send-home"), "coins that come later go home too");
}
