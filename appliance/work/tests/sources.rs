//! Sources: what is prepared, given up, and cleared away.

use work::source::{Environment, Environments, SourceStage};
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
