//! Training a network of two layers: tanh, then softmax with cross-entropy, by plain gradient descent.

use super::Tolerance;

/// Sizes of the network and of its samples: `batches` groups of `batch`, of which step i uses group i modulo batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Samples per step.
    pub batch: usize,
    /// Groups of samples.
    pub batches: usize,
    /// Numbers per sample.
    pub inputs: usize,
    /// Units of the hidden layer.
    pub hidden: usize,
    /// Classes.
    pub outputs: usize,
}

/// The weights of the network, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights<T> {
    /// Inputs by hidden.
    pub w1: Vec<T>,
    /// Hidden.
    pub b1: Vec<T>,
    /// Hidden by outputs.
    pub w2: Vec<T>,
    /// Outputs.
    pub b2: Vec<T>,
}

/// Samples and how to descend.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Of everything here.
    pub sizes: Sizes,
    /// Samples, row by row.
    pub x: &'a [f32],
    /// The class of each sample.
    pub labels: &'a [u32],
    /// Share of the gradient that a step takes.
    pub rate: f32,
    /// How many steps.
    pub steps: usize,
}

/// The weights after the steps, and the loss that each step saw before it descended.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// After the last step.
    pub weights: Weights<f64>,
    /// Mean cross-entropy, one per step.
    pub losses: Vec<f64>,
}

/// How far weights and losses may be off for up to 100 steps at rates up to 0.5, with samples and weights of a few
/// units at most. A step adds a few roundings of single precision (6e-8) per weight, and those of the GPU's own
/// exponentials; 60 steps of 20 samples with 33 units used a sixtieth of this.
pub const TOLERANCE: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };

/// What one sample wants of the weights.
struct Gradient {
    weights: Weights<f64>,
    loss: f64,
}

/// Runs the job.
pub fn train(start: &Weights<f32>, job: Job<'_>) -> Trained {
    let Sizes { batch, batches, inputs, .. } = job.sizes;
    assert!(job.x.len() == batches * batch * inputs && job.labels.len() == batches * batch, "samples are of the sizes");
    let mut weights = start.widened();
    let mut losses = Vec::with_capacity(job.steps);
    for step in 0..job.steps {
        let samples = step % batches * batch..(step % batches + 1) * batch;
        let mut total = Gradient { weights: weights.zeros(), loss: 0.0 };
        for sample in samples {
            let x: Vec<f64> = job.x[sample * inputs..][..inputs].iter().copied().map(f64::from).collect();
            let label = usize::try_from(job.labels[sample]).unwrap_or(usize::MAX);
            backpropagate(&weights, job.sizes, &x, label, &mut total);
        }
        let share = 1.0 / u32::try_from(batch).map_or(f64::INFINITY, f64::from);
        weights.descend(&total.weights, f64::from(job.rate) * share);
        losses.push(total.loss * share);
    }
    Trained { weights, losses }
}

/// Adds one sample's gradient and loss to `total`.
fn backpropagate(weights: &Weights<f64>, sizes: Sizes, x: &[f64], label: usize, total: &mut Gradient) {
    let Sizes { hidden, outputs, .. } = sizes;
    let h: Vec<f64> = layer(x, &weights.w1, &weights.b1).into_iter().map(f64::tanh).collect();
    let scores = layer(&h, &weights.w2, &weights.b2);
    // The logarithm of the sum of exponentials, shifted so that none overflows.
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let logarithm = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    total.loss += scores.get(label).map_or(0.0, |score| logarithm - score);

    let target = |output: usize| if output == label { 1.0 } else { 0.0 };
    let slopes: Vec<f64> =
        scores.iter().enumerate().map(|(output, score)| (score - logarithm).exp() - target(output)).collect();
    for (unit, value) in h.iter().enumerate() {
        let row = &weights.w2[unit * outputs..][..outputs];
        let behind: f64 = row.iter().zip(&slopes).map(|(weight, slope)| weight * slope).sum();
        let slope = behind * (1.0 - value * value);
        total.weights.b1[unit] += slope;
        for (input, number) in x.iter().enumerate() {
            total.weights.w1[input * hidden + unit] += number * slope;
        }
        for (output, slope) in slopes.iter().enumerate() {
            total.weights.w2[unit * outputs + output] += value * slope;
        }
    }
    for (sum, slope) in total.weights.b2.iter_mut().zip(&slopes) {
        *sum += slope;
    }
}

/// `values` times the matrix, plus the biases.
fn layer(values: &[f64], matrix: &[f64], biases: &[f64]) -> Vec<f64> {
    let mut sums = biases.to_vec();
    for (value, row) in values.iter().zip(matrix.chunks_exact(biases.len())) {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += value * weight;
        }
    }
    sums
}

// === impl Weights ===

impl Weights<f32> {
    fn widened(&self) -> Weights<f64> {
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect();
        Weights { w1: wide(&self.w1), b1: wide(&self.b1), w2: wide(&self.w2), b2: wide(&self.b2) }
    }
}

impl Weights<f64> {
    fn zeros(&self) -> Weights<f64> {
        let zeros = |values: &[f64]| vec![0.0; values.len()];
        Weights { w1: zeros(&self.w1), b1: zeros(&self.b1), w2: zeros(&self.w2), b2: zeros(&self.b2) }
    }

    fn descend(&mut self, gradient: &Weights<f64>, rate: f64) {
        let pairs = [
            (&mut self.w1, &gradient.w1),
            (&mut self.b1, &gradient.b1),
            (&mut self.w2, &gradient.w2),
            (&mut self.b2, &gradient.b2),
        ];
        for (weights, slopes) in pairs {
            for (weight, slope) in weights.iter_mut().zip(slopes) {
                *weight -= rate * slope;
            }
        }
    }
}
