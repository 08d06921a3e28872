"""The isometric network as a CUDA kernel, without a GPU: compiled for the host, its tiles in numpy, and compiled by NVRTC."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from support import make_bundle

from isoform.runtime.engines.tensorrt.form import ABSENT, UserVector
from isoform.runtime.engines.tensorrt.nvrtc import compile_kernel
from isoform.runtime.errors import EngineError
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.mixture.cuda.kernel import macros
from isoform.runtime.kinds.mixture.spec import NetworkSpec

SPECS = {
    "small": NetworkSpec(
        input_shape=(1, 8, 8), adapter_kernel=(2, 2), layers=3, templates=2, channels=8, head_channels=16, embedding=8
    ),
    "colour": NetworkSpec(
        input_shape=(3, 20, 12), adapter_kernel=(4, 2), layers=2, templates=2, channels=12, expansion=2, kernel=5, head_channels=40,
        embedding=300, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 2.0),
    ),
    "window": NetworkSpec(
        input_shape=(6, 1, 96), adapter_kernel=(1, 2), layers=2, templates=2, channels=10, head_channels=300, embedding=12,
        mean=(0.0,) * 6, std=(1.0,) * 6,
    ),
    "prime": NetworkSpec(
        input_shape=(1, 14, 14), adapter_kernel=(1, 1), layers=1, templates=1, channels=7, kernel=7, head_channels=11, embedding=5
    ),
    "pixel": NetworkSpec(
        input_shape=(1, 8, 8), adapter_kernel=(8, 8), layers=1, templates=1, channels=8, head_channels=72, embedding=16
    ),
}  # fmt: skip
"""Fewer and more positions than a warp, tiles of one row, layers wider than a block, one that needs padding and a kernel of 7; one position."""
USERS = np.array([1, 0, 1, 1, 0], dtype=np.int32)


def subject(spec, *, half=False):
    """A bundle's network, the kernel for its vector, and a table with a row for each of its two users."""
    bundle = make_bundle(spec, classes=3)
    network = bundle.network
    shapes = {name: shape for name, shape in network.weights.items() if name not in network.constants}
    padded = {name: (*shape[:1], shape[1] + 3, *shape[2:]) for name, shape in shapes.items() if name.endswith("excite.weight")}  # fmt: skip
    shapes |= {"logits.weight": (4, spec.embedding), "logits.bias": (4,)}
    vector = UserVector(classes=4, shapes=shapes, padded=padded)
    rows = []
    for task in bundle.signatures:
        parts = bundle.resolve(bundle.signatures[task]).parts
        folded = network.fold(parts)
        rows.append(
            vector.vector_of({k: folded[k] for k in shapes if k not in HEAD}, {name: parts[name] for name in HEAD})
        )
    table = np.stack(rows).astype(np.float16 if half else np.float32)
    return bundle, vector, network.kernel(vector.places, row=vector.size, half=half), table


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_compiled_for_the_host_it_is_the_network(name, half, tmp_path) -> None:
    """Phase by phase, thread by thread: the twin's logits for every sample's own user, within the shared memory it asks for."""
    bundle, vector, kernel, table = subject(SPECS[name], half=half)
    (tmp_path / "network.cpp").write_text("#define ISOFORM_HOST\n" + kernel.source)
    command = ["cc", "-x", "c++", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", "network.so", "network.cpp"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if half and "_Float16" in built.stderr:
        pytest.skip("this C compiler has no float16")
    assert built.returncode == 0, built.stderr
    library = ctypes.CDLL(str(tmp_path / "network.so"))
    x = bundle.network.input.random(np.random.default_rng(0), len(USERS))
    logits = np.full((len(USERS), vector.classes), np.nan, dtype=np.float32)
    guard = 64
    for sample in range(len(USERS)):
        memory = np.full(
            kernel.shared_bytes // 4 + guard, np.nan, dtype=np.float32
        )  # what is read before it is written is not a number
        arrays = (ctypes.c_void_p(array.ctypes.data) for array in (x, table, USERS, kernel.constants, logits))
        library.network(*arrays, ctypes.c_int(sample), ctypes.c_void_p(memory.ctypes.data))
        assert np.isnan(memory[-guard:]).all()
    for sample, user in enumerate(USERS):
        signature = bundle.signatures["ab"[user]]
        expected = bundle.network.reference("ab"[user], bundle.resolve(signature).parts, x[sample : sample + 1])[0]
        limit = (2e-2 if half else 1e-4) * max(1, np.abs(expected).max())
        assert np.abs(logits[sample, :3] - expected).max() <= limit
        assert logits[sample, 3] == ABSENT  # a class that the user does not have


def product(weight, bias, x, *, threads, lanes, tile):
    """PRODUCT of ``network.cu`` in numpy: each thread's sums in its order; also how often each result is written."""
    rows, positions = len(weight), x.shape[1]
    out, written = np.full((rows, positions), np.nan, dtype=np.float32), np.zeros((rows, positions), dtype=int)
    for thread in range(threads):
        for first in range(thread // lanes * tile, rows, threads // lanes * tile):
            for p in range(thread % lanes, positions, lanes):
                sums = bias[first : first + tile].copy()
                assert len(sums) == tile  # no tile ends beyond the rows
                for i in range(x.shape[0]):
                    sums += weight[first : first + tile, i] * x[i, p]
                out[first : first + tile, p] = sums
                written[first : first + tile, p] += 1
    return out, written


@pytest.mark.parametrize("name", SPECS)
def test_tiles_cover_every_result_once(name) -> None:
    """Those of all products of a layer and of the input adapter, with the same sums as a product of matrices."""
    spec = SPECS[name]
    _, vector, _, _ = subject(spec)
    sizes = macros(spec, vector.places, row=vector.size, half=False)
    positions, rng = spec.grid[0] * spec.grid[1], np.random.default_rng(0)
    patch = spec.input_shape[0] * spec.adapter_kernel[0] * spec.adapter_kernel[1]
    for rows, inner, tile in (
        (spec.channels, patch, sizes["TILE_C"]), (spec.expanded, spec.channels, sizes["TILE_E"]), (spec.channels, spec.expanded, sizes["TILE_C"]),
    ):  # fmt: skip
        weight, x = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (inner, positions)))
        bias = rng.normal(size=rows).astype(np.float32)
        out, written = product(weight, bias, x, threads=sizes["THREADS"], lanes=sizes["LANES"], tile=tile)
        assert (written == 1).all()
        assert np.abs(out - (weight @ x + bias[:, None])).max() < 1e-4


@pytest.mark.parametrize("architecture", ["sm80", "sm87", "sm89", "sm90"])
@pytest.mark.parametrize("half", [False, True])
def test_nvrtc_compiles_it_for_tensorrt_devices(architecture, half) -> None:
    """On a machine without a GPU; a cubin is an ELF file."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    _, _, kernel, _ = subject(SPECS["small"], half=half)
    cubin = compile_kernel(kernel.source, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert b"network" in cubin


def test_a_tensorrt_kernel_that_is_refused_is_one_line() -> None:
    """With the compiler's first complaint, and no listing."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    with pytest.raises(EngineError, match="NVRTC refuses a kernel for sm90: .*error") as caught:
        compile_kernel("__global__ void network() { unheard(); }", "sm90")
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="NVRTC refuses a kernel for sm1"):
        compile_kernel("", "sm1")
