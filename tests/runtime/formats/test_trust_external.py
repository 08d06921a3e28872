"""External data: wherever a graph may say that its data lies in another file, it is refused before ONNX Runtime sees it."""

import hashlib
import json

import onnx
import pytest
from onnx import TensorProto, helper

from isoform.runtime import Runtime
from isoform.runtime.errors import BundleError, EngineError, InputError
from isoform.runtime.formats import external
from isoform.runtime.formats.external import refuse_external_data

pytestmark = pytest.mark.trust


def outside(location: str = "/etc/passwd", name: str = "w") -> TensorProto:
    """A tensor of four floats whose data lies in another file."""
    tensor = TensorProto(name=name, data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(**graph: object) -> onnx.ModelProto:
    """A model whose graph has these fields."""
    return onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(**graph))


def constant(**fields: object) -> onnx.NodeProto:
    """A node with one attribute."""
    return onnx.NodeProto(op_type="Constant", output=["w"], attribute=[onnx.AttributeProto(name="value", **fields)])


SPARSE = {"values": onnx.SparseTensorProto(values=outside()), "indices": onnx.SparseTensorProto(indices=outside())}
PLACES = {
    "initializer": model(initializer=[outside()]),
    "sparse values": model(sparse_initializer=[SPARSE["values"]]),
    "sparse indices": model(sparse_initializer=[SPARSE["indices"]]),
    "attribute": model(node=[constant(t=outside())]),
    "attributes": model(node=[constant(tensors=[outside()])]),
    "sparse attribute": model(node=[constant(sparse_tensor=SPARSE["values"])]),
    "sparse attributes": model(node=[constant(sparse_tensors=[SPARSE["indices"]])]),
    "subgraph": model(node=[constant(g=onnx.GraphProto(initializer=[outside()]))]),
    "subgraphs": model(node=[constant(graphs=[onnx.GraphProto(node=[constant(t=outside())])])]),
    "function": onnx.ModelProto(functions=[onnx.FunctionProto(node=[constant(t=outside())])]),
    "function's attribute": onnx.ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=[onnx.AttributeProto(t=outside())])]
    ),
    "training": onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(algorithm=onnx.GraphProto(initializer=[outside()]))]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place(place) -> None:
    """A tensor of another file is refused in every place of a model; what may be named in the main graph may not be named elsewhere."""
    data = PLACES[place].SerializeToString()
    with pytest.raises(EngineError, match="reads data from another file .'/etc/passwd'"):
        refuse_external_data(data)
    with pytest.raises(EngineError, match="reads data from another file"):
        refuse_external_data(data, location=b"weights")
    if place == "initializer":
        refuse_external_data(data, location=b"/etc/passwd")
    else:
        with pytest.raises(EngineError, match="reads data from another file"):
            refuse_external_data(data, location=b"/etc/passwd")


def test_no_place_is_missing() -> None:
    """Every field of ONNX's messages through which a tensor can be reached is one that is looked at."""
    kinds = {
        "model": "ModelProto", "main graph": "GraphProto", "graph": "GraphProto", "node": "NodeProto", "attribute": "AttributeProto",
        "function": "FunctionProto", "training": "TrainingInfoProto", "sparse": "SparseTensorProto",
    }  # fmt: skip
    reached = {"TensorProto", *kinds.values()}
    for kind, name in kinds.items():
        fields = getattr(onnx, name).DESCRIPTOR.fields
        expected = {field.number for field in fields if field.message_type and field.message_type.name in reached}
        assert set(external._WHERE[kind]) == expected, name
    fields = TensorProto.DESCRIPTOR.fields_by_name
    assert (fields["external_data"].number, fields["data_location"].number) == (13, 14)


def tensor_with(*entries: tuple[str, str], located: int = 1) -> bytes:
    """A model with one initializer and these entries on where its data lies."""
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=located)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return model(initializer=[tensor]).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        tensor_with(),
        tensor_with(("location", "./weights")),
        tensor_with(("location", "weights"), ("location", "/etc/passwd")),
        tensor_with(("location", "/etc/passwd"), ("location", "weights")),
        tensor_with(("location", "weights"), ("basepath", "/etc")),
        tensor_with(("offset", "0"), ("length", "4")),
        tensor_with(("location", "secret"), located=0),
        tensor_with(("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096")),
        b"\0\0\0\0ORTM" + bytes(40),
        b"\x80\x80\x80\x80\x80\x01\0",  # a key of more than 32 bits
        b"\x07\0",  # field 0
        b"\x3a\x05ab",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)  # fmt: skip
def test_what_is_not_exactly_right_is_refused(data) -> None:
    """A tensor names ``weights`` once and nothing else, and the bytes are an ONNX file, or the graph is refused."""
    refuse_external_data(tensor_with(("location", "weights"), ("offset", "0"), ("length", "16")), location=b"weights")
    refuse_external_data(tensor_with(located=0))
    with pytest.raises(EngineError, match="the graph"):
        refuse_external_data(data, location=b"weights")


def test_graphs_inside_graphs_end_somewhere() -> None:
    """A graph nested without end is one error, not a full stack."""
    graph = b""
    for _ in range(2000):
        for number in (6, 5, 1):
            graph = bytes([number << 3 | 2]) + onnx_length(len(graph)) + graph
    with pytest.raises(EngineError, match="nested messages"):
        refuse_external_data(b"\x3a" + onnx_length(len(graph)) + graph)


def onnx_length(value: int) -> bytes:
    """A varint."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + onnx_length(value >> 7)


@pytest.mark.parametrize("name", ["portable.onnx", "training/block_forward.onnx", "training/probe.onnx"])
def test_a_bundle_cannot_read_other_files(bundle_copy, name) -> None:
    """A bundle whose graphs name other files is refused, whatever digests its manifest gives them."""
    path, manifest = bundle_copy / "compiled" / name, bundle_copy / "compiled" / "manifest.json"
    graph = onnx.load_from_string(path.read_bytes())
    graph.graph.initializer.append(outside("secret"))
    path.write_bytes(graph.SerializeToString())
    content = json.loads(manifest.read_text())
    content["files"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="was not written by 'isoform compile': .* another file .'secret'"):
        assert Runtime.open(bundle_copy).learner


def test_inspecting_a_graph_reads_no_other_file(tmp_path, monkeypatch) -> None:
    """``isoform inspect`` of a graph whose weights lie elsewhere is one line."""
    from isoform.runtime.commands.inspecting.facts import opened

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(16))
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])
    graph = helper.make_graph([], "g", [], [value], [outside("secret")])
    path = tmp_path / "other.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with pytest.raises(InputError, match="another file .'secret'"):
        opened(path)
