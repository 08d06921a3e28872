"""Which templates a network is made of: ``GET /v1/models/<task>/templates``, with ``?signature=NAME`` a user's.

    {"model_name", "signature"?, "revision"?, "digest", "labels": [...], "templates": K, "layers": [[ξ_1 … ξ_K], … one row per layer],
     "base": {"digest", "layers"}}

ξ is the softmax of a signature's logits, as the runtime mixes by; ``base`` is the task's own signature, to compare a user's with. Whoever may
predict with a network may see what it is made of.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from isoform.runtime.arrays import softmax
from isoform.runtime.formats.signature import Signature
from isoform.server.access.guard import require_predict
from isoform.server.service.service import get_service

__all__ = ["blueprint"]

blueprint = Blueprint("templates", __name__, url_prefix="/v1/models/<task>/templates")


@blueprint.get("")
def templates(task: str) -> dict[str, Any]:
    """The mixture of every layer."""
    service = get_service()
    service.tasks.check(task)
    name = request.args.get("signature")
    require_predict(name)
    whose = service.users.find(task, name)
    base = service.runtime.signature(task)
    return {
        "model_name": task, **whose.parameters(), "labels": list(service.runtime.labels(whose.signature)),
        "templates": service.runtime.bundle.spec.templates, "layers": _layers(whose.signature),
        "base": {"digest": base.digest, "layers": _layers(base)},
    }  # fmt: skip


def _layers(signature: Signature) -> list[list[float]]:
    """ξ, shape (L, K)."""
    found: list[list[float]] = softmax(get_service().runtime.bundle.resolve(signature)["mixture"]).tolist()
    return found
