// Training a network of two layers: tanh, then softmax with cross-entropy, by plain gradient descent.
//
// Matrices are row-major; w1 is inputs by hidden, w2 hidden by outputs. No atomics: every sum has one owner and a fixed
// order, so two runs on the same kind of GPU agree to the bit. The products are short and wide, and the kernels are
// written to be read; the bundle gemm shows how to make a product fast.

constexpr unsigned SIDE = 16;
constexpr unsigned WARP = 32;
constexpr unsigned THREADS = 256;

// h = tanh(x w1 + b1). One thread per element of h.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
forward_hidden(const float* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ b1,
               float* __restrict__ h, unsigned batch, unsigned inputs, unsigned hidden) {
    const unsigned unit = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= batch || unit >= hidden) {
        return;
    }
    float sum = b1[unit];
    for (unsigned i = 0; i < inputs; ++i) {
        sum = __fmaf_rn(x[row * inputs + i], w1[i * hidden + unit], sum);
    }
    h[row * hidden + unit] = tanhf(sum);
}

// probabilities = softmax(h w2 + b2). One block per row; each thread finds the row's maximum and total for itself, in
// the order of the outputs, which costs less than agreeing on them.
extern "C" __global__ void __launch_bounds__(WARP)
forward_output(const float* __restrict__ h, const float* __restrict__ w2, const float* __restrict__ b2,
               float* probabilities, unsigned batch, unsigned hidden, unsigned outputs) {
    const unsigned row = blockIdx.x;
    if (row >= batch) {
        return;
    }
    float* scores = probabilities + row * outputs;
    for (unsigned output = threadIdx.x; output < outputs; output += blockDim.x) {
        float sum = b2[output];
        for (unsigned unit = 0; unit < hidden; ++unit) {
            sum = __fmaf_rn(h[row * hidden + unit], w2[unit * outputs + output], sum);
        }
        scores[output] = sum;
    }
    __syncthreads();
    float largest = scores[0];
    for (unsigned output = 1; output < outputs; ++output) {
        largest = fmaxf(largest, scores[output]);
    }
    float total = 0.0f;
    for (unsigned output = 0; output < outputs; ++output) {
        total += expf(scores[output] - largest);
    }
    __syncthreads();
    for (unsigned output = threadIdx.x; output < outputs; output += blockDim.x) {
        scores[output] = expf(scores[output] - largest) / total;
    }
}

// gradient = (probabilities - one at the label) / batch: the derivative of the mean cross-entropy by the scores. The
// first block also writes that mean to loss[0]. A label that is no output adds nothing to the loss.
extern "C" __global__ void __launch_bounds__(THREADS)
output_gradient(const float* __restrict__ probabilities, const unsigned* __restrict__ labels,
                float* __restrict__ gradient, float* __restrict__ loss, unsigned batch, unsigned outputs) {
    __shared__ float partial[THREADS];

    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    const float share = 1.0f / static_cast<float>(batch);
    if (at < batch * outputs) {
        const float target = labels[at / outputs] == at % outputs ? 1.0f : 0.0f;
        gradient[at] = (probabilities[at] - target) * share;
    }
    if (blockIdx.x != 0) {
        return;
    }
    float sum = 0.0f;
    for (unsigned row = threadIdx.x; row < batch; row += blockDim.x) {
        const unsigned label = labels[row];
        if (label < outputs) {
            sum -= logf(fmaxf(probabilities[row * outputs + label], 1e-30f));
        }
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (unsigned thread = 0; thread < blockDim.x; ++thread) {
            total += partial[thread];
        }
        loss[0] = total * share;
    }
}

// gw2 = h' gradient, gb2 = the gradient's columns summed. One thread per element of gw2; those of the first row also
// make gb2.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
backward_output(const float* __restrict__ h, const float* __restrict__ gradient, float* __restrict__ gw2,
                float* __restrict__ gb2, unsigned batch, unsigned hidden, unsigned outputs) {
    const unsigned output = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned unit = blockIdx.y * blockDim.y + threadIdx.y;
    if (unit >= hidden || output >= outputs) {
        return;
    }
    float weight = 0.0f;
    float bias = 0.0f;
    for (unsigned row = 0; row < batch; ++row) {
        const float slope = gradient[row * outputs + output];
        weight = __fmaf_rn(h[row * hidden + unit], slope, weight);
        bias += slope;
    }
    gw2[unit * outputs + output] = weight;
    if (unit == 0) {
        gb2[output] = bias;
    }
}

// gh = (gradient w2') (1 - h^2), element by element: the derivative by what goes into tanh.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
backward_hidden(const float* __restrict__ gradient, const float* __restrict__ w2, const float* __restrict__ h,
                float* __restrict__ gh, unsigned batch, unsigned hidden, unsigned outputs) {
    const unsigned unit = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= batch || unit >= hidden) {
        return;
    }
    float sum = 0.0f;
    for (unsigned output = 0; output < outputs; ++output) {
        sum = __fmaf_rn(gradient[row * outputs + output], w2[unit * outputs + output], sum);
    }
    const float value = h[row * hidden + unit];
    gh[row * hidden + unit] = sum * __fmaf_rn(-value, value, 1.0f);
}

// gw1 = x' gh, gb1 = the columns of gh summed. One thread per element of gw1; those of the first row also make gb1.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
backward_input(const float* __restrict__ x, const float* __restrict__ gh, float* __restrict__ gw1,
               float* __restrict__ gb1, unsigned batch, unsigned inputs, unsigned hidden) {
    const unsigned unit = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned input = blockIdx.y * blockDim.y + threadIdx.y;
    if (input >= inputs || unit >= hidden) {
        return;
    }
    float weight = 0.0f;
    float bias = 0.0f;
    for (unsigned row = 0; row < batch; ++row) {
        const float slope = gh[row * hidden + unit];
        weight = __fmaf_rn(x[row * inputs + input], slope, weight);
        bias += slope;
    }
    gw1[input * hidden + unit] = weight;
    if (input == 0) {
        gb1[unit] = bias;
    }
}

// w -= rate g.
extern "C" __global__ void __launch_bounds__(THREADS)
sgd(float* __restrict__ w, const float* __restrict__ g, unsigned count, float rate) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) {
        w[at] = __fmaf_rn(-rate, g[at], w[at]);
    }
}
