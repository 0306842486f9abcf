"""Puts lines about the same media together, in memory that doesn't grow with their number.

Arrays of a number a line are handed in and made by `allocate`, which may map them from files; what
is computed is computed on a part of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stts_jax.data.sources.line_index import Arrays

Allocate = Callable[[str, type, int], np.ndarray]
# Lines that are sorted or moved at a time.
AT_ONCE = 1 << 20


def group_lines(
    digests: np.ndarray, allocate: Allocate, at_once: int = AT_ONCE
) -> tuple[np.ndarray, int, int]:
    """Finds the example of each line; examples are in the order of their first lines.

    Args:
      digests: (lines, 2) uint64 of the lines' media.
      allocate: makes an array of a name, kind and length.
      at_once: lines to look at at a time.

    Returns:
      (lines,) int64 numbers of the examples; their count; the most lines of one.
    """
    first = _first_lines(digests, allocate, at_once)
    lines = len(first)
    examples = allocate("examples", np.int64, lines)
    count = 0
    for begin in range(0, lines, at_once):
        part = first[begin : begin + at_once]
        is_first = part == np.arange(begin, begin + len(part))
        found = np.cumsum(is_first) - 1 + count
        count = int(found[-1]) + 1
        examples[begin : begin + len(part)] = found  # right where a line is the first
        examples[begin : begin + len(part)] = examples[part]
    if count == lines:
        return examples, count, min(count, 1)
    sizes = allocate("sizes", np.int64, count)
    for begin in range(0, lines, at_once):
        numbers, times = np.unique(examples[begin : begin + at_once], return_counts=True)
        sizes[numbers] += times
    return examples, count, int(sizes.max())


def arrange(
    columns: dict[str, np.ndarray],
    examples: np.ndarray,
    into: Arrays,
    allocate: Allocate,
    at_once: int = AT_ONCE,
) -> None:
    """Writes offsets, numbers and lengths in the order of the examples, and where each starts.

    Args:
      columns: (lines,) each, in the order of the data.
      examples: (lines,) number of each line's example.
      into: to be written.
      allocate: see `group_lines`.
      at_once: lines to move at a time.
    """
    starts: Any = into.starts
    lines, count = len(examples), len(starts) - 1
    starts[-1] = lines
    if count == lines:
        for begin in range(0, lines, at_once):
            end = min(begin + at_once, lines)
            starts[begin:end] = np.arange(begin, end)
            for name, column in columns.items():
                getattr(into, name)[begin:end] = column[begin:end]
        return
    next_free = allocate("next_free", np.int64, count)
    for begin in range(0, lines, at_once):
        numbers, times = np.unique(examples[begin : begin + at_once], return_counts=True)
        next_free[numbers] += times
    before = 0
    for begin in range(0, count, at_once):
        ends = np.cumsum(next_free[begin : begin + at_once]) + before
        starts[begin : begin + len(ends)] = np.append(before, ends[:-1])
        before = int(ends[-1])
    next_free[:] = starts[:-1]
    for begin in range(0, lines, at_once):
        part = examples[begin : begin + at_once]
        order = np.argsort(part, kind="stable")
        numbers, firsts, times = np.unique(part[order], return_index=True, return_counts=True)
        rank = np.arange(len(part)) - np.repeat(firsts, times)
        positions = np.repeat(next_free[numbers], times) + rank
        next_free[numbers] += times
        for name, column in columns.items():
            getattr(into, name)[positions] = column[begin : begin + at_once][order]


def _first_lines(digests: np.ndarray, allocate: Allocate, at_once: int) -> np.ndarray:
    """For each line, the first one about the same media.

    Digests are sorted in parts by their first bits, of some `at_once` lines each.
    """
    lines = len(digests)
    first = allocate("first", np.int64, lines)
    bits = max(0, (max(lines, 1) - 1) // at_once).bit_length()
    for part in range(1 << bits):
        numbers = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    begin + _with_bits(digests[begin : begin + at_once, 0], part, bits)
                    for begin in range(0, lines, at_once)
                ),
            ]
        )
        high, low = digests[numbers, 0], digests[numbers, 1]
        order = np.lexsort((low, high))  # stable: equal ones stay in the order of the data
        high, low, numbers = high[order], low[order], numbers[order]
        new = np.ones(len(numbers), bool)
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        starts = np.flatnonzero(new)
        first[numbers] = np.repeat(numbers[starts], np.diff(np.append(starts, len(numbers))))
    return first


def _with_bits(values: np.ndarray, part: int, bits: int) -> np.ndarray:
    if not bits:
        return np.arange(len(values))
    return np.flatnonzero(values >> np.uint64(64 - bits) == part)
