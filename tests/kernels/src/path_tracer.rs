//! `trace` and `tonemap`: one path through every pixel, and the picture.
//!
//! The steps are those of `path_tracer.cu` in the same precision; only sine, cosine and power differ in their last bits
//! and the compiler's choice where to fuse, so that now and then a path takes another turn than on a GPU.

use crate::launch::Shape;
use crate::memory::{Argument, Outside};
use crate::scene::{
    BOUNCES, BOUNCES_SURE, BRIGHTEST, Chance, EYE, FADED2, FLOOR_DARK, FLOOR_LIGHT, FLOOR_SQUARES, FOCUS, GLASS_INDEX,
    HALF_HEIGHT, HAZE, LAMP_INDEX, LENS, Material, SCENE, SKIN, SKY, Sphere, TARGET, ZENITH,
};

const FAR: f32 = 1e20;

type Vec3 = [f32; 3];

#[derive(Clone, Copy)]
struct Ray {
    origin: Vec3,
    direction: Vec3,
}

struct Hit {
    position: Vec3,
    normal: Vec3,
    colour: Vec3,
    material: Material,
    from_inside: bool,
}

pub(crate) fn trace(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [accumulation, width, height, sample, seed] = arguments else { return Err(Outside) };
    let (width, height, sample, seed) = (width.u32(0)?, height.u32(0)?, sample.u32(0)?, seed.u32(0)?);
    for y in 0..height.min(clamp(shape.rows())) {
        for x in 0..width.min(clamp(shape.columns())) {
            let pixel = y.wrapping_mul(width).wrapping_add(x);
            let mut chance = Chance::new(seed, pixel, sample);
            let ray = view(x, y, width, height, &mut chance);
            let light = follow(ray, &mut chance);
            let first = usize::try_from(pixel).map_err(|_| Outside)? * 3;
            for (channel, value) in light.iter().enumerate() {
                let sum = accumulation.f32(first + channel)? + value.min(BRIGHTEST);
                accumulation.set_f32(first + channel, sum)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn tonemap(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [accumulation, image, width, height, samples] = arguments else { return Err(Outside) };
    let (width, height, share) = (width.count()?, height.count()?, 1.0 / to_f32(samples.u32(0)?));
    for y in 0..height.min(shape.rows()) {
        for x in 0..width.min(shape.columns()) {
            for at in (y * width + x) * 3..(y * width + x) * 3 + 3 {
                image.set_u8(at, develop(accumulation.f32(at)? * share))?;
            }
        }
    }
    Ok(())
}

/// From light to a byte: a curve with a shoulder, then the display's gamma.
fn develop(light: f32) -> u8 {
    let curve = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0.5 and 255.5")]
    let byte = (curve.clamp(0.0, 1.0).powf(1.0 / 2.2) * 255.0 + 0.5) as u8;
    byte
}

/// A ray through a point of the pixel, from a point of the lens.
fn view(x: u32, y: u32, width: u32, height: u32, chance: &mut Chance) -> Ray {
    let back = unit(sub(EYE, TARGET));
    let right = unit(cross([0.0, 1.0, 0.0], back));
    let up = cross(back, right);
    let (w, h) = (to_f32(width), to_f32(height));
    let across = (2.0 * (to_f32(x) + chance.next()) - w) / h * HALF_HEIGHT;
    let upward = (h - 2.0 * (to_f32(y) + chance.next())) / h * HALF_HEIGHT;
    let radius = LENS * chance.next().sqrt();
    let (sine, cosine) = turn(chance.next());
    let offset = add(scale(right, radius * cosine), scale(up, radius * sine));
    let point = scale(sub(add(scale(right, across), scale(up, upward)), back), FOCUS);
    Ray { origin: add(EYE, offset), direction: unit(sub(point, offset)) }
}

/// The light that comes back along `ray`.
fn follow(mut ray: Ray, chance: &mut Chance) -> Vec3 {
    let mut light = [0.0; 3];
    let mut kept = [1.0; 3];
    // Whether the lamp counts where the path meets it; after a diffuse surface it was counted there.
    let mut sees_lamp = true;
    for bounce in 0..BOUNCES {
        let Some(hit) = nearest(ray) else {
            return add(light, mul(kept, sky(ray.direction)));
        };
        if hit.material == Material::Lamp {
            return if sees_lamp { add(light, mul(kept, hit.colour)) } else { light };
        }
        kept = mul(kept, hit.colour);
        let away = add(hit.position, scale(hit.normal, SKIN));
        ray = match hit.material {
            Material::Diffuse => {
                light = add(light, mul(kept, from_lamp(away, &hit, chance)));
                let direction = add(hit.normal, on_cap(-1.0, chance));
                let degenerate = dot(direction, direction) < 1e-6;
                Ray { origin: away, direction: if degenerate { hit.normal } else { unit(direction) } }
            }
            Material::Mirror => {
                let twice = 2.0 * dot(ray.direction, hit.normal);
                Ray { origin: away, direction: unit(sub(ray.direction, scale(hit.normal, twice))) }
            }
            Material::Glass | Material::Lamp => through_glass(ray, &hit, chance),
        };
        sees_lamp = hit.material != Material::Diffuse;
        if bounce >= BOUNCES_SURE {
            let stays = kept[0].max(kept[1]).max(kept[2]).min(0.95);
            if chance.next() >= stays {
                return light;
            }
            kept = scale(kept, 1.0 / stays);
        }
    }
    light
}

/// What the lamp sends straight to a diffuse surface: one direction of the cone in which it stands.
fn from_lamp(away: Vec3, hit: &Hit, chance: &mut Chance) -> Vec3 {
    let lamp = &SCENE[LAMP_INDEX];
    let to = sub(lamp.centre, hit.position);
    let distance2 = dot(to, to);
    let sine2 = lamp.radius * lamp.radius / distance2;
    let lowest = (1.0 - sine2).max(0.0).sqrt();
    let local = on_cap(lowest, chance);
    let w = scale(to, 1.0 / distance2.sqrt());
    let u = unit(cross(if w[0].abs() > 0.7 { [0.0, 1.0, 0.0] } else { [1.0, 0.0, 0.0] }, w));
    let v = cross(w, u);
    let direction = unit(add(add(scale(u, local[0]), scale(v, local[1])), scale(w, local[2])));
    let cosine = dot(hit.normal, direction);
    if cosine <= 0.0 {
        return [0.0; 3];
    }
    match nearest(Ray { origin: away, direction }) {
        Some(Hit { material: Material::Lamp, .. }) => scale(lamp.colour, cosine * (2.0 * sine2 / (1.0 + lowest))),
        Some(_) | None => [0.0; 3],
    }
}

fn through_glass(ray: Ray, hit: &Hit, chance: &mut Chance) -> Ray {
    let ratio = if hit.from_inside { GLASS_INDEX } else { 1.0 / GLASS_INDEX };
    let cosine = (-dot(ray.direction, hit.normal)).min(1.0);
    let sine2 = ratio * ratio * (1.0 - cosine * cosine);
    let draw = chance.next();
    let under = (1.0 - sine2).max(0.0).sqrt();
    let share = reflected_share(if hit.from_inside { under } else { cosine });
    let skin = scale(hit.normal, SKIN);
    if sine2 >= 1.0 || draw < share {
        let direction = add(ray.direction, scale(hit.normal, 2.0 * cosine));
        return Ray { origin: add(hit.position, skin), direction: unit(direction) };
    }
    let direction = add(scale(ray.direction, ratio), scale(hit.normal, ratio * cosine - under));
    Ray { origin: sub(hit.position, skin), direction: unit(direction) }
}

/// Schlick's share of light that glass reflects.
fn reflected_share(cosine: f32) -> f32 {
    let r = (1.0 - GLASS_INDEX) / (1.0 + GLASS_INDEX);
    let m = 1.0 - cosine;
    r * r + (1.0 - r * r) * m * m * m * m * m
}

fn nearest(ray: Ray) -> Option<Hit> {
    let mut distance = FAR;
    let mut found = None;
    for sphere in &SCENE {
        let at = cross_sphere(sphere, ray);
        if at < distance {
            distance = at;
            found = Some(sphere);
        }
    }
    if ray.direction[1] < 0.0 {
        let at = -ray.origin[1] / ray.direction[1];
        if at > SKIN && at < distance {
            let mut position = add(ray.origin, scale(ray.direction, at));
            position[1] = 0.0;
            let colour = floor_colour(position);
            let (normal, material) = ([0.0, 1.0, 0.0], Material::Diffuse);
            return Some(Hit { position, normal, colour, material, from_inside: false });
        }
    }
    let sphere = found?;
    let position = add(ray.origin, scale(ray.direction, distance));
    let outward = scale(sub(position, sphere.centre), 1.0 / sphere.radius);
    let from_inside = dot(outward, ray.direction) > 0.0;
    let normal = if from_inside { scale(outward, -1.0) } else { outward };
    Some(Hit { position, normal, colour: sphere.colour, material: sphere.material, from_inside })
}

/// The nearer crossing in front of the ray, or [`FAR`].
fn cross_sphere(sphere: &Sphere, ray: Ray) -> f32 {
    let to = sub(sphere.centre, ray.origin);
    let along = dot(to, ray.direction);
    let aside = sub(to, scale(ray.direction, along));
    let inside2 = sphere.radius * sphere.radius - dot(aside, aside);
    if inside2 <= 0.0 {
        return FAR;
    }
    let half = inside2.sqrt();
    if along - half > SKIN {
        along - half
    } else if along + half > SKIN {
        along + half
    } else {
        FAR
    }
}

fn floor_colour(at: Vec3) -> Vec3 {
    let squares = (at[0] * FLOOR_SQUARES).floor() + (at[2] * FLOOR_SQUARES).floor();
    let here = if squares.rem_euclid(2.0) == 1.0 { FLOOR_DARK } else { FLOOR_LIGHT };
    let away = ((at[0] * at[0] + at[2] * at[2]) / FADED2).min(1.0);
    mix(here, mix(FLOOR_DARK, FLOOR_LIGHT, 0.5), away)
}

fn sky(direction: Vec3) -> Vec3 {
    let height = direction[1].max(0.0).sqrt();
    scale(mix(HAZE, ZENITH, height), SKY)
}

/// A point of the cap of the unit sphere around +z whose cosine is at least `lowest`.
fn on_cap(lowest: f32, chance: &mut Chance) -> Vec3 {
    let z = 1.0 - chance.next() * (1.0 - lowest);
    let radius = (1.0 - z * z).max(0.0).sqrt();
    let (sine, cosine) = turn(chance.next());
    [radius * cosine, radius * sine, z]
}

/// Sine and cosine of a share of a full turn.
fn turn(share: f32) -> (f32, f32) {
    (share * std::f32::consts::TAU).sin_cos()
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "rounding is what the kernel does")]
fn to_f32(count: u32) -> f32 {
    count as f32
}

fn add(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn mul(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2]]
}

fn scale(a: Vec3, s: f32) -> Vec3 {
    [a[0] * s, a[1] * s, a[2] * s]
}

fn dot(a: Vec3, b: Vec3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn mix(a: Vec3, b: Vec3, share: f32) -> Vec3 {
    add(scale(a, 1.0 - share), scale(b, share))
}

fn unit(a: Vec3) -> Vec3 {
    scale(a, 1.0 / dot(a, a).sqrt())
}
