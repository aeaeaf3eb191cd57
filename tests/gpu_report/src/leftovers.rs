//! What one job leaves to the next (number 57 of the list): all memory of the GPU, and what is on its multiprocessors.
//!
//! The first job runs where jobs run; the scan needs the worker's own protocol, which the runner gives to its canary only,
//! so the second job runs without a jail.

use anyhow::Result;
use bundle::Parameters;

use crate::backend::Outcome;
use crate::bench::Bench;
use crate::figures::float;
use crate::kit::Ask;
use crate::manifests::filled;
use crate::numbers::{counts, words};
use crate::report::{Place, Row};

/// What memory is filled with.
const CANARY: u32 = 0xC0FF_EE17;

/// Left free for the driver's own, in bytes: what a second context takes, and more.
const SPARED: u64 = 1536 << 20;

/// Buffers that the memory is taken in, at most; a function has 64.
const BUFFERS: u64 = 62;

/// Largest buffer.
const BUFFER_BYTES_MAX: u64 = 16 << 30;

/// Pages in which the driver hands out memory.
const PAGE: u64 = 2 << 20;

/// Shared memory of a block, in words: 48 KiB, which every GPU gives, and 227 KiB, which one of compute capability 9 has.
const SHARED_WORDS: [u32; 2] = [12_288, 58_112];

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    memory(bench, rows)?;
    for shared_words in SHARED_WORDS {
        rows.push(shared(bench, shared_words));
    }
    Ok(())
}

fn memory(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let place = bench.backend.place();
    let free = bench.unjailed.start()?.warm.vram_free_bytes;
    let (count, bytes) = split(free);
    let gib = float(bytes) * float(u64::try_from(count)?) / float(1 << 30);
    bench.say("filling all memory");
    let full = bench.kit.ready(filled(count, bytes, CANARY)?)?.ask("filled", Parameters::default(), Vec::new())?;
    let filler = bench.backend.launch_warm(&full)?;
    let wrote = filler.ended.ran().is_some() && words(&filler.outputs) == [CANARY];
    let share = 100.0 * gib * float(1 << 30) / float(free.max(1));
    let note = format!("{gib:.2} GiB in {count} buffers, {share:.1} % of what was free");
    let note = if wrote { note } else { filler.ended.words() };
    rows.push(Row::checked("job A fills the memory with a canary", place, wrote, note));

    bench.say("scanning all memory");
    let scanner = Ask { scan: true, ..bench.small_product()? }.within(120);
    let what = "job B finds no byte of it";
    match scan(bench, &scanner) {
        Ok(outcome) => {
            let ran = outcome.ran()?;
            let (scanned, dirty) = (ran.scanned_bytes, ran.dirty_bytes);
            let seconds = float(ran.timings.scan_us) / 1e6;
            let rate = float(scanned) / 1e9 / seconds.max(1e-9);
            let note = format!("{scanned} bytes scanned in {seconds:.2} s ({rate:.1} GB/s), {dirty} not zero");
            rows.push(Row::checked(what, Place::OutsideTheJail, wrote && dirty == 0 && scanned > 0, note));
        }
        Err(error) => rows.push(Row::not_run(what, Place::OutsideTheJail, format!("{error:#}"))),
    }
    Ok(())
}

fn scan(bench: &mut Bench, scanner: &Ask) -> Result<Outcome> {
    bench.unjailed.settle()?;
    bench.unjailed.launch(scanner)
}

/// How many buffers of how many bytes take nearly all of this memory.
fn split(free: u64) -> (usize, u64) {
    // On a GPU with little memory a sixteenth is enough to spare.
    let usable = free - SPARED.min(free / 16);
    let each = (usable / BUFFERS / PAGE * PAGE).clamp(PAGE, BUFFER_BYTES_MAX);
    let count = (usable / each).min(BUFFERS);
    (usize::try_from(count).unwrap_or(0), each)
}

/// One job writes into shared memory, the next reads what is there.
fn shared(bench: &mut Bench, shared_words: u32) -> Row {
    let what = format!("shared memory of the job before, {} KiB a block", shared_words / 256);
    let place = bench.backend.place();
    let mut run = |kernel| -> Result<Outcome> {
        let ask = bench.fault(kernel, counts(&[("words", shared_words)]))?;
        bench.backend.launch_warm(&ask)
    };
    let (wrote, read) = match (run("shared_write"), run("shared_read")) {
        (Ok(wrote), Ok(read)) => (wrote, read),
        (Err(error), _) | (_, Err(error)) => return Row::not_run(what, place, format!("{error:#}")),
    };
    if wrote.ended.is_unknown_kernel() || read.ended.is_unknown_kernel() {
        return Row::not_run(what, place, "unknown kernel");
    }
    if let Some(bad) = [&wrote, &read].into_iter().find(|outcome| outcome.ended.ran().is_none()) {
        return Row::not_run(what, place, bad.ended.words());
    }
    let found = words(&read.outputs);
    let sum = |words: &[u32]| words.iter().copied().map(u64::from).sum::<u64>();
    let (canaries, dirty) = found.split_at(found.len() / 2);
    let (canaries, dirty) = (sum(canaries), sum(dirty));
    let note = format!("{canaries} words of the canary, {dirty} words that are not zero, in 512 blocks");
    Row::checked(what, place, canaries == 0, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_memory_is_taken_whatever_there_is() {
        for free in [96 << 20, 1 << 30, 8 << 30, 24 << 30, 141 << 30, 1000 << 30_u64] {
            let (count, bytes) = split(free);
            let taken = bytes * u64::try_from(count).expect("few");
            let spared = SPARED.min(free / 16);
            assert!(count >= 1 && taken <= free - spared, "{free}");
            assert!(bytes.is_multiple_of(PAGE) && bytes <= BUFFER_BYTES_MAX, "{free}");
            if free <= 900 << 30 {
                assert!(free - spared - taken <= BUFFERS * PAGE, "{free}: {taken}");
            }
        }
    }
}
