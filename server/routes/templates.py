"""Template usage of a network: ``GET /v1/models/<task>/templates``, of a user's with ``?signature=NAME``.

    {"model_name", "signature"?, "revision"?, "digest", "labels": [...], "templates": K, "layers": [[u_1 … u_K], … one row per layer],
     "base": {"digest", "layers"}}

u is the share of each template in a layer, 0 to 1 (of a mixture: ξ, the weights that the runtime folds with). ``base`` is the task's base
signature, for comparison. Needs the same scope as a prediction.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature
from isoform.server.access.guard import require_predict
from isoform.server.service.service import get_service

__all__ = ["blueprint"]

blueprint = Blueprint("templates", __name__, url_prefix="/v1/models/<task>/templates")


@blueprint.get("")
def templates(task: str) -> dict[str, Any]:
    """Template usage of every layer."""
    service = get_service()
    name = request.args.get("signature")
    # The scope before the task: without the scope the answer is 403, whether or not the task exists.
    require_predict(name)
    service.tasks.check(task)
    whose = service.users.find(task, name)
    base = service.runtime.signature(task)
    return {
        "model_name": task, **whose.parameters(), "labels": list(service.runtime.labels(whose.signature)),
        "templates": _usage(base).shape[1], "layers": _usage(whose.signature).tolist(),
        "base": {"digest": base.digest, "layers": _usage(base).tolist()},
    }  # fmt: skip


def _usage(signature: Signature) -> Array:
    """Shape (layers, templates)."""
    bundle = get_service().runtime.bundle
    return bundle.kind.usage(bundle.resolve(signature).parts)
