// What a stranger's kernel may try against a GPU, one kernel for each. `out` has 1024 words, all of them zero.

#define KERNEL extern "C" __global__ void

// === Faults ===

KERNEL illegal_address(unsigned* out) {
    *reinterpret_cast<volatile unsigned*>(static_cast<size_t>(out[0]) + 64) = 1;
}

KERNEL misaligned(unsigned* out) {
    *reinterpret_cast<volatile unsigned*>(reinterpret_cast<size_t>(out) + 1 + out[0]) = 1;
}

KERNEL trap(unsigned* out) {
    if (out[0] == 0) {
        asm volatile("trap;");
    }
}

// Its code is overwritten before it is packed: see the report's `patch`.
KERNEL illegal_instruction(unsigned* out) {
    for (unsigned i = threadIdx.x; i < 1024; i += blockDim.x) {
        out[i] = out[i] * 3 + i;
    }
}

// As deep as `depth`, with 256 bytes of stack for each call.
__device__ __noinline__ unsigned descend(unsigned depth) {
    volatile unsigned frame[64];
    for (unsigned i = 0; i < 64; ++i) {
        frame[i] = depth + i;
    }
    if (depth == 0) {
        return frame[1];
    }
    return descend(depth - 1) + frame[depth % 64];
}

KERNEL stack_overflow(unsigned* out) {
    out[0] = descend(1u << 20);
}

KERNEL endless(unsigned* out) {
    while (*reinterpret_cast<volatile unsigned*>(out) == 0) {
    }
}

// === Appetite ===

KERNEL nothing() {
}

// Multiplies and adds on every thread until so many milliseconds after the first thread began, whose time is in `out`.
KERNEL virus(unsigned* out, unsigned milliseconds) {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    const unsigned long long first = atomicCAS(reinterpret_cast<unsigned long long*>(out), 0ull, now);
    const unsigned long long begin = first == 0 ? now : first;
    float a = threadIdx.x, b = blockIdx.x, c = 0.5f, d = 0.25f;
    // Clocks of two multiprocessors may differ by a little.
    while (now < begin + milliseconds * 1000000ull) {
#pragma unroll 64
        for (unsigned i = 0; i < 1024; ++i) {
            a = fmaf(a, 0.999f, c);
            b = fmaf(b, 0.998f, d);
            c = fmaf(c, 0.997f, a);
            d = fmaf(d, 0.996f, b);
        }
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    }
    if (a + b + c + d == 12345.678f) {
        out[2] = 1;
    }
}

// === What others left ===

// The canary is this word mixed with its place.
constexpr unsigned CANARY = 0xC0FFEE17;

KERNEL shared_write(unsigned* out, unsigned words) {
    extern __shared__ volatile unsigned shared[];
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
        shared[i] = CANARY ^ i;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        out[blockIdx.x] = shared[words - 1];
    }
}

// Counts words that are the canary, and, 512 words on, words that are not zero.
KERNEL shared_read(unsigned* out, unsigned words) {
    extern __shared__ volatile unsigned shared[];
    unsigned canaries = 0;
    unsigned dirty = 0;
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
        const unsigned word = shared[i];
        canaries += word == (CANARY ^ i);
        dirty += word != 0;
    }
    atomicAdd(&out[blockIdx.x], canaries);
    atomicAdd(&out[512 + blockIdx.x], dirty);
}
