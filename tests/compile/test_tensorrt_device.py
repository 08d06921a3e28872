"""Verification of engines on the device they were built for, with the host in its place."""

import shutil

import numpy as np
import pytest
from formed import with_forms
from host_device import HostDevice, HostForm, host_loaders

from isoform.compile.build import _datasets, _task
from isoform.compile.tensorrt.device import measure_on_device
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TASK, form_file
from isoform.runtime.errors import CompileError, EngineError
from isoform.runtime.formats.bundle import Bundle


@pytest.fixture(scope="module")
def formed(compiled, tmp_path_factory):
    """The bundle of the four digit domains with forms, one task of which has its own; and its tasks."""
    file = Bundle.load(compiled).require_compiled().read("fast/plain.onnx")
    bundle = with_forms(compiled, tmp_path_factory.mktemp("formed") / "bundle", tasks={"plain": ("fp32", file)})
    data = _datasets(bundle, None, lambda _: None)
    return bundle, [_task(bundle, name, bundle.base(name), data[name]) for name in bundle.signatures]


def measured(formed, load=None, **options):
    """What is reported."""
    bundle, tasks = formed
    loaders = host_loaders(bundle)
    device = HostDevice()
    found = measure_on_device(
        bundle,
        tasks,
        device,
        load or loaders[0],
        loaders[1],
        **{"precision": "fp32", "max_drop_points": 0.5, **options},
    )
    device.close()
    return found


def test_every_way_is_run_for_every_task(formed) -> None:
    """Its answers are ONNX Runtime's, and everything is freed."""
    report = measured(formed)
    assert report["device"] == "the host"
    assert {*report["tasks"]} == {task.name for task in formed[1]}
    for name, ways in report["tasks"].items():
        assert {*ways} == {ONE, MANY, *([TASK] if name == "plain" else [])}
        for figures in ways.values():
            assert figures["gap"] < 1e-5
            assert figures["agreement"] == 1.0
            assert figures["top1_before"] == figures["top1_after"] > 0.1


def test_batches_of_one_are_verified_too(formed) -> None:
    """There is no room for another user beside the first."""
    bundle, _ = formed
    assert {*measured(formed, host_loaders(bundle, largest=1)[0])["tasks"]["plain"]} == {ONE, MANY, TASK}


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("missing", [ONE, MANY, "plain"])
def test_an_engine_that_cannot_be_loaded_is_refused(formed, missing, tmp_path) -> None:
    """Although the kernel, or the forms for users, would run everything."""
    bundle, tasks = formed
    load, load_kernel = host_loaders(bundle, kernels=tmp_path)

    def without(name, form, *rest):
        if missing in (name, form):
            raise EngineError("it was built for another GPU")
        return load(name, form, *rest)

    device = HostDevice()
    with pytest.raises(
        EngineError, match=rf"TensorRT's {missing} of portable cannot be verified: it was built for another GPU"
    ):
        measure_on_device(bundle, tasks, device, without, load_kernel, precision="fp32", max_drop_points=0.5)
    device.close()


@pytest.mark.parametrize("wrong", [ONE, MANY, TASK])
def test_an_engine_that_computes_something_else_is_refused(formed, wrong) -> None:
    """Whichever form it is of: users whose rows are mixed up, and weights of another task."""
    bundle, _ = formed
    compiled = bundle.require_compiled()

    class Other(HostForm):
        """Reads the last user's row for all, or doubles the logits' bias."""

        def enqueue(self, addresses, shapes):
            if wrong == MANY:
                users = np.ctypeslib.as_array(
                    (np.ctypeslib.ctypes.c_int32 * shapes["user"][0]).from_address(addresses["user"])
                )
                users[:] = users.max()
            super().enqueue(addresses, shapes)
            if wrong != MANY:
                logits = (np.ctypeslib.ctypes.c_float * 10).from_address(addresses["logits"])
                logits[0] += 0.5

    def load(name, form, vector, precision, graph):
        made = Other if form == wrong else HostForm
        return made(compiled.read(form_file(name, form, precision))), 16

    with pytest.raises(
        CompileError, match=rf"task '\w+': TensorRT's {wrong} differs from ONNX Runtime by .* nothing was written"
    ):
        measured(formed, load)
    if wrong == MANY:
        with pytest.raises(
            CompileError, match=r"TensorRT's many costs \d+\.\d\d points of accuracy, but at most 0.5 were allowed"
        ):
            measured(formed, load, precision="fp16")
