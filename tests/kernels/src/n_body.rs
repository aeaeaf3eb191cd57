//! `forces` and `integrate`: gravity, and one step of leapfrog.
//!
//! Every operation is rounded and ordered as in the CUDA source, so both give the same bits.

use crate::launch::Shape;
use crate::memory::{Argument, Outside};

pub(crate) fn forces(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [bodies, accelerations, n, softening] = arguments else { return Err(Outside) };
    let (n, softening) = (n.count()?, softening.f32(0)?);
    for i in 0..n.min(shape.columns()) {
        let own = [bodies.f32(4 * i)?, bodies.f32(4 * i + 1)?, bodies.f32(4 * i + 2)?];
        let mut sum = [0.0_f32; 3];
        for j in 0..n {
            let mut away = [0.0_f32; 3];
            let mut distance2 = softening * softening;
            for axis in 0..3 {
                away[axis] = bodies.f32(4 * j + axis)? - own[axis];
                distance2 = away[axis].mul_add(away[axis], distance2);
            }
            let inverse = 1.0 / distance2.sqrt();
            let pull = bodies.f32(4 * j + 3)? * (inverse * (inverse * inverse));
            for axis in 0..3 {
                sum[axis] = away[axis].mul_add(pull, sum[axis]);
            }
        }
        for (axis, &acceleration) in sum.iter().enumerate() {
            accelerations.set_f32(3 * i + axis, acceleration)?;
        }
    }
    Ok(())
}

pub(crate) fn integrate(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [bodies, velocities, accelerations, n, dt] = arguments else { return Err(Outside) };
    let (n, dt) = (n.count()?, dt.f32(0)?);
    for i in 0..n.min(shape.columns()) {
        for axis in 0..3 {
            let velocity = accelerations.f32(3 * i + axis)?.mul_add(dt, velocities.f32(3 * i + axis)?);
            velocities.set_f32(3 * i + axis, velocity)?;
            bodies.set_f32(4 * i + axis, velocity.mul_add(dt, bodies.f32(4 * i + axis)?))?;
        }
    }
    Ok(())
}
