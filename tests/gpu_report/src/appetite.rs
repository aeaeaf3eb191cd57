//! Jobs that take all there is (numbers 60 to 62 of the list): memory, lines, heap, launches, the compiler's patience.

use anyhow::Result;
use bundle::Parameters;
use cuda::class::Class;

use crate::backend::{Ended, Outcome};
use crate::bench::Bench;
use crate::figures::{float, ms};
use crate::kit::Ask;
use crate::manifests::{filled, one_kernel};
use crate::numbers::{counts, words};
use crate::report::{Place, Row};

/// Launches of one job, as many as a plan may have of them besides its other operations.
const STORM: u32 = 65_000;

/// Arms of a jump table that the compiler is given.
const ARMS: usize = 20_000;

/// How many times a module is broken in another place.
const BROKEN: usize = 16;

pub(crate) fn rows(bench: &mut Bench, rows: &mut Vec<Row>) -> Result<()> {
    let place = bench.backend.place();
    rows.extend([
        huge(bench, "more memory than any GPU has, in 63 buffers of 16 GiB", 63, 16 << 30),
        Row::not_run("pinning all memory of the host", place, "a bundle has no step that takes memory of the host"),
        Row::not_run("a bomb of graphs", place, "a bundle has no graphs; its plan is bounded"),
        nested(bench),
    ]);
    rows.extend(kernel(bench, "printing", counts(&[("lines", 4000)]), |outcome| {
        let said = matches!(outcome.ended, Ended::Ran(_) | Ended::Deadline);
        (said, "65 million lines, to a standard output that nobody keeps".to_owned())
    }));
    rows.extend(kernel(bench, "heap", Parameters::default(), |outcome| {
        let found = words(&outcome.outputs);
        let pieces = found.first().copied().unwrap_or_default();
        let ended = matches!(found.get(1), Some(1)) && pieces < 65_536;
        (ended, format!("malloc gave {pieces} pieces of 64 KiB, then none"))
    }));
    let storm = if bench.is_small { 100 } else { STORM };
    rows.extend(kernel(bench, "nothing", counts(&[("count", storm)]), |outcome| {
        let took = outcome.ended.ran().map_or(0, |ran| ran.timings.run_us);
        let rate = float(u64::from(storm)) / (ms(took).max(1e-3) / 1e3);
        (took > 0, format!("{storm} launches in {:.1} ms: {rate:.0} a second; a plan has no more", ms(took)))
    }));
    rows.push(bomb(bench));
    rows.push(broken(bench));
    let next = bench.small_product()?;
    let works = bench.backend.launch_warm(&next)?;
    rows.push(Row::checked("after all of it: the next job", place, works.ended.ran().is_some(), works.ended.words()));
    Ok(())
}

/// A job for more memory than there is.
fn huge(bench: &mut Bench, what: &str, count: usize, bytes: u64) -> Row {
    let place = bench.backend.place();
    let mut ended = || -> Result<Outcome> {
        let ask = bench.kit.ready(filled(count, bytes, 1)?)?.ask("filled", Parameters::default(), Vec::new())?;
        bench.backend.launch_warm(&ask)
    };
    match ended() {
        Ok(outcome) => {
            let holds = matches!(&outcome.ended, Ended::Failed(failure) if failure.class == Class::OutOfMemory);
            Row::checked(what, place, holds, outcome.ended.words())
        }
        Err(error) => Row::not_run(what, place, format!("{error:#}")),
    }
}

/// A kernel of the bundle of faults that ends well, and what must hold of it.
fn kernel(
    bench: &mut Bench,
    name: &str,
    parameters: Parameters,
    holds: impl FnOnce(&Outcome) -> (bool, String),
) -> Vec<Row> {
    bench.say(name);
    let place = bench.backend.place();
    let launched = bench.fault(name, parameters).and_then(|ask| bench.backend.launch_warm(&ask));
    let row = match launched {
        Err(error) => Row::not_run(name, place, format!("{error:#}")),
        Ok(outcome) if outcome.ended.is_unknown_kernel() => Row::not_run(name, place, "unknown kernel"),
        Ok(outcome) => {
            let (holds, note) = holds(&outcome);
            let ended = if outcome.ended.ran().is_some() { String::new() } else { outcome.ended.words() };
            Row::checked(name, place, holds, note).with_note(ended)
        }
    };
    vec![row]
}

/// What the build said to a kernel that starts kernels.
fn nested(bench: &Bench) -> Row {
    let what = "a kernel that starts kernels";
    match bench.kit.said("nested.txt") {
        Some(said) if said.contains("does not compile") => Row::checked(what, Place::Host, true, clipped(&said)),
        Some(said) => Row::checked(what, Place::Host, false, clipped(&said)),
        None => Row::not_run(what, Place::Host, "the kit was built without trying"),
    }
}

/// PTX with a jump table of many arms: taken or refused in time, and by a process without a GPU.
fn bomb(bench: &Bench) -> Row {
    let arms = if bench.is_small { 200 } else { ARMS };
    let what = format!("PTX with a jump of {arms} arms");
    bench.say(&what);
    let place = bench.backend.place();
    match bench.backend.compile(&bench.kit, jump_table(arms).as_bytes()) {
        Ok((code, took)) => {
            let note = format!("{} bytes of machine code after {:.1} s, without a GPU", code.len(), took.as_secs_f64());
            Row::checked(what, place, true, note)
        }
        Err(error) if format!("{error:#}").contains("there is no linker") => {
            Row::not_run(what, place, format!("{error:#}"))
        }
        Err(error) => Row::checked(what, place, true, clipped(&format!("{error:#}"))),
    }
}

fn jump_table(arms: usize) -> String {
    let labels: Vec<String> = (0..arms).map(|arm| format!("L{arm}")).collect();
    let arm =
        |(at, label): (usize, &String)| format!("{label}:\n  mul.lo.u32 %r2, %r2, {};\n  bra.uni END;\n", at * 2 + 3);
    let body: String = labels.iter().enumerate().map(arm).collect();
    format!(
        ".version 8.0\n.target sm_75\n.address_size 64\n\n.visible .entry jump(.param .u64 out)\n{{\n  .reg .b32 %r<4>;\n  \
         .reg .b64 %d<2>;\n  ld.param.u64 %d1, [out];\n  ld.global.u32 %r1, [%d1];\n  mov.u32 %r2, %r1;\n  \
         ts: .branchtargets {};\n  brx.idx %r1, ts;\n{body}END:\n  st.global.u32 [%d1], %r2;\n  ret;\n}}\n",
        labels.join(", ")
    )
}

/// Machine code broken in many places. Each must come to an end of its own or at its deadline; that nothing is left of it
/// is what the next job shows.
fn broken(bench: &mut Bench) -> Row {
    let place = bench.backend.place();
    let places = match place {
        // After a failure that may be the GPU's, the runner has all memory scanned.
        Place::Jail => bench.rounds(BROKEN / 4),
        Place::OutsideTheJail | Place::Beside | Place::Host => bench.rounds(BROKEN),
    };
    let what = format!("machine code broken in {places} places");
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let mut tried = || -> Result<()> {
        let code = bench.faulty_code()?;
        for place in 0..places {
            if !bench.has_time() {
                break;
            }
            let mut code = code.clone();
            let at = 64 + (code.len() - 64) * place / places;
            let end = code.len().min(at + 24);
            code[at..end].fill(0xa5);
            // What the parser takes, a worker must survive; what it refuses never comes so far.
            let ask = one_kernel("trap", &code, bench.kit.arch())
                .and_then(|archive| bench.kit.ready(archive)?.ask("trap", Parameters::default(), Vec::new()));
            let word = match ask.map(Ask::in_short) {
                Err(_) => "refused by the parser".to_owned(),
                Ok(ask) => match bench.backend.launch_warm(&ask)?.ended {
                    Ended::Failed(failure) => format!("{:?}", failure.class),
                    Ended::Ran(_) => "ran".to_owned(),
                    Ended::Deadline => "killed at its deadline".to_owned(),
                    Ended::Refused(_) => "refused by the runner".to_owned(),
                    // The driver's own parser may fall; the process that falls holds one job.
                    Ended::Gone(_) => "the worker died".to_owned(),
                },
            };
            *seen.entry(word).or_default() += 1;
        }
        Ok(())
    };
    let tried = tried();
    let words: Vec<String> = seen.iter().map(|(word, count)| format!("{count} {word}")).collect();
    match tried {
        Ok(()) if seen.is_empty() => Row::not_run(what, place, "there was no time left"),
        Ok(()) => Row::checked(what, place, true, words.join(", ")),
        Err(error) => Row::not_run(what, place, format!("{error:#}")),
    }
}

// === impl Ask ===

impl Ask {
    /// Within 5 seconds: nothing that is broken may keep a GPU long.
    fn in_short(self) -> Self {
        self.within(5)
    }
}

/// The first lines of what a compiler said.
fn clipped(text: &str) -> String {
    let text: String =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>().join(" ");
    text.chars().take(240).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_table_has_as_many_arms_as_it_says() {
        let text = jump_table(5);
        assert_eq!(text.matches("bra.uni").count(), 5);
        assert!(text.contains(".branchtargets L0, L1, L2, L3, L4;"), "{text}");
    }

    #[test]
    fn a_compiler_s_words_are_cut() {
        assert_eq!(clipped("a\n\n  b\nc\nd"), "a b c");
        assert_eq!(clipped(&"x".repeat(900)).len(), 240);
    }
}
