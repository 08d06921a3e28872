"""Optional dependencies: the error for a missing one names the package and the pip command that installs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from isoform.runtime.errors import MissingExtraError

__all__ = ["missing", "needs"]

OF_THEIR_OWN = {"matplotlib": "figure", "psycopg": "postgresql", "opentelemetry": "traces"}
"""Packages that belong to a different extra than the stage that imports them."""


def missing(problem: ModuleNotFoundError, what: str, *, extra: str) -> MissingExtraError:
    """Make the error for a package that is not installed.

    Args:
        problem: The exception of the import; raised again if the module is part of isoform, because no package is missing then.
        what: The feature that needs the package.
        extra: The pip extra of the stage that needs it.
    """
    # the name of a submodule starts with its package; an exception raised by hand may have no name
    package = (problem.name or str(problem)).partition(".")[0]
    if package == "isoform":
        raise problem
    return MissingExtraError(
        f"{what} needs the package {package}; pip install 'isoform[{OF_THEIR_OWN.get(package, extra)}]'"
    )


@contextlib.contextmanager
def needs(what: str, *, extra: str) -> Iterator[None]:
    """Wrap imports of optional packages; raises ``MissingExtraError`` if one is not installed."""
    try:
        yield
    except ModuleNotFoundError as problem:
        raise missing(problem, what, extra=extra) from None
