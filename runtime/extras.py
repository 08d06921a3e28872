"""Optional libraries: where one is missing, the error names it and the command that installs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from isoform.runtime.errors import MissingExtraError

__all__ = ["missing", "needs"]

OF_THEIR_OWN = {"matplotlib": "figure", "psycopg": "postgresql", "opentelemetry": "traces"}
"""Packages that come with another extra than the stage that imports them."""


def missing(problem: ModuleNotFoundError, what: str, *, extra: str) -> MissingExtraError:
    """The error for a package that is not installed.

    Args:
        problem: What the import raised; raised again if the module is one of isoform's own, because no package is missing then.
        what: What needs the package.
        extra: The extra of the stage that needs it.
    """
    package = (problem.name or str(problem)).partition(".")[0]
    if package == "isoform":
        raise problem
    return MissingExtraError(
        f"{what} needs the package {package}; pip install 'isoform[{OF_THEIR_OWN.get(package, extra)}]'"
    )


@contextlib.contextmanager
def needs(what: str, *, extra: str) -> Iterator[None]:
    """Around imports of optional packages. Raises ``MissingExtraError`` where one is not installed."""
    try:
        yield
    except ModuleNotFoundError as problem:
        raise missing(problem, what, extra=extra) from None
