"""Which templates a signature uses, as text: the number of the one that a layer consists of, or a bar for each.

2 0 3 1         each layer is one template
2 ▂▆·· 3 1      the second is a mixture of four
"""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["usage_text"]

BARS = "·▁▂▃▄▅▆▇█"
ALONE = 0.95
"""Smallest use of a template that is alone; of all others together the largest is 1 minus that."""
CELLS = 60
"""Bars of a signature with a single template, at most; each is a mean then."""


def usage_text(usage: Array) -> str:
    """Return what ``Kind.usage`` says, shape (layers, templates), 0 to 1, as text, a word per layer.

    Of a kind with one template it is a single word, with a bar per row.
    """
    if usage.shape[1] == 1:
        cells = np.array_split(usage[:, 0], min(CELLS, len(usage)))
        return _bars(np.array([cell.mean() for cell in cells]))
    return " ".join(map(_layer, usage))


def _layer(row: Array) -> str:
    best = int(row.argmax())
    alone = row[best] >= ALONE and np.delete(row, best).sum() <= 1 - ALONE
    return str(best) if alone else _bars(row)


def _bars(values: Array) -> str:
    return "".join(BARS[round(float(value) * (len(BARS) - 1))] for value in np.clip(values, 0, 1))
