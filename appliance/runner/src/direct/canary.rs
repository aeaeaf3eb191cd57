//! The job that a GPU must do right before it is offered: memory filled, copied and read back, with all free memory
//! scanned for what an earlier job left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bundle::{Bundle, Parameters};
use cuda::messages::{Done, Job};
use runner::memory;

use super::job::{self, Ended, Given};
use super::worker::Worker;

/// A bundle without a kernel, so that it needs no compiler.
const MANIFEST: &str = r#"format = 1
name = "canary"
description = "What a GPU must do right before it is offered"

[function.sing]
determinism = "bitwise-any"
seconds = 60

[function.sing.buffers.first]
type = "u32"
elements = "262144"
input = { from = "/first", as = "base64" }

[function.sing.buffers.second]
type = "u32"
elements = "262144"
output = { to = "/second", as = "base64" }

[function.sing.buffers.third]
type = "u32"
elements = "262144"
output = { to = "/third", as = "base64" }

[[function.sing.steps]]
fill = { buffer = "third", value = 2779096485 }

[[function.sing.steps]]
copy = { from = "first", to = "second", elements = "262144" }

[[function.sing.steps]]
copy = { from = "second", to = "third", from_offset = "131072", to_offset = "131072", elements = "131072" }
"#;

/// Words of each buffer.
const WORDS: u32 = 262_144;

/// What `third` is filled with.
const FILL: u32 = 2_779_096_485;

/// How long it may take besides the scan.
const WITHIN: Duration = Duration::from_secs(60);

/// Bytes per second at which the scan reads all of the memory at least: half of what a slot of one lane of the first
/// generation carries, in which many a rig has its GPUs.
const SCAN_BYTES_PER_S: u64 = 100_000_000;

/// The canary's bundle and inputs, in sealed memory.
#[derive(Debug)]
pub(super) struct Canary {
    archive: OwnedFd,
    inputs: OwnedFd,
    digest: bundle::Digest,
    expected: Vec<u8>,
}

// === impl Canary ===

impl Canary {
    pub(super) fn new() -> io::Result<Self> {
        let archive = bundle::pack(&[("bundle.toml", MANIFEST.as_bytes())]).map_err(io::Error::other)?;
        let digest = Bundle::parse(&archive).map_err(io::Error::other)?.digest();
        let first: Vec<u8> = (0..WORDS).flat_map(|word| mixed(word).to_le_bytes()).collect();
        let half = first.len() / 2;
        let mut expected = first.clone();
        expected.extend(FILL.to_le_bytes().iter().cycle().take(half));
        expected.extend(&first[half..]);
        let sealed = |what, bytes: &[u8]| memory::sealed(what, bytes).map_err(io::Error::other);
        Ok(Self { archive: sealed("the canary", &archive)?, inputs: sealed("its inputs", &first)?, digest, expected })
    }

    /// Has `worker` do it on a GPU of `vram_bytes`; answers how many bytes of an earlier job were found. `meanwhile` is
    /// called while it lasts.
    ///
    /// Errors: what went wrong, in words.
    pub(super) fn sing(&self, worker: &Worker, vram_bytes: u64, mut meanwhile: impl FnMut()) -> Result<u64, String> {
        let within = WITHIN + Duration::from_secs(vram_bytes / SCAN_BYTES_PER_S);
        let parameters = Parameters::default();
        let job = Job { bundle: self.digest, function: "sing".to_owned(), parameters, scan: true };
        let output_bytes = self.expected.len() as u64;
        let fds = vec![self.archive.as_fd(), self.inputs.as_fd()];
        let given = Given { job, fds, output_bytes, within };
        let performed = job::perform(worker, &given, || {
            meanwhile();
            None
        });
        let (ended, outputs) = performed.map_err(|refusal| refusal.to_string())?;
        let ran = match ended {
            Ended::Answered(Done::Ran(ran)) => ran,
            Ended::Answered(Done::Failed(failure)) => {
                return Err(format!("the canary failed at {}: {} {}", failure.during, failure.name, failure.detail));
            }
            Ended::Deadline => return Err(format!("the canary took longer than {} s", within.as_secs())),
            Ended::Killed(why) => return Err(why),
            Ended::Died(exit) => return Err(format!("the canary's worker ended: {exit:?}")),
        };
        let read = memory::seal("outputs", &outputs).and_then(|()| memory::read("outputs", outputs, output_bytes));
        let found = read.map_err(|error| super::words(&error))?;
        let wrong = found.iter().zip(&self.expected).filter(|(found, expected)| found != expected).count();
        if wrong > 0 || found.len() != self.expected.len() {
            return Err(format!("the canary came back with {wrong} wrong bytes of {}", self.expected.len()));
        }
        Ok(ran.dirty_bytes)
    }
}

/// A word in which every bit depends on every bit of its number (the finaliser of MurmurHash3).
fn mixed(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x85EB_CA6B);
    word ^= word >> 13;
    word = word.wrapping_mul(0xC2B2_AE35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_is_a_valid_bundle_and_the_reference_gives_what_is_expected_of_it() {
        let canary = Canary::new().expect("a canary");
        let archive = memory::read("it", canary.archive, 1 << 20).expect("its archive");
        let bundle = Bundle::parse(&archive).expect("valid");
        let plan = bundle.function("sing").expect("it sings").plan(&Parameters::default()).expect("a plan");
        let inputs = memory::read("inputs", canary.inputs, 1 << 21).expect("its inputs");
        let outputs = bundle::reference::run(&plan, &inputs, &mut |_, _| Ok(())).expect("it runs");
        assert_eq!(outputs, canary.expected);
    }
}
