"""The engine that runs over a device plan: one session for everybody, one set of bound weights per signature in use.

Changing users is choosing another binding. A signature's first use folds it into a vector that is bound already, or, if it is
discrete, binds blocks that are folded already (``bound.py``); nothing is compiled or optimised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from isoform.runtime.bound import Binding, Blocks, OwnWeights, SharedWeights
from isoform.runtime.bundle import Bundle
from isoform.runtime.cache import Cache
from isoform.runtime.engine import first_line
from isoform.runtime.errors import EngineError
from isoform.runtime.laid_fold import LaidBN, LaidFold
from isoform.runtime.mixture import discrete_sequence, softmax
from isoform.runtime.plan import HEAD, Plan, lifted_session
from isoform.runtime.signature import Signature
from isoform.runtime.spec import Array

__all__ = ["PlanEngine"]


class PlanEngine:
    """Runs signatures of one bundle over one plan. Safe to use from several threads.

    Args:
        bundle: A compiled bundle.
        plan: The plan for its portable graph on this device.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of laid-out weights may stay: three quarters for signatures, a quarter for what signatures
            of the same base share.

    Raises:
        EngineError: If ONNX Runtime refuses the plan.
    """

    def __init__(self, bundle: Bundle, plan: Plan, *, threads: int, cache_bytes: int) -> None:
        self._bundle, self._plan = bundle, plan
        self._session = lifted_session(plan, threads=threads)
        self._fold = LaidFold(bundle.spec, bundle.tensors, plan)
        self._hot: Cache[OwnWeights | SharedWeights] = Cache(cache_bytes - cache_bytes // 4)
        self._shared: Cache[LaidBN | Blocks] = Cache(cache_bytes // 4)
        compiled = bundle.compiled.signatures if bundle.compiled else {}
        self._last: Array | None = None
        self._bases = {base.digest for base in (*bundle.signatures.values(), *compiled.values())}

    def logits(self, x: Array, signature: Signature) -> Array:
        """Run one batch.

        Args:
            x: Samples, shape (n, channels, height, width), float32, C-contiguous.
            signature: A signature that fits the bundle.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If the signature does not fit.
            EngineError: If ONNX Runtime fails.
        """
        with self.bound(signature) as binding:
            if binding.vector is not None and binding.vector is not self._last:
                # Another user's weights: one pass in order brings them near, faster than the run would as it goes.
                self._last = binding.vector
                binding.vector.max()
            try:
                return binding.run(x)
            except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
                raise EngineError(
                    f"ONNX Runtime could not run a batch of shape {x.shape}: {first_line(problem)}"
                ) from problem

    @contextlib.contextmanager
    def bound(self, signature: Signature) -> Iterator[Binding]:
        """A binding with a signature's weights, for one run at a time; ``SignatureError`` if the signature does not fit."""
        with self._hot.borrow(signature.digest, lambda make_room: self._swapped_in(signature, make_room)) as weights:
            binding = weights.take()
            yield binding
            weights.give(binding)

    def _swapped_in(
        self, signature: Signature, make_room: Callable[[], OwnWeights | SharedWeights | None]
    ) -> tuple[OwnWeights | SharedWeights, int]:
        """A signature's weights, in the place of others' where there are; and how many bytes they take."""
        parts = self._bundle.resolve(signature)
        head = {name: parts[name] for name in HEAD}
        own_bytes = sum(array.nbytes for name, array in signature.parts.items() if name in HEAD)
        base = self._base_of_bn(signature)
        xi = softmax(parts["mixture"])
        sequence = discrete_sequence(xi) if base is not None else None
        if base is not None and sequence is not None:
            blocks, old = self._blocks(base, parts), make_room()
            shared = old if isinstance(old, SharedWeights) and old.blocks is blocks else None
            shared = shared or SharedWeights(self._session, blocks)
            return shared, shared.fill(sequence, head) + own_bytes
        bn, old = self._bn(base, parts), make_room()
        own = old if isinstance(old, OwnWeights) else OwnWeights(self._session, self._plan)
        return own, own.fill(self._fold, xi, bn, head) + own_bytes

    def _base_of_bn(self, signature: Signature) -> str | None:
        """Digest of the base signature whose BN this one runs with, unchanged; None if it has its own."""
        if signature.digest in self._bases:
            return signature.digest
        if self._bundle.spec.affine == "mixed" or {"bn.affine", "bn.statistics"} & set(signature.parts):
            return None
        return signature.base

    def _bn(self, base: str | None, parts: Mapping[str, Array]) -> LaidBN:
        """The BN of a signature, laid out."""

        def build(_: object = None) -> tuple[LaidBN, int]:
            bn = self._fold.bn(parts["bn.affine"], parts["bn.statistics"])
            return bn, bn.scale.nbytes + bn.rest.nbytes

        if base is None:
            return build()[0]
        with self._shared.borrow(f"bn {base}", build) as bn:
            assert isinstance(bn, LaidBN)
            return bn

    def _blocks(self, base: str, parts: Mapping[str, Array]) -> Blocks:
        """The blocks of discrete signatures with a base's BN."""

        def build(_: object = None) -> tuple[Blocks, int]:
            blocks = Blocks(self._plan, self._fold, self._bn(base, parts))
            return blocks, blocks.largest_bytes

        with self._shared.borrow(f"blocks {base}", build) as blocks:
            assert isinstance(blocks, Blocks)
            return blocks

    def clear(self) -> None:
        """Let go of every signature's weights."""
        self._hot.clear()
        self._shared.clear()

    def stats(self) -> dict[str, float]:
        """As ``Cache.stats`` for the signatures' weights; ``bytes`` includes what they share, ``shared_bytes``."""
        hot, shared = self._hot.stats(), self._shared.stats()
        total = {name: hot[name] + shared[name] for name in ("bytes", "limit_bytes")}
        return {**hot, **total, "shared_bytes": shared["bytes"]}
