"""Where engines come from: the bundle, the cache, a refit of an older one, a build; with files in the place of TensorRT."""

import dataclasses
import hashlib
import shutil
from types import SimpleNamespace

import pytest
from formed import with_forms
from host_device import HostDevice

from isoform.compile.tensorrt.structure import structure_of
from isoform.runtime.engines.tensorrt import loading as module
from isoform.runtime.engines.tensorrt.builder import BuildOptions
from isoform.runtime.engines.tensorrt.form import ONE, OPTIONS, UserVector, form_file, vector_file
from isoform.runtime.engines.tensorrt.loading import Loading, kept_timings
from isoform.runtime.engines.tensorrt.stored import KERNEL_PRODUCT, EngineKey, encode_engine, engine_name
from isoform.runtime.errors import BundleError, EngineError
from isoform.runtime.formats.bundle import Bundle

PRODUCTS = {
    name: SimpleNamespace(name=name, version="10.9", title=f"{name} 10.9") for name in ("tensorrt", "tensorrt-rtx")
}
PRODUCT = PRODUCTS["tensorrt"]


class Loaded:
    """An engine on the device: what it was loaded from."""

    def __init__(self, product, device, engine, *, weights=None):
        if engine == b"broken" or (weights is not None and b"unrefittable" in engine):
            raise EngineError("TensorRT cannot load the engine")
        self.engine, self.weights = engine, weights

    def encode(self):
        """The engine with its new weights."""
        return b"refitted " + hashlib.sha256(self.weights).hexdigest().encode()


class Builds:
    """Builds, which are counted."""

    def __init__(self):
        self.options, self.timings = [], []

    def __call__(self, product, file, *, options, timing_cache, **_):
        """As ``build_engine``."""
        self.options.append(options)
        self.timings.append(timing_cache)
        return SimpleNamespace(
            engine=b"built " + hashlib.sha256(file).hexdigest().encode(), timing_cache=b"timed" + timing_cache
        )


@pytest.fixture
def bundles(compiled, tmp_path, monkeypatch):
    """Makes bundles with forms and options; there is an empty cache."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    plain = with_forms(compiled, tmp_path / "plain").require_compiled()
    file = form_file("portable", ONE, "fp32")

    def make(name, **options):
        data = plain.read(file)
        structures = {file: structure_of(data)} if "structures" not in options else options.pop("structures")
        more = {OPTIONS: BuildOptions(structures=structures, **options).encode()}
        return with_forms(compiled, tmp_path / name, more=more)

    return make


def loaded(bundle, build, **options):
    """The engine of the form for one user, as it is loaded."""
    compiled = bundle.require_compiled()
    vector = UserVector.decode(compiled.read(vector_file("portable")), name="x")
    loads = Loading(compiled, HostDevice(), build=build, context=Loaded, find=lambda name: PRODUCTS[name], **options)
    return loads.engine("portable", ONE, vector, "fp32", bundle.network.graph("portable"))


def shipped(bundle, engine, **changes):
    """Put an engine into a bundle."""
    data = bundle.require_compiled().read(form_file("portable", ONE, "fp32"))
    key = EngineKey(
        product="tensorrt", version="10.9", devices=("sm00",), graph="portable", form=ONE, precision="fp32",
        digest=hashlib.sha256(data).hexdigest(), structure="", shared="in", largest_batch=7,
    )  # fmt: skip
    key = dataclasses.replace(key, **changes)
    folder = bundle.require_compiled().path / "engines"
    folder.mkdir(exist_ok=True)
    (folder / engine_name(key)).write_bytes(encode_engine(key, engine))


def test_it_is_built_once_as_the_bundle_says(bundles, caplog) -> None:
    """And what the build timed is there for the next one."""
    build, bundle = Builds(), bundles("b", usual=4, largest=9)
    form, largest = loaded(bundle, build)
    assert largest == 9
    assert form.engine.startswith(b"built ")
    assert "this takes a while" not in caplog.text  # the build says that when it has something to say
    again, _ = loaded(bundle, build)
    assert again.engine == form.engine
    ((options,), timings) = build.options, build.timings
    assert (options.usual, options.largest, options.shared, timings) == (4, 9, "in", [b""])
    assert kept_timings(PRODUCT, "the host") == b"timed"
    loaded(bundles("c", usual=4, largest=10), build)
    assert build.timings == [b"", b"timed"]
    assert kept_timings(PRODUCT, "another GPU") == b""


def test_the_bundles_engine_is_used_where_it_fits(bundles) -> None:
    """By product, version, architecture and form; a broken one is left out, with a warning, and it is built."""
    build, bundle = Builds(), bundles("b")
    shipped(bundle, b"other", version="10.8")
    shipped(bundle, b"elsewhere", devices=("sm75",))
    shipped(bundle, b"of another graph", digest="0" * 64)
    assert loaded(bundle, build)[0].engine.startswith(b"built ")
    shipped(bundle, b"ours")
    form, largest = loaded(bundle, build)
    assert (form.engine, form.weights, largest) == (b"ours", None, 7)
    assert len(build.options) == 1


def test_a_product_that_the_bundle_has_an_engine_for_comes_first(bundles) -> None:
    """If both are installed; and what is to be verified is that engine, not another one."""
    build, bundle = Builds(), bundles("b")
    with pytest.raises(EngineError, match="the bundle has no engine of tensorrt/portable.one.fp32.onnx for the host"):
        loaded(bundle, build, products=("tensorrt-rtx",), own=False)
    shipped(bundle, b"ours", product="tensorrt-rtx")
    assert loaded(bundle, build)[0].engine == b"ours"
    assert loaded(bundle, build, products=("tensorrt-rtx",), own=False)[0].engine == b"ours"
    shipped(bundle, b"broken", product="tensorrt-rtx")
    with pytest.raises(EngineError, match="cannot load the engine"):
        loaded(bundle, build, products=("tensorrt-rtx",), own=False)
    assert not build.options


def test_a_broken_engine_is_built_again(bundles, caplog) -> None:
    """Of the bundle, one that cannot be loaded, and of the cache, one that is damaged."""
    build, bundle = Builds(), bundles("b")
    shipped(bundle, b"broken")
    assert loaded(bundle, build)[0].engine.startswith(b"built ")
    assert "the bundle's engine of tensorrt/portable.one.fp32.onnx is not used" in caplog.text
    (path,) = module.cache_directory().glob("trt-portable*.engine")
    path.write_bytes(path.read_bytes()[:-1])
    assert loaded(bundle, build)[0].engine.startswith(b"built ")
    assert "is damaged" in caplog.text
    assert len(build.options) == 2
    loaded(bundle, build)  # the new one was stored
    assert len(build.options) == 2


def test_a_stripped_engine_gets_its_weights_from_the_form(bundles) -> None:
    """When it is loaded; one that is built on the device is not stripped."""
    build, bundle = Builds(), bundles("b", shared="stripped")
    shipped(bundle, b"small", shared="stripped")
    form, _ = loaded(bundle, build)
    assert form.engine == b"small"
    assert form.weights == bundle.require_compiled().read(form_file("portable", ONE, "fp32"))
    shutil.rmtree(bundle.require_compiled().path / "engines")
    loaded(bundle, build)
    assert [options.shared for options in build.options] == ["refit"]


def test_new_templates_are_put_into_an_engine_of_the_same_structure(bundles, compiled, tmp_path, monkeypatch) -> None:
    """Nothing is built; another structure, or one that cannot be refitted, is."""
    build, old = Builds(), bundles("old", shared="refit")
    loaded(old, build)
    file = form_file("portable", ONE, "fp32")
    new = bundles("new", shared="refit")
    changed = new.require_compiled().read(file)
    monkeypatch.setattr(module, "form_file", lambda *_: "other.onnx")
    other = other_weights(changed)
    assert structure_of(other) == structure_of(changed)
    more = {
        "other.onnx": other,
        OPTIONS: BuildOptions(shared="refit", structures={"other.onnx": structure_of(other)}).encode(),
    }
    new = with_forms(compiled, tmp_path / "rolled", more=more)
    form, _ = loaded(new, build)
    assert form.weights == other
    assert len(build.options) == 1
    again, _ = loaded(new, build)  # as it was stored
    assert again.engine == form.encode()
    assert again.weights is None
    assert len(build.options) == 1
    more[OPTIONS] = BuildOptions(shared="refit", structures={"other.onnx": "0" * 64}).encode()
    assert loaded(with_forms(compiled, tmp_path / "another", more=more), build)[0].engine.startswith(b"built ")
    assert len(build.options) == 2


def other_weights(file):
    """A form whose shared weights are others."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(file)
    changed = 0
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == "float32" and array.size > 4:
            tensor.CopyFrom(numpy_helper.from_array(array * 2, tensor.name))
            changed += 1
    assert changed
    return model.SerializeToString(deterministic=True)


def test_options_of_another_sort_are_one_line(bundles, compiled, tmp_path) -> None:
    """A file of the bundle that is malformed."""
    for number, data in enumerate(
        (b"[]", b"{}", b'{"usual": 0, "structures": {}}', b'{"shared": "out", "structures": {}}')
    ):
        bundle = with_forms(compiled, tmp_path / f"m{number}", more={OPTIONS: data})
        with pytest.raises(BundleError, match="build.json is malformed"):
            loaded(bundle, Builds())


def test_a_kernel_of_the_bundle_needs_no_compiler(bundles, monkeypatch) -> None:
    """If it is of this source, and for this architecture."""
    bundle, given = bundles("b"), []
    monkeypatch.setattr(module, "KernelForm", lambda device, kernel, samples, *, cubin=None: given.append(cubin))
    kernel = SimpleNamespace(source="a kernel")
    for architecture, source, cubin in (
        ("sm00", "a kernel", b"ours"),
        ("sm75", "a kernel", b"no"),
        ("sm00", "another", b"no"),
    ):
        digest = hashlib.sha256(source.encode()).hexdigest()
        shipped(bundle, cubin, product=KERNEL_PRODUCT, form="kernel", devices=(architecture,), digest=digest)
    loads = Loading(bundle.require_compiled(), HostDevice())
    loads.kernel(kernel, "image")
    loads.kernel(SimpleNamespace(source="a third"), "image")
    assert given == [b"ours", None]


def test_the_structure_is_what_a_refit_cannot_change(compiled) -> None:
    """Values of weights are no part of it; constants that say what is computed are."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    def model(**arrays):
        nodes = [
            helper.make_node("Mul", ["x", "weight"], ["y"], name="y"),
            helper.make_node("Clip", ["y", "low"], ["z"], name="z"),
            helper.make_node("Reshape", ["z", "shape"], ["logits"], name="logits"),
        ]
        given = {"weight": np.ones(3, np.float32), "low": np.float32(0), "shape": np.array([-1, 3]), **arrays}
        tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()]
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in ("x", "logits")]
        return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], tensors)).SerializeToString()

    first = structure_of(model())
    assert structure_of(model(weight=np.zeros(3, np.float32))) == first
    assert structure_of(model(weight=np.zeros((1, 3), np.float32))) != first
    assert structure_of(model(low=np.float32(1))) != first
    assert structure_of(model(shape=np.array([1, 3]))) != first
    assert (
        len(
            {
                structure_of(Bundle.load(compiled).require_compiled().read(f"fast/{task}.onnx"))
                for task in ("plain", "edges")
            }
        )
        == 1
    )
