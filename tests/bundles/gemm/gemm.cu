// C = A B in single precision, row-major, of any size.
//
// A block of 256 threads makes a tile of 64 by 64 elements of C, 4 by 4 per thread. Slices of A and B, 16 deep, pass
// through shared memory; while one slice is multiplied the next is on its way. Each element is one chain of fused
// multiply-adds over k in ascending order, so the result does not depend on the GPU.

constexpr unsigned TILE = 64;
constexpr unsigned DEPTH = 16;
constexpr unsigned EACH = 4;
constexpr unsigned THREADS = 256;

// A is stored turned, so that a thread finds its four rows side by side; 4 more columns keep the banks apart.
constexpr unsigned A_STRIDE = TILE + 4;

// Four elements of a row of a matrix, zeros where it ends.
__device__ __forceinline__ float4 load4(const float* matrix, unsigned rows, unsigned columns, unsigned row,
                                        unsigned column, bool wide) {
    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row >= rows) {
        return four;
    }
    const float* at = matrix + static_cast<size_t>(row) * columns + column;
    if (wide) {
        if (column < columns) {
            four = *reinterpret_cast<const float4*>(at);
        }
        return four;
    }
    if (column < columns) four.x = at[0];
    if (column + 1 < columns) four.y = at[1];
    if (column + 2 < columns) four.z = at[2];
    if (column + 3 < columns) four.w = at[3];
    return four;
}

// Whether every row starts where four elements can be read at once.
__device__ __forceinline__ bool is_wide(const float* matrix, unsigned columns) {
    return columns % 4 == 0 && reinterpret_cast<size_t>(matrix) % 16 == 0;
}

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, unsigned m, unsigned n,
         unsigned k) {
    __shared__ __align__(16) float a_slice[2][DEPTH][A_STRIDE];
    __shared__ __align__(16) float b_slice[2][DEPTH][TILE];

    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    const unsigned x = thread % 16 * EACH;
    const unsigned y = thread / 16 * EACH;
    const unsigned top = blockIdx.y * TILE;
    const unsigned left = blockIdx.x * TILE;

    // Which four elements of each slice this thread fetches.
    const unsigned a_row = thread / 4;
    const unsigned a_depth = thread % 4 * 4;
    const unsigned b_depth = thread / 16;
    const unsigned b_column = thread % 16 * 4;
    const bool a_wide = is_wide(a, k);
    const bool b_wide = is_wide(b, n);

    float sum[EACH][EACH] = {};
    float4 a_next = load4(a, m, k, top + a_row, a_depth, a_wide);
    float4 b_next = load4(b, k, n, b_depth, left + b_column, b_wide);

    unsigned slot = 0;
    for (unsigned done = 0; done < k; done += DEPTH) {
        a_slice[slot][a_depth + 0][a_row] = a_next.x;
        a_slice[slot][a_depth + 1][a_row] = a_next.y;
        a_slice[slot][a_depth + 2][a_row] = a_next.z;
        a_slice[slot][a_depth + 3][a_row] = a_next.w;
        *reinterpret_cast<float4*>(&b_slice[slot][b_depth][b_column]) = b_next;
        __syncthreads();

        if (done + DEPTH < k) {
            a_next = load4(a, m, k, top + a_row, done + DEPTH + a_depth, a_wide);
            b_next = load4(b, k, n, done + DEPTH + b_depth, left + b_column, b_wide);
        }

#pragma unroll
        for (unsigned depth = 0; depth < DEPTH; ++depth) {
            const float4 rows = *reinterpret_cast<const float4*>(&a_slice[slot][depth][y]);
            const float4 columns = *reinterpret_cast<const float4*>(&b_slice[slot][depth][x]);
            const float down[EACH] = {rows.x, rows.y, rows.z, rows.w};
            const float across[EACH] = {columns.x, columns.y, columns.z, columns.w};
#pragma unroll
            for (unsigned i = 0; i < EACH; ++i) {
#pragma unroll
                for (unsigned j = 0; j < EACH; ++j) {
                    sum[i][j] = __fmaf_rn(down[i], across[j], sum[i][j]);
                }
            }
        }
        // One barrier per slice is enough for two slots: who fills a slot again has passed the barrier behind its use.
        slot ^= 1;
    }

    const bool c_wide = is_wide(c, n);
#pragma unroll
    for (unsigned i = 0; i < EACH; ++i) {
        const unsigned row = top + y + i;
        if (row >= m) {
            continue;
        }
        float* at = c + static_cast<size_t>(row) * n + left + x;
        if (c_wide && left + x < n) {
            *reinterpret_cast<float4*>(at) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
            continue;
        }
#pragma unroll
        for (unsigned j = 0; j < EACH; ++j) {
            if (left + x + j < n) {
                at[j] = sum[i][j];
            }
        }
    }
}
