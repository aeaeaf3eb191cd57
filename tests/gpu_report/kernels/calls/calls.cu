// Kernels that call functions of the driver's own: what they are linked to is decided when they are loaded, so their machine
// code has names in it that are nowhere defined. `out` has 1024 words, all of them zero.

#define KERNEL extern "C" __global__ void

KERNEL assertion(unsigned* out) {
    assert(out[0] == 1);
}

// Lines of 40 bytes, `lines` of them from each thread.
KERNEL printing(unsigned* out, unsigned lines) {
    for (unsigned i = 0; i < lines; ++i) {
        printf("%08x %08x a line that nobody wants\n", threadIdx.x, i);
    }
    out[0] = lines;
}

// Takes the device's heap in pieces of 64 KiB until there is no more; leaves how many there were.
KERNEL heap(unsigned* out) {
    unsigned pieces = 0;
    while (pieces < 65536) {
        unsigned* piece = static_cast<unsigned*>(malloc(65536));
        if (piece == nullptr) {
            break;
        }
        piece[0] = pieces;
        ++pieces;
    }
    out[0] = pieces;
    out[1] = 1;
}
