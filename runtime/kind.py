"""Protocols of a kind of network: the interface between a kind and the rest of isoform.

A kind defines how shared templates and a signature become the weights of a network. All other folders import this module
only; the code of one kind is in its folder below ``kinds/``, and is imported when a file of that kind is opened.

    Spec       sizes, and the input of each task: the ``network`` object of a bundle
    Kind       reads a spec, checks, averages and describes parts of signatures, creates a ``Network``
    Front      what comes before a task's graphs, if anything does
    Network    a bundle's templates with their spec: completes signatures, lists the graphs that can run each
    Graph      one compiled graph without weights: folds signatures into its weights
    Folder     folds a signature directly into the memory layout of a device plan
    Group      what signatures with the same inherited parts share

To add a kind: a folder below ``kinds/`` whose ``kind.py`` defines ``KIND``, and a line in ``KINDS``. This module never imports
onnxruntime, and imports a kind only on request.
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
    "Front",
    "Graph",
    "Group",
    "Kernel",
    "Kind",
    "Network",
    "NoFront",
    "NoKernel",
    "OneGraph",
    "Part",
    "Shape",
    "Spec",
    "WHOLE",
    "kind_named",
]

Shape = tuple[int, ...]
Change = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Complete parts → new values of the parts that change; empty if there is nothing to change."""
WHOLE = 32_767
"""Largest magnitude of a whole number in a part that has a gradient."""
HEAD = ("logits.weight", "logits.bias")
"""The logits layer, which every kind has: (classes, embedding) and (classes,). It is an input of every portable graph, so that
signatures with any number of classes share the graph."""

KINDS = {
    "mixture": "isoform.runtime.kinds.mixture.kind", "allocation": "isoform.runtime.kinds.allocation.kind",
    "module": "isoform.runtime.kinds.module.kind", "alignment": "isoform.runtime.kinds.alignment.kind",
}  # fmt: skip
"""Kind → module that defines ``KIND``."""
DEFAULT = "mixture"
"""The kind of a recipe, or of a ``Signature`` made in Python, that names none. Files of signatures and bundles must name theirs."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Type of one part of a signature."""

    dimensions: int
    numbers: Literal["float", "integer", "bit"] = "float"
    """In memory: float32, int64 or bool. Files store them in fewer bytes (``formats/numbers.py``)."""


class Spec(Protocol):
    """Sizes of one network, a frozen dataclass for each kind."""

    @property
    def kind(self) -> str:
        """Name of its kind."""

    def input_of(self, task: str) -> Input:
        """Return the input of a task's networks. Raises ``SignatureError`` if that depends on the task, and there is no such task."""

    def sample_bytes(self, task: str, shape: Shape) -> int:
        """Estimate the peak activation memory per sample of that shape, in bytes, for a network of that task."""

    @property
    def template_shapes(self) -> Mapping[str, Shape]:
        """Name → shape of every tensor in ``templates.safetensors``."""

    @property
    def bytewise(self) -> frozenset[str]:
        """Names of ``template_shapes`` that are int8; the others are float32."""

    @property
    def part_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Name → shape of every part that a signature may hold, in canonical order; None where the size is free."""

    def required_of(self, task: str) -> frozenset[str]:
        """Return the parts that a task's base signature must hold; all other parts that it has can be computed from them.

        Raises ``SignatureError`` if that depends on the task, and there is no such task.
        """

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``Kind.read_spec`` is the inverse."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A CUDA kernel that runs a whole network: a block of threads per sample, each sample with the weights of its own user."""

    source: str
    """CUDA C of ``network(const float *samples, const number *table, const int *users, const float *constants, float *logits)``."""
    threads: int
    """Threads of a block."""
    shared_bytes: int
    """Shared memory of a block."""
    constants: Array
    """What all users share, in the kernel's own order, float32."""


class Graph(Protocol):
    """One compiled graph, ``compiled/<name>.onnx``: a network whose weights come from signatures. Immutable; thread-safe."""

    @property
    def input(self) -> Input:
        """The graph's input."""

    @property
    def embedding(self) -> int:
        """Number of features that the logits layer reads."""

    @property
    def weights(self) -> Mapping[str, Shape]:
        """Name → shape of the weights that ``fold`` computes, without ``HEAD``, in the order of the file's external data."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """Values of those ``weights`` that are the same for every signature, float32."""

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the concrete weights of a complete signature: the names of ``weights`` in order, then ``HEAD``; float32,
        C-contiguous. Simple and slow; ``folder`` is the fast path.
        """

    def folder(self, layout: Layout) -> Folder | None:
        """Return the fast fold into a plan's layout; None if that layout is not supported and ``fold`` must be used."""

    def kernel(self, places: Mapping[str, tuple[Shape, int]], *, row: int, half: bool) -> Kernel | None:
        """Return a CUDA kernel that runs the graph; None if the kind has none (``NoKernel``).

        Args:
            places: Name of each weight that differs between users, ``HEAD`` included → its shape, and its place in the user's row.
            row: Numbers of a row.
            half: Whether they are float16; else float32.
        """


@dataclasses.dataclass(frozen=True)
class Front:
    """A network that is the same for everybody, and computes the features that a task's graphs take."""

    file: bytes
    """Its ONNX file, complete; its first output is the features."""
    samples: Input
    """What it takes."""
    features: Input
    """What the graphs take."""


class Network(Protocol):
    """A bundle's templates with their spec, to be combined with signatures. Immutable; thread-safe."""

    @property
    def spec(self) -> Any:
        """The sizes, a ``Spec``."""

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """Return all parts of a task's signature: the given ones, which include the required ones, and those computed from them."""

    def graphs(self, task: str, parts: Mapping[str, Array]) -> Sequence[str]:
        """Return names of the graphs that can run a task's signature, the fastest first; a bundle may have only some of them.

        A kind with a single graph for all signatures names it ``portable`` (``OneGraph``).
        """

    def graph(self, name: str) -> Graph:
        """Return the graph of a name that ``graphs`` returned."""

    def front(self, task: str) -> Front | None:
        """Return what comes before a task's graphs, computed once per sample; None if they take the samples themselves (``NoFront``)."""

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """Compute logits (n, classes), float32, of samples, or of their features, (n, …) in numpy: the definition that engines are tested against."""


class NoFront:
    """Mixin for a ``Network`` whose graphs take samples."""

    def front(self, task: str) -> Front | None:  # noqa: ARG002
        """Return None."""
        return None


class NoKernel:
    """Mixin for a ``Graph`` without a CUDA kernel of its own."""

    def kernel(self, places: Mapping[str, tuple[Shape, int]], *, row: int, half: bool) -> Kernel | None:  # noqa: ARG002
        """Return None."""
        return None


class OneGraph(NoFront, NoKernel):
    """Mixin for a ``Network`` with a single graph for all signatures, which is the object itself."""

    def graphs(self, task: str, parts: Mapping[str, Array]) -> Sequence[str]:  # noqa: ARG002
        """Return ``("portable",)``."""
        return ("portable",)

    def graph(self, name: str) -> Self:  # noqa: ARG002
        """Return the object itself."""
        return self


class Kind(Protocol):
    """One kind of network."""

    @property
    def name(self) -> str:
        """The name used in files."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """Every part that a signature may hold, by name, in canonical order, ``HEAD`` included."""

    @property
    def moves(self) -> Mapping[str, tuple[str, ...]]:
        """What ``personalize`` can train: user-visible name → parts. Includes ``head`` → ``HEAD``."""

    @property
    def default_moves(self) -> tuple[str, ...]:
        """What ``personalize`` trains unless told otherwise, names of ``moves``: parts of few numbers, if the kind has such."""

    @property
    def full_moves(self) -> tuple[str, ...]:
        """What it trains where size does not matter, and where classes are new: names of ``moves``, with ``head``."""

    @property
    def searched(self) -> frozenset[str]:
        """The parts in ``moves`` that have no gradient: ``personalize`` finds them by trying ``changes``. None for most kinds."""

    def changes(self, spec: Any, others: Sequence[Mapping[str, Array]]) -> Sequence[Change]:
        """List changes of the parts in ``searched`` to try, the most promising first.

        Args:
            spec: A spec of this kind.
            others: Complete parts of the bundle's base signatures, whose values may be worth trying.
        """

    @property
    def smallest(self) -> str:
        """The part that a signature identical to its base stores: a file is never empty. Of the logits layer it stores both parts."""

    def read_spec(self, value: object) -> Spec:
        """Read what ``Spec.to_json`` wrote. Raises ``SpecError`` if it is malformed or a size is out of range.

        A bundle may come from a stranger, so every size needs a limit, and so does the number of template values.
        """

    def check_part(self, name: str, array: Array) -> None:
        """Check a part's values as far as possible without a spec; its dimensions are checked already. Raises ``SignatureError``."""

    def average(self, name: str, arrays: Sequence[Array], share: Array) -> Array:
        """Return the weighted mean of one part of several signatures, float32; ``share``, shape (len(arrays),), sums to 1."""

    def usage(self, parts: Mapping[str, Array]) -> Array:
        """Return how much each layer uses each template, shape (layers, templates), 0 to 1: for figures, ``inspect`` and the
        server's page. The parts hold ``smallest`` at least.

        A kind with one template has one column; its rows are what its signatures vary, such as features.
        """

    def distance(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> float:
        """Return the distance of two signatures, 0 to 1: a metric on the part that the kind is named after.

        Of unbounded values, for example the mean of d / (1 + d) over their differences d.
        """

    def describe(self, parts: Mapping[str, Array]) -> dict[str, Any]:
        """Summarise a signature's parts for people, as JSON types; parts may be absent."""

    def network(self, spec: Any, templates: Mapping[str, Array]) -> Network:
        """Create the network of checked templates; ``spec`` is a spec of this kind."""

    # Any: ``Bundle`` and ``Learner`` are defined above this module, and importing them would be a cycle.
    def learner(self, bundle: Any, *, threads: int) -> Any:
        """Create the ``Learner`` of a compiled ``Bundle``; None if the kind has no backward pass and only the logits layer can be fitted.

        Args:
            bundle: The bundle.
            threads: Threads per run; 0 lets ONNX Runtime choose.

        Raises:
            EngineError: If ONNX Runtime rejects a graph.
        """


class Group(Protocol):
    """What the signatures of one base share if they inherit all of ``Folder.shares``."""

    @property
    def fixed(self) -> Array:
        """The laid-out weights from ``Folder.moving`` on, float32, aligned."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


class Folder(Protocol):
    """Folds the signatures of one bundle into one plan's layout. Has no state per signature; thread-safe."""

    @property
    def size(self) -> int:
        """Number of floats of the laid-out vector."""

    @property
    def moving(self) -> int:
        """Number of leading floats that differ between signatures of one group; the rest are shared."""

    @property
    def pieces(self) -> int:
        """Number of equal pieces that the leading floats divide into and that signatures can share; 0 if they do not."""

    @property
    def shares(self) -> frozenset[str] | None:
        """Parts that define a group: signatures that inherit all of them from one base. None if there are no groups."""

    def group(self, parts: Mapping[str, Array]) -> Group:
        """Return what the signatures of a group share, given the parts of any one of them."""

    def read(self, parts: Mapping[str, Array]) -> Any:
        """Compute once what both ``fill`` and ``keys`` need of a signature besides its group."""

    def fill(self, read: Any, group: Any, out: Array) -> None:
        """Fold a signature and write it in the plan's layout.

        Args:
            read: The result of ``read``.
            group: The result of ``group``.
            out: Destination, shape (size,), or (moving,) for what differs within the group; float32, aligned. Overwritten completely.
        """

    def keys(self, read: Any) -> Sequence[int] | None:
        """Return the key of each of a signature's pieces, 0 to 255; None if the signature is not composed of pieces."""

    def piece(self, group: Any, place: int, key: int) -> Array:
        """Return what ``fill`` writes at one piece's place for a signature with that key. A fresh array, aligned."""


def kind_named(name: object, *, error: Callable[[str], IsoformError]) -> Kind:
    """Return the kind of that name; import it if necessary.

    Args:
        name: The name found in a file.
        error: Makes the exception from a message.

    Raises:
        IsoformError: Made by ``error``, if there is no such kind.
    """
    # Only names in KINDS are imported: the name comes from a file, and importing it directly would let a file choose what code runs.
    if not isinstance(name, str) or name not in KINDS:
        raise error(f"is of kind {name!r}, but this version reads {', '.join(map(repr, KINDS))}; use a newer isoform")
    found: Kind = importlib.import_module(KINDS[name]).KIND
    return found
