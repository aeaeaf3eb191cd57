//! The validator and the reference interpreter, each against the other.
//!
//! A generated job is written twice: as a bundle, with its offsets as expressions over a parameter and a repeat's index,
//! and as a plan whose numbers are computed here. The validator judges the first, the reference runs the second. They
//! must agree: what passes never touches a byte outside, and what would is refused.

use std::cell::Cell;
use std::fmt::Write as _;

use bundle::reference::{self, ReferenceError};
use bundle::{
    Access, Argument, Bundle, ElementType, Launch, Operation, Parameters, Plan, PlannedBuffer, Scalar, View, pack,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A range of a buffer in elements; its offset moves by `stride` with each turn of the repeat.
#[derive(Clone, Debug)]
struct Piece {
    buffer: usize,
    offset: u64,
    stride: u64,
    elements: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Launch(Vec<(Piece, Access)>),
    Copy(Piece, Piece),
    Fill(Piece),
}

#[derive(Clone, Debug)]
struct Job {
    /// Type and number of elements; the last is the output.
    buffers: Vec<(ElementType, u64)>,
    /// Added to each offset as a parameter.
    shift: u32,
    turns: u64,
    steps: Vec<Step>,
}

fn piece(buffers: usize) -> impl Strategy<Value = Piece> {
    (0..buffers, 0u64..12, 0u64..3, 1u64..12).prop_map(|(buffer, offset, stride, elements)| Piece {
        buffer,
        offset,
        stride,
        elements,
    })
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![3 => Just(Access::Read), 1 => Just(Access::Write), 1 => Just(Access::ReadWrite)]
}

fn step(buffers: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec((piece(buffers), access()), 1..4).prop_map(Step::Launch),
        1 => (piece(buffers), piece(buffers)).prop_map(|(from, to)| {
            Step::Copy(from.clone(), Piece { elements: from.elements, stride: from.stride, ..to })
        }),
        1 => piece(buffers).prop_map(Step::Fill),
    ]
}

fn jobs() -> impl Strategy<Value = Job> {
    let element = prop::sample::select(vec![ElementType::U8, ElementType::F16, ElementType::F32, ElementType::I64]);
    let buffers = prop::collection::vec(12u64..36, 1..4);
    (element, buffers).prop_flat_map(|(element, sizes)| {
        let buffers: Vec<_> = sizes.into_iter().map(|elements| (element, elements)).collect();
        let steps = prop::collection::vec(step(buffers.len()), 1..4);
        (Just(buffers), 0u32..4, 0u64..5, steps).prop_map(|(buffers, shift, turns, steps)| Job {
            buffers,
            shift,
            turns,
            steps,
        })
    })
}

// === impl Job ===

impl Job {
    fn toml(&self) -> String {
        let mut toml = String::from(
            "format = 1\nname = \"job\"\n[[module]]\nname = \"code\"\nfile = \"code\"\nkind = \"ptx\"\nptx_isa = \"8.4\"\n\
             target = \"sm_75\"\nmin_driver = \"12.4\"\n[function.job]\ndeterminism = \"none\"\nseconds = 1\n\
             parameters.shift = { type = \"u32\", min = 0, max = 3 }\nparameters.turns = { type = \"u64\", min = 0, max = 4 }\n",
        );
        for (index, (element, elements)) in self.buffers.iter().enumerate() {
            let output =
                if index + 1 == self.buffers.len() { "output.as = \"base64\"\ninput.as = \"base64\"\n" } else { "" };
            write!(toml, "[function.job.buffers.b{index}]\ntype = \"{element}\"\nelements = {elements}\n{output}")
                .expect("a text");
        }
        toml.push_str("[[function.job.steps]]\nrepeat = \"turns\"\nindex = \"i\"\n");
        for step in &self.steps {
            toml.push_str("[[function.job.steps.steps]]\n");
            let offset = |piece: &Piece| format!("\"{} + i * {} + shift\"", piece.offset, piece.stride);
            let view = |piece: &Piece| {
                format!("buffer = \"b{}\", offset = {}, elements = {}", piece.buffer, offset(piece), piece.elements)
            };
            match step {
                Step::Launch(pieces) => {
                    let access = |access: &Access| serde_json::to_string(access).expect("a word");
                    let views =
                        pieces.iter().map(|(piece, how)| format!("{{ {}, access = {} }}", view(piece), access(how)));
                    let views = views.collect::<Vec<_>>().join(", ");
                    write!(toml, "launch = \"k{}\"\ngrid = [1]\nblock = [1]\narguments = [{views}]\n", pieces.len())
                }
                Step::Copy(from, to) => writeln!(
                    toml,
                    "copy = {{ from = \"b{}\", to = \"b{}\", from_offset = {}, to_offset = {}, elements = {} }}",
                    from.buffer,
                    to.buffer,
                    offset(from),
                    offset(to),
                    from.elements
                ),
                Step::Fill(piece) => writeln!(toml, "fill = {{ {}, value = 3 }}", view(piece)),
            }
            .expect("a text");
        }
        toml
    }

    /// What the validator says.
    fn planned(&self) -> Result<Plan, String> {
        let mut ptx = ".version 8.4\n.target sm_75\n.address_size 64\n".to_owned();
        for count in 1..4 {
            let parameters = vec![".param .u64 a"; count].join(",");
            writeln!(ptx, ".visible .entry k{count}({parameters}){{ret;}}").expect("a text");
        }
        let toml = self.toml();
        let archive = pack(&[("bundle.toml", toml.as_bytes()), ("code", ptx.as_bytes())]);
        let archive = archive.unwrap_or_else(|error| panic!("{error}\n{toml}"));
        let parsed = Bundle::parse(&archive).expect("what was packed is parsed");
        let pairs = [("shift", Scalar::U32(self.shift)), ("turns", Scalar::U64(self.turns))];
        let parameters: Parameters = pairs.into_iter().collect();
        parsed.function("job").expect("it is there").plan(&parameters).map_err(|error| error.to_string())
    }

    /// The same, computed here and checked by nobody.
    fn unchecked(&self) -> Plan {
        let buffers = self.buffers.iter().enumerate().map(|(index, (element, elements))| PlannedBuffer {
            name: format!("b{index}"),
            element: *element,
            elements: *elements,
            bytes: elements * element.bytes(),
            has_input: index + 1 == self.buffers.len(),
            has_output: index + 1 == self.buffers.len(),
        });
        let buffers: Vec<_> = buffers.collect();
        let mut operations = Vec::new();
        for turn in 0..self.turns {
            for step in &self.steps {
                let view = |piece: &Piece| {
                    let element = self.buffers[piece.buffer].0.bytes();
                    let offset = piece.offset + turn * piece.stride + u64::from(self.shift);
                    View { buffer: piece.buffer, offset_bytes: offset * element, bytes: piece.elements * element }
                };
                operations.push(match step {
                    Step::Launch(pieces) => Operation::Launch(Launch {
                        module: 0,
                        kernel: format!("k{}", pieces.len()),
                        grid: [1; 3],
                        block: [1; 3],
                        shared_bytes: 0,
                        arguments: pieces
                            .iter()
                            .map(|(piece, access)| Argument::View { view: view(piece), access: *access })
                            .collect(),
                    }),
                    Step::Copy(from, to) => Operation::Copy { from: view(from), to: view(to) },
                    Step::Fill(piece) => {
                        let element = self.buffers[piece.buffer].0;
                        let pattern = element.encode_integer(3).expect("3 fits all");
                        Operation::Fill { view: view(piece), pattern }
                    }
                });
            }
        }
        let vram_bytes = buffers.iter().map(|buffer| buffer.bytes.next_multiple_of(512)).sum();
        Plan { function: "job".to_owned(), buffers, operations, vram_bytes, seconds: 1, marks: Vec::new() }
    }
}

/// Reads all it may read and writes all it may write.
fn greedy(launch: &Launch, memory: &mut [Vec<u8>]) -> Result<(), String> {
    let mut sum = 1_u8;
    for argument in &launch.arguments {
        let Argument::View { view, access } = argument else { continue };
        let place = |bytes: u64| usize::try_from(bytes).map_err(|error| error.to_string());
        let range = place(view.offset_bytes)?..place(view.offset_bytes + view.bytes)?;
        let bytes = memory[view.buffer].get_mut(range).ok_or("a view is outside")?;
        sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
        if access.writes() {
            bytes.fill(sum);
        }
    }
    Ok(())
}

fn run(plan: &Plan) -> Result<Vec<u8>, ReferenceError> {
    let inputs = vec![1; usize::try_from(plan.input_bytes()).expect("small")];
    reference::run(plan, &inputs, &mut greedy)
}

#[test]
fn the_validator_and_the_reference_agree_on_every_generated_job() {
    let (accepted, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(3000) });
    let agreed = runner.run(&jobs(), |job| {
        let (plan, outcome) = (job.planned(), run(&job.unchecked()));
        prop_assert_eq!(plan.is_ok(), outcome.is_ok(), "{:?} but {:?}\n{}", plan, outcome, job.toml());
        match plan {
            Ok(plan) => {
                prop_assert_eq!(&plan, &job.unchecked());
                prop_assert_eq!(plan.check(), Ok(()));
                accepted.set(accepted.get() + 1);
            }
            Err(_) => {
                prop_assert!(job.unchecked().check().is_err());
                refused.set(refused.get() + 1);
            }
        }
        Ok(())
    });
    agreed.expect("they agree");
    // A generator of one sort only would show nothing.
    assert!(accepted.get() > 500 && refused.get() > 500, "{} accepted, {} refused", accepted.get(), refused.get());
}

/// A valid job of which one view is moved or stretched, by a little or by as much as 64 bits have.
#[test]
fn a_plan_that_was_tampered_with_is_refused_exactly_when_it_goes_outside() {
    let far = prop_oneof![16 => 0u64..24, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 7), 1 => Just(1 << 63), 1 => Just(1 << 40)];
    let strategy = (jobs(), any::<prop::sample::Index>(), far.clone(), far, any::<bool>());
    let (accepted, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, max_global_rejects: 100_000, ..Config::with_cases(2000) });
    let agreed = runner.run(&strategy, |(job, index, offset, elements, is_stretched)| {
        let mut plan = job.unchecked();
        prop_assume!(!plan.operations.is_empty() && plan.check().is_ok());
        let index = index.index(plan.operations.len());
        let element = job.buffers[0].0.bytes();
        let view = match &mut plan.operations[index] {
            Operation::Launch(launch) => match &mut launch.arguments[0] {
                Argument::View { view, .. } => view,
                Argument::Scalar(_) => return Ok(()),
            },
            Operation::Copy { to, .. } => to,
            Operation::Fill { view, .. } => view,
            Operation::Mark(_) => return Ok(()),
        };
        let tampered = |number: u64| number.checked_mul(element).unwrap_or(number / element * element);
        view.offset_bytes = tampered(offset);
        if is_stretched {
            view.bytes = tampered(elements.max(1));
        }
        let outcome = run(&plan);
        prop_assert_eq!(plan.check().is_ok(), outcome.is_ok(), "{:?} but {:?}", plan.check(), outcome);
        let count = if outcome.is_ok() { &accepted } else { &refused };
        count.set(count.get() + 1);
        Ok(())
    });
    agreed.expect("they agree");
    assert!(accepted.get() > 100 && refused.get() > 100, "{} accepted, {} refused", accepted.get(), refused.get());
}

#[test]
fn a_kernel_that_strays_is_caught_by_the_reference() {
    let job = Job {
        buffers: vec![(ElementType::U8, 16), (ElementType::U8, 16)],
        shift: 0,
        turns: 1,
        steps: vec![Step::Launch(vec![
            (Piece { buffer: 0, offset: 4, stride: 0, elements: 4 }, Access::Read),
            (Piece { buffer: 1, offset: 4, stride: 0, elements: 4 }, Access::Write),
        ])],
    };
    let plan = job.planned().expect("a plan");
    let check = |buffer: usize, byte: usize, is_stray: bool| {
        let outcome = reference::run(&plan, &[1; 16], &mut |_, memory| {
            memory[buffer][byte] = 99;
            Ok(())
        });
        let stray = ReferenceError::Stray { operation: 0, kernel: "k2".to_owned(), buffer, byte };
        assert_eq!(outcome.err(), is_stray.then_some(stray), "{buffer} {byte}");
    };
    check(1, 4, false);
    check(1, 7, false);
    check(1, 3, true);
    check(1, 8, true);
    check(0, 4, true);
    check(0, 0, true);
    let grown = reference::run(&plan, &[1; 16], &mut |_, memory| {
        memory[1].push(0);
        Ok(())
    });
    assert!(matches!(grown, Err(ReferenceError::Stray { byte: 16, .. })));
    let mut masked = Vec::new();
    let kept = reference::run(&plan, &[1; 16], &mut |_, memory| {
        masked = memory[1].clone();
        Ok(())
    });
    assert_eq!(masked, [vec![reference::MASK; 4], vec![1; 4], vec![reference::MASK; 8]].concat());
    assert_eq!(kept, Ok(vec![1; 16]));
    assert!(matches!(run_with(&plan, 15), Err(ReferenceError::Inputs { got: 15, expected: 16 })));
    assert!(matches!(run_with(&plan, 17), Err(ReferenceError::Inputs { got: 17, expected: 16 })));
}

fn run_with(plan: &Plan, bytes: usize) -> Result<Vec<u8>, ReferenceError> {
    reference::run(plan, &vec![0; bytes], &mut greedy)
}
