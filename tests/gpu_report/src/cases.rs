//! The functions of the four example bundles with inputs, and what must come out.
//!
//! Small cases are compared whole. Of large products some rows are computed on the host, spread over the matrix; the
//! other large cases are as large as a host computes in a few seconds.

use anyhow::Result;
use bundle::{Parameters, Scalar};
use kernels::reference::{compare, compare_images, floats, gemm, mlp, n_body, path_tracer};

use crate::kit::{Ask, Kit, Loaded};
use crate::numbers::{bytes, count, counts, half_bytes, noise};

/// Rows of a large product that are compared.
const ROWS: usize = 16;

/// What must hold of the outputs.
type Check = Box<dyn FnOnce(&[u8]) -> Result<(), String> + Send>;

/// One run, and its reference.
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) ask: Ask,
    pub(crate) check: Check,
}

/// The product that latencies are measured with.
pub(crate) const SIDE: usize = 256;

/// All functions, at small sizes; with `large` at large ones too.
pub(crate) fn all(kit: &Kit, large: bool) -> Result<Vec<Case>> {
    let (gemm, bodies) = (kit.bundle("gemm")?, kit.bundle("n-body")?);
    let (network, tracer) = (kit.bundle("mlp")?, kit.bundle("path-tracer")?);
    let mut cases = vec![
        product(&gemm, [65, 130, 33])?,
        product_of_halves(&gemm, [144, 272, 48])?,
        simulation(&bodies, 300, 5)?,
        training(&network, mlp::Sizes { batch: 20, batches: 3, inputs: 9, hidden: 33, outputs: 5 }, 40)?,
        picture(&tracer, path_tracer::Job { width: 64, height: 48, samples: 4, seed: 1 })?,
    ];
    if large {
        cases.push(product(&gemm, [4096, 4096, 4096])?);
        cases.push(product_of_halves(&gemm, [4096, 4096, 4096])?);
        cases.push(simulation(&bodies, 4096, 4)?);
        let sizes = mlp::Sizes { batch: 128, batches: 4, inputs: 256, hidden: 256, outputs: 10 };
        cases.push(training(&network, sizes, 20)?);
        cases.push(picture(&tracer, path_tracer::Job { width: 320, height: 240, samples: 16, seed: 7 })?);
    }
    Ok(cases)
}

/// A product in single precision; its sizes are m, n, k.
pub(crate) fn product(gemm: &Loaded, [m, n, k]: [usize; 3]) -> Result<Case> {
    let (a, b) = (noise(1, m * k), noise(2, k * n));
    let inputs = [bytes(&a), bytes(&b)].concat();
    let ask = gemm.ask("gemm_f32", sides(m, n, k), inputs)?;
    let check = move |outputs: &[u8]| {
        let (got, rows) = (floats(outputs), rows(m));
        let sizes = gemm::Sizes { m: rows.len(), n, k };
        let expected = gemm::product(&picked(&a, &rows, k), &b, sizes);
        compare(&picked(&got, &rows, n), &expected, gemm::tolerance(sizes)).map_err(|error| error.to_string())
    };
    Ok(Case { what: format!("gemm_f32, {m} x {n} x {k}"), ask, check: Box::new(check) })
}

/// A product in half precision; its sizes are m, n, k.
pub(crate) fn product_of_halves(gemm: &Loaded, [m, n, k]: [usize; 3]) -> Result<Case> {
    let (a, b) = (gemm::halves(&noise(1, m * k)), gemm::halves(&noise(2, k * n)));
    let inputs = [half_bytes(&a), half_bytes(&b)].concat();
    let ask = gemm.ask("gemm_f16", sides(m, n, k), inputs)?;
    let check = move |outputs: &[u8]| {
        let (got, rows) = (floats(outputs), rows(m));
        let sizes = gemm::Sizes { m: rows.len(), n, k };
        let expected = gemm::product_of_halves(&picked(&a, &rows, k), &b, sizes);
        let tolerance = gemm::tolerance_of_halves(sizes);
        compare(&picked(&got, &rows, n), &expected, tolerance).map_err(|error| error.to_string())
    };
    Ok(Case { what: format!("gemm_f16, {m} x {n} x {k}"), ask, check: Box::new(check) })
}

/// The parameters of a product.
pub(crate) fn sides(m: usize, n: usize, k: usize) -> Parameters {
    counts(&[("m", count(m)), ("n", count(n)), ("k", count(k))])
}

/// Bodies with a total mass of 1, and their velocities, one behind the other.
pub(crate) fn bodies(n: usize) -> (Vec<f32>, Vec<f32>) {
    let mass = 1.0 / u16::try_from(n).map_or(131_072.0, f32::from);
    let bodies = noise(3, n * 3).chunks(3).flat_map(|at| [at[0], at[1], at[2], mass]).collect();
    let velocities = noise(4, n * 3).iter().map(|v| v * 0.3).collect();
    (bodies, velocities)
}

/// The parameters of a simulation.
pub(crate) fn stepping(n: usize, steps: u32) -> Parameters {
    let reals = [("softening", Scalar::F32(0.05)), ("dt", Scalar::F32(0.01))];
    reals.into_iter().chain([("n", Scalar::U32(count(n))), ("steps", Scalar::U32(steps))]).collect()
}

fn simulation(loaded: &Loaded, n: usize, steps: u32) -> Result<Case> {
    let (start, velocities) = bodies(n);
    let ask = loaded.ask("simulate", stepping(n, steps), bytes(&[&start[..], &velocities].concat()))?;
    let check = move |outputs: &[u8]| {
        let job = n_body::Job { bodies: &start, velocities: &velocities, softening: 0.05, dt: 0.01, steps };
        let expected = n_body::simulate(job);
        let expected = [expected.bodies, expected.velocities].concat();
        compare(&floats(outputs), &expected, n_body::TOLERANCE).map_err(|error| error.to_string())
    };
    Ok(Case { what: format!("simulate, {n} bodies, {steps} steps"), ask, check: Box::new(check) })
}

fn training(loaded: &Loaded, sizes: mlp::Sizes, steps: u32) -> Result<Case> {
    let mlp::Sizes { batch, batches, inputs, hidden, outputs } = sizes;
    let x = noise(5, batches * batch * inputs);
    // The class is the largest of the first inputs, so there is something to learn.
    let classes = count(outputs);
    let class = |sample: &[f32]| {
        let value = |class: &u32| usize::try_from(*class).ok().and_then(|at| sample.get(at)).copied().unwrap_or(-2.0);
        (0..classes).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0)
    };
    let labels: Vec<u32> = x.chunks(inputs).map(class).collect();
    let shrink = if inputs > 64 { 0.05 } else { 0.4 };
    let shrunk = |seed, size| noise(seed, size).iter().map(|w| w * shrink).collect::<Vec<f32>>();
    let (w1, w2) = (shrunk(6, inputs * hidden), shrunk(7, hidden * outputs));
    let weights = mlp::Weights { w1, b1: vec![0.0; hidden], w2, b2: vec![0.0; outputs] };
    let rate = 0.5;

    let label_bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let parts =
        [bytes(&weights.b1), bytes(&weights.b2), label_bytes, bytes(&weights.w1), bytes(&weights.w2), bytes(&x)];
    let sizes_named = [("batch", batch), ("batches", batches), ("inputs", inputs), ("hidden", hidden)];
    let named = sizes_named.into_iter().chain([("outputs", outputs)]).map(|(name, size)| (name, count(size)));
    let scalars = named.chain([("steps", steps)]).map(|(name, value)| (name, Scalar::U32(value)));
    let ask = loaded.ask("train", scalars.chain([("rate", Scalar::F32(rate))]).collect(), parts.concat())?;
    let check = move |found: &[u8]| {
        let steps = usize::try_from(steps).unwrap_or(0);
        let trained = mlp::train(&weights, mlp::Job { sizes, x: &x, labels: &labels, rate, steps });
        let mlp::Weights { w1, b1, w2, b2 } = trained.weights;
        let expected = [b1, b2, trained.losses, w1, w2].concat();
        compare(&floats(found), &expected, mlp::TOLERANCE).map_err(|error| error.to_string())
    };
    let what = format!("train, {inputs} x {hidden} x {outputs}, batch {batch}, {steps} steps");
    Ok(Case { what, ask, check: Box::new(check) })
}

fn picture(loaded: &Loaded, job: path_tracer::Job) -> Result<Case> {
    let path_tracer::Job { width, height, samples, seed } = job;
    let parameters = counts(&[("width", width), ("height", height), ("samples", samples), ("seed", seed)]);
    let ask = loaded.ask("render", parameters, Vec::new())?;
    let check = move |outputs: &[u8]| {
        let row = usize::try_from(width).unwrap_or(1);
        let compared = compare_images(outputs, &path_tracer::image(job), row, path_tracer::TOLERANCE);
        compared.map_err(|error| error.to_string())
    };
    Ok(Case { what: format!("render, {width} x {height}, {samples} samples"), ask, check: Box::new(check) })
}

/// All rows of a small matrix; of a large one [`ROWS`], the first and the last among them.
fn rows(m: usize) -> Vec<usize> {
    if m <= 512 { (0..m).collect() } else { (0..ROWS).map(|at| at * (m - 1) / (ROWS - 1)).collect() }
}

/// These rows, one behind the other.
fn picked<T: Copy>(matrix: &[T], rows: &[usize], columns: usize) -> Vec<T> {
    rows.iter().filter_map(|row| matrix.get(row * columns..(row + 1) * columns)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_row_of_a_large_product_are_compared() {
        assert_eq!(rows(3), [0, 1, 2]);
        let large = rows(4096);
        assert_eq!((large.len(), large.first(), large.last()), (ROWS, Some(&0), Some(&4095)));
        assert_eq!(picked(&[1, 2, 3, 4, 5, 6], &[0, 2], 2), [1, 2, 5, 6]);
    }
}
