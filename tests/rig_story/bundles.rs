//! Sources that are bundles: from a client's kernels to the owner's money, on a GPU that is not there.

use std::time::Duration;

use alloy_primitives::Address;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake_gpu_script::{Gpu, Script, cubin};
use kernels::reference::{compare, compare_images, floats, mlp, path_tracer};
use serde_json::{Value, json};
use testbed::driver::{self, Driver};
use testbed::market::{Delivery, Market};
use testbed::rig::{Rig, RigOptions};

use crate::town::{
    COIN, SOON, Terms, asked, confirm, input, serving, source_for, task, vault_wei, wait_source, words_of,
};

const MANUAL: Terms = Terms { delivery: Delivery::Manual, lockup_wei: 0 };
const FIRST: Terms = Terms { delivery: Delivery::First, lockup_wei: 0 };

/// What a source for NVIDIA GPUs alone says on chain.
const NVIDIA: u8 = 2;

/// What a source for both says.
const BOTH: u8 = 3;

/// A rig whose machine has one GPU by this driver.
fn with(driver: &Driver) -> RigOptions {
    RigOptions { libraries: driver.libraries().expect("tests/setup.sh was run"), ..RigOptions::default() }
}

/// Publishes a bundle on `terms`.
async fn publish(market: &Market, bundle: Vec<u8>, terms: Terms) -> Address {
    source_for(market, metadata(market, bundle).await, terms, NVIDIA).await
}

async fn metadata(market: &Market, bundle: Vec<u8>) -> String {
    let compose = json!({ "services": {}, "x-cuda": { "bundle": market.pin(bundle).await } });
    let compose = market.pin(compose.to_string()).await;
    market.pin(json!({ "cpu": "", "nvidia": compose, "amd": "" }).to_string()).await
}

fn built(name: &str) -> Vec<u8> {
    let out = tempfile::tempdir().expect("a folder");
    driver::built(name, out.path()).expect("rig cuda build")
}

/// A bundle with one launch of `kernel` on a buffer, made for the GPU that is not there.
fn one_launch(kernel: &str) -> Vec<u8> {
    let manifest = format!(
        r#"format = 1
name = "one"

[[module]]
name = "code"
file = "code.cubin"
kind = "cubin"
target = "sm_89"
min_driver = "12.0"

[function.go]
determinism = "none"
seconds = 20

[function.go.buffers.data]
type = "u32"
elements = "16"
input = {{ as = "json" }}
output = {{ as = "json" }}

[[function.go.steps]]
launch = "{kernel}"
grid = ["1"]
block = ["16"]
arguments = [{{ buffer = "data", access = "read-write" }}]
"#
    );
    let code = cubin(89, &[(kernel, &[8])]);
    bundle::pack(&[("bundle.toml", manifest.as_bytes()), ("code.cubin", &code)]).expect("a valid bundle")
}

async fn ask(market: &Market, source: Address, function: &str, data: Value) -> Address {
    let config = input(market, function, data).await;
    task(market, source, config, COIN, 120).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_traced_and_paid_in_both_delivery_methods() {
    let market = Market::open().await;
    let bundle = built("path-tracer");
    let sources = [publish(&market, bundle.clone(), FIRST).await, publish(&market, bundle, MANUAL).await];
    let driver = Driver::healthy().expect("a driver");
    let rig = serving(&market, &with(&driver), 2).await;
    let before_wei = market.earned_wei().await;
    for (seed, source) in (1..).zip(sources) {
        let job = path_tracer::Job { width: 40, height: 30, samples: 2, seed };
        let data = json!({ "width": job.width, "height": job.height, "samples": job.samples, "seed": job.seed });
        let task = ask(&market, source, "render", data).await;
        market.reaches(task, 2).await;
        if source == sources[1] {
            confirm(&market, task).await;
        }
        let row = rig.wait_task(task, &["settled"], SOON).expect("the rig is paid");
        let payload = market.payload(task).await;
        let picture = STANDARD.decode(payload["image"].as_str().expect("a picture")).expect("base64");
        let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().expect("PNG");
        let mut image = vec![0; reader.output_buffer_size().expect("a size")];
        reader.next_frame(&mut image).expect("a picture");
        compare_images(&image, &path_tracer::image(job), 40, path_tracer::TOLERANCE).expect("the right picture");
        let descriptor = &row["descriptor"];
        assert_eq!(descriptor["model"], "Fake GPU", "the record of the task says what ran it: {row}");
        assert_eq!(descriptor["determinism"], "bitwise-same-class", "{row}");
    }
    assert_eq!(market.earned_wei().await - before_wei, alloy_primitives::U256::from(2 * COIN));
    assert!(vault_wei(&market, provisioning::devnet::Role::Client).await > alloy_primitives::U256::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_trained_whose_weights_come_in_and_go_out_as_links() {
    let market = Market::open().await;
    let source = publish(&market, built("mlp"), FIRST).await;
    let driver = Driver::healthy().expect("a driver");
    let rig = serving(&market, &with(&driver), 1).await;
    let sizes = mlp::Sizes { batch: 8, batches: 2, inputs: 5, hidden: 7, outputs: 3 };
    let numbers = |count: usize, step: usize| -> Vec<f32> {
        (0..count).map(|at| f32::from(u16::try_from(at * step % 41).expect("small")) / 41.0 - 0.5).collect()
    };
    let x = numbers(sizes.batches * sizes.batch * sizes.inputs, 7);
    let labels: Vec<u32> = (0..sizes.batches * sizes.batch).map(|at| u32::try_from(at % 3).expect("small")).collect();
    let weights = mlp::Weights { w1: numbers(35, 11), b1: numbers(7, 3), w2: numbers(21, 5), b2: numbers(3, 2) };
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let data = json!({
        "batch": 8, "batches": 2, "inputs": 5, "hidden": 7, "outputs": 3, "steps": 6, "rate": 0.25,
        "x": market.pin(bytes(&x)).await,
        "labels": market.pin(labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>()).await,
        "w1": market.pin(bytes(&weights.w1)).await,
        "b1": market.pin(bytes(&weights.b1)).await,
        "w2": market.pin(bytes(&weights.w2)).await,
        "b2": market.pin(bytes(&weights.b2)).await,
    });
    let task = ask(&market, source, "train", data).await;
    rig.wait_task(task, &["settled"], SOON).expect("the rig is paid");
    let payload = market.payload(task).await;
    let trained = mlp::train(&weights, mlp::Job { sizes, x: &x, labels: &labels, rate: 0.25, steps: 6 });
    for (name, expected) in [("w1", &trained.weights.w1), ("b1", &trained.weights.b1), ("w2", &trained.weights.w2)] {
        let link = payload[name].as_str().expect("a link");
        let found = market.content.fetch(link, 1 << 20).await.expect("the weights are there");
        compare(&floats(&found), expected, mlp::TOLERANCE).expect(name);
    }
    assert_eq!(payload["losses"].as_array().map(Vec::len), Some(6), "{payload}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_breaks_the_rules_fails_alone_and_says_how() {
    let market = Market::open().await;
    let bad = publish(&market, one_launch("fault_illegal_address"), FIRST).await;
    let good = publish(&market, built("path-tracer"), FIRST).await;
    let driver = Driver::healthy().expect("a driver");
    let rig = serving(&market, &with(&driver), 2).await;
    let failed = ask(&market, bad, "go", json!({ "data": vec![1; 16] })).await;
    let row = rig.wait_task(failed, &["failed", "refused"], SOON).expect("it is given up");
    let why = row["why"].as_str().unwrap_or_default();
    assert!(why.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{row}");
    let wrong = ask(&market, good, "render", json!({ "width": 5000, "height": 30 })).await;
    let row = rig.wait_task(wrong, &["failed", "refused"], SOON).expect("it is given up");
    assert!(row["why"].as_str().unwrap_or_default().contains("width"), "{row}");
    let next = ask(&market, good, "render", json!({ "width": 8, "height": 8, "samples": 1 })).await;
    rig.wait_task(next, &["settled"], SOON).expect("the next job on the same GPU works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rig_without_a_driver_serves_containers_and_says_why_no_bundle_runs() {
    let market = Market::open().await;
    let light = market.source(Delivery::First).await;
    let bundle = source_for(&market, metadata(&market, one_launch("gemm_f32")).await, FIRST, NVIDIA).await;
    let rig = serving(&market, &RigOptions::default(), 1).await;
    wait_source(&rig, bundle, "refused", "nvidia");
    let answered = market.task(light, "echo", json!({})).await;
    market.settle(&[answered]).await;
    let gpus = asked(&rig, &["gpu"]);
    assert!(gpus["why"].as_str().is_some_and(|why| why.contains("libcuda")), "{gpus}");
    assert_eq!(gpus["gpus"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_for_both_runs_its_services_where_no_gpu_is() {
    let market = Market::open().await;
    let light: Value = read(&market, &market.metadata().await).await;
    let nvidia: Value = read(&market, &metadata(&market, one_launch("gemm_f32")).await).await;
    let both = json!({ "cpu": light["cpu"], "nvidia": nvidia["nvidia"], "amd": "" });
    let source = source_for(&market, market.pin(both.to_string()).await, FIRST, BOTH).await;
    let rig = serving(&market, &RigOptions::default(), 1).await;
    let answered = market.task(source, "echo", json!({})).await;
    market.settle(&[answered]).await;
    assert_eq!(words_of(&rig.status().expect("status"), source).0, "serving");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_falls_off_the_bus_takes_its_source_down_and_nothing_else() {
    let market = Market::open().await;
    let light = market.source(Delivery::First).await;
    let tracer = publish(&market, built("path-tracer"), FIRST).await;
    let gpu = Gpu { vram_bytes: 192 << 20, ..Gpu::numbered(0) };
    let healthy = Script { gpus: vec![gpu.clone()], ..Script::default() };
    let driver = Driver::with(&healthy).expect("a driver");
    let rig = serving(&market, &with(&driver), 2).await;
    let lost = Script { gpus: vec![Gpu { lost: true, ..gpu }], ..healthy };
    driver.change(&lost).expect("the driver changes");
    let rig_says = |rig: &Rig| words_of(&rig.status().expect("status"), tracer);
    let waited = rig.wait_status("the bundle's source to go down", Duration::from_secs(60), |status| {
        words_of(status, tracer).0 != "serving"
    });
    waited.expect("the source goes down");
    println!("{:?}", rig_says(&rig));
    let answered = market.task(light, "echo", json!({})).await;
    market.settle(&[answered]).await;
}

async fn read(market: &Market, link: &str) -> Value {
    let bytes = market.content.fetch(link, 1 << 20).await.expect("the document is there");
    serde_json::from_slice(&bytes).expect("JSON")
}
