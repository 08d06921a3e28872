"""TensorRT's two products with one API: TensorRT (module ``tensorrt``) and TensorRT-RTX (module ``tensorrt_rtx``).

    tensorrt       8.5 to 11: data-centre GPUs and Jetson; builds for the GPU at hand
    tensorrt-rtx   1.x: GeForce and RTX from Turing on; builds for named architectures, on a machine without a GPU, too

What differs between versions is decided here and in ``builder.py`` by what the module has, not by its number.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import re
from types import ModuleType
from typing import Any

from isoform.runtime.errors import MissingExtraError, UsageError

__all__ = ["PRODUCTS", "Messages", "Product", "find_product"]

log = logging.getLogger("isoform.runtime")
PRODUCTS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Name → its Python module."""
HOW = {
    "tensorrt": "install NVIDIA's package of TensorRT 8.5 to 11 for this machine (pip install tensorrt, or JetPack)",
    "tensorrt-rtx": "pip install 'isoform[tensorrt]'",
}
OLDEST = {"tensorrt": (8, 5), "tensorrt-rtx": (1, 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """An installed product."""

    name: str
    """A key of ``PRODUCTS``."""
    module: Any
    """Its module: ``tensorrt`` or ``tensorrt_rtx``."""

    @property
    def version(self) -> str:
        """Its version, such as 10.9.0.34."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{'TensorRT-RTX' if self.name == 'tensorrt-rtx' else 'TensorRT'} {self.version}"


class Messages:
    """What the product logs: errors are kept for the exception, the rest goes to Python's log.

    Args:
        product: The product.
    """

    def __init__(self, product: Product) -> None:
        self.errors: list[str] = []
        trt, outer = product.module, self
        base: Any = trt.ILogger
        levels = {
            trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR, trt.ILogger.Severity.ERROR: logging.ERROR,
            trt.ILogger.Severity.WARNING: logging.INFO, trt.ILogger.Severity.INFO: logging.DEBUG,
        }  # fmt: skip

        class Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)  # pybind11 wants it called on the class itself

            def log(self, severity: Any, message: str) -> None:
                level = levels.get(severity)
                if level == logging.ERROR:
                    outer.errors.append(message)
                elif level is not None:
                    log.log(level, "%s: %s", product.name, message)

        self.logger = Logger()
        """The object that the product is given. Must outlive everything that is made with it."""

    def text(self) -> str:
        """Return the last error in one line; a fixed text if there is none."""
        if not self.errors:
            return "it gives no reason"
        # [file.cpp::function::123] Error Code 4: Internal Error (…)
        return re.sub(r"^\[[^\]]*\]\s*", "", " ".join(self.errors[-1].split()))[:400]


def find_product(name: str | None = None) -> Product:
    """Return an installed product.

    Args:
        name: A key of ``PRODUCTS``; None for the first one that is installed.

    Raises:
        UsageError: If there is no product of that name.
        MissingExtraError: If it is not installed, too old, or cannot be loaded.
    """
    if name is not None and name not in PRODUCTS:
        raise UsageError(f"product is {name!r}, but one of {', '.join(PRODUCTS)} was expected")
    wanted, reasons = [name] if name else [*PRODUCTS], []
    for product in wanted:
        try:
            found = Product(name=product, module=_imported(PRODUCTS[product]))
        except (ImportError, OSError) as problem:
            reasons.append(f"{product} cannot be loaded ({' '.join(str(problem).split())[:160]}): {HOW[product]}")
            continue
        oldest = OLDEST[product]
        if tuple(int(part) for part in re.findall(r"\d+", found.version)[:2]) < oldest:
            reasons.append(
                f"{found.title} is too old, {'.'.join(map(str, oldest))} or newer was expected: {HOW[product]}"
            )
            continue
        return found
    present = [other for other in PRODUCTS if other not in wanted and importlib.util.find_spec(PRODUCTS[other])]
    also = f"; installed is {', '.join(present)}" if present else ""
    raise MissingExtraError("; ".join(reasons) + also)


def _imported(module: str) -> ModuleType:
    return importlib.import_module(module)
