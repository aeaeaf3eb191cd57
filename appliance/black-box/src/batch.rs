//! When lines are written: seldom, unless something is wrong.
//!
//! Invariants: at most [`WAITING_BYTES_MAX`] wait; an error waits for [`URGENT_AFTER`] and any line for [`CALM_AFTER`] at
//! most, as long as there is an allowance; over any day no more than [`ALLOWANCE_MAX`] and 24 times
//! [`ALLOWANCE_PER_HOUR`] are written, with what the file system adds; what was left out is counted and told.

use std::time::{Duration, Instant};

use crate::line::Line;

/// An error is followed by its consequences; they share a write.
const URGENT_AFTER: Duration = Duration::from_secs(2);

/// Other lines wait for so long, and are lost with the machine if it is reset first.
const CALM_AFTER: Duration = Duration::from_secs(15 * 60);

/// Lines that wait, in bytes. Beyond half of it they are written.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// What a write costs besides its bytes: the file system writes its journal, an inode and a group. Measured on ext4 with
/// a small append and fdatasync: 5 to 8 blocks.
const WRITE_COST: u64 = 32 * 1024;

/// Bytes that may be written at once, and each hour: a boot that goes wrong is kept whole, and a rig that complains for
/// ever writes 25 MB a day, half of what a stick may be asked for.
const ALLOWANCE_MAX: u64 = 1 << 20;
const ALLOWANCE_PER_HOUR: u64 = 1 << 20;

/// Lines that wait.
#[derive(Debug)]
pub(crate) struct Batch {
    text: String,
    /// What was said last, and how often more since: a program that says one thing every second has said it.
    last: String,
    repeats: u64,
    left_out: u64,
    /// When the first of them has to be written.
    due: Option<Instant>,
    allowance: u64,
    counted: Instant,
}

// === impl Batch ===

impl Batch {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            text: String::new(),
            last: String::new(),
            repeats: 0,
            left_out: 0,
            due: None,
            allowance: ALLOWANCE_MAX,
            counted: now,
        }
    }

    /// Takes a line in, or counts it where there is no room.
    pub(crate) fn add(&mut self, line: &Line, now: Instant) {
        let said = &line.text[line.said_at..];
        if self.last == said {
            self.repeats += 1;
            self.due.get_or_insert(now + CALM_AFTER);
            return;
        }
        self.tell_repeats();
        if self.text.len() + line.text.len() > WAITING_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.text.push_str(&line.text);
        said.clone_into(&mut self.last);
        let is_soon = line.is_urgent || self.text.len() > WAITING_BYTES_MAX / 2;
        let due = now + if is_soon { URGENT_AFTER } else { CALM_AFTER };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// When to [`Batch::take`]. `None`: nothing waits.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due?;
        self.count(now);
        let missing = self.cost().saturating_sub(self.allowance);
        let wait = Duration::from_millis(missing.saturating_mul(3_600_000).div_ceil(ALLOWANCE_PER_HOUR));
        Some(due.max(now + wait))
    }

    /// What waits, and how much could not.
    pub(crate) fn take(&mut self, now: Instant) -> String {
        self.count(now);
        self.allowance = self.allowance.saturating_sub(self.cost());
        self.due = None;
        self.tell_repeats();
        let mut text = std::mem::take(&mut self.text);
        if self.left_out > 0 {
            text.push_str(&format!("{} lines were left out here: too many came\n", self.left_out));
            self.left_out = 0;
        }
        text
    }

    fn tell_repeats(&mut self) {
        let repeats = std::mem::take(&mut self.repeats);
        if repeats > 0 && self.text.len() < WAITING_BYTES_MAX {
            self.text.push_str(&format!("the same {repeats} times more\n"));
        } else {
            self.left_out += repeats;
        }
    }

    fn cost(&self) -> u64 {
        WRITE_COST + u64::try_from(self.text.len()).unwrap_or(u64::MAX)
    }

    fn count(&mut self, now: Instant) {
        let gained_ms = now.saturating_duration_since(self.counted).as_millis();
        let gained = gained_ms.saturating_mul(u128::from(ALLOWANCE_PER_HOUR)) / 3_600_000;
        if gained > 0 {
            self.allowance =
                self.allowance.saturating_add(u64::try_from(gained).unwrap_or(u64::MAX)).min(ALLOWANCE_MAX);
            self.counted = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Each says something else.
    fn line(is_urgent: bool, bytes: usize) -> Line {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Line { text: format!("{count:0bytes$}"), said_at: 0, is_urgent }
    }

    #[test]
    fn what_is_said_again_and_again_is_counted() {
        let now = Instant::now();
        let mut batch = Batch::new(now);
        let say =
            |time: &str| Line { text: format!("{time} a round is repeated\n"), said_at: time.len(), is_urgent: true };
        for time in ["0:01", "0:02", "0:03"] {
            batch.add(&say(time), now);
        }
        assert_eq!(batch.take(now), "0:01 a round is repeated\nthe same 2 times more\n");
        batch.add(&say("0:04"), now);
        assert_eq!(batch.due(now), Some(now + CALM_AFTER), "nothing new is in no hurry");
        assert_eq!(batch.take(now), "the same 1 times more\n");
    }

    #[test]
    fn calm_lines_wait_long_and_an_error_takes_them_along() {
        let now = Instant::now();
        let mut batch = Batch::new(now);
        assert_eq!(batch.due(now), None);
        batch.add(&line(false, 10), now);
        batch.add(&line(false, 10), now + Duration::from_secs(60));
        assert_eq!(batch.due(now), Some(now + CALM_AFTER));
        batch.add(&line(true, 10), now + Duration::from_secs(90));
        assert_eq!(batch.due(now), Some(now + Duration::from_secs(90) + URGENT_AFTER));
        assert_eq!((batch.take(now).len(), batch.due(now)), (30, None));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let now = Instant::now();
        let mut batch = Batch::new(now);
        for _ in 0..200 {
            batch.add(&line(false, 1024), now);
        }
        let text = batch.take(now);
        assert!(text.len() < WAITING_BYTES_MAX + 100);
        assert!(text.ends_with("136 lines were left out here: too many came\n"), "{}", &text[WAITING_BYTES_MAX..]);
        assert_eq!(batch.take(now), "");
    }

    #[test]
    fn a_day_of_errors_writes_no_more_than_is_allowed() {
        let start = Instant::now();
        let end = start + Duration::from_secs(24 * 3600);
        let (mut batch, mut now, mut written, mut writes) = (Batch::new(start), start, 0, 0);
        while now < end {
            batch.add(&line(true, 300), now);
            if batch.due(now).is_some_and(|at| at <= now) {
                written += WRITE_COST + u64::try_from(batch.take(now).len()).expect("small");
                writes += 1;
            }
            now += Duration::from_secs(1);
        }
        assert!(written <= ALLOWANCE_MAX + 24 * ALLOWANCE_PER_HOUR + 2 * WRITE_COST, "{written}");
        assert!(writes > 24, "an error is still written within the hour: {writes}");
    }

    #[test]
    fn a_calm_day_is_a_few_writes() {
        let start = Instant::now();
        let (mut batch, mut writes) = (Batch::new(start), 0);
        for minute in 0..24 * 60 {
            let now = start + Duration::from_secs(60 * minute);
            batch.add(&line(false, 200), now);
            if batch.due(now).is_some_and(|at| at <= now) {
                let _ = batch.take(now);
                writes += 1;
            }
        }
        assert!((85..=96).contains(&writes), "{writes}");
    }
}
