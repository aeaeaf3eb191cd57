//! Generated histories: whatever happens in whatever order, no claim of the book breaks, and calm ends every task.
//!
//! A history is its seed. The seeds in `tests/seeds` once broke a claim; they are replayed first, for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use work::book::{Closing, Stage};
use work::task::Delivery;

use crate::world::chain::cents;
use crate::world::{World, good_standing, task_id, willing_rig};

/// Histories of one test run, beside the kept seeds.
const HISTORIES: u64 = 100_000;

/// Histories without any mishap.
const CALM_HISTORIES: u64 = 500;

/// Histories that are folded again at their end, one in so many; each crash folds the ledger again anyway.
const REPLAYED_ONE_IN: u64 = 4;

/// Seeds that broke a claim once.
const SEEDS: &str = include_str!("seeds");

/// Says which history it was, when a claim breaks in it.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("history {} broke a claim: add it to tests/seeds", self.0);
        }
    }
}

/// Plays one history and returns how many facts it had, how often a source was laid to rest in it, and whether the rig
/// went home.
fn play(seed: u64) -> (u64, u64, bool) {
    let _named = Named(seed);
    let mut world = World::thrown(seed);
    world.begin();
    let mishaps = 4 + world.dice.below(40);
    for _ in 0..mishaps {
        world.mishap();
    }
    world.mend();
    world.calm_down();
    world.clients_decide();
    world.calm_down();
    world.check_payments();
    world.check_home();
    world.let_receivables_grow_old();
    if seed.is_multiple_of(REPLAYED_ONE_IN) {
        world.check_replay();
    }
    (u64::try_from(world.ledger.len()).expect("a count fits 64 bits"), world.rests, world.stays_away)
}

#[test]
fn seeds_that_broke_a_claim_once_break_none() {
    for line in SEEDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        play(line.parse().expect("tests/seeds holds one number per line"));
    }
}

#[test]
fn no_history_breaks_a_claim_and_calm_ends_every_task() {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let facts = AtomicU64::new(0);
    let rests = AtomicU64::new(0);
    let homes = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= HISTORIES {
                        break;
                    }
                    let (these, rested, is_home) = play(seed);
                    facts.fetch_add(these, Ordering::Relaxed);
                    rests.fetch_add(rested, Ordering::Relaxed);
                    homes.fetch_add(u64::from(is_home), Ordering::Relaxed);
                }
            });
        }
    });
    let (facts, rests, homes) = (facts.into_inner(), rests.into_inner(), homes.into_inner());
    assert!(homes > HISTORIES / 50, "the dice hardly ever send a rig home: {homes} times");
    assert!(rests > HISTORIES / 20, "the dice hardly ever lay a source to rest: {rests} times");
    println!(
        "{HISTORIES} histories, {facts} facts, {rests} rests, {homes} went home, {:.1} s on {workers} threads",
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn a_history_in_which_everything_works_ends_settled_with_the_right_payment() {
    for seed in 0..CALM_HISTORIES {
        let _named = Named(seed);
        let mut world = World::new(seed, willing_rig(), good_standing());
        let delivery = if seed % 2 == 0 { Delivery::FirstResponse } else { Delivery::Manual };
        world.add_source(0, delivery);
        world.begin();
        world.calm_down();
        let tasks = 1 + world.dice.below(4);
        for number in 0..tasks {
            let life_s = 300 + world.dice.below(600);
            let task = world.terms(number, 0, life_s);
            world.publish(task);
            world.now += world.dice.below(5);
        }
        world.calm_down();
        for number in 0..tasks {
            world.chain.confirm(task_id(number), true, world.now);
        }
        world.calm_down();
        let asked_wei = if delivery == Delivery::FirstResponse { cents(50) } else { cents(40) };
        for (id, job) in world.book.jobs() {
            let Stage::Closed { closing: Closing::Settled { settlement } } = &job.stage else {
                panic!("{id} is not settled: {job:#?}");
            };
            assert_eq!(settlement.paid_wei, asked_wei);
            assert_eq!(world.submissions(*id), 1);
        }
        world.check_payments();
    }
}

/// How fast a ledger is folded, without the world around it: printed for `tests/bench.sh`, claimed to be finite.
#[test]
fn a_ledger_is_folded_again_to_the_same_book() {
    let worlds: Vec<World> = (0..500)
        .map(|seed| {
            let mut world = World::thrown(seed);
            world.begin();
            for _ in 0..60 {
                world.mishap();
            }
            world
        })
        .collect();
    let began = Instant::now();
    let facts: usize = worlds
        .iter()
        .map(|world| {
            world.check_replay();
            world.ledger.len()
        })
        .sum();
    println!("{facts} facts folded in {:.3} s", began.elapsed().as_secs_f64());
}
