//! The part of the demonstration that computes on a GPU: a picture, traced by a kernel, for each delivery method.

use std::path::Path;
use std::time::Instant;

use alloy_primitives::Address;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chain::rpc::Rpc;
use kernels::reference::{compare_images, path_tracer};
use serde_json::{Value, json};
use testbed::client::Client;
use testbed::driver::{self, Driver};
use testbed::rig::Rig;
use work::{ProviderId, TaskId};

use crate::{COIN, Row, answered, say};

/// The picture's size and care; a processor that plays the GPU draws it in a second.
const JOB: path_tracer::Job = path_tracer::Job { width: 96, height: 72, samples: 4, seed: 1 };

/// What the machine has for a GPU: the driver of its own, or one that is not there.
pub(super) fn driver() -> Result<Option<Driver>> {
    if Path::new("/proc/driver/nvidia/version").exists() {
        return Ok(None);
    }
    Driver::healthy().map(Some)
}

/// Builds the path tracer and publishes it once for each delivery method.
pub(super) async fn publish(client: &Client, scratch: &Path) -> Result<[Address; 2]> {
    let bundle = driver::built("path-tracer", scratch)?;
    let first = client.publish_bundle(bundle.clone(), "FIRST_RESPONSE", COIN / 1000).await?;
    Ok([first, client.publish_bundle(bundle, "MANUAL_CONFIRMATION", COIN / 1000).await?])
}

/// Has a picture traced by each source, and holds it against one that a processor draws by itself.
pub(super) async fn trace(client: &Client, rpc: &Rpc, rig: &Rig, sources: [Address; 2]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, (source, method)) in (1..).zip(sources.into_iter().zip(["bundle, first", "bundle, manual"])) {
        // Another seed for each, because the network refuses equal payloads.
        let job = path_tracer::Job { seed: JOB.seed + number, ..JOB };
        let data = json!({ "width": job.width, "height": job.height, "samples": job.samples, "seed": job.seed });
        let published = Instant::now();
        let task = client.publish_task(source, "render", &data, COIN, 600).await?;
        let took = answered(rpc.clone(), ProviderId(rig.address()), TaskId(task), published).await;
        let seconds = took.with_context(|| format!("the rig says {:?}", rig.task(task)))?.as_secs_f64();
        if method == "bundle, manual" {
            client.confirm(task).await?;
        }
        let status = client.status(task).await?.to_lowercase();
        let responses = client.responses(task).await?;
        let payload = responses.first().context("there is a response")?.0.clone();
        check(&payload, job)?;
        rows.push(Row { task, method, function: "render", payment_wei: COIN, wanted: Value::Null, seconds, status });
    }
    say("both pictures are what a processor draws by itself");
    Ok(rows)
}

fn check(payload: &Value, job: path_tracer::Job) -> Result<()> {
    let text = payload["image"].as_str().with_context(|| format!("{payload} has no image"))?;
    let decoder = png::Decoder::new(std::io::Cursor::new(STANDARD.decode(text)?));
    let mut reader = decoder.read_info()?;
    let mut image = vec![0; reader.output_buffer_size().context("the picture's size")?];
    let info = reader.next_frame(&mut image)?;
    ensure!((info.width, info.height) == (job.width, job.height), "the picture is {}x{}", info.width, info.height);
    image.truncate(info.buffer_size());
    compare_images(&image, &path_tracer::image(job), job.width as usize, path_tracer::TOLERANCE)?;
    ensure!(payload["kernel_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{payload} tells no time");
    Ok(())
}
