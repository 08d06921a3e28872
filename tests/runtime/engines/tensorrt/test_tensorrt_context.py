"""A loaded engine, with an object in the place of TensorRT: one context per batch size, one memory for all, and one-line errors."""

from types import SimpleNamespace

import numpy as np
import pytest
from host_device import HostDevice

from isoform.runtime.engines.tensorrt.context import Context
from isoform.runtime.errors import EngineError


class Execution:
    """An execution context; notes what it is given."""

    def __init__(self, capturable):
        self.shapes, self.addresses, self.memory, self.runs = {}, {}, None, 0
        self.capturable = capturable

    def set_input_shape(self, name, shape):
        """Note it; a size above 8 is refused."""
        self.shapes[name] = shape
        return shape[0] <= 8

    def set_tensor_address(self, name, address):
        """Note it."""
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        """Count."""
        self.runs += 1
        return stream == 5

    def is_stream_capturable(self, stream):
        """As it was made."""
        return self.capturable


def product(*, older=True, refittable=True, capturable=True, engine=True, fails=()):
    """TensorRT, more or less."""
    made = []

    def context(*_):
        made.append(Execution(capturable))
        return made[-1]

    content = SimpleNamespace(
        refittable=refittable, device_memory_size=100, get_tensor_dtype=lambda name: "float", contexts=made,
        **{"create_execution_context_without_device_memory" if older else "create_execution_context": context},
    )  # fmt: skip
    if not older:
        content.device_memory_size_v2 = 200
        Execution.set_device_memory = lambda self, address, size: setattr(self, "memory", (address, size))
    elif hasattr(Execution, "set_device_memory"):
        del Execution.set_device_memory

    class Logger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)

    def factory(name, value):
        def make(*_):
            if name in fails:
                raise TypeError("pybind11 factory function returned nullptr")
            return value

        return make

    module = SimpleNamespace(
        ILogger=Logger, nptype=lambda kind: np.float32,
        Runtime=factory("Runtime", SimpleNamespace(deserialize_cuda_engine=lambda data: content if engine else None)),
        Refitter=factory("Refitter", SimpleNamespace(refit_cuda_engine=lambda: True)),
        OnnxParserRefitter=factory("OnnxParserRefitter", SimpleNamespace(refit_from_bytes=lambda data: data == b"good")),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
    )  # fmt: skip
    return SimpleNamespace(name="tensorrt", title="TensorRT 10.9", module=module, content=content)


class Device(HostDevice):
    """With a stream."""

    stream = 5


@pytest.mark.parametrize("older", [True, False])
def test_every_batch_size_has_a_context_of_its_own(older) -> None:
    """On the same memory; shapes and addresses are set once, before anything is captured."""
    trt, device = product(older=older), Device()
    loaded = Context(trt, device, b"engine")
    assert loaded.dtype_of("x") == np.float32
    runs = [loaded.prepared({"x": 16, "logits": 32}, {"x": (size, 3)}) for size in (1, 4)]
    for one in (*runs, runs[0]):
        one.enqueue()
    first, second = trt.content.contexts
    assert (first.shapes, second.shapes) == ({"x": (1, 3)}, {"x": (4, 3)})
    assert first.addresses == second.addresses == {"x": 16, "logits": 32}
    assert (first.runs, second.runs) == (2, 1)
    (scratch,) = device.memories
    if older:
        assert {first.device_memory, second.device_memory} == {scratch.address}
        assert scratch.nbytes == 100
    else:
        assert {first.memory, second.memory} == {(scratch.address, 200)}
    with pytest.raises(EngineError, match="TensorRT 10.9 cannot run a batch"):
        loaded.prepared({}, {"x": (9, 3)})
    for one in runs:
        one.close()
    loaded.close()
    device.close()


def test_what_cannot_be_captured_says_so() -> None:
    """It is launched layer by layer then."""
    assert Context(product(), Device(), b"engine").prepared({}, {}).capturable
    assert not Context(product(capturable=False), Device(), b"engine").prepared({}, {}).capturable
    device = Device()
    device.stream = 6
    with pytest.raises(EngineError, match="cannot run a batch"):
        Context(product(), device, b"engine").prepared({}, {}).enqueue()


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({"fails": ("Runtime",)}, None, "TensorRT 10.9 cannot load an engine: it gives no reason"),
        ({"engine": False}, None, "TensorRT 10.9 cannot load the engine"),
        ({"refittable": False}, b"good", "was not built for its weights to be replaced"),
        ({"fails": ("Refitter",)}, b"good", "cannot refit the engine"),
        ({"fails": ("OnnxParserRefitter",)}, b"good", "cannot refit the engine"),
        ({}, b"bad", "cannot put weights into the engine"),
    ],
)
def test_what_is_refused_is_one_line(changes, weights, message) -> None:
    """Nothing of pybind11's reaches the user."""
    with pytest.raises(EngineError, match=message):
        Context(product(**changes), Device(), b"engine", weights=weights)


def test_weights_are_put_in() -> None:
    """If everything says yes."""
    Context(product(), Device(), b"engine", weights=b"good").close()
