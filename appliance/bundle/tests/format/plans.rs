//! Plans: what the example becomes, and functions that cannot be with some parameters.

use bundle::{Argument, Operation, Parameters, Scalar};

use crate::example::{TOML, function, parsed, with};

fn parameters(pairs: &[(&str, Scalar)]) -> Parameters {
    pairs.iter().copied().collect()
}

fn check(toml: &str, pairs: &[(&str, Scalar)], expected: &str) {
    match function(toml).plan(&parameters(pairs)) {
        Ok(plan) => panic!("planned {plan:?}, but expected: {expected}"),
        Err(error) => {
            let words = error.to_string();
            assert!(words.contains(expected), "{words}\n  does not say\n{expected}");
        }
    }
}

fn table(cases: &[(&str, &str, &str)]) {
    for (old, new, expected) in cases {
        check(&with(old, new), &[], expected);
    }
}

#[test]
fn parameters_are_checked_again() {
    check(TOML, &[("count", Scalar::U32(0))], "parameter count: u32 0 is below the least, u32 1");
    check(TOML, &[("count", Scalar::U32(4097))], "parameter count: u32 4097 is above the greatest, u32 4096");
    check(TOML, &[("count", Scalar::U64(4))], "parameter count: it is u32, not u64");
    check(TOML, &[("factor", Scalar::F32(f32::NAN))], "parameter factor: it is a finite number");
    check(TOML, &[("factor", Scalar::F32(f32::INFINITY))], "parameter factor: it is a finite number");
    check(TOML, &[("factor", Scalar::F32(-8.5))], "parameter factor: f32 -8.5 is below the least");
    check(TOML, &[("tint", Scalar::I32(-6))], "parameter tint: i32 -6 is below the least");
    check(TOML, &[("cuont", Scalar::U32(1))], "parameter cuont: unknown name `cuont`, did you mean `count`?");
    check(&with("default = 4\n", ""), &[], "parameter count: it is missing");
}

#[test]
fn buffers_that_are_too_large_or_empty_are_refused() {
    table(&[
        (
            "elements = \"2 * count\"",
            "elements = \"count - 4\"",
            "function.scale.buffers.twins.elements: a buffer has at least",
        ),
        (
            "elements = \"2 * count\"",
            "elements = \"count - 5\"",
            "function.scale.buffers: expression `count - 5` goes below zero",
        ),
        ("elements = \"2 * count\"", "elements = \"count / (count - 4)\"", "divides by zero"),
        ("elements = \"2 * count\"", "elements = \"4611686018427387904 * count\"", "overflows 64 bits"),
        ("elements = \"2 * count\"", "elements = \"4611686018427387904\"", "more than 17179869184 bytes"),
        ("elements = \"2 * count\"", "elements = \"18446744073709551615\"", "more than 17179869184 bytes"),
        ("elements = \"2 * count\"", "elements = \"4294967297\"", "more than 17179869184 bytes"),
        ("elements = \"2 * count\"", "elements = \"1000\"", "they take 5120 bytes, `vram_bytes` is 1600"),
        ("\"3 * 512 + 16 * count\"", "1535", "they take 1536 bytes, `vram_bytes` is 1535"),
        ("width = \"count\"", "width = \"count + 1\"", "image of `picture`: 5 x 2 x 3 is not 24 elements"),
        ("width = \"count\"", "width = \"0\"", "image of `picture`: `0` is 0, not 1 to 16384"),
        ("width = \"count\"", "width = \"16385\"", "image of `picture`: `16385` is 16385, not 1 to 16384"),
    ]);
}

#[test]
fn launches_that_no_gpu_can_have_are_refused() {
    table(&[
        ("grid = [\"1\"]", "grid = [0]", "steps[5].grid[0]: 0 is not in 1 to 2147483647"),
        ("grid = [\"1\"]", "grid = [2147483648]", "steps[5].grid[0]: 2147483648 is not in 1 to 2147483647"),
        ("grid = [\"1\"]", "grid = [1, 65536]", "steps[5].grid[1]: 65536 is not in 1 to 65535"),
        ("grid = [\"1\"]", "grid = [1, 1, 65536]", "steps[5].grid[2]: 65536 is not in 1 to 65535"),
        ("grid = [\"1\"]", "grid = [4294967297]", "expression `4294967297` is 4294967297, too large"),
        ("grid = [\"1\"]", "grid = [2147483647, 65535, 65535]", "steps[5].grid: grid and block make more than"),
        ("grid = [\"1\"]", "grid = [\"count - 5\"]", "steps[5]: expression `count - 5` goes below zero"),
        ("block = [\"32\"]", "block = [0]", "steps[5].block[0]: 0 is not in 1 to 1024"),
        ("block = [\"32\"]", "block = [1025]", "steps[5].block[0]: 1025 is not in 1 to 1024"),
        ("block = [\"32\"]", "block = [1, 1, 65]", "steps[5].block[2]: 65 is not in 1 to 64"),
        ("block = [\"32\"]", "block = [32, 33]", "steps[5].block: a block has at most 1024 threads"),
        ("block = [\"32\"]", "block = [1024, 1024, 64]", "steps[5].block: a block has at most 1024 threads"),
        (
            "block = [\"32\"]",
            "block = [32]\nshared_bytes = 232449",
            "steps[5].shared_bytes: 232449 is more than 232448",
        ),
        ("type = \"u32\" },\n]", "type = \"u32\" },\n]\nshared_bytes = \"count - 5\"", "goes below zero"),
        ("\"count - min(i, 1) * 0\"", "\"4294967296\"", "steps[1].steps[0]: 4294967296 does not fit u32"),
        (
            "{ value = \"tint\", type = \"i32\" }",
            "{ value = \"count + 2147483647\", type = \"i32\" }",
            "does not fit i32",
        ),
    ]);
}

#[test]
fn views_that_leave_their_buffers_or_overlap_are_refused() {
    let twins = "{ buffer = \"twins\", access = \"read\", offset = \"count\", elements = \"count\" }";
    let view = |view: &str, expected: &str| check(&with(twins, view), &[], expected);
    let leaves = "function.scale.steps[3].arguments[1]: 4 elements from 5 leave `twins`, which has 8";
    view("{ buffer = \"twins\", access = \"read\", offset = 5, elements = \"count\" }", leaves);
    view("{ buffer = \"twins\", access = \"read\", elements = 9 }", "9 elements from 0 leave `twins`");
    view("{ buffer = \"twins\", access = \"read\", offset = 9 }", "steps[3]: it leaves `twins`, which has 8");
    view("{ buffer = \"twins\", access = \"read\", offset = 8 }", "a view of `twins` has at least one element");
    view("{ buffer = \"twins\", access = \"read\", elements = 0 }", "a view of `twins` has at least one element");
    view("{ buffer = \"twins\", access = \"read\", offset = 4611686018427387904 }", "it leaves `twins`");
    view("{ buffer = \"twins\", access = \"read\", offset = 4, elements = 4611686018427387904 }", "it leaves `twins`");
    let far = "{ buffer = \"twins\", access = \"read\", offset = 4611686018427387903, elements = 4611686018427387903 }";
    view(far, "leave `twins`");
    let shares = "steps[3].arguments[2]: it shares bytes of `twins` with arguments[1], and not both only read";
    view("{ buffer = \"twins\", access = \"read\", offset = 3 }", shares);
    view("{ buffer = \"twins\", access = \"write\" }", shares);
    view("{ buffer = \"twins\", access = \"read\", elements = 1 }", shares);
    // An input that is an output as well.
    let alias = with("access = \"write\", elements = \"count\"", "access = \"write\", offset = 3, elements = 4");
    check(&alias, &[], shares);
    let both = with(
        "{ buffer = \"twins\", access = \"write\", elements = \"count\" }",
        "{ buffer = \"values\", access = \"write\" }",
    );
    check(&both, &[], "it shares bytes of `values` with arguments[0]");
    assert!(
        function(&with("access = \"write\", elements", "access = \"read\", elements")).plan(&parameters(&[])).is_ok()
    );
}

#[test]
fn copies_and_fills_stay_in_their_buffers() {
    let copy = "copy = { from = \"values\", to = \"twins\", to_offset = \"count\", elements = \"count\" }";
    let check_copy = |new: &str, expected: &str| check(&with(copy, new), &[], expected);
    check_copy(
        "copy = { from = \"values\", to = \"twins\" }",
        "steps[2].copy: 16 bytes do not fill 32; give `elements`",
    );
    check_copy(
        "copy = { from = \"values\", to = \"twins\", elements = 5 }",
        "steps[2].copy.from: 5 elements from 0 leave `values`",
    );
    check_copy(
        "copy = { from = \"values\", to = \"twins\", to_offset = 5, elements = 4 }",
        "steps[2].copy.to: 4 elements from 5",
    );
    check_copy("copy = { from = \"values\", to = \"twins\", elements = 0 }", "at least one element");
    check_copy(
        "copy = { from = \"twins\", to = \"twins\", to_offset = 3, elements = 4 }",
        "steps[2].copy: the two ranges overlap",
    );
    check_copy("copy = { from = \"twins\", to = \"twins\", elements = 4 }", "the two ranges overlap");
    check_copy("copy = { from = \"twins\", to = \"twins\", from_offset = 1, to_offset = 4, elements = 4 }", "overlap");
    assert!(
        function(&with(copy, "copy = { from = \"twins\", to = \"twins\", to_offset = 4, elements = 4 }"))
            .plan(&parameters(&[]))
            .is_ok()
    );
    let fill =
        |new: &str, expected: &str| check(&with("fill = { buffer = \"picture\", value = 7 }", new), &[], expected);
    fill("fill = { buffer = \"picture\", value = 7, offset = 24 }", "steps[4].fill: a view of `picture` has at least");
    fill(
        "fill = { buffer = \"picture\", value = 7, offset = 1, elements = 24 }",
        "steps[4].fill: 24 elements from 1 leave",
    );
    fill("fill = { buffer = \"picture\", value = \"count * 64\" }", "256 does not fit u8");
}

#[test]
fn an_output_that_nobody_writes_is_refused() {
    let toml = with("fill = { buffer = \"picture\", value = 7 }", "fill = { buffer = \"twins\", value = 7 }");
    let toml = toml.replace("buffer = \"picture\", access = \"write\"", "buffer = \"picture\", access = \"read\"");
    check(&toml, &[], "function.scale.buffers.picture.output: no step writes this output, and it is no input either");
    // A repeat that does not turn writes nothing.
    let toml =
        toml.replace("fill = { buffer = \"twins\"", "repeat = \"rounds\"\nsteps = [{ fill = { buffer = \"picture\"");
    let toml = toml.replace("value = 7 }", "value = 7 } }]");
    check(&toml, &[("rounds", Scalar::U64(0))], "no step writes this output");
    assert!(function(&toml).plan(&parameters(&[("rounds", Scalar::U64(1))])).is_ok());
}

#[test]
fn the_example_becomes_its_operations() {
    let example = parsed(TOML);
    let function = example.function("scale").expect("it is there");
    let plan = function.plan(&parameters(&[("rounds", Scalar::U64(3)), ("count", Scalar::U32(300))])).expect("a plan");
    let kinds = plan.operations.iter().map(|operation| match operation {
        Operation::Launch(launch) => launch.kernel.as_str(),
        Operation::Copy { .. } => "copy",
        Operation::Fill { .. } => "fill",
        Operation::Mark(_) => "mark",
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["mark", "scale", "scale", "scale", "copy", "blend", "fill", "paint", "mark"]);
    let sizes: Vec<_> = plan.buffers.iter().map(|buffer| (buffer.name.as_str(), buffer.bytes)).collect();
    assert_eq!(sizes, [("picture", 1800), ("twins", 2400), ("values", 1200)]);
    assert_eq!((plan.vram_bytes, plan.input_bytes(), plan.output_bytes()), (2048 + 2560 + 1536, 1200, 5400));
    let Operation::Launch(launch) = &plan.operations[5] else { panic!("blend is a launch") };
    assert_eq!((launch.grid, launch.block, launch.shared_bytes), ([3, 1, 1], [128, 1, 1], 512));
    assert_eq!(launch.arguments[3], Argument::Scalar(Scalar::U32(300)));
    assert_eq!(plan.check(), Ok(()));
    assert_eq!((example.name(), function.seconds(), plan.marks.len()), ("example", 20, 2));
    let again = function.plan(&parameters(&[("rounds", Scalar::U64(3)), ("count", Scalar::U32(300))])).expect("a plan");
    assert_eq!(again.digest(), plan.digest());
    assert_ne!(function.plan(&parameters(&[])).expect("a plan").digest(), plan.digest());
}

#[test]
fn parameters_travel_as_text_without_losing_a_bit() {
    let values = [
        ("a", Scalar::F32(0.1)),
        ("b", Scalar::F64(f64::MIN_POSITIVE / 3.0)),
        ("c", Scalar::U64(u64::MAX)),
        ("d", Scalar::I64(i64::MIN)),
        ("e", Scalar::F32(-0.0)),
        ("f", Scalar::I32(-1)),
        ("g", Scalar::F64(1e300)),
    ];
    let before = parameters(&values);
    let text = serde_json::to_string(&before).expect("plain values");
    let after: Parameters = serde_json::from_str(&text).expect("what was written is read");
    assert!(before.iter().map(|(_, value)| value.to_le_bytes()).eq(after.iter().map(|(_, value)| value.to_le_bytes())));
    assert!(text.starts_with(r#"{"a":"f32 0.1","b":"f64 "#), "{text}");
    for bad in ["f32 NaN", "f64 inf", "u32 -1", "u32", "u8 1", "u32  1", "f32 1e99", ""] {
        assert!(serde_json::from_str::<Parameters>(&format!("{{\"a\":{bad:?}}}")).is_err(), "{bad}");
    }
}
