//! What the path tracer draws and how it draws lots: the numbers that the kernel and its reference share.
//!
//! The table is that of `path_tracer.cu`; a test compares them.

/// What a surface does to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    /// Scatters it by Lambert's law.
    Diffuse,
    /// Reflects it.
    Mirror,
    /// Reflects some of it and lets the rest through.
    Glass,
    /// Sends it.
    Lamp,
}

/// A ball of the scene. Its colour is the share of light it keeps, or for the lamp the light it sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sphere {
    pub(crate) centre: [f32; 3],
    pub(crate) radius: f32,
    pub(crate) colour: [f32; 3],
    pub(crate) material: Material,
}

/// Which sphere is the lamp.
pub(crate) const LAMP_INDEX: usize = 0;

/// The longest path.
pub(crate) const BOUNCES: u32 = 10;

/// Bounces before chance may end a path.
pub(crate) const BOUNCES_SURE: u32 = 4;

/// The most that one path adds to a pixel's channel.
pub(crate) const BRIGHTEST: f32 = 6.0;

/// How far a new ray starts from the surface that it leaves.
pub(crate) const SKIN: f32 = 1e-3;

/// Refractive index of the glass.
pub(crate) const GLASS_INDEX: f32 = 1.5;

/// The camera: where it stands, where it looks, the distance that is sharp, the lens's radius, and half the picture's
/// height at distance 1.
pub(crate) const EYE: [f32; 3] = [0.0, 1.9, 7.6];
pub(crate) const TARGET: [f32; 3] = [0.0, 1.05, 0.0];
pub(crate) const FOCUS: f32 = 7.0;
pub(crate) const LENS: f32 = 0.05;
pub(crate) const HALF_HEIGHT: f32 = 0.33;

/// The sky at the horizon and overhead, and its brightness.
pub(crate) const HAZE: [f32; 3] = [1.0, 0.58, 0.34];
pub(crate) const ZENITH: [f32; 3] = [0.08, 0.24, 0.7];
pub(crate) const SKY: f32 = 0.42;

/// The floor's two colours, and its squares per unit of length.
pub(crate) const FLOOR_DARK: [f32; 3] = [0.08, 0.08, 0.09];
pub(crate) const FLOOR_LIGHT: [f32; 3] = [0.66, 0.62, 0.56];
pub(crate) const FLOOR_SQUARES: f32 = 1.1;

/// The square of the distance from the middle where the floor has no squares any more.
pub(crate) const FADED2: f32 = 500.0;

/// The spheres. The floor is the plane y = 0.
pub(crate) const SCENE: [Sphere; 12] = [
    ball([-6.0, 6.5, 2.2], 1.7, [24.0, 19.5, 14.5], Material::Lamp),
    ball([-0.35, 1.0, 0.45], 1.0, [0.98, 0.99, 1.0], Material::Glass),
    ball([1.95, 1.05, -0.75], 1.05, [0.96, 0.77, 0.46], Material::Mirror),
    ball([-2.35, 0.95, -0.85], 0.95, [0.8, 0.15, 0.11], Material::Diffuse),
    ball([0.35, 1.25, -3.1], 1.25, [0.1, 0.32, 0.66], Material::Diffuse),
    ball([-1.55, 0.4, 1.55], 0.4, [0.95, 0.95, 0.97], Material::Mirror),
    ball([1.15, 0.34, 1.35], 0.34, [0.06, 0.55, 0.46], Material::Diffuse),
    ball([0.3, 0.22, 2.15], 0.22, [0.93, 0.6, 0.08], Material::Diffuse),
    ball([2.55, 0.28, 0.95], 0.28, [0.6, 0.3, 0.74], Material::Diffuse),
    ball([-2.45, 0.3, 0.95], 0.3, [0.82, 1.0, 0.88], Material::Glass),
    ball([1.85, 0.2, 2.15], 0.2, [0.88, 0.86, 0.82], Material::Diffuse),
    ball([3.75, 0.8, -3.0], 0.8, [0.18, 0.48, 0.2], Material::Diffuse),
];

const fn ball(centre: [f32; 3], radius: f32, colour: [f32; 3], material: Material) -> Sphere {
    Sphere { centre, radius, colour, material }
}

/// The draws of one path, which depend on the seed, the pixel and the sample only: a permuted congruential generator
/// of 32 bits (RXS-M-XS, O'Neill 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    state: u32,
}

// === impl Chance ===

impl Chance {
    pub(crate) fn new(seed: u32, pixel: u32, sample: u32) -> Chance {
        let seeded = scramble(seed.wrapping_add(0x9e37_79b9));
        let placed = scramble(seeded.wrapping_add(pixel));
        Chance { state: scramble(placed.wrapping_add(sample)) }
    }

    /// From 0 up to, not including, 1: 24 bits, exact in single precision.
    pub(crate) fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact")]
        let bits = (scramble(self.state) >> 8) as f32;
        bits / 16_777_216.0
    }
}

fn scramble(state: u32) -> u32 {
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_cuda_source_is_this_one() {
        let source = include_str!("../../bundles/path-tracer/path_tracer.cu");
        let rows: Vec<Vec<f32>> = source
            .lines()
            .filter(|line| line.starts_with("    {{"))
            .map(|line| {
                let parts = line.split(['{', '}', ',', ' ']);
                parts.filter_map(|word| word.trim_end_matches('f').parse().ok()).collect()
            })
            .collect();
        let expected: Vec<Vec<f32>> =
            SCENE.iter().map(|ball| [&ball.centre[..], &[ball.radius], &ball.colour[..]].concat()).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_other_numbers_are_in_the_cuda_source_too() {
        let source = include_str!("../../bundles/path-tracer/path_tracer.cu");
        let vec = |[x, y, z]: [f32; 3]| format!("vec({x:?}f, {y:?}f, {z:?}f)");
        let expected = [
            format!("eye = {};", vec(EYE)),
            format!("target = {};", vec(TARGET)),
            format!("focus = {FOCUS:?}f;"),
            format!("lens = {LENS:?}f;"),
            format!("half_height = {HALF_HEIGHT:?}f;"),
            format!("haze = {};", vec(HAZE)),
            format!("zenith = {};", vec(ZENITH)),
            format!("sqrtf(height)) * {SKY:?}f;"),
            format!("dark = {};", vec(FLOOR_DARK)),
            format!("light = {};", vec(FLOOR_LIGHT)),
            format!("floorf(at.x * {FLOOR_SQUARES:?}f)"),
            format!("FADED2 = {FADED2:?}f;"),
            format!("GLASS_INDEX = {GLASS_INDEX:?}f;"),
            format!("BRIGHTEST = {BRIGHTEST:?}f;"),
            format!("BOUNCES = {BOUNCES};"),
            format!("BOUNCES_SURE = {BOUNCES_SURE};"),
        ];
        for text in expected {
            assert!(source.contains(&text), "{text}");
        }
    }
}
