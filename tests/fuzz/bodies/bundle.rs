//! Any bytes as a kernel bundle: as an archive, and as the `bundle.toml` of one with a module that exports two kernels.
//!
//! What parses is packed again, planned with its least, usual and greatest parameters, and run by the reference with a
//! kernel that reads all it may read and writes all it may write. No run may leave its buffers.

use ::bundle::reference::{self, ReferenceError};
use ::bundle::{Argument, Bundle, Function, Launch, Parameters, Plan, Scalar, pack};

/// Exports what the corpus launches.
const PTX: &[u8] = b".version 8.4\n.target sm_75\n.address_size 64\n\
    .visible .entry scale(.param .u64 a, .param .f32 b, .param .u32 c){ret;}\n\
    .visible .entry blend(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 d){ret;}\n\
    .visible .entry paint(.param .u64 a, .param .s32 b){ret;}\n";

/// Larger runs show nothing more, and take too long a thousand times.
const VRAM_BYTES_MAX: u64 = 1 << 18;
const OPERATIONS_MAX: usize = 256;

/// Reads `data` as both.
pub(crate) fn run(data: &[u8]) {
    if let Ok(bundle) = Bundle::parse(data) {
        try_out(&bundle);
    }
    let files = [("bundle.toml", data), ("example.ptx", PTX)];
    match pack(&files) {
        Ok(archive) => {
            let bundle = Bundle::parse(&archive).expect("what was packed is parsed");
            assert_eq!(bundle.modules()[0].bytes(), PTX);
            try_out(&bundle);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn try_out(bundle: &Bundle) {
    for function in bundle.functions() {
        let bounds: [fn(&::bundle::Parameter) -> Option<Scalar>; 3] =
            [::bundle::Parameter::min, ::bundle::Parameter::default, ::bundle::Parameter::max];
        for bound in bounds {
            let zero = |parameter: &::bundle::Parameter| Scalar::F32(0.0).element() == parameter.element();
            let value = |parameter: &::bundle::Parameter| {
                let other = if zero(parameter) { Scalar::F32(0.0) } else { Scalar::F64(0.0) };
                bound(parameter).or(parameter.min()).or(parameter.max()).unwrap_or(other)
            };
            let pairs = function.parameters().iter().map(|parameter| (parameter.name(), value(parameter)));
            let parameters: Parameters = pairs.collect();
            match function.plan(&parameters) {
                Ok(plan) => check(function, &parameters, &plan),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        let _ = function.bind(&serde_json::json!({}));
    }
}

fn check(function: &Function, parameters: &Parameters, plan: &Plan) {
    assert_eq!(plan.check(), Ok(()));
    if plan.vram_bytes > VRAM_BYTES_MAX || plan.operations.len() > OPERATIONS_MAX {
        return;
    }
    let inputs = vec![1; usize::try_from(plan.input_bytes()).expect("it is small")];
    let outputs = match reference::run(plan, &inputs, &mut greedy) {
        Ok(outputs) => outputs,
        Err(ReferenceError::TooLarge) => return,
        Err(error) => panic!("a valid plan went wrong: {error}"),
    };
    assert_eq!(u64::try_from(outputs.len()), Ok(plan.output_bytes()));
    let marks: Vec<_> = plan.marks.iter().zip(0_u32..).map(|(_, ms)| f64::from(ms)).collect();
    let answer = function.respond(parameters, &outputs, &marks).expect("its own outputs have the right form");
    for publish in answer.publish {
        assert!(answer.json.pointer(&publish.pointer).is_some_and(serde_json::Value::is_null));
    }
}

/// Reads all it may read, writes all it may write.
fn greedy(launch: &Launch, memory: &mut [Vec<u8>]) -> Result<(), String> {
    let mut sum = 1_u8;
    for argument in &launch.arguments {
        let Argument::View { view, access } = argument else { continue };
        let end = view.offset_bytes.checked_add(view.bytes).ok_or("a view overflows")?;
        let place = |bytes: u64| usize::try_from(bytes).map_err(|error| error.to_string());
        let bytes = memory[view.buffer].get_mut(place(view.offset_bytes)?..place(end)?).ok_or("a view is outside")?;
        sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
        if access.writes() {
            bytes.fill(sum);
        }
    }
    Ok(())
}
