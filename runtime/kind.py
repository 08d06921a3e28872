"""The door between a kind of network and everything else.

A kind says how shared templates and a signature's numbers become the weights of a network. All other rooms know this module
only; what belongs to one kind lies in its folder below ``kinds/``, and is imported when a file of that kind is opened.

    Spec       sizes, and what each task takes: what a bundle's ``network`` object holds
    Kind       reads a spec, checks, averages and describes parts of signatures, makes a ``Network``
    Network    a bundle's templates with their spec: completes signatures, says which graph runs each
    Graph      one compiled graph without weights: folds signatures into the weights that it wants
    Folder     writes a signature's weights straight to where a device plan wants them
    Group      what signatures with the same inherited parts have in common

Add a kind: a folder below ``kinds/`` whose ``kind.py`` has ``KIND``, and its line in ``KINDS``. Never imports
onnxruntime, and a kind only when one is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

from isoform.runtime.arrays import Array
from isoform.runtime.errors import IsoformError
from isoform.runtime.inputs import Input
from isoform.runtime.layout import Layout

__all__ = [
    "DEFAULT",
    "HEAD",
    "KINDS",
    "Folder",
    "Graph",
    "Group",
    "Kind",
    "Network",
    "OneGraph",
    "Part",
    "Shape",
    "Spec",
    "kind_named",
]

Shape = tuple[int, ...]
HEAD = ("logits.weight", "logits.bias")
"""The logits layer, the part that every kind has: (classes, embedding) and (classes,). It is an input of every graph that serves any
signature, so that signatures with any number of classes share the graph."""

KINDS = {"mixture": "isoform.runtime.kinds.mixture.kind"}
"""Name of each kind → the module that has it as ``KIND``."""
DEFAULT = "mixture"
"""The kind where none is said."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one part of a signature is."""

    dimensions: int
    numbers: Literal["float", "integer", "bit"] = "float"
    """float32 in memory, integers int64, bits bool; files have them in fewer bytes (``formats/numbers.py``)."""


class Spec(Protocol):
    """Sizes of one network, a frozen dataclass for each kind."""

    @property
    def kind(self) -> str:
        """Name of its kind."""

    def input_of(self, task: str) -> Input:
        """What the networks of a task take."""

    def sample_bytes(self, task: str, shape: Shape) -> int:
        """About how many bytes of memory a run takes for each sample of that shape, by a network of that task."""

    @property
    def template_shapes(self) -> Mapping[str, Shape]:
        """Name → shape of every tensor in ``templates.safetensors``, all float32."""

    @property
    def part_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Name → shape of every part that a signature may hold, in canonical order; None where any size will do."""

    @property
    def required(self) -> frozenset[str]:
        """Parts without which no network can be made: a base signature holds them; others follow from them."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; ``Kind.read_spec`` reads them back."""


class Graph(Protocol):
    """One compiled graph, ``compiled/<name>.onnx``: a network whose weights come from signatures. Immutable; safe to share."""

    @property
    def input(self) -> Input:
        """What it takes."""

    @property
    def embedding(self) -> int:
        """Width of what the logits layer reads."""

    @property
    def weights(self) -> Mapping[str, Shape]:
        """Name → shape of the weights that ``fold`` makes, all but ``HEAD``, in the order in which the file has them."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """Those of ``weights`` that are the same for every signature → their values, float32."""

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """The concrete weights of a signature, of which all parts are given: ``weights``' names in order, then ``HEAD``; float32,
        C-contiguous. The plain, slow way.
        """

    def folder(self, layout: Layout) -> Folder | None:
        """The fast way, into one plan's layout; None if there is none for that layout, and the plain fold has to do."""


class Network(Protocol):
    """A bundle's templates, ready to be combined with signatures. Immutable; safe to share between threads."""

    @property
    def spec(self) -> Any:
        """Its sizes: a ``Spec``."""

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """All parts of a task's signature, given at least those that are required: the given ones, and what follows from them."""

    def graphs(self, task: str, parts: Mapping[str, Array]) -> Sequence[str]:
        """Names of the graphs that can run a task's signature, the fastest first; which of them a bundle has, its compilation says.

        A kind whose signatures all run in one graph calls it ``portable`` (``OneGraph``).
        """

    def graph(self, name: str) -> Graph:
        """The graph of that name, one that ``graphs`` gave."""

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """Logits (n, classes), float32, of samples (n, …), by numpy alone and without the fold: what a signature means."""


class OneGraph:
    """The half of a ``Network`` whose signatures all run in one graph, which it is itself."""

    def graphs(self, task: str, parts: Mapping[str, Array]) -> Sequence[str]:  # noqa: ARG002
        """As ``Network.graphs``: ``portable``."""
        return ("portable",)

    def graph(self, name: str) -> Self:  # noqa: ARG002
        """As ``Network.graph``: itself."""
        return self


class Kind(Protocol):
    """One kind of network."""

    @property
    def name(self) -> str:
        """As files name it."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """Every part that a signature may hold, by name, in canonical order, ``HEAD`` included."""

    @property
    def moves(self) -> Mapping[str, tuple[str, ...]]:
        """What people may let move when they personalize, by the names that they know → parts; ``head`` → ``HEAD`` among them."""

    @property
    def smallest(self) -> str:
        """The part that a signature holds if it differs from its base in none: a file is never empty."""

    def read_spec(self, value: object) -> Spec:
        """Read what ``Spec.to_json`` wrote. Raises ``SpecError`` if it is anything else, or a size is out of range."""

    def check_part(self, name: str, array: Array) -> None:
        """Check what can be known of a part without a spec, beyond its dimensions. Raises ``SignatureError``."""

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """The weighted mean of one part of several signatures, float32; ``share``, shape (len(arrays),), sums to 1."""

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """How much of each template each layer uses, shape (layers, templates), 0 to 1: what figures show and the page compares."""

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """How far two signatures are apart, 0 to 1: a metric on what the kind is named for."""

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """What people want to see of a signature's parts, as JSON types; parts may be absent."""

    def network(self, spec: Any, templates: Mapping[str, Array]) -> Network:
        """The network of checked templates; ``spec`` is one of this kind's."""

    def learner(self, bundle: Any, *, threads: int) -> Any:
        """What learns in a compiled ``Bundle``: a ``Learner``; None if there is no backward pass, and only the logits layer can be fitted.

        Args:
            bundle: The bundle.
            threads: Threads per run, 0 to let ONNX Runtime choose.

        Raises:
            EngineError: If ONNX Runtime refuses a graph.
        """


class Group(Protocol):
    """What signatures of one base have in common, if they inherit ``Folder.shares``."""

    @property
    def fixed(self) -> Array:
        """The laid-out weights from ``Folder.moving`` on, float32, aligned."""

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""


class Folder(Protocol):
    """Folds the signatures of one bundle into one plan's layout. Holds no state of any signature; safe to share."""

    @property
    def size(self) -> int:
        """How many floats the laid-out vector has."""

    @property
    def moving(self) -> int:
        """The first so many of them are what differs between signatures of one group."""

    @property
    def pieces(self) -> int:
        """Into how many equal pieces those can be cut that signatures may have in common; 0 for none."""

    @property
    def shares(self) -> frozenset[str] | None:
        """Parts that make a group: signatures that inherit all of them from one base. None where there are no groups."""

    def group(self, parts: Mapping[str, Array]) -> Group:
        """What the signatures of one group have in common; ``parts`` are those of any of them."""

    def read(self, parts: Mapping[str, Array]) -> Any:
        """What ``fill`` and ``keys`` need of a signature beside its group, once for both."""

    def fill(self, read: Any, group: Any, out: Array) -> None:
        """Fold and lay out.

        Args:
            read: What ``read`` gave.
            group: What ``group`` gave.
            out: Where to: shape (size,), or (moving,) for what differs within the group; float32, aligned. All of it is written.
        """

    def keys(self, read: Any) -> Sequence[int] | None:
        """Which of the pieces a signature is made of, one number from 0 to 255 each; None if it is not made of any."""

    def piece(self, group: Any, place: int, key: int) -> Array:
        """What ``fill`` writes in the place of one piece, for a signature with that key there. A fresh array, aligned."""


def kind_named(name: object, *, error: Callable[[str], IsoformError]) -> Kind:
    """The kind of that name, imported if it is not yet.

    Args:
        name: As a file says it.
        error: What to raise, given the text.

    Raises:
        IsoformError: What ``error`` makes, if there is no such kind.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise error(f"is of kind {name!r}, but this version reads {', '.join(map(repr, KINDS))}; use a newer isoform")
    found: Kind = importlib.import_module(KINDS[name]).KIND
    return found
