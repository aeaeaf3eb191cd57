//! From a task's `data` to a run, and from a run to the response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bundle::{Argument, InputSource, Launch, Scalar, reference};
use serde_json::{Value, json};

use crate::example::{TOML, function, with, words};

/// The kernels of the example, as they would be on a GPU.
fn kernels(launch: &Launch, memory: &mut [Vec<u8>]) -> Result<(), String> {
    let views = launch.arguments.iter().filter_map(|argument| match argument {
        Argument::View { view, .. } => Some(*view),
        Argument::Scalar(_) => None,
    });
    let views: Vec<_> = views.collect();
    let place = |bytes: u64| usize::try_from(bytes).expect("small");
    let range = |index: usize| place(views[index].offset_bytes)..place(views[index].offset_bytes + views[index].bytes);
    match (launch.kernel.as_str(), launch.arguments.as_slice()) {
        ("scale", [_, Argument::Scalar(Scalar::F32(factor)), _]) => {
            for value in memory[views[0].buffer][range(0)].as_chunks_mut::<4>().0 {
                *value = (f32::from_le_bytes(*value) * factor).to_le_bytes();
            }
        }
        ("blend", _) => {
            let sum = |a: &[u8; 4], b: &[u8; 4]| f32::from_le_bytes(*a) + f32::from_le_bytes(*b);
            let (a, b) = (&memory[views[0].buffer][range(0)], &memory[views[1].buffer][range(1)]);
            let sums = a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0).map(|(a, b)| sum(a, b));
            let sums: Vec<u8> = sums.flat_map(f32::to_le_bytes).collect();
            memory[views[2].buffer][range(2)].copy_from_slice(&sums);
        }
        ("paint", [_, Argument::Scalar(Scalar::I32(tint))]) => {
            memory[views[0].buffer][0] =
                memory[views[0].buffer][0].wrapping_add_signed(i8::try_from(*tint).expect("small"));
        }
        (other, _) => return Err(format!("no kernel {other}")),
    }
    Ok(())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn a_task_is_bound_run_and_answered() {
    let function = function(TOML);
    let data = json!({"values": STANDARD.encode(floats(&[1.0, 2.0, 3.0, 4.0])), "factor": 2, "look": {"tint": 3}});
    let bound = function.bind(&data).expect("the data is fine");
    assert_eq!(bound.parameters.get("count"), Some(Scalar::U32(4)));
    assert_eq!(bound.parameters.get("factor"), Some(Scalar::F32(2.0)));
    let [InputSource::Bytes(input)] = bound.inputs.as_slice() else { panic!("one input") };
    let plan = function.plan(&bound.parameters).expect("a plan");
    let outputs = reference::run(&plan, input, &mut kernels).expect("a run");
    assert_eq!(u64::try_from(outputs.len()), Ok(plan.output_bytes()));
    let answer = function.respond(&bound.parameters, &outputs, &[10.0, 12.5]).expect("an answer");
    assert!(answer.publish.is_empty());
    assert_eq!(answer.json["kernel_ms"], json!(2.5));
    assert_eq!(answer.json["values"], json!(STANDARD.encode(floats(&[4.0, 8.0, 12.0, 16.0]))));
    assert_eq!(answer.json["out"]["twins"], json!([8.0, 16.0, 24.0, 32.0, 4.0, 8.0, 12.0, 16.0]));
    let image = STANDARD.decode(answer.json["out"]["picture"].as_str().expect("a text")).expect("base64");
    let mut reader = png::Decoder::new(std::io::Cursor::new(image)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("a frame");
    assert_eq!((info.width, info.height, info.color_type), (4, 2, png::ColorType::Rgb));
    assert_eq!(pixels, [vec![10], vec![7; 23]].concat());
}

#[test]
fn content_goes_in_and_out_as_links() {
    let toml = with("from = \"/values\", as = \"base64\"", "from = \"/values\", as = \"content\"");
    let function =
        function(&toml.replace("to = \"/values\", as = \"base64\"", "to = \"/deep/values\", as = \"content\""));
    let bound = function.bind(&json!({"values": "ipfs://abc"})).expect("the data is fine");
    assert_eq!(bound.inputs, [InputSource::Content("ipfs://abc".to_owned())]);
    let outputs = [vec![1; 24], floats(&[0.5; 8]), floats(&[1.5; 4])].concat();
    let answer = function.respond(&bound.parameters, &outputs, &[0.0, 0.0]).expect("an answer");
    assert_eq!(answer.publish.len(), 1);
    assert_eq!(answer.publish[0].bytes, floats(&[1.5; 4]));
    assert_eq!(answer.json.pointer(&answer.publish[0].pointer), Some(&Value::Null));
}

#[test]
fn numbers_are_read_and_written_as_their_types() {
    let check = |element: &str, numbers: Value, expected: Option<Value>| {
        let toml = with(
            "type = \"f32\"\nelements = \"count\"\ninput = { from = \"/values\", as = \"base64\" }\noutput = { to = \"/values\", as = \"base64\" }",
            "type = \"f32\"\nelements = \"count\"",
        );
        let extra = format!(
            "[function.scale.buffers.numbers]\ntype = \"{element}\"\nelements = 2\ninput = {{ as = \"json\" }}\noutput = {{ as = \"json\" }}\n"
        );
        let toml = toml.replace("vram_bytes = \"3 * 512 + 16 * count\"", "");
        let toml = toml.replace("[function.scale.buffers.values]", &format!("{extra}[function.scale.buffers.values]"));
        let function = function(&toml);
        let bound = function.bind(&json!({ "numbers": numbers }));
        let Some(expected) = expected else {
            assert!(bound.is_err(), "{element} {numbers}");
            return;
        };
        let bound = bound.unwrap_or_else(|error| panic!("{element}: {}", words(&error)));
        let plan = function.plan(&bound.parameters).expect("a plan");
        let InputSource::Bytes(input) = &bound.inputs[0] else { panic!("bytes") };
        let outputs = reference::run(&plan, input, &mut |_, _| Ok(())).expect("a run");
        let answer = function.respond(&bound.parameters, &outputs, &[0.0, 1.0]).expect("an answer");
        assert_eq!(answer.json["numbers"], expected, "{element}");
    };
    let same = |element: &str, numbers: Value| check(element, numbers.clone(), Some(numbers));
    same("u8", json!([0, 255]));
    same("i8", json!([-128, 127]));
    same("u16", json!([0, 65535]));
    same("i16", json!([-32768, 32767]));
    same("u32", json!([0, 4_294_967_295_u32]));
    same("i32", json!([i32::MIN, i32::MAX]));
    same("u64", json!([0, u64::MAX]));
    same("i64", json!([i64::MIN, i64::MAX]));
    same("f16", json!([0.5, -65504.0]));
    same("bf16", json!([0.5, -3.0]));
    same("f32", json!([0.25, -1.5]));
    same("f64", json!([0.1, -1e300]));
    check("f32", json!([1, 2]), Some(json!([1.0, 2.0])));
    for (element, numbers) in [
        ("u8", json!([0, 256])),
        ("u8", json!([0, -1])),
        ("i8", json!([0, 128])),
        ("u16", json!([0, 65536])),
        ("i16", json!([0, 32768])),
        ("u32", json!([0, 1.5])),
        ("u32", json!([0, 4_294_967_296_u64])),
        ("i32", json!([0, 2_147_483_648_u64])),
        ("u64", json!([0, -1])),
        ("i64", json!([0, u64::MAX])),
        ("f16", json!([0, 70000])),
        ("bf16", json!([0, 1e39])),
        ("f32", json!([0, 1e39])),
        ("f32", json!([0, "1"])),
        ("f32", json!([0, null])),
        ("f32", json!([1])),
        ("f32", json!([1, 2, 3])),
        ("f32", json!({"0": 1, "1": 2})),
        ("f32", json!("AAAAAAAAAAA=")),
        ("f32", json!(null)),
        ("f32", json!(1)),
        ("f32", json!([[1], [2]])),
    ] {
        check(element, numbers, None);
    }
}

#[test]
fn data_that_does_not_fit_is_refused_with_its_place() {
    let function = function(TOML);
    let good = STANDARD.encode([0; 16]);
    let check = |data: Value, expected: &str| {
        let error = function.bind(&data).expect_err(expected);
        assert!(words(&error).contains(expected), "{}\n  does not say\n{expected}", words(&error));
    };
    check(json!({}), "data at \"/values\": input `values` is missing");
    check(json!(null), "data at \"/values\": input `values` is missing");
    check(json!([1]), "input `values` is missing");
    check(json!({"values": good, "count": 0}), "data at \"/count\": u32 0 is below the least");
    check(json!({"values": good, "count": 4.5}), "data at \"/count\": 4.5 is no u32");
    check(json!({"values": good, "count": "4"}), "data at \"/count\": \"4\" is no u32");
    check(json!({"values": good, "count": null}), "data at \"/count\": null is no u32");
    check(json!({"values": good, "count": -4}), "data at \"/count\": -4 is no u32");
    check(json!({"values": good, "count": 1e99}), "is no u32");
    check(json!({"values": good, "factor": 1e39}), "data at \"/factor\": 1e+39 is no f32");
    check(json!({"values": good, "factor": 9}), "f32 9.0 is above the greatest");
    check(json!({"values": good, "look": {"tint": 6}}), "data at \"/look/tint\": i32 6 is above");
    check(json!({"values": good, "count": 5}), "`values` has 20 bytes, 28 characters of base64; these are 24");
    check(json!({"values": 5}), "base64 is a text");
    check(json!({"values": STANDARD.encode([0; 17])}), "`values` has 16 bytes; these are 17");
    check(json!({"values": "!".repeat(24)}), "data at \"/values\": base64:");
    check(json!({"values": good.replace('=', "A")}), "`values` has 16 bytes; these are 18");
    let error = self::function(&with("elements = \"2 * count\"", "elements = \"count - 1\""))
        .bind(&json!({"values": "AAAAAA==", "count": 1}));
    assert!(words(&error.expect_err("no elements")).starts_with("plan the run: function.scale.buffers.twins"));
}

#[test]
fn links_are_short_and_plain() {
    let function = function(&with("from = \"/values\", as = \"base64\"", "from = \"/values\", as = \"content\""));
    for link in [json!(""), json!("a b"), json!("a\nb"), json!("a".repeat(2049)), json!(1), json!(null), json!(["a"])] {
        assert!(function.bind(&json!({ "values": link })).is_err(), "{link}");
    }
}

#[test]
fn outputs_that_are_not_those_of_the_plan_are_refused() {
    let function = function(TOML);
    let parameters = function.bind(&json!({"values": STANDARD.encode([0; 16])})).expect("fine").parameters;
    let respond = |bytes: usize, marks: &[f64]| {
        function.respond(&parameters, &vec![0; bytes], marks).map_err(|error| error.to_string())
    };
    assert!(respond(72, &[0.0, 1.0]).is_ok());
    assert_eq!(respond(71, &[0.0, 1.0]), Err("the run left 71 bytes of outputs, the plan has 72".to_owned()));
    assert_eq!(respond(73, &[0.0, 1.0]), Err("the run left 73 bytes of outputs, the plan has 72".to_owned()));
    for marks in [&[][..], &[0.0], &[0.0, 1.0, 2.0], &[1.0, 0.0], &[0.0, f64::NAN], &[0.0, f64::INFINITY]] {
        assert!(respond(72, marks).is_err(), "{marks:?}");
    }
    let nan = [vec![0; 24], floats(&[f32::NAN; 8]), vec![0; 16]].concat();
    let answer = function.respond(&parameters, &nan, &[0.0, 0.0]).expect("an answer");
    assert_eq!(answer.json["out"]["twins"], json!([null, null, null, null, null, null, null, null]));
}
