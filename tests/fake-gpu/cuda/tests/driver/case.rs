//! What each started process does. It says on its output, line by line, what the driver answered.

use cudarc::driver::{DriverError, result};
use fake_gpu_script::{Fault, cubin};
use kernels::reference::gemm::{Sizes, product};

use crate::gpu::{Argument, Shape, Worker, code, describe, driver_version, has_symbol};

/// One block of one thread.
const ONE: Shape = Shape([1, 1, 1], [1, 1, 1], 0);
/// The parameters of `gemm_f32`.
const GEMM: (&str, &[u32]) = ("gemm_f32", &[8, 8, 8, 4, 4, 4]);

pub(crate) fn run(case: &str) {
    match case {
        "gemm" => match gemm() {
            Ok(()) => {}
            Err(error) => println!(": error {}", error.0 as i32),
        },
        "wild" => wild(&Worker::new().expect("a context")),
        "memory" => memory(&Worker::new().expect("a context")),
        "images" => images(&Worker::new().expect("a context")),
        "shapes" => shapes(&Worker::new().expect("a context")),
        "start" => {
            println!(": init {}", code(result::init()));
            println!(": count {}", code(result::device::get_count()));
        }
        "symbols" => {
            for name in ["cuMemAlloc_v2", "cuMemFree_v2", "no_such_name"] {
                println!(": {name} {}", if has_symbol(name) { "there" } else { "missing" });
            }
        }
        "devices" => {
            println!(": version {}", driver_version());
            result::init().expect("started");
            for ordinal in 0..result::device::get_count().expect("started") {
                println!(": {}", describe(ordinal).expect("a device"));
            }
        }
        kernel => faulty(&Worker::new().expect("a context"), kernel),
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn gemm() -> Result<(), DriverError> {
    let (m, n, k) = (70, 33, 20);
    let wave = |count: usize| (0..count).map(|i| (i % 17) as f32 * 0.25 - 2.0).collect::<Vec<f32>>();
    let (a, b) = (wave(m * k), wave(k * n));
    let gpu = Worker::new()?;
    let module = gpu.load(&cubin(89, &[GEMM]))?;
    let function = gpu.function(module, "gemm_f32")?;
    let (at_a, at_b, at_c) = (gpu.allocate(m * k * 4)?, gpu.allocate(k * n * 4)?, gpu.allocate(m * n * 4)?);
    gpu.upload(at_a, &bytes(&a))?;
    gpu.upload(at_b, &bytes(&b))?;
    let begin = gpu.event()?;
    let size = |value: usize| Argument::U32(u32::try_from(value).expect("small"));
    let arguments =
        [at_a, at_b, at_c].map(Argument::Address).into_iter().chain([m, n, k].map(size)).collect::<Vec<_>>();
    gpu.launch(function, Shape([1, 2, 1], [16, 16, 1], 0), &arguments)?;
    let end = gpu.event()?;
    result::ctx::synchronize()?;
    let milliseconds = gpu.milliseconds(begin, end)?;
    let c = gpu.download(at_c, m * n * 4)?;
    let expected = product(&a, &b, Sizes { m, n, k });
    let correct = c.chunks_exact(4).zip(&expected).all(|(got, expected)| {
        let got = f32::from_le_bytes(got.try_into().expect("four bytes"));
        (f64::from(got) - expected).abs() < 1e-3
    });
    println!(": {}", if correct { "correct" } else { "wrong" });
    println!(": {}", if milliseconds > 0.0 { "timed" } else { "no time" });
    for address in [at_a, at_b, at_c] {
        gpu.free(address)?;
    }
    Ok(())
}

fn faulty(gpu: &Worker, kernel: &str) {
    let fault = Fault::of_kernel(kernel).expect("a case's name");
    let module = gpu.load(&cubin(89, &[(kernel, &[])])).expect("loaded");
    let function = gpu.function(module, kernel).expect("there");
    gpu.launch(function, ONE, &[]).expect("a launch returns before its kernel ends");
    println!(": launched");
    let event = gpu.event();
    if fault == Fault::Hang {
        println!(": query {}", code(gpu.query(event.expect("an event can be recorded"))));
    }
    println!(": synchronise {}", code(result::ctx::synchronize()));
    let after = [
        code(gpu.allocate(4)),
        code(gpu.launch(function, ONE, &[])),
        code(gpu.load(&cubin(89, &[]))),
        code(result::ctx::synchronize()),
    ];
    println!(": then {}", after.map(|code| code.to_string()).join(" "));
}

fn wild(gpu: &Worker) {
    let module = gpu.load(&cubin(89, &[GEMM])).expect("loaded");
    let function = gpu.function(module, "gemm_f32").expect("there");
    let good = gpu.allocate(64).expect("room");
    println!(": copy {}", code(gpu.download(good + 63, 2)));
    let arguments = [
        Argument::Address(good),
        Argument::Address(good),
        Argument::Address(0x1234),
        Argument::U32(1),
        Argument::U32(1),
        Argument::U32(1),
    ];
    println!(": launch {}", code(gpu.launch(function, Shape([1, 1, 1], [16, 16, 1], 0), &arguments)));
    println!(": synchronise {}", code(result::ctx::synchronize()));
    println!(": allocate {}", code(gpu.allocate(4)));
}

fn memory(gpu: &Worker) {
    let room = || {
        let (free, total) = result::mem_get_info().expect("a context");
        println!(": free {free} of {total}");
    };
    room();
    let first = gpu.allocate(4 << 20);
    println!(": 4 MiB {}", code(first));
    room();
    println!(": 4 MiB {}", code(gpu.allocate(4 << 20)));
    println!(": 1 byte {}", code(gpu.allocate(1)));
    let contents = gpu.download(first.expect("room for the first"), 4 << 20).expect("inside");
    println!(": dirty {}", contents.iter().filter(|byte| **byte != 0).count());
}

fn images(gpu: &Worker) {
    let ptx = b".version 8.4\n.target sm_75\n.address_size 64\n.visible .entry k() {}\n\0";
    let say = |what: &str, image: &[u8]| println!(": {what} {}", code(gpu.load(image)));
    say("cubin", &cubin(89, &[GEMM]));
    say("other GPU", &cubin(90, &[GEMM]));
    say("PTX", ptx);
    say("garbage", b"\x13\x37garbage\0");
    say("empty", b"\0");
    let module = gpu.load(&cubin(89, &[GEMM])).expect("loaded");
    println!(": no kernel {}", code(gpu.function(module, "gemm_f16")));
}

fn shapes(gpu: &Worker) {
    let module = gpu.load(&cubin(89, &[("sgd", &[8, 8, 4, 4])])).expect("loaded");
    let function = gpu.function(module, "sgd").expect("there");
    let at = gpu.allocate(4).expect("room");
    let rate = Argument::U32(0);
    let arguments = [Argument::Address(at), Argument::Address(at), Argument::U32(0), rate];
    let say = |grid: [u32; 3], block: [u32; 3], shared: u32| {
        let words = |sizes: [u32; 3]| sizes.map(|size| size.to_string()).join(" ");
        let code = code(gpu.launch(function, Shape(grid, block, shared), &arguments));
        println!(": {}, {}, {shared}: {code}", words(grid), words(block));
    };
    let one = [1, 1, 1];
    say(one, [256, 1, 1], 0);
    say(one, [1024, 2, 1], 0);
    say([0, 1, 1], one, 0);
    say([1, 65_536, 1], one, 0);
    say(one, [1, 1, 65], 0);
    say(one, one, 49_152);
    say(one, one, 49_153);
    println!(": raised: {}", code(gpu.allow_shared(function, 101_376)));
    say(one, one, 101_376);
    say(one, one, 101_377);
}
