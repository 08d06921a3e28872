"""Registry of adaptation methods by the name used in ``Runtime.adapter``; a module is imported on first use."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.errors import UsageError

__all__ = ["METHODS", "method_named", "summaries"]

METHODS: Mapping[str, tuple[str, str]] = {
    "auto": ("auto", "Auto"), "batch": ("statistics", "Batch"), "alpha": ("statistics", "Alpha"), "ema": ("statistics", "Ema"),
    "tent": ("tent", "Tent"), "eata": ("eata", "Eata"), "roid": ("roid", "Roid"), "t3a": ("heads", "T3a"), "lame": ("heads", "Lame"),
    "spsa": ("search", "Spsa"), "cma-es": ("search", "CmaEs"), "rotta": ("rotta", "Rotta"),
    "coefficients": ("coefficients", "Coefficients"),
}  # fmt: skip
"""Name → module and class."""


def method_named(name: str, options: Mapping[str, object]) -> Callable[[Context], Method]:
    """Return a factory of a method.

    Args:
        name: A key of ``METHODS``.
        options: Keyword arguments of its class.

    Raises:
        UsageError: If there is no such method, or it has no such option.
    """
    if name not in METHODS:
        raise UsageError(f"the method is {name!r}, but one of {', '.join(METHODS)} was expected")
    chosen = _class(name)
    known = [key for key in inspect.signature(chosen).parameters if key != "context"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"method {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return lambda context: chosen(context, **options)


def summaries() -> dict[str, str]:
    """Return name → what a method does, in one line: the first of its class's docstring."""
    return {name: (inspect.getdoc(_class(name)) or "").partition("\n")[0] for name in METHODS}


def _class(name: str) -> Any:
    module, kind = METHODS[name]
    return getattr(importlib.import_module(f"isoform.runtime.adapt.methods.{module}"), kind)
