"""The host in the place of a GPU: memory at real addresses, and forms that ONNX Runtime runs on what lies there.

All of the engine ``tensorrt`` but CUDA's and TensorRT's own calls runs on it: rows, copies, batches, replays at fixed addresses.
"""

import contextlib
import ctypes
import math
import subprocess

import numpy as np

from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.engines.tensorrt.engine import TensorRtEngine
from isoform.runtime.engines.tensorrt.form import TABLE, USER, form_file
from isoform.runtime.errors import EngineError, MissingExtraError

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class HostMemory:
    """A buffer whose content is not zero at first, as on a device."""

    def __init__(self, nbytes):
        self.buffer = (ctypes.c_byte * max(1, nbytes))(*[0x7F] * min(nbytes, 64))
        self.address, self.nbytes, self.closed = ctypes.addressof(self.buffer), nbytes, False

    def close(self):
        """Note that it was freed; twice is an error."""
        assert not self.closed
        self.closed = True


class HostDevice:
    """A device whose memory is the host's."""

    title, architecture = "the host", "sm00"

    def __init__(self):
        self.memories, self.copies, self.captures, self.closed = [], 0, [], False

    def memory(self, nbytes):  # noqa: D102
        self.memories.append(HostMemory(nbytes))
        return self.memories[-1]

    def pinned(self, shape, dtype):  # noqa: D102
        memory = self.memory(math.prod(shape) * np.dtype(dtype).itemsize)
        return np.frombuffer(memory.buffer, dtype=dtype, count=math.prod(shape)).reshape(shape), memory

    def copy(self, target, source, nbytes):  # noqa: D102
        self.copies += 1
        ctypes.memmove(target, source, nbytes)

    copy_in = copy_out = copy

    def synchronize(self):  # noqa: D102
        pass

    def captured(self, work):  # noqa: D102
        self.captures.append(Replayed(work))
        return self.captures[-1]

    @contextlib.contextmanager
    def current(self):  # noqa: D102
        yield

    def close(self):
        """All memory must have been freed."""
        assert all(memory.closed for memory in self.memories)
        self.closed = True


class Replayed:
    """Work that is done again, as it was captured."""

    def __init__(self, work):
        self.launch, self.closed = work, False

    def close(self):  # noqa: D102
        self.closed = True


class HostForm:
    """A form's ONNX file, run on memory by address."""

    def __init__(self, file):
        self.session, self.runs, self.sizes, self.closed = (
            open_session(file, session_options(1), what="a form"),
            0,
            [],
            False,
        )
        self.inputs = {value.name: (TYPES[value.type], value.shape) for value in self.session.get_inputs()}

    def dtype_of(self, name):  # noqa: D102
        return np.dtype(self.inputs[name][0])

    def enqueue(self, addresses, shapes):  # noqa: D102
        self.runs += 1
        feeds = {}
        for name, (dtype, declared) in self.inputs.items():
            shape = shapes.get(name, declared)
            assert all(isinstance(size, int) for size in shape), (name, shape)
            assert addresses[name] % 4 == 0
            count = math.prod(shape)
            buffer = (ctypes.c_byte * (count * np.dtype(dtype).itemsize)).from_address(addresses[name])
            feeds[name] = np.frombuffer(buffer, dtype=dtype, count=count).reshape(shape)
        logits = np.ascontiguousarray(self.session.run(["logits"], feeds)[0])
        ctypes.memmove(addresses["logits"], logits.ctypes.data, logits.nbytes)

    def prepared(self, addresses, shapes):  # noqa: D102
        self.sizes.append(HostRuns(self, addresses, shapes))
        return self.sizes[-1]

    def close(self):  # noqa: D102
        self.closed = True


class HostRuns:
    """Runs of one batch size, at addresses that stay."""

    capturable = True

    def __init__(self, form, addresses, shapes):
        self.form, self.addresses, self.shapes, self.closed = form, dict(addresses), dict(shapes), False

    def enqueue(self):  # noqa: D102
        assert not self.closed
        self.form.enqueue(self.addresses, self.shapes)

    def close(self):  # noqa: D102
        self.closed = True


class HostKernel(HostForm):
    """A kernel, compiled for the host: blocks and threads one after the other."""

    def __init__(self, kernel, samples, folder):
        self.kernel, self.samples, self.runs, self.sizes, self.closed = kernel, samples, 0, [], False
        (folder / "network.cpp").write_text("#define ISOFORM_HOST\n" + kernel.source)
        command = ["cc", "-x", "c++", "-O1", "-shared", "-fPIC", "-o", "network.so", "network.cpp"]
        subprocess.run(command, cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "network.so"))

    def dtype_of(self, name):  # noqa: D102
        return np.dtype(np.int32 if name == USER else np.float32)

    def enqueue(self, addresses, shapes):  # noqa: D102
        self.runs += 1
        constants = self.kernel.constants.ctypes.data
        given = [addresses[self.samples], addresses[TABLE], addresses[USER], constants, addresses["logits"]]
        for sample in range(shapes[self.samples][0]):
            memory = np.full(self.kernel.shared_bytes // 4, np.nan, dtype=np.float32)
            pointers = [ctypes.c_void_p(address) for address in given]
            self.library.network(*pointers, ctypes.c_int(sample), ctypes.c_void_p(memory.ctypes.data))


def host_loaders(bundle, *, largest=16, kernels=None, forms=True):
    """What loads engines and kernels on the host; arguments as for ``host_engine``."""

    def load(name, form, vector, precision, graph):
        if not forms:
            raise MissingExtraError("TensorRT is not installed")
        return HostForm(bundle.require_compiled().read(form_file(name, form, precision))), largest

    def load_kernel(kernel, samples):
        if kernels is None:
            raise EngineError("there is no compiler")
        return HostKernel(kernel, samples, kernels), largest

    return load, load_kernel


def host_engine(bundle, *, cache_bytes=1 << 20, **options):
    """The engine ``tensorrt`` of a bundle with forms, on the host.

    ``kernels`` is a folder to compile the kernel in; without it there is none. Without ``forms`` there is no TensorRT. ``largest`` is the
    largest batch.
    """
    return TensorRtEngine(bundle, HostDevice(), *host_loaders(bundle, **options), cache_bytes=cache_bytes)
