//! Sources: what is prepared, given up, and cleared away.

use work::book::Stage;
use work::source::{Conditions, Environment, Environments, Reach, SourceStage};
use work::task::Delivery;
use work::{News, Step, StepKey};

use crate::world::{Luck, World, good_standing, source_id, willing_rig};

fn key() -> StepKey {
    StepKey::Source { source: source_id(0) }
}

fn world() -> World {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.add_source(0, Delivery::Manual);
    world.begin();
    world
}

fn update(world: &mut World, environments: Environments) {
    let now = world.now;
    let reading = world.chain.sources.get_mut(&source_id(0)).expect("it was added");
    reading.updated_at = now;
    reading.environments = environments;
    world.read_source(source_id(0));
}

fn name_in_hand(world: &World) -> Option<&'static str> {
    world.hand.get(&key()).map(Step::name)
}

/// Gives up the preparation in hand, and clears away what it may have left.
fn give_up(world: &mut World) {
    world.perform(key(), Luck::Hopeless);
    assert_eq!(name_in_hand(world), Some("stop-source"));
    world.perform(key(), Luck::Good);
    let stage = &world.book.sources()[&source_id(0)].stage;
    assert_eq!(stage, &SourceStage::Refused { why: "this cannot be done".into() });
}

#[test]
fn a_source_that_cannot_be_prepared_is_left_alone_until_it_is_updated() {
    let mut world = world();
    give_up(&mut world);
    for _ in 0..3 {
        world.now += 100;
        world.read_source(source_id(0));
        assert_eq!(name_in_hand(&world), None);
    }
    update(&mut world, Environments(1));
    assert_eq!(name_in_hand(&world), Some("prepare"));
}

#[test]
fn a_source_that_could_not_be_prepared_is_tried_again_after_a_start() {
    let mut world = world();
    give_up(&mut world);
    world.crash();
    assert_eq!(name_in_hand(&world), Some("prepare"));
}

#[test]
fn an_update_that_cannot_be_prepared_leaves_no_container_of_the_old_one() {
    let mut world = world();
    world.calm_down();
    assert!(world.up.contains_key(&source_id(0)));
    world.now += 100;
    update(&mut world, Environments(1));
    give_up(&mut world);
    assert!(world.up.is_empty());
}

#[test]
fn a_source_that_loses_its_client_while_it_is_prepared_is_stopped() {
    let mut world = world();
    world.chain.sources.get_mut(&source_id(0)).expect("it was added").is_active = false;
    world.read_source(source_id(0));
    assert_eq!(name_in_hand(&world), Some("stop-source"));
}

#[test]
fn an_update_that_drops_an_environment_is_prepared_in_one_that_is_left() {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.add_source(0, Delivery::Manual);
    world.chain.sources.get_mut(&source_id(0)).expect("it was added").environments = Environments(3);
    world.begin();
    world.calm_down();
    assert_eq!(world.book.sources()[&source_id(0)].environment, Environment::Nvidia);
    world.now += 100;
    update(&mut world, Environments(1));
    let Some(Step::Prepare { environment, .. }) = world.hand.get(&key()) else {
        panic!("it is not prepared again: {:#?}", world.hand)
    };
    assert_eq!(*environment, Environment::Cpu);
}

#[test]
fn a_container_that_keeps_dying_is_started_ever_more_rarely() {
    let mut world = world();
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.perform(key(), Luck::Good);
        let source = source_id(0);
        world.tell(News::SourceDown { source, why: "it ended".into() });
        let served = &world.book.sources()[&source];
        waits.push(served.not_before - world.now);
        world.now = served.not_before;
        world.tell(News::Ticked);
    }
    assert_eq!(waits, [1, 2, 4, 8]);
}

#[test]
fn what_a_source_keeps_goes_when_it_is_taken_down_and_not_before() {
    let mut world = world();
    world.calm_down();
    let source = source_id(0);
    world.chain.sources.get_mut(&source).expect("it was added").is_active = false;
    world.calm_down();
    assert!(world.up.is_empty() && world.volumes.contains(&source), "an inactive source may be back");
    world.tell(News::SourceRemoved { source });
    assert_eq!(world.hand.get(&key()), Some(&Step::StopSource { source, forgets: true }));
    world.calm_down();
    assert!(world.volumes.is_empty());
    assert!(matches!(world.book.sources()[&source].stage, SourceStage::Refused { .. }));
}

/// A world that serves two sources, some time after they came up.
fn two_served() -> World {
    let mut world = World::new(0, willing_rig(), good_standing());
    for number in 0..2 {
        world.add_source(number, Delivery::FirstResponse);
    }
    world.begin();
    world.calm_down();
    world.now += 100;
    world.tell(News::Ticked);
    world
}

fn stage(world: &World, number: u64) -> &SourceStage {
    &world.book.sources()[&source_id(number)].stage
}

#[test]
fn when_memory_is_short_the_source_that_earned_least_rests_and_one_at_a_time() {
    let mut world = two_served();
    let task = world.terms(0, 0, 300);
    world.publish(task);
    world.calm_down();
    world.now += 100;
    world.tell(News::MemoryShort);
    world.tell(News::MemoryShort);
    assert_eq!((stage(&world, 0), stage(&world, 1)), (&SourceStage::Serving, &SourceStage::Resting));
    world.calm_down();
    assert_eq!(world.up.keys().copied().collect::<Vec<_>>(), [source_id(0)]);
    let resting = &world.book.sources()[&source_id(1)];
    assert!(resting.given_up.is_none() && resting.trouble.is_none() && resting.reading.is_registered);
    world.now += 60;
    world.tell(News::MemoryShort);
    assert_eq!(stage(&world, 0), &SourceStage::Resting, "a minute later the next one may go");
}

#[test]
fn what_is_equal_in_earnings_rests_by_its_last_use() {
    let mut world = two_served();
    world.tell(News::MemoryShort);
    let unused = [stage(&world, 0).clone(), stage(&world, 1).clone()];
    assert_eq!(unused.iter().filter(|stage| **stage == SourceStage::Resting).count(), 1);
    let mut world = two_served();
    for number in [1, 0] {
        let task = world.terms(number, number, 300);
        world.publish(task);
        world.calm_down();
        world.now += 100;
    }
    world.tell(News::MemoryShort);
    assert_eq!((stage(&world, 0), stage(&world, 1)), (&SourceStage::Serving, &SourceStage::Resting));
}

#[test]
fn a_source_with_a_job_in_hand_does_not_rest() {
    let mut world = two_served();
    for number in 0..2 {
        let task = world.terms(number, number, 300);
        world.publish(task);
        let key = StepKey::Task { task: crate::world::task_id(number) };
        world.perform(key, Luck::Good);
        assert_eq!(world.hand.get(&key).map(Step::name), Some("attempt"));
    }
    world.tell(News::MemoryShort);
    assert_eq!((stage(&world, 0), stage(&world, 1)), (&SourceStage::Serving, &SourceStage::Serving));
}

#[test]
fn a_task_that_is_worth_it_brings_a_resting_source_back_before_it_is_bid_for() {
    let mut world = two_served();
    for _ in 0..2 {
        world.tell(News::MemoryShort);
        world.calm_down();
        world.now += 60;
    }
    assert!(world.up.is_empty());
    let task = world.terms(0, 1, 300);
    let (id, key) = (task.id, StepKey::Task { task: task.id });
    world.publish(task);
    assert_eq!(world.hand.get(&key).map(Step::name), Some("look"));
    world.perform(key, Luck::Good);
    assert!(matches!(world.book.jobs()[&id].stage, Stage::Held { .. }), "it is not bid for yet");
    let source = StepKey::Source { source: source_id(1) };
    assert_eq!(world.hand.get(&source).map(Step::name), Some("prepare"));
    world.calm_down();
    assert_eq!(world.submissions(id), 1);
    assert_eq!((stage(&world, 0), stage(&world, 1)), (&SourceStage::Resting, &SourceStage::Serving));
}

#[test]
fn a_task_that_is_not_worth_it_lets_a_source_rest() {
    let mut world = two_served();
    world.tell(News::MemoryShort);
    world.calm_down();
    let number = u64::from(stage(&world, 1) == &SourceStage::Resting);
    let mut task = world.terms(0, number, 300);
    task.payment_wei = work::Wei::from(1);
    world.publish(task);
    world.calm_down();
    assert_eq!(stage(&world, number), &SourceStage::Resting);
}

#[test]
fn an_agents_attempt_brings_a_resting_source_back() {
    let mut world = two_served();
    for _ in 0..2 {
        world.tell(News::MemoryShort);
        world.calm_down();
        world.now += 60;
    }
    let task = world.terms(0, 0, 300);
    let id = task.id;
    world.chain.publish(task);
    world.chain.attempt(id, crate::world::chain::cents(40), world.now).expect("it is open");
    world.read_task(id);
    assert_eq!(name_in_hand(&world), Some("prepare"));
    world.calm_down();
    assert_eq!(world.submissions(id), 1);
}

#[test]
fn a_source_that_its_owner_took_down_comes_back_when_the_rig_is_listed_again() {
    let mut world = world();
    world.calm_down();
    let source = source_id(0);
    world.tell(News::SourceRemoved { source });
    world.calm_down();
    assert!(world.up.is_empty());
    // Off the list and on it again between two readings: both say "registered", so only the order itself tells.
    world.read_source(source);
    assert!(matches!(world.book.sources()[&source].stage, SourceStage::Refused { .. }));
    world.tell(News::SourceListed { source });
    world.calm_down();
    assert_eq!(world.book.sources()[&source].stage, SourceStage::Serving);
}

#[test]
fn a_source_that_runs_by_another_file_than_was_asked_for_is_registered_as_what_it_runs_as() {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.add_source(0, Delivery::Manual);
    world.chain.sources.get_mut(&source_id(0)).expect("it was added").environments = Environments(3);
    world.begin();
    let Some(Step::Prepare { environment: Environment::Nvidia, updated_at, .. }) = world.hand.get(&key()) else {
        panic!("the best of both environments is asked for");
    };
    let (source, prepared_from) = (source_id(0), *updated_at);
    let conditions = Conditions {
        network: Reach::Internal,
        exceptions: Vec::new(),
        images: Vec::new(),
        bundle: None,
        environment: Some(Environment::Cpu),
    };
    let (functions, conditions, notes) = (None, Some(Box::new(conditions)), Vec::new());
    world.hand.remove(&key());
    world.tell(News::SourceUp { source, prepared_from, functions, conditions, notes });
    assert_eq!(world.book.sources()[&source].environment, Environment::Cpu);
    let in_hand = world.hand.get(&key());
    assert!(matches!(in_hand, Some(Step::Register { environment: Environment::Cpu, .. })), "{in_hand:?}");
}
