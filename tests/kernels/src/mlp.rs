//! The kernels of the bundle mlp: forward, backward and descent of a network of two layers.
//!
//! Sums ascend as in the CUDA source; tanh, exponential and logarithm are the CPU's, which differ from a GPU's in the
//! last bits.

use crate::launch::Shape;
use crate::memory::{Argument, Outside};

/// h = tanh(x w1 + b1).
pub(crate) fn forward_hidden(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [x, w1, b1, h, batch, inputs, hidden] = arguments else { return Err(Outside) };
    let (batch, inputs, hidden) = (batch.count()?, inputs.count()?, hidden.count()?);
    for row in 0..batch.min(shape.rows()) {
        for unit in 0..hidden.min(shape.columns()) {
            let mut sum = b1.f32(unit)?;
            for input in 0..inputs {
                sum = x.f32(row * inputs + input)?.mul_add(w1.f32(input * hidden + unit)?, sum);
            }
            h.set_f32(row * hidden + unit, sum.tanh())?;
        }
    }
    Ok(())
}

/// probabilities = softmax(h w2 + b2), one block per row.
pub(crate) fn forward_output(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [h, w2, b2, probabilities, batch, hidden, outputs] = arguments else { return Err(Outside) };
    let (batch, hidden, outputs) = (batch.count()?, hidden.count()?, outputs.count()?);
    for row in 0..batch.min(shape.grid[0]) {
        let first = row * outputs;
        let mut largest = f32::NEG_INFINITY;
        for output in 0..outputs {
            let mut sum = b2.f32(output)?;
            for unit in 0..hidden {
                sum = h.f32(row * hidden + unit)?.mul_add(w2.f32(unit * outputs + output)?, sum);
            }
            largest = largest.max(sum);
            probabilities.set_f32(first + output, sum)?;
        }
        let mut total = 0.0_f32;
        for output in 0..outputs {
            total += (probabilities.f32(first + output)? - largest).exp();
        }
        for output in 0..outputs {
            let share = (probabilities.f32(first + output)? - largest).exp() / total;
            probabilities.set_f32(first + output, share)?;
        }
    }
    Ok(())
}

/// gradient = (probabilities - one at the label) / batch; loss = the mean cross-entropy.
pub(crate) fn output_gradient(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [probabilities, labels, gradient, loss, batch, outputs] = arguments else { return Err(Outside) };
    let share = 1.0 / to_f32(batch.u32(0)?);
    let (batch, outputs) = (batch.count()?, outputs.count()?);
    for at in 0..(batch * outputs).min(shape.columns()) {
        let label = to_index(labels.u32(at / outputs)?)?;
        let target = if label == at % outputs { 1.0 } else { 0.0 };
        gradient.set_f32(at, (probabilities.f32(at)? - target) * share)?;
    }
    // As the threads of the first block share out the rows, one thread after the other.
    let mut total = 0.0_f32;
    for thread in 0..shape.block[0] {
        let mut sum = 0.0_f32;
        for row in (thread..batch).step_by(shape.block[0]) {
            let label = to_index(labels.u32(row)?)?;
            if label < outputs {
                sum -= probabilities.f32(row * outputs + label)?.max(1e-30).ln();
            }
        }
        total += sum;
    }
    loss.set_f32(0, total * share)
}

/// gw2 = h' gradient, gb2 = the gradient's columns summed.
pub(crate) fn backward_output(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [h, gradient, gw2, gb2, batch, hidden, outputs] = arguments else { return Err(Outside) };
    let (batch, hidden, outputs) = (batch.count()?, hidden.count()?, outputs.count()?);
    weights([h, gradient, gw2, gb2], shape, batch, hidden, outputs)
}

/// gw1 = x' gh, gb1 = the columns of gh summed.
pub(crate) fn backward_input(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [x, gh, gw1, gb1, batch, inputs, hidden] = arguments else { return Err(Outside) };
    let (batch, inputs, hidden) = (batch.count()?, inputs.count()?, hidden.count()?);
    weights([x, gh, gw1, gb1], shape, batch, inputs, hidden)
}

/// The gradient of a layer's weights (`from` by `to`) and biases, from what went in and the slopes of what came out.
fn weights(
    [values, slopes, gw, gb]: [&mut Argument<'_>; 4],
    shape: Shape,
    batch: usize,
    from: usize,
    to: usize,
) -> Result<(), Outside> {
    for source in 0..from.min(shape.rows()) {
        for target in 0..to.min(shape.columns()) {
            let mut weight = 0.0_f32;
            let mut bias = 0.0_f32;
            for row in 0..batch {
                let slope = slopes.f32(row * to + target)?;
                weight = values.f32(row * from + source)?.mul_add(slope, weight);
                bias += slope;
            }
            gw.set_f32(source * to + target, weight)?;
            if source == 0 {
                gb.set_f32(target, bias)?;
            }
        }
    }
    Ok(())
}

/// gh = (gradient w2') (1 - h^2).
pub(crate) fn backward_hidden(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [gradient, w2, h, gh, batch, hidden, outputs] = arguments else { return Err(Outside) };
    let (batch, hidden, outputs) = (batch.count()?, hidden.count()?, outputs.count()?);
    for row in 0..batch.min(shape.rows()) {
        for unit in 0..hidden.min(shape.columns()) {
            let mut sum = 0.0_f32;
            for output in 0..outputs {
                sum = gradient.f32(row * outputs + output)?.mul_add(w2.f32(unit * outputs + output)?, sum);
            }
            let value = h.f32(row * hidden + unit)?;
            gh.set_f32(row * hidden + unit, sum * (-value).mul_add(value, 1.0))?;
        }
    }
    Ok(())
}

/// w -= rate g.
pub(crate) fn sgd(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [w, g, count, rate] = arguments else { return Err(Outside) };
    let (count, rate) = (count.count()?, rate.f32(0)?);
    for at in 0..count.min(shape.columns()) {
        w.set_f32(at, (-rate).mul_add(g.f32(at)?, w.f32(at)?))?;
    }
    Ok(())
}

fn to_index(label: u32) -> Result<usize, Outside> {
    usize::try_from(label).map_err(|_| Outside)
}

/// The nearest float, as CUDA converts an unsigned integer.
#[expect(clippy::cast_precision_loss, reason = "rounding is what the kernel does")]
fn to_f32(count: u32) -> f32 {
    count as f32
}
