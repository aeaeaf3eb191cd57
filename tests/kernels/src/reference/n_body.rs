//! Bodies under their own gravity, by leapfrog.

use super::Tolerance;

/// Bodies and how they are stepped. G is 1.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// x, y, z and mass of each body.
    pub bodies: &'a [f32],
    /// x, y, z of each body's velocity, half a step before the positions.
    pub velocities: &'a [f32],
    /// Length added to every distance, in quadrature.
    pub softening: f32,
    /// Length of a step.
    pub dt: f32,
    /// How many steps.
    pub steps: u32,
}

/// The bodies and velocities after the steps, laid out as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// x, y, z and mass of each body.
    pub bodies: Vec<f64>,
    /// x, y, z of each body's velocity, half a step before the positions.
    pub velocities: Vec<f64>,
}

/// How far positions and velocities may be off for a few hundred bodies of total mass 1 within a few units of each other,
/// softening of at least 0.05, and up to a unit of time. Errors of single precision (6e-8) grow as neighbours part;
/// 50 steps of 0.01 with 64 bodies used a twentieth of this.
pub const TOLERANCE: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };

#[derive(Clone, Copy)]
struct Body {
    position: [f64; 3],
    velocity: [f64; 3],
    mass: f64,
}

/// Runs the job.
pub fn simulate(job: Job<'_>) -> Ended {
    let mut bodies = read(job);
    let softening2 = f64::from(job.softening).powi(2);
    let dt = f64::from(job.dt);
    for _ in 0..job.steps {
        let pulls: Vec<[f64; 3]> = bodies.iter().map(|body| pull(body.position, &bodies, softening2)).collect();
        for (body, pull) in bodies.iter_mut().zip(pulls) {
            for ((x, v), a) in body.position.iter_mut().zip(&mut body.velocity).zip(pull) {
                *v += a * dt;
                *x += *v * dt;
            }
        }
    }
    Ended {
        bodies: bodies.iter().flat_map(|b| [b.position[0], b.position[1], b.position[2], b.mass]).collect(),
        velocities: bodies.iter().flat_map(|b| b.velocity).collect(),
    }
}

fn read(job: Job<'_>) -> Vec<Body> {
    let places = job.bodies.as_chunks::<4>().0;
    let speeds = job.velocities.as_chunks::<3>().0;
    assert_eq!(places.len(), speeds.len(), "every body has a velocity");
    let body = |(&[x, y, z, mass], speed): (&[f32; 4], &[f32; 3])| Body {
        position: [x, y, z].map(f64::from),
        velocity: speed.map(f64::from),
        mass: f64::from(mass),
    };
    places.iter().zip(speeds).map(body).collect()
}

/// The acceleration at `position`.
fn pull(position: [f64; 3], bodies: &[Body], softening2: f64) -> [f64; 3] {
    let mut sum = [0.0; 3];
    for other in bodies {
        let away = [0, 1, 2].map(|axis| other.position[axis] - position[axis]);
        let distance2: f64 = away.iter().map(|d| d * d).sum::<f64>() + softening2;
        let strength = other.mass / distance2.powf(1.5);
        for (total, part) in sum.iter_mut().zip(away) {
            *total += part * strength;
        }
    }
    sum
}
