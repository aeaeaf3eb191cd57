//! What the book keeps is bounded, and what it forgets harms nothing.

use work::book::{CLOSED_KEPT, SOURCES_KEPT};
use work::task::{Delivery, TaskReading, TaskStatus};
use work::{Book, Fact, News};

use crate::world::chain::cents;
use crate::world::{BEGAN_AT, World, good_standing, source_reading, task_id, willing_rig};

fn canceled(number: u64) -> TaskReading {
    let mut world = World::new(0, willing_rig(), good_standing());
    world.add_source(0, Delivery::Manual);
    let task = world.terms(number, 0, 600);
    TaskReading { task, status: TaskStatus::Canceled, attempts: 0, my_attempt: None, my_response: None, winner: None }
}

fn begun() -> Book {
    let mut book = Book::default();
    book.enter(Fact { at: BEGAN_AT, news: News::Began { rig: Box::new(willing_rig()) } });
    book
}

#[test]
fn of_closed_tasks_the_newest_are_kept_and_the_oldest_forgotten() {
    let mut book = begun();
    let kept = u64::try_from(CLOSED_KEPT).expect("it is small");
    for number in 0..kept + 10 {
        let reading = Box::new(canceled(number));
        book.enter(Fact { at: BEGAN_AT + number, news: News::TaskRead { reading } });
    }
    assert_eq!(book.jobs().len(), CLOSED_KEPT);
    assert!(!book.jobs().contains_key(&task_id(9)));
    assert!(book.jobs().contains_key(&task_id(10)));
    assert_eq!(book.open_jobs().count(), 0);
    assert_eq!(book.wakes_at(), None);
}

#[test]
fn a_forgotten_task_that_was_answered_is_not_begun_again() {
    let mut book = begun();
    let mut reading = canceled(0);
    reading.status = TaskStatus::Responded;
    reading.attempts = 1;
    reading.my_attempt = Some((cents(40), BEGAN_AT));
    reading.my_response = Some(work::ResponseId(task_id(1).0));
    let steps = book.enter(Fact { at: BEGAN_AT + 1, news: News::TaskRead { reading: Box::new(reading) } });
    assert_eq!(steps, []);
    assert!(book.jobs()[&task_id(0)].is_closed());
}

#[test]
fn sources_beyond_the_bound_are_not_kept_unless_the_owner_registered_the_rig_to_them() {
    let mut book = begun();
    let kept = u64::try_from(SOURCES_KEPT).expect("it is small");
    let mut read = |number: u64, is_registered: bool| {
        let mut reading = source_reading(number, Delivery::Manual);
        reading.is_registered = is_registered;
        book.enter(Fact { at: BEGAN_AT, news: News::SourceRead { reading: Box::new(reading) } });
        book.sources().len()
    };
    for number in 0..kept {
        read(number, false);
    }
    assert_eq!(read(kept, false), SOURCES_KEPT);
    assert_eq!(read(kept + 1, true), SOURCES_KEPT + 1);
}
