"""Chooses waiting examples for a row so that it fills all of its budgets.

Filling a row is a knapsack problem with several limits. The search goes through the examples from
the most to the least valuable and keeps the best few sets so far (a beam), which comes close to
the optimum for the few dozen examples that wait at a time, and takes some milliseconds.
"""

from __future__ import annotations

import numpy as np

# Sets that the search keeps. On the academic video mixture 16, 32 and 128 fill rows to 97.6, 97.8
# and 97.9 % of their tokens.
BEAM = 64
# A budget counts by this power of how much of it the waiting examples ask for, next to the one of
# which they ask for most: filling the scarce ones is what saves rows.
SCARCITY = 4
# Every row that an example waits for makes it worth that much more, so none waits for ever.
PATIENCE = 0.01


def example_values(sizes: np.ndarray, limits: np.ndarray, waited: np.ndarray) -> np.ndarray:
    """Returns the value of each waiting example in the next row.

    Args:
      sizes: (n, k) int, what each example takes of each budget.
      limits: (k,) int, the budgets of a row.
      waited: (n,) int, rows that were made without it.

    Returns:
      (n,) float64, positive.
    """
    shares = sizes / np.maximum(limits, 1)
    demand = shares.mean(0)
    weights = (demand / demand.max()) ** SCARCITY
    return (shares @ weights) * (1 + PATIENCE * waited)


def choose_examples(sizes: np.ndarray, room: np.ndarray, values: np.ndarray) -> list[int]:
    """The set of examples of greatest value that fits, or one close to it.

    Args:
      sizes: (n, k) int.
      room: (k,) int, what is left of each budget.
      values: (n,) float, see `example_values`.

    Returns:
      numbers of the examples, ascending; empty only if none fits.
    """
    fits = np.flatnonzero((sizes <= room).all(1))
    left, total = room[None], np.zeros(1)
    members = np.zeros((1, len(sizes)), bool)
    for i in fits[np.argsort(-values[fits], kind="stable")]:
        taking = np.flatnonzero((left >= sizes[i]).all(1))
        if not taking.size:
            continue
        more = members[taking]
        more[:, i] = True
        left = np.concatenate([left, left[taking] - sizes[i]])
        total = np.concatenate([total, total[taking] + values[i]])
        members = np.concatenate([members, more])
        if len(total) > BEAM:
            best = np.argsort(-total, kind="stable")
            # Sets of equal value are taken for the same sizes in another guise.
            differs = np.append(True, np.diff(total[best]) < 0)
            best = best[differs][:BEAM]
            left, total, members = left[best], total[best], members[best]
    return np.flatnonzero(members[np.argmax(total)]).tolist()
