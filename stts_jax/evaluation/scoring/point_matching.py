"""Points of an answer against the objects they should be on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def on_mask(x: float, y: float, mask: np.ndarray) -> bool:
    """Whether the pixel nearest to (x, y) is set; points outside are not on anything.

    Args:
      x: pixels from the left.
      y: pixels from the top.
      mask: (H, W) bool.
    """
    # Python's rounding, half to even, as in the reference.
    row, column = round(y), round(x)
    height, width = mask.shape
    return 0 <= row < height and 0 <= column < width and bool(mask[row, column])


def matched_hits(
    found: Sequence[Sequence[float]],
    right: Sequence[Sequence[float]],
    is_hit: Callable[[int, int], bool],
) -> int:
    """Counts the hits in the cheapest one-to-one matching of two point sets.

    Args:
      found: (n, D) points of the answer, in the units that distances are taken in.
      right: (m, D) points that are right.
      is_hit: whether point i of the answer is on the object of right point j.
    """
    if not len(found) or not len(right):
        return 0
    # Imported here: SciPy's optimisers take most of a second, and every command imports scorers.
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    rows, columns = linear_sum_assignment(cdist(np.array(found), np.array(right)))
    return sum(is_hit(int(i), int(j)) for i, j in zip(rows, columns, strict=True))


def precision_recall_f1(hits: int, found: int, right: int) -> tuple[float, float, float]:
    """Returns all three of `found` points and `right` objects; 1 with neither, 0 with one."""
    if not found or not right:
        value = float(not found and not right)
        return value, value, value
    precision, recall = hits / found, hits / right
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0
