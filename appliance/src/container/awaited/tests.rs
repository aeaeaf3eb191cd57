//! Which tasks can be claimed, by whom, and how often.

use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::*;

fn task(number: u8) -> TaskId {
    TaskId(Address::repeat_byte(number))
}

fn result(number: u8) -> Returned {
    Returned { digest: Digest(B256::repeat_byte(number)), bytes: u64::from(number) }
}

fn hasty() -> Arc<Awaited> {
    Arc::new(Awaited::with_ahead(Duration::from_millis(20)))
}

async fn claimed(awaited: &Awaited, task: TaskId) -> Reply {
    match awaited.claim(task).await {
        Claim::Open(reply) => reply,
        other => panic!("the task can be claimed, this is {other:?}"),
    }
}

#[tokio::test]
async fn a_task_is_answered_once_and_only_if_it_is_waited_for() {
    let awaited = hasty();
    assert!(matches!(awaited.claim(task(1)).await, Claim::Unknown));
    let mut waiting = awaited.expect(task(1));
    claimed(&awaited, task(1)).await.deliver(Ok(result(1)));
    assert!(matches!(awaited.claim(task(1)).await, Claim::Answered));
    assert_eq!(waiting.returned().await.expect("a result"), result(1));
    drop(waiting);
    assert!(matches!(awaited.claim(task(1)).await, Claim::Answered), "a late second callback is told apart");
}

#[tokio::test]
async fn a_run_that_is_replaced_takes_nothing_from_the_run_that_replaces_it() {
    let awaited = hasty();
    let old = awaited.expect(task(1));
    let mut new = awaited.expect(task(1));
    drop(old);
    claimed(&awaited, task(1)).await.deliver(Ok(result(2)));
    assert_eq!(new.returned().await.expect("the new run has the result"), result(2));
}

#[tokio::test]
async fn a_claim_that_is_given_back_can_be_claimed_again_by_whoever_waits_now() {
    let awaited = hasty();
    let mut waiting = awaited.expect(task(1));
    let broken = claimed(&awaited, task(1)).await;
    awaited.give_back(task(1), broken);
    claimed(&awaited, task(1)).await.deliver(Ok(result(1)));
    assert_eq!(waiting.returned().await.expect("a result"), result(1));

    let old = awaited.expect(task(2));
    let broken = claimed(&awaited, task(2)).await;
    drop(old);
    let mut new = awaited.expect(task(2));
    awaited.give_back(task(2), broken);
    claimed(&awaited, task(2)).await.deliver(Ok(result(2)));
    assert_eq!(new.returned().await.expect("the new run has the result"), result(2));
}

#[tokio::test]
async fn a_claim_that_is_given_back_after_its_run_gave_up_leaves_nothing_behind() {
    let awaited = hasty();
    let waiting = awaited.expect(task(1));
    let broken = claimed(&awaited, task(1)).await;
    drop(waiting);
    awaited.give_back(task(1), broken);
    assert!(awaited.lock().waiting.is_empty());
    assert!(matches!(awaited.claim(task(1)).await, Claim::Unknown));
}

#[tokio::test]
async fn when_the_container_is_gone_everyone_is_told_whenever_they_ask() {
    let awaited = hasty();
    let mut waiting = awaited.expect(task(1));
    let mut claimed_one = awaited.expect(task(2));
    let broken = claimed(&awaited, task(2)).await;
    awaited.give_up("it fell over");
    awaited.give_back(task(2), broken);
    let mut late = awaited.expect(task(3));
    for waiting in [&mut waiting, &mut claimed_one, &mut late] {
        let failing = waiting.returned().await.expect_err("no result");
        assert!(matches!(failing, Failing::Gone(why) if why == "it fell over"));
    }
}

#[tokio::test]
async fn a_callback_that_is_ahead_of_its_dispatch_is_taken_when_the_dispatch_comes() {
    let awaited = Arc::new(Awaited::default());
    let ahead = tokio::spawn({
        let awaited = awaited.clone();
        async move { claimed(&awaited, task(1)).await.deliver(Ok(result(1))) }
    });
    tokio::task::yield_now().await;
    let mut waiting = awaited.expect(task(1));
    assert_eq!(waiting.returned().await.expect("a result"), result(1));
    ahead.await.expect("the callback was taken");
}

#[tokio::test]
async fn what_is_remembered_of_answered_tasks_is_bounded() {
    let awaited = hasty();
    for number in 0..ANSWERED_KEPT + 10 {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let task = TaskId(Address::from(bytes));
        let _waiting = awaited.expect(task);
        claimed(&awaited, task).await.deliver(Ok(result(1)));
    }
    assert_eq!(awaited.lock().answered.len(), ANSWERED_KEPT);
    assert!(awaited.lock().waiting.is_empty());
}
