//! How fast bytes move within the GPU, and between it and the host. For the owner's own benchmark; no job runs here.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use cuda::messages::{DETAIL_BYTES_MAX, Measured, Measuring, clipped};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::Outcome;
use crate::driver::{Driver, Event, Refused, Stream};
use crate::roles::gpu::hint;
use crate::socket;

/// How often each copy is timed. Odd, so that there is a median.
const ROUNDS: usize = 7;

/// Bytes of a copy, if a quarter of the free memory is not less. Many times what a cache holds.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// Copies are of whole pages.
const COPY_BYTES_STEP: u64 = 2 << 20;

/// Sends a [`Measuring`] to whoever started this with a socket, and prints a [`Measured`] for anybody else.
pub(crate) fn run(inherited: Option<&OwnedFd>) -> anyhow::Result<Outcome> {
    // What a shell left open there is none.
    let runner = inherited.filter(|fd| socket_type(fd) == Ok(SocketType::SEQPACKET));
    let Some(runner) = runner else { return print() };
    let (word, outcome) = match begin().and_then(|driver| measure(&driver)) {
        Ok(measured) => (Measuring::Measured(measured), Outcome::Done),
        Err(error) => {
            let why = clipped(&format!("{error:#}"), DETAIL_BYTES_MAX).to_owned();
            (Measuring::Failed { why }, Outcome::JobFailed)
        }
    };
    socket::send(runner, &word).context("tell what was measured")?;
    Ok(outcome)
}

fn print() -> anyhow::Result<Outcome> {
    let driver = match begin() {
        Ok(driver) => driver,
        Err(error) => {
            eprintln!("rig-cuda: {error:#}");
            return Ok(Outcome::NoDriver);
        }
    };
    println!("{}", serde_json::to_string_pretty(&measure(&driver)?)?);
    Ok(Outcome::Done)
}

fn begin() -> anyhow::Result<Driver> {
    let driver = Driver::load()?;
    if let Err(refused) = driver.init() {
        let hint = hint(refused.code).unwrap_or("begin with the driver");
        return Err(anyhow::Error::new(refused).context(hint));
    }
    Ok(driver)
}

fn measure(driver: &Driver) -> anyhow::Result<Measured> {
    driver.enter(driver.device(0)?).context("make a context")?;
    let stream = driver.stream()?;
    let timer = Timer { driver, stream, begin: driver.event()?, end: driver.event()? };
    let (free, _) = driver.memory()?;
    let bytes = (free / 4).min(COPY_BYTES_MAX) / COPY_BYTES_STEP * COPY_BYTES_STEP;
    anyhow::ensure!(bytes > 0, "{free} bytes of memory are free, too few to measure anything; end what else runs");

    let mut host = driver.pinned(usize::try_from(bytes)?).context("pin memory of the host")?;
    let len = host.len();
    let from = driver.allocate(bytes).context("allocate what is copied")?;
    let to = driver.allocate(bytes).context("allocate what is copied to")?;
    driver.fill_8(from, 0x5a, bytes, stream)?;

    let within = timer.median_ms(|_| driver.copy(from, to, bytes, stream))?;
    let there = timer.median_ms(|done| driver.upload(&host, to, len, stream, done))?;
    let back = timer.median_ms(|done| driver.download(from, &mut host, len, stream, done))?;
    Ok(Measured {
        device_copy_gb_s: gb_s(bytes.saturating_mul(2), within),
        host_to_device_gb_s: gb_s(bytes, there),
        device_to_host_gb_s: gb_s(bytes, back),
        copied_bytes: bytes,
    })
}

/// Times copies by the device's own clock.
struct Timer<'a> {
    driver: &'a Driver,
    stream: Stream,
    begin: Event,
    end: Event,
}

// === impl Timer ===

impl Timer<'_> {
    /// The median of [`ROUNDS`], after one that is not counted. `copy` may put the event that it is given at its end.
    fn median_ms(&self, mut copy: impl FnMut(Event) -> Result<(), Refused>) -> Result<f64, Refused> {
        let mut times = [0.0; ROUNDS];
        for round in 0..=ROUNDS {
            self.driver.record(self.begin, self.stream)?;
            copy(self.end)?;
            self.driver.record(self.end, self.stream)?;
            self.driver.drain(self.stream)?;
            if let Some(time) = round.checked_sub(1).and_then(|round| times.get_mut(round)) {
                *time = self.driver.elapsed_ms(self.begin, self.end)?;
            }
        }
        Ok(median(times))
    }
}

fn median(mut times: [f64; ROUNDS]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// 10⁹ bytes per second; 0 for a time that the clock could not tell.
#[expect(clippy::cast_precision_loss, reason = "a rate of at most 2^30 bytes is exact")]
fn gb_s(bytes: u64, ms: f64) -> f64 {
    if ms > 0.0 { bytes as f64 / ms / 1e6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bytes_by_time() {
        let check = |bytes, ms, expected: f64| assert!((gb_s(bytes, ms) - expected).abs() < 1e-9, "{bytes} in {ms}");
        check(1_000_000_000, 1000.0, 1.0);
        check(1 << 28, 1.0, 268.435_456);
        check(1 << 28, 0.0, 0.0);
    }

    #[test]
    fn one_slow_copy_does_not_count() {
        assert!((median([1.0, 9.0, 1.5, 2.0, 0.5, 90.0, 1.2]) - 1.5).abs() < f64::EPSILON);
    }
}
