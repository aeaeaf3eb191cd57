//! How long a task waits for its source: one that is up, one that is not, one whose image is not unpacked, and one whose
//! image is not even here.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hostile::rig::{MAIN, service};
use runner::client::ClientError;
use runner::protocol::{Digest, NetworkPolicy, Refusal, ServiceSpec, SourceName};

use crate::bed::{Bed, plan, sealed, writable};
use crate::images::SourceImage;
use crate::pull;
use crate::table::{Part, Row, Table};

/// Where the service listens.
const PORT: u16 = 8080;

/// Between two tries to reach a service that has not opened its port: a descriptor tells of no such thing.
const PAUSE: Duration = Duration::from_micros(500);

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rounds of what unpacks an image.
const UNPACKS: u32 = 7;

pub(crate) fn measure(bed: &Bed, layout: &Path, rounds: u32, table: &mut Table) -> Result<()> {
    let command = ["/inside", "serve", "8080"];
    let image = SourceImage::read(layout)?;
    let big = image.copy_below(bed)?;
    let warm = bed.open("start-warm", &bed.image_inside, NetworkPolicy::Internal)?;
    bed.client().start(&warm, &service(MAIN), &bed.image_inside, sealed(&command))?;
    first_answer(bed, &warm)?;
    let cold = bed.open("start-cold", &bed.image_inside, NetworkPolicy::Internal)?;
    bed.client().stop(&cold, Duration::ZERO)?;
    let colds = (rounds / 4).max(10);
    let (mut answers, mut sealed_starts, mut starts, mut stops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=colds {
        if round % 25 == 0 {
            eprintln!("bench: start, round {round} of {colds}");
        }
        let began = Instant::now();
        answer(bed, &warm)?;
        let took_warm = milliseconds(began);
        let began = Instant::now();
        start(bed, &cold, &bed.image_inside, sealed(&command))?;
        let took_sealed = milliseconds(began);
        bed.client().stop(&cold, Duration::ZERO)?;
        let began = Instant::now();
        start(bed, &cold, &bed.image_inside, writable(&command))?;
        let took = milliseconds(began);
        let began = Instant::now();
        bed.client().stop(&cold, Duration::ZERO)?;
        if round > 0 {
            answers.push(took_warm);
            sealed_starts.push(took_sealed);
            starts.push(took);
            stops.push(milliseconds(began));
        }
    }
    bed.client().stop(&warm, Duration::ZERO)?;
    let (mut unpacked, mut cached) = (Vec::new(), Vec::new());
    for round in 0..=UNPACKS {
        eprintln!("bench: start with unpacking, round {round} of {UNPACKS}");
        bed.client().collect(true)?;
        for samples in [&mut unpacked, &mut cached] {
            let began = Instant::now();
            bed.client().prepare(&cold, &big)?;
            start(bed, &cold, &big, writable(&command))?;
            if round > 0 {
                samples.push(milliseconds(began));
            }
            bed.client().stop(&cold, Duration::ZERO)?;
        }
    }
    let (pulled, of_pull) = pull::measure(bed, &cold, &big)?;
    let mut rows = vec![
        Row::new("warm source: connect, one HTTP request", "ms", answers, "a thread that visits the source's network"),
        Row::new(
            "cold source: open, start, first answer; read-only root",
            "ms",
            sealed_starts,
            "networks made, a jail made",
        ),
        Row::new("cold source: the same with a disk of its own", "ms", starts, "the same, and mke2fs"),
        Row::new("cold source with a disk: stop at once", "ms", stops, "unmounting a loop device"),
        Row::new("cold source, large image sealed: the same as with unpack", "ms", cached, "as above"),
        Row::new("cold source with unpack and seal", "ms", unpacked, "inflating, hashing and writing the layers"),
    ];
    rows.extend(pulled);
    let unpacking = format!(
        "unpack and seal: {}, and a layer with the service on top; its blobs are in the content store, so downloading is \
         not in it",
        image.size()
    );
    let notes = vec![unpacking, of_pull];
    table.add(Part { title: "task start".to_owned(), rows, notes });
    Ok(())
}

/// Opens, starts, and waits for the first answer.
pub(crate) fn start(bed: &Bed, source: &SourceName, image: &Digest, spec: ServiceSpec) -> Result<()> {
    bed.client().open(source, plan(NetworkPolicy::Internal))?;
    bed.client().start(source, &service(MAIN), image, spec)?;
    first_answer(bed, source)
}

fn first_answer(bed: &Bed, source: &SourceName) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match answer(bed, source) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let refusal = error.downcast_ref::<ClientError>();
                let is_early = matches!(refusal, Some(ClientError::Refused(Refusal::NotListening { .. })));
                ensure!(is_early && Instant::now() < deadline, "{error:#}");
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn answer(bed: &Bed, source: &SourceName) -> Result<()> {
    let mut stream = bed.client().connect(source, &service(MAIN), PORT)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: source\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    ensure!(answer.ends_with("\r\n\r\nwell"), "the service answered {answer:?}");
    Ok(())
}

pub(crate) fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
