//! The ledger's format: a fact written by any release must read the same in every later one.
//!
//! `golden/facts.jsonl` holds one fact per line, every kind of news and every kind of what news can carry. A line is
//! only ever added. The layout: `{"at": <Unix seconds>, "news": {"news": <kind>, …}}`; amounts are hexadecimal strings
//! in wei, addresses and digests hexadecimal strings, links and words as they came.

use std::collections::BTreeSet;

use work::fact::Look;
use work::source::{Conditions, Environment, Reach};
use work::step::Trouble;
use work::task::{Delivery, Descriptor, TaskStatus};
use work::{Digest, Fact, News, ResponseId, RunId, StepKey, Wei};

use crate::world::chain::{RIVAL, address, cents};
use crate::world::{BEGAN_AT, World, empty_standing, good_standing, source_id, source_reading, task_id, willing_rig};

const GOLDEN: &str = include_str!("golden/facts.jsonl");

/// The number of kinds of news. [`kind`] fails to compile when one is added; then count again and add a line.
const KINDS: usize = 18;

fn kind(news: &News) -> usize {
    match news {
        News::Began { .. } => 0,
        News::Ticked => 1,
        News::Stood { .. } => 2,
        News::SourceRead { .. } => 3,
        News::SourceUp { .. } => 4,
        News::SourceDown { .. } => 5,
        News::SourceStopped { .. } => 6,
        News::SourceRemoved { .. } => 7,
        News::TaskRead { .. } => 8,
        News::Looked { .. } => 9,
        News::Fetched { .. } => 10,
        News::Finished { .. } => 11,
        News::Pinned { .. } => 12,
        News::Fell { .. } => 13,
        News::DrainAsked => 14,
        News::SourceListed { .. } => 15,
        News::MemoryShort => 16,
        News::SentHome { .. } => 17,
    }
}

fn digest() -> Digest {
    Digest(address(0x77, 7).into_word())
}

fn look(function: Result<String, String>) -> Look {
    Look { function, gas_wei: cents(100), gas_price_wei: Wei::from(1_000_000_007_u64), lockup_wei: Wei::ZERO }
}

/// What the golden file holds, line by line.
fn facts() -> Vec<Fact> {
    let (source, task) = (source_id(1), task_id(2));
    let mut world = World::new(0, willing_rig(), good_standing());
    world.add_source(1, Delivery::Manual);
    let terms = world.terms(2, 1, 600);
    world.chain.publish(terms);
    let fresh = world.chain.reading(task, BEGAN_AT);
    let mut settled = fresh.clone();
    settled.status = TaskStatus::Finalized;
    settled.attempts = 3;
    settled.my_attempt = Some((cents(40), BEGAN_AT + 5));
    settled.my_response = Some(ResponseId(address(0x44, 1)));
    settled.winner = Some(RIVAL);
    let mut listed = willing_rig();
    listed.sources = work::policy::Sources::Listed([source].into_iter().collect());
    listed.min_payment_wei = Wei::MAX;
    let functions: BTreeSet<String> = ["answer".to_owned(), "warm up".to_owned()].into_iter().collect();
    let statuses = [TaskStatus::New, TaskStatus::Attempted, TaskStatus::Responded, TaskStatus::Canceled]
        .into_iter()
        .chain([TaskStatus::Expired]);
    let up =
        |functions| News::SourceUp { source, prepared_from: BEGAN_AT, functions, conditions: None, notes: Vec::new() };
    let mut all = vec![
        News::Began { rig: Box::new(willing_rig()) },
        News::Began { rig: Box::new(listed) },
        News::Ticked,
        News::Stood { standing: empty_standing() },
        News::Stood { standing: good_standing() },
        News::SourceRead { reading: Box::new(source_reading(1, Delivery::Manual)) },
        News::SourceRead { reading: Box::new(source_reading(2, Delivery::FirstResponse)) },
        up(None),
        up(Some(functions)),
        News::SourceDown { source, why: "it exited with 137".into() },
        News::SourceStopped { source, is_forgotten: false },
        News::SourceRemoved { source },
        News::TaskRead { reading: Box::new(settled) },
        News::Looked { task, look: look(Ok("answer".into())) },
        News::Looked { task, look: look(Err("its input is not JSON: \"<html>\" at line 1".into())) },
        News::Fetched { task, function: "answer".into(), digest: digest() },
        News::Finished { task, run: RunId(9), digest: digest(), bytes: 1_048_576, elapsed_ms: 1_250, descriptor: None },
        News::Pinned { task, link: "https://gateway.invalid/ipfs/bafy".into() },
        News::Fell { step: StepKey::Enrol, trouble: Trouble::passing("no endpoint answers") },
        News::Fell { step: StepKey::Source { source }, trouble: Trouble::lasting("it asks for privileges") },
        News::Fell { step: StepKey::Task { task }, trouble: Trouble::lost("already finalized") },
        News::DrainAsked,
    ];
    all.extend(statuses.map(|status| {
        let mut reading = fresh.clone();
        reading.status = status;
        News::TaskRead { reading: Box::new(reading) }
    }));
    all.push(News::SourceListed { source });
    let conditions = |network, exceptions: &[&str]| {
        let exceptions = exceptions.iter().map(|words| (*words).to_owned()).collect();
        let images = vec![digest()];
        Some(Box::new(Conditions { network, exceptions, images, bundle: None, environment: None }))
    };
    let told =
        |conditions, notes| News::SourceUp { source, prepared_from: BEGAN_AT, functions: None, conditions, notes };
    all.push(told(conditions(Reach::Internal, &[]), Vec::new()));
    all.push(told(conditions(Reach::Internet, &["services.a.shm_size"]), vec!["`x` is ignored: y".into()]));
    all.push(told(conditions(Reach::None, &[]), Vec::new()));
    all.push(News::SourceStopped { source, is_forgotten: true });
    all.push(News::MemoryShort);
    let of_bundle = |bundle, environment| {
        let (network, exceptions, images) = (Reach::None, Vec::new(), Vec::new());
        Some(Box::new(Conditions { network, exceptions, images, bundle, environment }))
    };
    all.push(told(of_bundle(Some(digest()), None), Vec::new()));
    all.push(told(of_bundle(None, Some(Environment::Cpu)), Vec::new()));
    let finished = |descriptor| {
        let (run, digest, bytes, elapsed_ms) = (RunId(10), digest(), 3, 4);
        News::Finished { task, run, digest, bytes, elapsed_ms, descriptor: Some(Box::new(descriptor)) }
    };
    let told_all = Descriptor {
        bundle: digest(),
        plan: digest(),
        determinism: "tolerance 0.0001 relative".into(),
        gpu: "GPU-1".into(),
        model: Some("A GPU".into()),
        arch: Some("sm_90".into()),
        driver: Some("580.95.05".into()),
        cuda: Some("13.0".into()),
        compiler: Some("12.9".into()),
        outputs: [("c".to_owned(), digest())].into_iter().collect(),
    };
    all.push(finished(told_all.clone()));
    all.push(finished(Descriptor { model: None, arch: None, driver: None, cuda: None, compiler: None, ..told_all }));
    let mut leaving = empty_standing();
    leaving.unbonding_wei = cents(150);
    leaving.unbonds_at = BEGAN_AT + 600;
    all.push(News::Stood { standing: leaving });
    let mut home = empty_standing();
    home.gas_wei = Wei::from(7);
    all.push(News::SentHome { standing: home });
    let mut again = good_standing();
    again.is_newest = true;
    all.push(News::Stood { standing: again });
    (BEGAN_AT..).zip(all).map(|(at, news)| Fact { at, news }).collect()
}

#[test]
fn every_golden_fact_is_read_and_written_byte_for_byte() {
    for line in GOLDEN.lines() {
        let fact: Fact = serde_json::from_str(line).expect("a golden line is a fact");
        let again = serde_json::to_string(&fact).expect("a fact can be written");
        assert_eq!(again, line);
    }
}

#[test]
fn the_golden_file_holds_what_it_says_and_every_kind_of_news() {
    let golden: Vec<Fact> =
        GOLDEN.lines().map(|line| serde_json::from_str(line).expect("a golden line is a fact")).collect();
    assert_eq!(golden, facts());
    let kinds: BTreeSet<usize> = golden.iter().map(|fact| kind(&fact.news)).collect();
    assert_eq!(kinds, (0..KINDS).collect());
}

#[test]
fn a_fact_of_unknown_news_is_refused_and_not_guessed_at() {
    let unknown = r#"{"at":1,"news":{"news":"moved-house"}}"#;
    let error = serde_json::from_str::<Fact>(unknown).expect_err("nobody knows this news");
    assert!(error.to_string().contains("moved-house"), "{error}");
}
