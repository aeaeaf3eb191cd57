//! Launch plans that must be refused (number 67 of the list), as archives with every byte in its place.
//!
//! `bundle::pack` refuses them, so each is laid over a good archive of the same length: what a stranger would send.

use anyhow::Result;
use bundle::{Bundle, Digest, Parameters, Scalar, pack};

use crate::backend::{Backend, Ended};
use crate::kit::Ask;
use crate::report::{Place, Row};

/// One plan.
pub(crate) struct Attack {
    pub(crate) what: &'static str,
    /// Steps and buffers of the function, or a whole manifest if it begins with `format`.
    body: String,
    parameters: Parameters,
}

/// Bytes of a tar header.
const HEADER: usize = 512;

/// A manifest that is good.
const GOOD: &str = r#"format = 1
name = "good"
description = "What the attacks are laid over"

[function.f]
determinism = "bitwise-any"
seconds = 5
parameters.n = { type = "u32", min = 1, max = 4294967295 }
parameters.x = { type = "f32" }
buffers.a = { type = "u32", elements = "1024", output = { to = "/a", as = "base64" } }
buffers.b = { type = "u32", elements = "n" }

[[function.f.steps]]
fill = { buffer = "a", value = 1 }
"#;

/// The end of [`GOOD`], which an attack replaces.
const STEP: &str = "[[function.f.steps]]\nfill = { buffer = \"a\", value = 1 }\n";

/// Every plan of the list, and whether the worker has to be asked too: what the validator refuses it refuses.
pub(crate) fn all() -> Vec<Attack> {
    let step = |what, steps: &str| Attack { what, body: GOOD.replace(STEP, steps), parameters: parameters(16, 1.0) };
    let text =
        |what, from: &str, to: &str| Attack { what, body: GOOD.replace(from, to), parameters: parameters(16, 1.0) };
    let given = |what, n, x| Attack { what, body: GOOD.to_owned(), parameters: parameters(n, x) };
    let mut attacks = vec![
        step(
            "a fill beyond its buffer",
            "[[function.f.steps]]\nfill = { buffer = \"a\", value = 1, offset = \"1000\", elements = \"25\" }\n",
        ),
        step(
            "a copy beyond its buffer",
            "[[function.f.steps]]\ncopy = { from = \"a\", to = \"b\", elements = \"1024\" }\n",
        ),
        step(
            "a copy onto itself",
            "[[function.f.steps]]\ncopy = { from = \"a\", to = \"a\", to_offset = \"1\", elements = \"1023\" }\n",
        ),
        step(
            "an offset that wraps around",
            "[[function.f.steps]]\nfill = { buffer = \"a\", value = 1, offset = \"0 - n\", elements = \"1\" }\n",
        ),
        step(
            "a product that overflows",
            "[[function.f.steps]]\nfill = { buffer = \"a\", value = 1, offset = \"n * 4294967295 * 4294967295 * 16\", elements = \"1\" }\n",
        ),
        step(
            "a division by zero",
            "[[function.f.steps]]\nfill = { buffer = \"a\", value = 1, elements = \"n / (n - n)\" }\n",
        ),
        step(
            "a kernel that nobody exports",
            "[[function.f.steps]]\nlaunch = \"g\"\ngrid = [\"1\"]\nblock = [\"1\"]\narguments = []\n",
        ),
        step(
            "a billion steps",
            "[[function.f.steps]]\nrepeat = 1000000000\n[[function.f.steps.steps]]\nfill = { buffer = \"a\", value = 1 }\n",
        ),
        step(
            "a billion steps by nesting",
            "[[function.f.steps]]\nrepeat = 1000\n[[function.f.steps.steps]]\nrepeat = 1000\n[[function.f.steps.steps.steps]]\nrepeat = 1000\n[[function.f.steps.steps.steps.steps]]\nfill = { buffer = \"a\", value = 1 }\n",
        ),
        step(
            "a repeat bounded by nothing but a stranger's number",
            "[[function.f.steps]]\nrepeat = \"n\"\n[[function.f.steps.steps]]\nfill = { buffer = \"a\", value = 1 }\n",
        ),
        text("a buffer of more bytes than there are", "\"1024\"", "\"18446744073709551615\""),
        text("a buffer of no elements", "\"1024\"", "\"0\""),
        text(
            "two outputs in one place",
            "elements = \"n\" }",
            "elements = \"n\", output = { to = \"/a\", as = \"base64\" } }",
        ),
        text("an input and an output that are each other's", "to = \"/a\"", "to = \"/../a\", from = \"/a\""),
        text("a path for a name", "name = \"good\"", "name = \"../../good\""),
        text(
            "a path for a module",
            "\n[function.f]\n",
            "\n[[module]]\nname = \"m\"\nfile = \"../../etc/passwd\"\nkind = \"cubin\"\ntarget = \"sm_90\"\nmin_driver = \"12.0\"\n\n[function.f]\n",
        ),
        text("a duplicate key", "seconds = 5", "seconds = 5\nseconds = 3600"),
        text("a duplicate function", "[[function.f.steps]]", "[function.f]\nseconds = 1\n[[function.f.steps]]"),
        text("a deadline without end", "seconds = 5", "seconds = 4294967295"),
        text("a format of tomorrow", "format = 1", "format = 2"),
        text("bounds that are not numbers", "{ type = \"f32\" }", "{ type = \"f32\", max = nan }"),
        given("a parameter that is not a number", 16, f32::NAN),
        given("an infinite parameter", 16, f32::INFINITY),
        given("a parameter below its bound", 0, 1.0),
    ];
    let wrong = [("n", Scalar::F32(16.0)), ("x", Scalar::F32(1.0))].into_iter().collect();
    attacks.push(Attack { what: "a parameter of another type", body: GOOD.to_owned(), parameters: wrong });
    let more = [("n", Scalar::U32(1)), ("x", Scalar::F32(1.0)), ("y", Scalar::U32(1))].into_iter().collect();
    attacks.push(Attack { what: "a parameter that nobody declared", body: GOOD.to_owned(), parameters: more });
    attacks
}

/// Every attack against the validator; then those that differ most, against a worker.
pub(crate) fn rows(backend: &mut Backend, with_workers: usize, rows: &mut Vec<Row>) -> Result<()> {
    let attacks = all();
    for attack in &attacks {
        let row = match attack.refusal()? {
            Some(why) => Row::checked(attack.what, Place::Host, true, why),
            None => Row::checked(attack.what, Place::Host, false, "the validator takes it"),
        };
        rows.push(row);
    }
    let place = backend.place();
    // Evenly spread over the list.
    let every = attacks.len().div_ceil(with_workers.max(1));
    for attack in attacks.iter().step_by(every) {
        let what = format!("{}, sent to a worker", attack.what);
        let ask = attack.ask()?;
        if !crate::worker::fits(&ask.parameters) {
            continue;
        }
        let outcome = backend.launch_warm(&ask)?;
        let holds = match &outcome.ended {
            Ended::Failed(failure) => failure.class == cuda::class::Class::BadBundle,
            Ended::Refused(_) => true,
            Ended::Ran(_) | Ended::Deadline | Ended::Gone(_) => false,
        };
        rows.push(Row::checked(what, place, holds, outcome.ended.words()));
    }
    Ok(())
}

// === impl Attack ===

impl Attack {
    /// What the validator says; nothing if it says nothing.
    fn refusal(&self) -> Result<Option<String>> {
        let bundle = match Bundle::parse(&self.archive()?) {
            Ok(bundle) => bundle,
            Err(error) => return Ok(Some(words(&error))),
        };
        let Some(function) = bundle.function("f") else { return Ok(Some("it has no function".to_owned())) };
        Ok(function.plan(&self.parameters).err().map(|error| words(&error)))
    }

    fn ask(&self) -> Result<Ask> {
        let archive = self.archive()?;
        Ok(Ask {
            digest: Digest::of(&archive),
            archive,
            function: "f".to_owned(),
            parameters: self.parameters.clone(),
            inputs: Vec::new(),
            output_bytes: 4096,
            cubins: Vec::new(),
            seconds: 20,
            scan: false,
        })
    }

    /// The manifest in the place of a good one of its length.
    fn archive(&self) -> Result<Vec<u8>> {
        let length = self.body.len().max(GOOD.len());
        let padded = |text: &str| format!("{text}{}", "\n".repeat(length - text.len()));
        let mut archive = pack(&[("bundle.toml", padded(GOOD).as_bytes())])?;
        archive[HEADER..HEADER + length].copy_from_slice(padded(&self.body).as_bytes());
        Ok(archive)
    }
}

fn parameters(n: u32, x: f32) -> Parameters {
    [("n", Scalar::U32(n)), ("x", Scalar::F32(x))].into_iter().collect()
}

/// An error and its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_attacks_are_laid_over_is_good() {
        let good = Attack { what: "good", body: GOOD.to_owned(), parameters: parameters(16, 1.0) };
        assert_eq!(good.refusal().expect("an archive"), None);
    }

    #[test]
    fn every_attack_changes_something_and_is_refused() {
        for attack in all() {
            assert!(attack.body != GOOD || attack.parameters != parameters(16, 1.0), "{}", attack.what);
            let why = attack.refusal().expect("an archive");
            assert!(why.is_some(), "{} is taken", attack.what);
            println!("{}: {}", attack.what, why.unwrap_or_default());
        }
    }
}
