// C = A B on tensor cores: A and B in half precision, C and the sums in single precision, row-major, of any size.
//
// A block of 256 threads makes a tile of 128 by 128 elements of C. Its 8 warps stand 2 down and 4 across, each with
// 64 by 32 elements: 4 by 2 fragments of 16 by 16. Slices of A and B, 32 deep, pass through shared memory; while one
// slice is multiplied the next is on its way.
//
// The instructions are written in PTX (wmma, from sm_70 on), so that the source needs no header.

constexpr unsigned TILE = 128;
constexpr unsigned DEPTH = 32;
constexpr unsigned THREADS = 256;
constexpr unsigned FRAGMENT = 16;
constexpr unsigned DOWN = 4;
constexpr unsigned ACROSS = 2;

// Elements that one thread fetches at once.
constexpr unsigned CHUNK = 8;
constexpr unsigned CHUNKS = TILE * DEPTH / CHUNK / THREADS;

// 8 more elements per row keep the banks apart and every fragment on a boundary of 32 bytes.
constexpr unsigned A_STRIDE = DEPTH + 8;
constexpr unsigned B_STRIDE = TILE + 8;

// A half-precision number as its bits: nothing here computes with one outside a tensor core.
using half = unsigned short;

union Chunk {
    uint4 whole;
    half halves[CHUNK];
};

// Eight elements of a row of a matrix, zeros where it ends.
__device__ __forceinline__ uint4 load8(const half* matrix, unsigned rows, unsigned columns, unsigned row,
                                       unsigned column, bool wide) {
    Chunk chunk;
    chunk.whole = make_uint4(0, 0, 0, 0);
    if (row >= rows) {
        return chunk.whole;
    }
    const size_t at = static_cast<size_t>(row) * columns + column;
    if (wide) {
        if (column < columns) {
            chunk.whole = *reinterpret_cast<const uint4*>(matrix + at);
        }
        return chunk.whole;
    }
#pragma unroll
    for (unsigned i = 0; i < CHUNK; ++i) {
        if (column + i < columns) {
            chunk.halves[i] = matrix[at + i];
        }
    }
    return chunk.whole;
}

// Whether every row starts where eight elements can be read at once.
__device__ __forceinline__ bool is_wide(const half* matrix, unsigned columns) {
    return columns % CHUNK == 0 && reinterpret_cast<size_t>(matrix) % 16 == 0;
}

// === Fragments: 16 by 16 elements spread over the registers of a warp ===

// Of A or B: 8 registers with two halves each.
struct Factor {
    unsigned at[8];
};

// Of C.
struct Sum {
    float at[8];
};

__device__ __forceinline__ unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

__device__ __forceinline__ void load_a(Factor& f, const half* from, unsigned stride) {
    asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
                 : "=r"(f.at[0]), "=r"(f.at[1]), "=r"(f.at[2]), "=r"(f.at[3]), "=r"(f.at[4]), "=r"(f.at[5]),
                   "=r"(f.at[6]), "=r"(f.at[7])
                 : "r"(shared_address(from)), "r"(stride)
                 : "memory");
}

__device__ __forceinline__ void load_b(Factor& f, const half* from, unsigned stride) {
    asm volatile("wmma.load.b.sync.aligned.row.m16n16k16.shared.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
                 : "=r"(f.at[0]), "=r"(f.at[1]), "=r"(f.at[2]), "=r"(f.at[3]), "=r"(f.at[4]), "=r"(f.at[5]),
                   "=r"(f.at[6]), "=r"(f.at[7])
                 : "r"(shared_address(from)), "r"(stride)
                 : "memory");
}

__device__ __forceinline__ void multiply(Sum& s, const Factor& a, const Factor& b) {
    asm("wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "{%8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19, %20, %21, %22, %23}, "
                 "{%0, %1, %2, %3, %4, %5, %6, %7};"
                 : "+f"(s.at[0]), "+f"(s.at[1]), "+f"(s.at[2]), "+f"(s.at[3]), "+f"(s.at[4]), "+f"(s.at[5]),
                   "+f"(s.at[6]), "+f"(s.at[7])
                 : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(a.at[4]), "r"(a.at[5]), "r"(a.at[6]),
                   "r"(a.at[7]), "r"(b.at[0]), "r"(b.at[1]), "r"(b.at[2]), "r"(b.at[3]), "r"(b.at[4]), "r"(b.at[5]),
                   "r"(b.at[6]), "r"(b.at[7]));
}

__device__ __forceinline__ void store(float* to, const Sum& s, unsigned stride) {
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8}, %9;"
                 :
                 : "r"(shared_address(to)), "f"(s.at[0]), "f"(s.at[1]), "f"(s.at[2]), "f"(s.at[3]), "f"(s.at[4]),
                   "f"(s.at[5]), "f"(s.at[6]), "f"(s.at[7]), "r"(stride)
                 : "memory");
}

// === The kernel ===

extern "C" __global__ void __launch_bounds__(THREADS, 2)
gemm_f16(const half* __restrict__ a, const half* __restrict__ b, float* __restrict__ c, unsigned m, unsigned n,
         unsigned k) {
    __shared__ __align__(32) half a_slice[2][TILE * A_STRIDE];
    __shared__ __align__(32) half b_slice[2][DEPTH * B_STRIDE];

    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    const unsigned warp = thread / 32;
    const unsigned lane = thread % 32;
    const unsigned y = warp / 4 * (DOWN * FRAGMENT);
    const unsigned x = warp % 4 * (ACROSS * FRAGMENT);
    const unsigned top = blockIdx.y * TILE;
    const unsigned left = blockIdx.x * TILE;
    const bool a_wide = is_wide(a, k);
    const bool b_wide = is_wide(b, n);

    uint4 a_next[CHUNKS];
    uint4 b_next[CHUNKS];
    auto fetch = [&](unsigned done) {
#pragma unroll
        for (unsigned i = 0; i < CHUNKS; ++i) {
            const unsigned chunk = thread + i * THREADS;
            a_next[i] = load8(a, m, k, top + chunk / (DEPTH / CHUNK), done + chunk % (DEPTH / CHUNK) * CHUNK, a_wide);
            b_next[i] = load8(b, k, n, done + chunk / (TILE / CHUNK), left + chunk % (TILE / CHUNK) * CHUNK, b_wide);
        }
    };
    auto keep = [&](unsigned slot) {
#pragma unroll
        for (unsigned i = 0; i < CHUNKS; ++i) {
            const unsigned chunk = thread + i * THREADS;
            const unsigned a_at = chunk / (DEPTH / CHUNK) * A_STRIDE + chunk % (DEPTH / CHUNK) * CHUNK;
            const unsigned b_at = chunk / (TILE / CHUNK) * B_STRIDE + chunk % (TILE / CHUNK) * CHUNK;
            *reinterpret_cast<uint4*>(&a_slice[slot][a_at]) = a_next[i];
            *reinterpret_cast<uint4*>(&b_slice[slot][b_at]) = b_next[i];
        }
    };

    Sum sum[DOWN][ACROSS] = {};
    fetch(0);
    unsigned slot = 0;
    for (unsigned done = 0; done < k; done += DEPTH) {
        keep(slot);
        __syncthreads();
        if (done + DEPTH < k) {
            fetch(done + DEPTH);
        }
#pragma unroll
        for (unsigned depth = 0; depth < DEPTH; depth += FRAGMENT) {
            Factor columns[ACROSS];
#pragma unroll
            for (unsigned j = 0; j < ACROSS; ++j) {
                load_b(columns[j], &b_slice[slot][depth * B_STRIDE + x + j * FRAGMENT], B_STRIDE);
            }
#pragma unroll
            for (unsigned i = 0; i < DOWN; ++i) {
                Factor rows;
                load_a(rows, &a_slice[slot][(y + i * FRAGMENT) * A_STRIDE + depth], A_STRIDE);
#pragma unroll
                for (unsigned j = 0; j < ACROSS; ++j) {
                    multiply(sum[i][j], rows, columns[j]);
                }
            }
        }
        slot ^= 1;
    }

    // The slices are done with: each warp lays a fragment down in its own part of them and carries over what C has room
    // for, since C may end inside the fragment.
    __syncthreads();
    float* staged = reinterpret_cast<float*>(&a_slice[0][0]) + warp * (FRAGMENT * FRAGMENT);
#pragma unroll
    for (unsigned i = 0; i < DOWN; ++i) {
#pragma unroll
        for (unsigned j = 0; j < ACROSS; ++j) {
            store(staged, sum[i][j], FRAGMENT);
            __syncwarp();
#pragma unroll 1
            for (unsigned e = lane; e < FRAGMENT * FRAGMENT; e += 32) {
                const unsigned row = top + y + i * FRAGMENT + e / FRAGMENT;
                const unsigned column = left + x + j * FRAGMENT + e % FRAGMENT;
                if (row < m && column < n) {
                    c[static_cast<size_t>(row) * n + column] = staged[e];
                }
            }
            __syncwarp();
        }
    }
}
