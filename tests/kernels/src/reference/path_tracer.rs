//! The picture, in double precision, by recursion over the light that leaves a point.
//!
//! The draws are taken in the kernel's order, so each path makes the same choices unless one hangs on the last digits
//! of single precision.

use super::ImageTolerance;
use crate::scene::{
    BOUNCES, BOUNCES_SURE, BRIGHTEST, Chance, EYE, FADED2, FLOOR_DARK, FLOOR_LIGHT, FLOOR_SQUARES, FOCUS, GLASS_INDEX,
    HALF_HEIGHT, HAZE, LAMP_INDEX, LENS, Material, SCENE, SKIN, SKY, TARGET, ZENITH,
};

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Paths per pixel.
    pub samples: u32,
    /// Which draws.
    pub seed: u32,
}

/// How far a picture may be off, for up to a few hundred samples: where a path took another turn a pixel may be
/// anything, and the others differ by rounding to a level.
pub const TOLERANCE: ImageTolerance = ImageTolerance { levels: 2, pixels: 0.01, mean_levels: 0.1 };

#[derive(Clone, Copy)]
struct V(f64, f64, f64);

#[derive(Clone, Copy)]
struct Line {
    from: V,
    along: V,
}

struct Surface {
    at: V,
    /// Against the line that met it.
    normal: V,
    colour: V,
    material: Material,
    from_inside: bool,
}

/// Everything that a path carries from point to point besides its line.
#[derive(Clone, Copy)]
struct Path {
    bounce: u32,
    /// The share of light that survives back to the eye.
    kept: V,
    sees_lamp: bool,
}

/// Red, green and blue of every pixel, row by row from the top left.
pub fn image(job: Job) -> Vec<u8> {
    let mut bytes = Vec::new();
    for y in 0..job.height {
        for x in 0..job.width {
            let mut sum = V(0.0, 0.0, 0.0);
            for sample in 0..job.samples {
                let mut chance = Chance::new(job.seed, y * job.width + x, sample);
                let line = through_pixel(job, x, y, &mut chance);
                let start = Path { bounce: 0, kept: V(1.0, 1.0, 1.0), sees_lamp: true };
                let V(r, g, b) = light(line, start, &mut chance);
                let limit = f64::from(BRIGHTEST);
                sum = sum.plus(V(r.min(limit), g.min(limit), b.min(limit)));
            }
            let V(r, g, b) = sum.times(1.0 / f64::from(job.samples));
            bytes.extend([r, g, b].map(byte));
        }
    }
    bytes
}

fn byte(light: f64) -> u8 {
    let shoulder = (light * (2.51 * light + 0.03)) / (light * (2.43 * light + 0.59) + 0.14);
    let level = (255.0 * shoulder.clamp(0.0, 1.0).powf(1.0 / 2.2)).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
    let byte = level as u8;
    byte
}

fn through_pixel(job: Job, x: u32, y: u32, chance: &mut Chance) -> Line {
    let eye = V::of(EYE);
    let ahead = V::of(TARGET).minus(eye).unit();
    let right = ahead.cross(V(0.0, 1.0, 0.0)).unit();
    let up = right.cross(ahead);
    // Pixels become lengths at distance 1: the picture is two half heights tall.
    let per_pixel = 2.0 * f64::from(HALF_HEIGHT) / f64::from(job.height);
    let across = (f64::from(x) + draw(chance) - f64::from(job.width) / 2.0) * per_pixel;
    let upward = (f64::from(job.height) / 2.0 - f64::from(y) - draw(chance)) * per_pixel;
    let radius = f64::from(LENS) * draw(chance).sqrt();
    let angle = std::f64::consts::TAU * draw(chance);
    let on_lens = right.times(radius * angle.cos()).plus(up.times(radius * angle.sin()));
    let sharp = ahead.plus(right.times(across)).plus(up.times(upward)).times(f64::from(FOCUS));
    Line { from: eye.plus(on_lens), along: sharp.minus(on_lens).unit() }
}

/// The light that comes back along `line`, in proportion to what the path keeps.
fn light(line: Line, path: Path, chance: &mut Chance) -> V {
    let dark = V(0.0, 0.0, 0.0);
    if path.bounce == BOUNCES {
        return dark;
    }
    let Some(surface) = first_surface(line) else { return path.kept.tint(sky(line.along)) };
    if surface.material == Material::Lamp {
        return if path.sees_lamp { path.kept.tint(surface.colour) } else { dark };
    }
    let kept = path.kept.tint(surface.colour);
    let direct = match surface.material {
        Material::Diffuse => kept.tint(lamplight(&surface, chance)),
        Material::Mirror | Material::Glass | Material::Lamp => dark,
    };
    let onward = scatter(line, &surface, chance);
    let mut next = Path { bounce: path.bounce + 1, kept, sees_lamp: surface.material != Material::Diffuse };
    if path.bounce >= BOUNCES_SURE {
        let survival = kept.0.max(kept.1).max(kept.2).min(0.95);
        if draw(chance) >= survival {
            return direct;
        }
        next.kept = kept.times(1.0 / survival);
    }
    direct.plus(light(onward, next, chance))
}

/// Where a path goes on from a surface.
fn scatter(line: Line, surface: &Surface, chance: &mut Chance) -> Line {
    let normal = surface.normal;
    let lifted = surface.at.plus(normal.times(f64::from(SKIN)));
    let mirrored = || line.along.minus(normal.times(2.0 * line.along.dot(normal))).unit();
    match surface.material {
        Material::Diffuse => {
            let around = normal.plus(cap(-1.0, chance));
            Line { from: lifted, along: if around.dot(around) < 1e-6 { normal } else { around.unit() } }
        }
        Material::Mirror | Material::Lamp => Line { from: lifted, along: mirrored() },
        Material::Glass => {
            let index = f64::from(GLASS_INDEX);
            let ratio = if surface.from_inside { index } else { 1.0 / index };
            let cosine = -line.along.dot(normal);
            let sine2_beyond = ratio.powi(2) * (1.0 - cosine.powi(2));
            let lot = draw(chance);
            if sine2_beyond >= 1.0 {
                return Line { from: lifted, along: mirrored() };
            }
            let cosine_beyond = (1.0 - sine2_beyond).sqrt();
            // Schlick, by the cosine on the side of the air.
            let in_air = if surface.from_inside { cosine_beyond } else { cosine };
            let upright = ((index - 1.0) / (index + 1.0)).powi(2);
            if lot < upright + (1.0 - upright) * (1.0 - in_air).powi(5) {
                return Line { from: lifted, along: mirrored() };
            }
            let sideways = line.along.plus(normal.times(cosine)).times(ratio);
            let from = surface.at.minus(normal.times(f64::from(SKIN)));
            Line { from, along: sideways.minus(normal.times(cosine_beyond)).unit() }
        }
    }
}

/// The lamp's light on a diffuse surface, by one direction of the cone in which the lamp stands.
fn lamplight(surface: &Surface, chance: &mut Chance) -> V {
    let lamp = &SCENE[LAMP_INDEX];
    let to = V::of(lamp.centre).minus(surface.at);
    let distance = to.dot(to).sqrt();
    let rim = (1.0 - (f64::from(lamp.radius) / distance).powi(2)).max(0.0).sqrt();
    let V(x, y, z) = cap(rim, chance);
    let axis = to.times(1.0 / distance);
    let helper = if axis.0.abs() > 0.7 { V(0.0, 1.0, 0.0) } else { V(1.0, 0.0, 0.0) };
    let side = helper.cross(axis).unit();
    let along = side.times(x).plus(axis.cross(side).times(y)).plus(axis.times(z)).unit();
    let cosine = surface.normal.dot(along);
    let from = surface.at.plus(surface.normal.times(f64::from(SKIN)));
    let is_lit = cosine > 0.0 && first_surface(Line { from, along }).is_some_and(|met| met.material == Material::Lamp);
    // Solid angle 2 pi (1 - rim), over pi.
    if is_lit { V::of(lamp.colour).times(2.0 * cosine * (1.0 - rim)) } else { V(0.0, 0.0, 0.0) }
}

fn first_surface(line: Line) -> Option<Surface> {
    let skin = f64::from(SKIN);
    let mut best: Option<(f64, Option<usize>)> = None;
    let mut offer = |distance: f64, what: Option<usize>| {
        if distance > skin && best.is_none_or(|(nearest, _)| distance < nearest) {
            best = Some((distance, what));
        }
    };
    for (index, sphere) in SCENE.iter().enumerate() {
        // The roots of |from + t along - centre| = radius.
        let to = line.from.minus(V::of(sphere.centre));
        let half_b = to.dot(line.along);
        let discriminant = half_b.powi(2) - to.dot(to) + f64::from(sphere.radius).powi(2);
        if discriminant > 0.0 {
            offer(-half_b - discriminant.sqrt(), Some(index));
            offer(-half_b + discriminant.sqrt(), Some(index));
        }
    }
    if line.along.1 < 0.0 {
        offer(-line.from.1 / line.along.1, None);
    }
    let (distance, what) = best?;
    let at = line.from.plus(line.along.times(distance));
    Some(match what {
        None => Surface {
            at: V(at.0, 0.0, at.2),
            normal: V(0.0, 1.0, 0.0),
            colour: floor(at),
            material: Material::Diffuse,
            from_inside: false,
        },
        Some(index) => {
            let sphere = &SCENE[index];
            let outward = at.minus(V::of(sphere.centre)).unit();
            let from_inside = outward.dot(line.along) > 0.0;
            let normal = outward.times(if from_inside { -1.0 } else { 1.0 });
            Surface { at, normal, colour: V::of(sphere.colour), material: sphere.material, from_inside }
        }
    })
}

fn floor(at: V) -> V {
    let (dark, light) = (V::of(FLOOR_DARK), V::of(FLOOR_LIGHT));
    let is_even = |x: f64| (x * f64::from(FLOOR_SQUARES)).floor().rem_euclid(2.0) == 0.0;
    let square = if is_even(at.0) == is_even(at.2) { light } else { dark };
    let faded = dark.plus(light).times(0.5);
    let share = ((at.0.powi(2) + at.2.powi(2)) / f64::from(FADED2)).min(1.0);
    square.plus(faded.minus(square).times(share))
}

fn sky(along: V) -> V {
    let height = along.1.max(0.0).sqrt();
    V::of(HAZE).times(1.0 - height).plus(V::of(ZENITH).times(height)).times(f64::from(SKY))
}

fn cap(lowest: f64, chance: &mut Chance) -> V {
    let z = 1.0 - draw(chance) * (1.0 - lowest);
    let radius = (1.0 - z * z).max(0.0).sqrt();
    let angle = std::f64::consts::TAU * draw(chance);
    V(radius * angle.cos(), radius * angle.sin(), z)
}

fn draw(chance: &mut Chance) -> f64 {
    f64::from(chance.next())
}

// === impl V ===

impl V {
    fn of([x, y, z]: [f32; 3]) -> V {
        V(f64::from(x), f64::from(y), f64::from(z))
    }

    fn plus(self, other: V) -> V {
        V(self.0 + other.0, self.1 + other.1, self.2 + other.2)
    }

    fn minus(self, other: V) -> V {
        V(self.0 - other.0, self.1 - other.1, self.2 - other.2)
    }

    fn times(self, factor: f64) -> V {
        V(self.0 * factor, self.1 * factor, self.2 * factor)
    }

    fn tint(self, other: V) -> V {
        V(self.0 * other.0, self.1 * other.1, self.2 * other.2)
    }

    fn dot(self, other: V) -> f64 {
        self.0 * other.0 + self.1 * other.1 + self.2 * other.2
    }

    fn cross(self, other: V) -> V {
        V(self.1 * other.2 - self.2 * other.1, self.2 * other.0 - self.0 * other.2, self.0 * other.1 - self.1 * other.0)
    }

    fn unit(self) -> V {
        self.times(1.0 / self.dot(self).sqrt())
    }
}
