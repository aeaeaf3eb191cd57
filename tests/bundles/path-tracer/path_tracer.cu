// A path tracer: spheres on a chequered floor under a round lamp and an evening sky.
//
// One launch of `trace` follows one path through every pixel and adds what it found to the accumulation; `tonemap`
// makes the picture. Chance comes from integers alone: the draws of a path depend on the seed, the pixel and the sample
// only, so the order of launches and blocks does not matter.

constexpr unsigned BLOCK = 64;
constexpr unsigned BOUNCES = 10;

// Bounces that a path makes before chance may end it.
constexpr unsigned BOUNCES_SURE = 4;

// No path adds more than this to a pixel: a few lucky paths would stand out as sparks for thousands of samples.
constexpr float BRIGHTEST = 6.0f;

// How far a new ray starts from the surface that it leaves.
constexpr float SKIN = 1e-3f;

constexpr float FAR = 1e20f;

// The square of the distance from the middle where the floor has no squares any more.
constexpr float FADED2 = 500.0f;

constexpr float GLASS_INDEX = 1.5f;

struct Vec {
    float x, y, z;
};

enum Material : int { DIFFUSE, MIRROR, GLASS, LAMP };

struct Sphere {
    Vec centre;
    float radius;
    Vec colour;
    Material material;
};

constexpr unsigned SPHERES = 12;
constexpr unsigned LAMP_INDEX = 0;

// The numbers of the scene stand once more in `tests/kernels`, where a test compares them.
__constant__ const Sphere SCENE[SPHERES] = {
    {{-6.0f, 6.5f, 2.2f}, 1.7f, {24.0f, 19.5f, 14.5f}, LAMP},
    {{-0.35f, 1.0f, 0.45f}, 1.0f, {0.98f, 0.99f, 1.0f}, GLASS},
    {{1.95f, 1.05f, -0.75f}, 1.05f, {0.96f, 0.77f, 0.46f}, MIRROR},
    {{-2.35f, 0.95f, -0.85f}, 0.95f, {0.8f, 0.15f, 0.11f}, DIFFUSE},
    {{0.35f, 1.25f, -3.1f}, 1.25f, {0.1f, 0.32f, 0.66f}, DIFFUSE},
    {{-1.55f, 0.4f, 1.55f}, 0.4f, {0.95f, 0.95f, 0.97f}, MIRROR},
    {{1.15f, 0.34f, 1.35f}, 0.34f, {0.06f, 0.55f, 0.46f}, DIFFUSE},
    {{0.3f, 0.22f, 2.15f}, 0.22f, {0.93f, 0.6f, 0.08f}, DIFFUSE},
    {{2.55f, 0.28f, 0.95f}, 0.28f, {0.6f, 0.3f, 0.74f}, DIFFUSE},
    {{-2.45f, 0.3f, 0.95f}, 0.3f, {0.82f, 1.0f, 0.88f}, GLASS},
    {{1.85f, 0.2f, 2.15f}, 0.2f, {0.88f, 0.86f, 0.82f}, DIFFUSE},
    {{3.75f, 0.8f, -3.0f}, 0.8f, {0.18f, 0.48f, 0.2f}, DIFFUSE},
};

__device__ __forceinline__ Vec vec(float x, float y, float z) { return {x, y, z}; }
__device__ __forceinline__ Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ __forceinline__ Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ __forceinline__ Vec operator*(Vec a, Vec b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
__device__ __forceinline__ Vec operator*(Vec a, float s) { return {a.x * s, a.y * s, a.z * s}; }
__device__ __forceinline__ float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ __forceinline__ Vec cross(Vec a, Vec b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
__device__ __forceinline__ Vec unit(Vec a) { return a * (1.0f / sqrtf(dot(a, a))); }
__device__ __forceinline__ Vec mix(Vec a, Vec b, float t) { return a * (1.0f - t) + b * t; }

// === Chance ===

__device__ __forceinline__ unsigned scramble(unsigned state) {
    const unsigned word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737u;
    return (word >> 22) ^ word;
}

struct Chance {
    unsigned state;

    __device__ __forceinline__ Chance(unsigned seed, unsigned pixel, unsigned sample)
        : state(scramble(scramble(scramble(seed + 0x9e3779b9u) + pixel) + sample)) {}

    // From 0 up to, not including, 1.
    __device__ __forceinline__ float next() {
        state = state * 747796405u + 2891336453u;
        return static_cast<float>(scramble(state) >> 8) * (1.0f / 16777216.0f);
    }
};

// A point of the unit sphere's surface, or of the cap around +z whose cosine is at least `lowest`.
__device__ __forceinline__ Vec on_cap(float lowest, float first, float second) {
    const float z = 1.0f - first * (1.0f - lowest);
    const float r = sqrtf(fmaxf(0.0f, 1.0f - z * z));
    float s, c;
    sincospif(2.0f * second, &s, &c);
    return vec(r * c, r * s, z);
}

// === The scene ===

struct Ray {
    Vec origin;
    Vec direction;
};

struct Hit {
    float distance;
    Vec position;
    Vec normal;
    Vec colour;
    Material material;
    bool from_inside;
};

// The nearer crossing in front of the ray, or FAR.
__device__ __forceinline__ float cross_sphere(const Sphere& sphere, const Ray& ray) {
    const Vec to = sphere.centre - ray.origin;
    const float along = dot(to, ray.direction);
    // The distance of the centre from the ray, taken as a vector: the usual form loses its digits far away.
    const Vec aside = to - ray.direction * along;
    const float inside2 = sphere.radius * sphere.radius - dot(aside, aside);
    if (inside2 <= 0.0f) {
        return FAR;
    }
    const float half = sqrtf(inside2);
    if (along - half > SKIN) {
        return along - half;
    }
    return along + half > SKIN ? along + half : FAR;
}

__device__ __forceinline__ Vec floor_colour(Vec at) {
    const int square = static_cast<int>(floorf(at.x * 1.1f)) + static_cast<int>(floorf(at.z * 1.1f));
    const Vec dark = vec(0.08f, 0.08f, 0.09f);
    const Vec light = vec(0.66f, 0.62f, 0.56f);
    // Far away the squares are finer than pixels and would flicker: they fade into one colour.
    const float away = fminf(1.0f, (at.x * at.x + at.z * at.z) / FADED2);
    return mix(square & 1 ? dark : light, mix(dark, light, 0.5f), away);
}

__device__ __forceinline__ Vec sky(Vec direction) {
    const float height = fmaxf(0.0f, direction.y);
    const Vec haze = vec(1.0f, 0.58f, 0.34f);
    const Vec zenith = vec(0.08f, 0.24f, 0.7f);
    return mix(haze, zenith, sqrtf(height)) * 0.42f;
}

__device__ bool nearest(const Ray& ray, Hit& hit) {
    float distance = FAR;
    int found = -1;
    for (int i = 0; i < static_cast<int>(SPHERES); ++i) {
        const float at = cross_sphere(SCENE[i], ray);
        if (at < distance) {
            distance = at;
            found = i;
        }
    }
    if (ray.direction.y < 0.0f) {
        const float at = -ray.origin.y / ray.direction.y;
        if (at > SKIN && at < distance) {
            hit.distance = at;
            hit.position = ray.origin + ray.direction * at;
            hit.position.y = 0.0f;
            hit.normal = vec(0.0f, 1.0f, 0.0f);
            hit.colour = floor_colour(hit.position);
            hit.material = DIFFUSE;
            hit.from_inside = false;
            return true;
        }
    }
    if (found < 0) {
        return false;
    }
    const Sphere& sphere = SCENE[found];
    hit.distance = distance;
    hit.position = ray.origin + ray.direction * distance;
    const Vec outward = (hit.position - sphere.centre) * (1.0f / sphere.radius);
    hit.from_inside = dot(outward, ray.direction) > 0.0f;
    hit.normal = hit.from_inside ? outward * -1.0f : outward;
    hit.colour = sphere.colour;
    hit.material = sphere.material;
    return true;
}

// What the lamp sends straight to a diffuse surface: one direction of the cone in which it stands.
__device__ Vec from_lamp(Vec position, Vec normal, Chance& chance) {
    const Sphere& lamp = SCENE[LAMP_INDEX];
    const Vec to = lamp.centre - position;
    const float distance2 = dot(to, to);
    const float sine2 = lamp.radius * lamp.radius / distance2;
    const float lowest = sqrtf(fmaxf(0.0f, 1.0f - sine2));
    const float first = chance.next();
    const float second = chance.next();
    const Vec local = on_cap(lowest, first, second);

    const Vec w = to * (1.0f / sqrtf(distance2));
    const Vec u = unit(cross(fabsf(w.x) > 0.7f ? vec(0.0f, 1.0f, 0.0f) : vec(1.0f, 0.0f, 0.0f), w));
    const Vec v = cross(w, u);
    const Ray ray = {position + normal * SKIN, unit(u * local.x + v * local.y + w * local.z)};
    const float cosine = dot(normal, ray.direction);
    if (cosine <= 0.0f) {
        return vec(0.0f, 0.0f, 0.0f);
    }
    Hit hit;
    if (!nearest(ray, hit) || hit.material != LAMP) {
        return vec(0.0f, 0.0f, 0.0f);
    }
    // Solid angle of the cone, written so that a small lamp keeps its digits, over pi.
    const float cone = 2.0f * sine2 / (1.0f + lowest);
    return lamp.colour * (cosine * cone);
}

// Schlick's share of light that glass reflects.
__device__ __forceinline__ float reflected_share(float cosine) {
    const float r = (1.0f - GLASS_INDEX) / (1.0f + GLASS_INDEX);
    const float least = r * r;
    const float m = 1.0f - cosine;
    return least + (1.0f - least) * m * m * m * m * m;
}

__device__ Ray through_glass(const Ray& ray, const Hit& hit, Chance& chance) {
    const float ratio = hit.from_inside ? GLASS_INDEX : 1.0f / GLASS_INDEX;
    const float cosine = fminf(1.0f, -dot(ray.direction, hit.normal));
    const float sine2 = ratio * ratio * (1.0f - cosine * cosine);
    const float draw = chance.next();
    const float under = sqrtf(fmaxf(0.0f, 1.0f - sine2));
    const bool reflects = sine2 >= 1.0f || draw < reflected_share(hit.from_inside ? under : cosine);
    if (reflects) {
        const Vec direction = ray.direction + hit.normal * (2.0f * cosine);
        return {hit.position + hit.normal * SKIN, unit(direction)};
    }
    const Vec direction = ray.direction * ratio + hit.normal * (ratio * cosine - under);
    return {hit.position - hit.normal * SKIN, unit(direction)};
}

// === Paths ===

__device__ Vec follow(Ray ray, Chance& chance) {
    Vec light = vec(0.0f, 0.0f, 0.0f);
    Vec kept = vec(1.0f, 1.0f, 1.0f);
    // Whether the lamp counts where the path meets it; after a diffuse surface it was counted there.
    bool sees_lamp = true;
    for (unsigned bounce = 0; bounce < BOUNCES; ++bounce) {
        Hit hit;
        if (!nearest(ray, hit)) {
            light = light + kept * sky(ray.direction);
            break;
        }
        if (hit.material == LAMP) {
            if (sees_lamp) {
                light = light + kept * hit.colour;
            }
            break;
        }
        kept = kept * hit.colour;
        if (hit.material == DIFFUSE) {
            light = light + kept * from_lamp(hit.position, hit.normal, chance);
            const float first = chance.next();
            const float second = chance.next();
            const Vec direction = hit.normal + on_cap(-1.0f, first, second);
            const bool degenerate = dot(direction, direction) < 1e-6f;
            ray = {hit.position + hit.normal * SKIN, degenerate ? hit.normal : unit(direction)};
            sees_lamp = false;
        } else if (hit.material == MIRROR) {
            const Vec direction = ray.direction - hit.normal * (2.0f * dot(ray.direction, hit.normal));
            ray = {hit.position + hit.normal * SKIN, unit(direction)};
            sees_lamp = true;
        } else {
            ray = through_glass(ray, hit, chance);
            sees_lamp = true;
        }
        if (bounce >= BOUNCES_SURE) {
            const float stays = fminf(0.95f, fmaxf(kept.x, fmaxf(kept.y, kept.z)));
            if (chance.next() >= stays) {
                break;
            }
            kept = kept * (1.0f / stays);
        }
    }
    return light;
}

// A ray through a point of the pixel, from a point of the lens.
__device__ Ray view(unsigned x, unsigned y, unsigned width, unsigned height, Chance& chance) {
    const Vec eye = vec(0.0f, 1.9f, 7.6f);
    const Vec target = vec(0.0f, 1.05f, 0.0f);
    const float focus = 7.0f;
    const float lens = 0.05f;
    const float half_height = 0.33f;

    const Vec back = unit(eye - target);
    const Vec right = unit(cross(vec(0.0f, 1.0f, 0.0f), back));
    const Vec up = cross(back, right);
    const float h = static_cast<float>(height);
    const float across = (2.0f * (static_cast<float>(x) + chance.next()) - static_cast<float>(width)) / h * half_height;
    const float upward = (h - 2.0f * (static_cast<float>(y) + chance.next())) / h * half_height;
    const float radius = lens * sqrtf(chance.next());
    float s, c;
    sincospif(2.0f * chance.next(), &s, &c);

    const Vec offset = right * (radius * c) + up * (radius * s);
    const Vec point = (right * across + up * upward - back) * focus;
    return {eye + offset, unit(point - offset)};
}

extern "C" __global__ void __launch_bounds__(BLOCK)
trace(float* __restrict__ accumulation, unsigned width, unsigned height, unsigned sample, unsigned seed) {
    const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    const unsigned pixel = y * width + x;
    Chance chance(seed, pixel, sample);
    const Ray ray = view(x, y, width, height, chance);
    const Vec light = follow(ray, chance);
    float* at = accumulation + static_cast<size_t>(pixel) * 3;
    at[0] += fminf(light.x, BRIGHTEST);
    at[1] += fminf(light.y, BRIGHTEST);
    at[2] += fminf(light.z, BRIGHTEST);
}

// === The picture ===

// From light to a byte: a curve with a shoulder, so that bright things keep their colour, then the display's gamma.
__device__ __forceinline__ unsigned char develop(float light) {
    const float curve = light * (2.51f * light + 0.03f) / (light * (2.43f * light + 0.59f) + 0.14f);
    return static_cast<unsigned char>(powf(fminf(fmaxf(curve, 0.0f), 1.0f), 1.0f / 2.2f) * 255.0f + 0.5f);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
tonemap(const float* __restrict__ accumulation, unsigned char* __restrict__ image, unsigned width, unsigned height,
        unsigned samples) {
    const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    const size_t at = (static_cast<size_t>(y) * width + x) * 3;
    const float share = 1.0f / static_cast<float>(samples);
#pragma unroll
    for (unsigned channel = 0; channel < 3; ++channel) {
        image[at + channel] = develop(accumulation[at + channel] * share);
    }
}
