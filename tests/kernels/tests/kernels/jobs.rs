//! Whole jobs, launched as the bundles' plans launch them, against the references.

use kernels::reference::{self, compare, compare_images, floats, gemm, mlp, n_body, path_tracer};

use crate::device::{noise, start, upload, upload_u32, zeros};

#[test]
fn a_product_is_the_references() {
    for (m, n, k) in [(64, 64, 64), (1, 1, 1), (65, 130, 33), (7, 200, 80)] {
        let sizes = gemm::Sizes { m, n, k };
        let (a, b) = (noise(1, m * k), noise(2, k * n));
        let mut c = zeros(m * n);
        let [m, n, k] = [m, n, k].map(|size| u32::try_from(size).unwrap());
        let grid = [n.div_ceil(64), m.div_ceil(64)];
        let buffers = &mut [&mut upload(&a)[..], &mut upload(&b), &mut c];
        start("gemm_f32", grid, [16, 16], buffers, &[m.into(), n.into(), k.into()]).unwrap();
        compare(&floats(&c), &gemm::product(&a, &b, sizes), gemm::tolerance(sizes)).unwrap();
    }
}

#[test]
fn a_product_of_halves_is_the_references() {
    for (m, n, k) in [(64, 64, 64), (16, 16, 16), (144, 272, 48), (5, 7, 9)] {
        let sizes = gemm::Sizes { m, n, k };
        let (a, b) = (gemm::halves(&noise(1, m * k)), gemm::halves(&noise(2, k * n)));
        let bytes = |halves: &[u16]| halves.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<u8>>();
        let mut c = zeros(m * n);
        let [m, n, k] = [m, n, k].map(|size| u32::try_from(size).unwrap());
        let grid = [n.div_ceil(128), m.div_ceil(128)];
        let buffers = &mut [&mut bytes(&a)[..], &mut bytes(&b), &mut c];
        start("gemm_f16", grid, [256, 1], buffers, &[m.into(), n.into(), k.into()]).unwrap();
        compare(&floats(&c), &gemm::product_of_halves(&a, &b, sizes), gemm::tolerance_of_halves(sizes)).unwrap();
    }
}

#[test]
fn bodies_end_where_the_reference_puts_them() {
    for (count, steps) in [(64_u16, 50), (300, 3), (1, 5)] {
        let mass = 1.0 / f32::from(count);
        let places = noise(3, usize::from(count) * 3);
        let bodies: Vec<f32> = places.chunks(3).flat_map(|at| [at[0], at[1], at[2], mass]).collect();
        let velocities: Vec<f32> = noise(4, places.len()).iter().map(|v| v * 0.3).collect();
        let (softening, dt) = (0.05, 0.01);
        let job = n_body::Job { bodies: &bodies, velocities: &velocities, softening, dt, steps };
        let expected = n_body::simulate(job);

        let (mut places, mut speeds, mut pulls) = (upload(&bodies), upload(&velocities), zeros(velocities.len()));
        let n = u32::from(count);
        let grid = [n.div_ceil(256), 1];
        for _ in 0..steps {
            let buffers = &mut [&mut places[..], &mut pulls];
            start("forces", grid, [256, 1], buffers, &[n.into(), softening.into()]).unwrap();
            let buffers = &mut [&mut places[..], &mut speeds, &mut pulls];
            start("integrate", grid, [256, 1], buffers, &[n.into(), dt.into()]).unwrap();
        }
        compare(&floats(&places), &expected.bodies, n_body::TOLERANCE).unwrap();
        compare(&floats(&speeds), &expected.velocities, n_body::TOLERANCE).unwrap();
        assert_ne!(places, upload(&bodies), "the bodies moved");
    }
}

#[test]
fn a_network_learns_what_the_reference_learns() {
    // 3 groups of samples, and sizes that fill no block.
    let sizes = mlp::Sizes { batch: 20, batches: 3, inputs: 9, hidden: 33, outputs: 5 };
    let x = noise(5, sizes.batches * sizes.batch * sizes.inputs);
    // The class is the largest of the first inputs, so there is something to learn.
    let class = |sample: &[f32]| (0..5_u8).max_by(|&a, &b| sample[usize::from(a)].total_cmp(&sample[usize::from(b)]));
    let labels: Vec<u32> = x.chunks(sizes.inputs).filter_map(class).map(u32::from).collect();
    let shrunk = |seed, count| noise(seed, count).iter().map(|w| w * 0.4).collect::<Vec<f32>>();
    let weights = mlp::Weights {
        w1: shrunk(6, sizes.inputs * sizes.hidden),
        b1: vec![0.0; sizes.hidden],
        w2: shrunk(7, sizes.hidden * sizes.outputs),
        b2: vec![0.0; sizes.outputs],
    };
    let job = mlp::Job { sizes, x: &x, labels: &labels, rate: 0.5, steps: 60 };
    let expected = mlp::train(&weights, job);
    assert!(expected.losses[59] < 0.7 * expected.losses[0], "{:?}", expected.losses);

    let (got, losses) = train(&weights, job);
    compare(&losses, &expected.losses, mlp::TOLERANCE).unwrap();
    compare(&got.w1, &expected.weights.w1, mlp::TOLERANCE).unwrap();
    compare(&got.b1, &expected.weights.b1, mlp::TOLERANCE).unwrap();
    compare(&got.w2, &expected.weights.w2, mlp::TOLERANCE).unwrap();
    compare(&got.b2, &expected.weights.b2, mlp::TOLERANCE).unwrap();
}

/// As the bundle's plan does it.
fn train(weights: &mlp::Weights<f32>, job: mlp::Job<'_>) -> (mlp::Weights<f32>, Vec<f32>) {
    let mlp::Sizes { batch, batches, inputs, hidden, outputs } = job.sizes;
    let (mut x, mut labels) = (upload(job.x), upload_u32(job.labels));
    let (mut w1, mut b1) = (upload(&weights.w1), upload(&weights.b1));
    let (mut w2, mut b2) = (upload(&weights.w2), upload(&weights.b2));
    let (mut gw1, mut gb1) = (zeros(inputs * hidden), zeros(hidden));
    let (mut gw2, mut gb2) = (zeros(hidden * outputs), zeros(outputs));
    let (mut h, mut gh) = (zeros(batch * hidden), zeros(batch * hidden));
    let (mut probabilities, mut gradient) = (zeros(batch * outputs), zeros(batch * outputs));
    let mut losses = zeros(job.steps);
    let [b, i, n, o] = [batch, inputs, hidden, outputs].map(|size| u32::try_from(size).unwrap());
    let rate = job.rate;

    for step in 0..job.steps {
        let x = &mut x[step % batches * batch * inputs * 4..];
        let labels = &mut labels[step % batches * batch * 4..];
        let loss = &mut losses[step * 4..];
        let wide = [16, 16];
        let over = |columns: u32, rows: u32| [columns.div_ceil(16), rows.div_ceil(16)];
        let first = [b.into(), i.into(), n.into()];
        let second = [b.into(), n.into(), o.into()];
        start("forward_hidden", over(n, b), wide, &mut [x, &mut w1, &mut b1, &mut h], &first).unwrap();
        let buffers = &mut [&mut h[..], &mut w2, &mut b2, &mut probabilities];
        start("forward_output", [b, 1], [32, 1], buffers, &second).unwrap();
        let buffers = &mut [&mut probabilities[..], labels, &mut gradient, loss];
        let grid = [(b * o).div_ceil(256), 1];
        start("output_gradient", grid, [256, 1], buffers, &[b.into(), o.into()]).unwrap();
        let buffers = &mut [&mut h[..], &mut gradient, &mut gw2, &mut gb2];
        start("backward_output", over(o, n), wide, buffers, &second).unwrap();
        let buffers = &mut [&mut gradient[..], &mut w2, &mut h, &mut gh];
        start("backward_hidden", over(n, b), wide, buffers, &second).unwrap();
        start("backward_input", over(n, i), wide, &mut [x, &mut gh, &mut gw1, &mut gb1], &first).unwrap();
        for (w, g, count) in [(&mut w1, &mut gw1, i * n), (&mut b1, &mut gb1, n)]
            .into_iter()
            .chain([(&mut w2, &mut gw2, n * o), (&mut b2, &mut gb2, o)])
        {
            start("sgd", [count.div_ceil(256), 1], [256, 1], &mut [w, g], &[count.into(), rate.into()]).unwrap();
        }
    }
    (mlp::Weights { w1: floats(&w1), b1: floats(&b1), w2: floats(&w2), b2: floats(&b2) }, floats(&losses))
}

#[test]
fn a_picture_is_the_references() {
    for (width, height, samples, seed) in [(64, 48, 4, 1), (33, 17, 9, 7)] {
        let job = path_tracer::Job { width, height, samples, seed };
        let expected = path_tracer::image(job);
        let row = usize::try_from(width).unwrap();
        compare_images(&picture(job, samples), &expected, row, path_tracer::TOLERANCE).unwrap();
        // Other draws, or fewer, are another picture.
        let other = picture(path_tracer::Job { seed: seed + 1, ..job }, samples);
        assert!(compare_images(&other, &expected, row, path_tracer::TOLERANCE).is_err());
        let fewer = picture(job, samples - 1);
        assert!(compare_images(&fewer, &expected, row, path_tracer::TOLERANCE).is_err());
    }
}

/// Traces the first `samples` samples and develops the picture as if all had been.
fn picture(job: path_tracer::Job, samples: u32) -> Vec<u8> {
    let path_tracer::Job { width, height, seed, .. } = job;
    let channels = usize::try_from(width * height * 3).unwrap();
    let (mut accumulation, mut image) = (zeros(channels), vec![0; channels]);
    let grid = [width.div_ceil(8), height.div_ceil(8)];
    for sample in 0..samples {
        let numbers = [width.into(), height.into(), sample.into(), seed.into()];
        start("trace", grid, [8, 8], &mut [&mut accumulation], &numbers).unwrap();
    }
    let numbers = [width.into(), height.into(), job.samples.into()];
    start("tonemap", grid, [8, 8], &mut [&mut accumulation, &mut image], &numbers).unwrap();
    image
}

#[test]
fn a_reference_notices_one_wrong_element() {
    let sizes = gemm::Sizes { m: 8, n: 8, k: 8 };
    let (a, b) = (noise(1, 64), noise(2, 64));
    let expected = gemm::product(&a, &b, sizes);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the kernel's precision")]
    let mut got: Vec<f32> = expected.iter().map(|&value| value as f32).collect();
    assert_eq!(compare(&got, &expected, gemm::tolerance(sizes)), Ok(()));
    got[42] += 1e-3;
    let difference = compare(&got, &expected, gemm::tolerance(sizes));
    assert!(matches!(difference, Err(reference::Difference::Value { index: 42, count: 1, .. })), "{difference:?}");
}
