# Times products through PyTorch. Reads orders from standard input, one a line, and answers each with one line of JSON:
#   matmul f32|f16 SIDE LAUNCHES            torch.matmul
#   kernel f32|f16 SIDE LAUNCHES CUBIN      the bundle's own kernel, launched on torch's stream and torch's memory
import ctypes
import json
import sys

import torch

torch.backends.cuda.matmul.allow_tf32 = False
driver = ctypes.CDLL("libcuda.so.1")
held = {}
functions = {}


def matrices(kind, side):
    if (kind, side) not in held:
        held.clear()
        torch.cuda.empty_cache()
        of = torch.float32 if kind == "f32" else torch.float16
        make = lambda: torch.rand(side, side, device="cuda", dtype=torch.float32).mul_(2).sub_(1).to(of)
        held[kind, side] = (make(), make(), torch.empty(side, side, device="cuda", dtype=torch.float32))
    return held[kind, side]


def timed(launch, launches):
    launch()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(launches):
        launch()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / launches


def check(code):
    if code != 0:
        raise RuntimeError(f"the driver said {code}")


def loaded(path, name):
    if path not in functions:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        with open(path, "rb") as file:
            check(driver.cuModuleLoadData(ctypes.byref(module), file.read()))
        check(driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        functions[path] = function
    return functions[path]


def answer(order):
    what, kind, side, launches, *rest = order.strip().split(maxsplit=4)
    side, launches = int(side), int(launches)
    a, b, c = matrices(kind, side)
    if what == "matmul":
        out = torch.empty_like(a)
        return timed(lambda: torch.matmul(a, b, out=out), launches)
    function = loaded(rest[0], "gemm_" + kind)
    tile, block = (64, (16, 16)) if kind == "f32" else (128, (256, 1))
    values = [ctypes.c_uint64(m.data_ptr()) for m in (a, b, c)] + [ctypes.c_uint32(side)] * 3
    table = (ctypes.c_void_p * len(values))(*[ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values])
    blocks = -(-side // tile)
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    launch = lambda: check(
        driver.cuLaunchKernel(function, blocks, blocks, 1, block[0], block[1], 1, 0, stream, table, None)
    )
    return timed(launch, launches)


torch.zeros(1, device="cuda")
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda}), flush=True)
for line in sys.stdin:
    try:
        print(json.dumps({"ms": answer(line)}), flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
