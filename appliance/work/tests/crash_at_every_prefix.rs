//! Whole lives, written by hand: a crash after any one fact changes nothing of how they end.

use work::source::SourceStage;
use work::task::Delivery;
use work::{News, StepKey};

use crate::world::chain::cents;
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
