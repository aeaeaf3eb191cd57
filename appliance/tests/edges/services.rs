//! A source of several services from the provider's side: the order of starts, restarts, and what an end means.

use std::sync::Arc;
use std::time::Duration;

use appliance::board::{Doing, Until};
use appliance::compose::plan::{Condition, Restart};
use appliance::container::{ContainerError, Part, Recipe};
use appliance::provider::Parcel;
use runner::protocol::{Exit, Health, HealthTest, ServiceSpec};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use work::News;

use crate::containers::{Rig, Service, part, recipe, source};

const WITHIN: Duration = Duration::from_secs(30);

fn tested() -> ServiceSpec {
    let health =
        HealthTest { command: vec!["true".into()], interval_ms: 1, timeout_ms: 1, retries: 1, start_period_ms: 0 };
    ServiceSpec { health: Some(health), ..ServiceSpec::default() }
}

/// `dep` with this restart policy, which `main` awaits.
fn pair(spec: ServiceSpec, restart: Restart, condition: Condition) -> Recipe {
    let main = Part { awaits: vec![(0, condition)], ..part("main", ServiceSpec::default(), Restart::Always) };
    recipe(vec![part("dep", spec, restart), main])
}

/// A rig whose services' port is open, and its watch.
async fn rig() -> (Arc<Rig>, mpsc::Receiver<Parcel>, DropGuard) {
    let rig = Rig::new();
    rig.runner.open_port(Service::default().serve().await);
    let (desk, parcels) = mpsc::channel(4);
    let stop = CancellationToken::new();
    tokio::spawn(rig.containers.clone().watch(desk, stop.clone()));
    (Arc::new(rig), parcels, stop.drop_guard())
}

fn begin(rig: &Arc<Rig>, recipe: &Recipe) -> JoinHandle<Result<(), ContainerError>> {
    let (rig, recipe) = (rig.clone(), recipe.clone());
    tokio::spawn(async move { rig.start_within(recipe, WITHIN).await.map(drop) })
}

/// Asks until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WITHIN, waited).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

async fn told_of_the_end(parcels: &mut mpsc::Receiver<Parcel>) -> String {
    let told = tokio::time::timeout(WITHIN, parcels.recv()).await.expect("in time");
    let Some(Parcel::Outcome(News::SourceDown { source: down, why })) = told else { panic!("an end is told") };
    assert_eq!(down, source());
    why
}

#[tokio::test]
async fn a_service_starts_when_what_it_awaits_is_healthy_and_the_wait_is_shown() {
    let (rig, _parcels, _guard) = rig().await;
    rig.runner.is("dep", Health::Starting);
    let starting = begin(&rig, &pair(tested(), Restart::Always, Condition::Healthy));
    let shown = || matches!(rig.board.doing(source()), Some(Doing::Starting { log: Some(_), .. }));
    until("the wait on the board", shown).await;
    let Some(Doing::Starting { service, until, received_bytes, log, .. }) = rig.board.doing(source()) else {
        panic!("it is starting")
    };
    assert_eq!((service.as_str(), until, received_bytes), ("dep", Until::Healthy, 1_300_000_000));
    assert_eq!(log.as_deref(), Some("3%"), "a bar of progress shows its newest state");
    assert_eq!(rig.runner.started(), ["dep"]);
    rig.runner.is("dep", Health::Healthy);
    starting.await.expect("no panic").expect("it is up");
    assert_eq!(rig.runner.started(), ["dep", "main"]);
    assert_eq!(rig.board.doing(source()), None);
}

#[tokio::test]
async fn a_service_that_is_never_healthy_fails_the_start_with_its_last_words() {
    let (rig, _parcels, _guard) = rig().await;
    rig.runner.is("dep", Health::Unhealthy);
    let failed = begin(&rig, &pair(tested(), Restart::Always, Condition::Healthy)).await.expect("no panic");
    let error = failed.expect_err("it is not well");
    assert!(matches!(&error, ContainerError::Unhealthy { service, .. } if service.as_str() == "dep"), "{error}");
    assert!(error.to_string().ends_with("3%") && !error.is_final(), "{error}");
    assert_eq!(rig.runner.started(), ["dep"], "nothing is built on it");
}

#[tokio::test]
async fn a_service_that_has_to_end_first_ends_well_or_fails_the_start() {
    let (rig, _parcels, _guard) = rig().await;
    rig.runner.ends_at_once("dep", Some(Exit::Code(3)));
    let once = pair(ServiceSpec::default(), Restart::No, Condition::Completed);
    let error = begin(&rig, &once).await.expect("no panic").expect_err("it failed");
    assert!(error.to_string().contains("service dep ended (Code(3))"), "{error}");
    rig.runner.ends_at_once("dep", Some(Exit::Code(0)));
    begin(&rig, &once).await.expect("no panic").expect("it is up");
    assert_eq!(rig.runner.started(), ["dep", "dep", "main"]);
}

#[tokio::test]
async fn a_service_that_has_to_end_first_may_need_several_tries_if_its_file_says_so() {
    let (rig, _parcels, _guard) = rig().await;
    rig.runner.ends_at_once("dep", Some(Exit::Code(1)));
    let starting = begin(&rig, &pair(ServiceSpec::default(), Restart::OnFailure { max: None }, Condition::Completed));
    until("a second try", || rig.runner.started().len() == 2).await;
    rig.runner.ends_at_once("dep", Some(Exit::Code(0)));
    starting.await.expect("no panic").expect("it is up");
    assert_eq!(rig.runner.started(), ["dep", "dep", "dep", "main"]);
}

#[tokio::test]
async fn a_service_beside_the_main_one_is_restarted_and_the_source_stays_up() {
    let (rig, mut parcels, _guard) = rig().await;
    begin(&rig, &pair(ServiceSpec::default(), Restart::Always, Condition::Started))
        .await
        .expect("no panic")
        .expect("up");
    for _ in 0..2 {
        let before = rig.runner.started().len();
        rig.runner.end("dep", Exit::Signal(9));
        until("a restart", || rig.runner.started().len() > before).await;
    }
    assert_eq!(rig.runner.started(), ["dep", "main", "dep", "dep"]);
    assert!(parcels.try_recv().is_err(), "nobody is told of an end");
}

#[tokio::test]
async fn a_needed_service_that_is_given_up_takes_the_source_down() {
    let (rig, mut parcels, _guard) = rig().await;
    let once = pair(ServiceSpec::default(), Restart::No, Condition::Started);
    begin(&rig, &once).await.expect("no panic").expect("it is up");
    rig.runner.end("dep", Exit::Code(1));
    let why = told_of_the_end(&mut parcels).await;
    assert!(why.starts_with("service dep ended (Code(1)): killed") && why.ends_with("by a test"), "{why}");
    begin(&rig, &once).await.expect("no panic").expect("it is up again");
    assert_eq!(rig.runner.started(), ["dep", "main", "dep"], "what runs is left running");
}

#[tokio::test]
async fn a_service_that_nothing_needs_or_that_ended_well_is_not_missed() {
    let (rig, mut parcels, _guard) = rig().await;
    let never = Restart::No;
    let parts = ["sidecar", "loader", "main"].map(|name| part(name, ServiceSpec::default(), never));
    let mut recipe = recipe(parts.into());
    recipe.parts[2].awaits.push((1, Condition::Started));
    begin(&rig, &recipe).await.expect("no panic").expect("it is up");
    rig.runner.end("sidecar", Exit::Signal(11));
    rig.runner.end("loader", Exit::Code(0));
    let seen = || {
        let name = source().to_string().parse().expect("a name");
        let state = rig.board.state(&name);
        state.is_some_and(|state| state.services.values().filter(|service| is_gone(service)).count() == 2)
    };
    until("two looks", seen).await;
    rig.runner.end("main", Exit::Code(0));
    let why = told_of_the_end(&mut parcels).await;
    assert!(why.starts_with("the container ended (Code(0))"), "{why}");
}

fn is_gone(service: &runner::protocol::ServiceState) -> bool {
    matches!(service, runner::protocol::ServiceState::Exited { .. })
}

#[tokio::test]
async fn an_image_that_was_cleared_away_is_told_apart_from_one_that_is_bad() {
    let (rig, _parcels, _guard) = rig().await;
    rig.runner.clears_away();
    let recipe = recipe(vec![part("main", ServiceSpec::default(), Restart::No)]);
    let error = begin(&rig, &recipe).await.expect("no panic").expect_err("it is gone");
    assert!(error.is_cleared_away() && !error.is_final() && !error.is_damaged(), "{error}");
    begin(&rig, &recipe).await.expect("no panic").expect("it is up");
}

#[tokio::test]
async fn volumes_outlive_a_stop_and_go_when_the_source_is_forgotten() {
    let (rig, _parcels, _guard) = rig().await;
    let recipe = recipe(vec![part("main", ServiceSpec::default(), Restart::No)]);
    begin(&rig, &recipe).await.expect("no panic").expect("it is up");
    rig.containers.stop(source()).await.expect("stops");
    assert!(rig.runner.has_volumes(&source().to_string()));
    rig.containers.forget_volumes(source()).await.expect("forgets");
    assert!(!rig.runner.has_volumes(&source().to_string()));
}
