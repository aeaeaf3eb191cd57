// A kernel that starts kernels. `rig cuda build` must refuse it: a bundle's plan is all that is ever launched.

extern "C" __global__ void nested(unsigned* out) {
    if (threadIdx.x == 0 && out[0] < 24) {
        out[0] += 1;
        nested<<<2, 2>>>(out);
    }
}
