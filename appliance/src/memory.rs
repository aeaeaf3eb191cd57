//! When this machine is short of memory: what the kernel says of it, looked at from time to time.
//!
//! Either sign is enough: little is left, or processes wait for memory. A single look says little, because a container
//! that loads a model takes much for a moment; [`LOOKS`] in a row are a shortage, and it is told once, until the next
//! one has been seen from its beginning. What follows is the book's to decide.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use work::News;

use crate::provider::Parcel;

/// Time between two looks. Source: the kernel's shortest average of pressure is over ten seconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks in a row that make a shortage.
const LOOKS: u32 = 3;

/// The least that is left, in KiB, whatever the machine has.
const LEFT_MIN_KB: u64 = 512 * 1024;

/// The least that is left, in per cent of what the machine has.
const LEFT_MIN_PERCENT: u64 = 6;

/// The most per cent of the last ten seconds in which some process waited for memory.
const PRESSURE_MAX_PERCENT: f64 = 20.0;

/// Looks until `stop`, and tells `desk` of each shortage.
pub async fn watch(desk: mpsc::Sender<Parcel>, stop: CancellationToken) {
    let mut looks = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        looks = if is_short_now(Path::new("/proc")) { looks + 1 } else { 0 };
        if looks < LOOKS {
            continue;
        }
        looks = 0;
        warn!("memory is short");
        let (done, durable) = oneshot::channel();
        let parcel = Parcel::Seen { news: vec![News::MemoryShort], cursor: None, done };
        if desk.send(parcel).await.is_err() || durable.await.is_err() {
            return;
        }
    }
}

/// What `proc` says at this moment. What a kernel does not say is no shortage.
fn is_short_now(proc: &Path) -> bool {
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    is_little_left(&read("meminfo")) || is_pressed(&read("pressure/memory"))
}

/// What `/proc/meminfo` says of `key`, in KiB.
pub(crate) fn kib(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_little_left(meminfo: &str) -> bool {
    let (Some(all), Some(left)) = (kib(meminfo, "MemTotal"), kib(meminfo, "MemAvailable")) else { return false };
    left < LEFT_MIN_KB.max(all.saturating_mul(LEFT_MIN_PERCENT) / 100)
}

fn is_pressed(pressure: &str) -> bool {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "));
    let avg10 = some.and_then(|line| line.split_whitespace().find_map(|word| word.strip_prefix("avg10=")));
    avg10.and_then(|percent| percent.parse::<f64>().ok()).is_some_and(|percent| percent > PRESSURE_MAX_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_left_below_half_a_gigabyte_or_a_share_of_the_whole() {
        for (all_kib, left_kib, is_little) in [
            (8 << 20, 600 << 10, false),
            (8 << 20, 500 << 10, true),
            (1 << 20, 511 << 10, true),
            (64 << 20, 4 << 20, false),
            (64 << 20, 3 << 20, true),
        ] {
            let text = format!("MemTotal: {all_kib} kB\nMemFree: 1 kB\nMemAvailable:   {left_kib} kB\n");
            assert_eq!(is_little_left(&text), is_little, "{text}");
        }
        for text in ["", "MemTotal: 8 kB\n", "MemTotal: x kB\nMemAvailable: y kB\n"] {
            assert!(!is_little_left(text), "{text}");
        }
    }

    #[test]
    fn processes_that_wait_for_memory_are_a_sign_and_a_kernel_without_that_figure_gives_none() {
        let text = |percent: &str| {
            format!(
                "some avg10={percent} avg60=90.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"
            )
        };
        assert!(is_pressed(&text("20.01")) && is_pressed(&text("99.00")));
        assert!(!is_pressed(&text("20.00")) && !is_pressed(&text("0.00")) && !is_pressed(&text("nan")));
        assert!(!is_pressed("") && !is_pressed("full avg10=99.00\n"));
    }

    #[test]
    fn this_machine_can_be_asked() {
        let meminfo = std::fs::read_to_string("/proc/meminfo").expect("the kernel says");
        assert!(meminfo.contains("MemTotal:") && meminfo.contains("MemAvailable:"));
        assert!(!is_short_now(Path::new("/nonexistent")));
    }
}
