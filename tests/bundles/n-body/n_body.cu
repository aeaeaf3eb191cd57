// Gravity between n bodies, softened, stepped by leapfrog. G is 1.
//
// A body is four floats: x, y, z, mass. Every operation is rounded as IEEE 754 says and in a fixed order, so the result
// does not depend on the GPU: no approximate reciprocal root, and nothing that the compiler may fuse or not.

constexpr unsigned THREADS = 256;

// accelerations[i] = sum over j of mass[j] (position[j] - position[i]) / (distance^2 + softening^2)^(3/2)
extern "C" __global__ void __launch_bounds__(THREADS)
forces(const float* __restrict__ bodies, float* __restrict__ accelerations, unsigned n, float softening) {
    __shared__ float4 near[THREADS];

    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const float4* all = reinterpret_cast<const float4*>(bodies);
    const float4 own = i < n ? all[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float softening2 = __fmul_rn(softening, softening);

    float ax = 0.0f;
    float ay = 0.0f;
    float az = 0.0f;
    for (unsigned first = 0; first < n; first += blockDim.x) {
        const unsigned mine = first + threadIdx.x;
        if (mine < n) {
            near[threadIdx.x] = all[mine];
        }
        __syncthreads();
        const unsigned count = min(blockDim.x, n - first);
#pragma unroll 4
        for (unsigned j = 0; j < count; ++j) {
            const float4 other = near[j];
            const float dx = __fsub_rn(other.x, own.x);
            const float dy = __fsub_rn(other.y, own.y);
            const float dz = __fsub_rn(other.z, own.z);
            const float distance2 = __fmaf_rn(dz, dz, __fmaf_rn(dy, dy, __fmaf_rn(dx, dx, softening2)));
            const float inverse = __frcp_rn(__fsqrt_rn(distance2));
            const float pull = __fmul_rn(other.w, __fmul_rn(inverse, __fmul_rn(inverse, inverse)));
            ax = __fmaf_rn(dx, pull, ax);
            ay = __fmaf_rn(dy, pull, ay);
            az = __fmaf_rn(dz, pull, az);
        }
        __syncthreads();
    }
    if (i < n) {
        accelerations[3 * i + 0] = ax;
        accelerations[3 * i + 1] = ay;
        accelerations[3 * i + 2] = az;
    }
}

// One step of leapfrog: velocities, half a step behind the positions, are kicked to half a step ahead; then the
// positions drift.
extern "C" __global__ void __launch_bounds__(THREADS)
integrate(float* __restrict__ bodies, float* __restrict__ velocities, const float* __restrict__ accelerations,
          unsigned n, float dt) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
#pragma unroll
    for (unsigned axis = 0; axis < 3; ++axis) {
        const float velocity = __fmaf_rn(accelerations[3 * i + axis], dt, velocities[3 * i + axis]);
        velocities[3 * i + axis] = velocity;
        bodies[4 * i + axis] = __fmaf_rn(velocity, dt, bodies[4 * i + axis]);
    }
}
