"""Chooses the type that the values of a converted checkpoint are stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np

from convert.tensor_reader import Rows

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def stored_dtype(tensors: Iterable[Rows], asked: np.dtype | None) -> np.dtype:
    """Returns the type to store the values of these tensors in, as one array.

    Args:
      tensors: that are read, the layers of a parameter for example.
      asked: this one; by default bfloat16 where all of them are stored so, else float32, which
        holds each value of float16 and bfloat16 too.
    """
    if asked is not None:
        return asked
    half = DTYPES["bfloat16"]
    return half if all(tensor.dtype == half for tensor in tensors) else DTYPES["float32"]


def usual_dtype(dtypes: Mapping[str, np.dtype], sizes: Mapping[str, int]) -> np.dtype:
    """Returns the type of most values of some tensors.

    Args:
      dtypes: of the tensors by name.
      sizes: their numbers of values.
    """
    counts: Counter[np.dtype] = Counter()
    for name, dtype in dtypes.items():
        counts[dtype] += sizes[name]
    return max(counts, key=lambda dtype: counts[dtype])
