"""One program of the TPU kernel of streams: a part of a row's stream, segment by segment.

Grid: (B, parts). Arrays stay in HBM until a segment's window is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.attention.tpu.stream_segment import backward_segment, forward_segment
from stts_jax.attention.tpu.stream_windows import EachCopy, Walk, Window


def forward_program(
    starts: Any,
    plan: Any,
    streams: Sequence[Any],
    outs: Sequence[Any],
    lse: Any,
    scratch: Mapping[str, Any],
    *,
    heads: int,
) -> None:
    """Computes o and lse of one part of a row's stream.

    Args:
      starts, plan: prefetched, see `part_plan`.
      streams: in HBM, q, k and v, (B, S, H * d), and perhaps bias, (B, S, QUERIES).
      outs: in HBM, only o, (B, S, H * d).
      lse: in HBM, (B, T, H, rows), of each segment.
      scratch: `windows` of the streams, `results` and `carries` of the outs, `lse`, and the
        semaphores `fetches`, `writes` and `lse_copies`.
      heads: H.
    """
    walk = _walk(starts, plan, streams)
    windows, results, carries = (scratch[name] for name in ("windows", "results", "carries"))
    own_lse, copies = scratch["lse"], scratch["lse_copies"]
    _clear(windows)

    def written(window: Window) -> EachCopy:
        rows = walk.written(window, results, outs, scratch["writes"])
        return _both(rows, _lse_copy(walk, window, (own_lse, lse), copies))

    walk.run(
        lambda window: walk.fetched(window, streams, windows, scratch["fetches"]),
        lambda window: forward_segment(window, heads, windows, results[0], own_lse, carries[0]),
        written,
    )
    walk.finish(carries, results, outs, scratch["writes"])


def backward_program(
    starts: Any,
    plan: Any,
    streams: Sequence[Any],
    lse: Any,
    gradients: Sequence[Any],
    scratch: Mapping[str, Any],
    *,
    heads: int,
) -> None:
    """Computes the gradients of one part of a row's stream.

    Args:
      starts, plan, lse, heads: as in `forward_program`.
      streams: in HBM, q, k, v, o and do, and perhaps bias.
      gradients: in HBM, dq, dk and dv, and perhaps dbias.
      scratch: as there, and `delta` and `sums` of `backward_segment`.
    """
    walk = _walk(starts, plan, streams)
    windows, results, carries = (scratch[name] for name in ("windows", "results", "carries"))
    own_lse, copies, writes = (scratch[name] for name in ("lse", "lse_copies", "writes"))
    delta, sums = scratch["delta"], scratch["sums"]
    _clear(windows)

    def fetched(window: Window) -> EachCopy:
        rows = walk.fetched(window, streams, windows, scratch["fetches"])
        return _both(rows, _lse_copy(walk, window, (lse, own_lse), copies))

    walk.run(
        fetched,
        lambda window: backward_segment(
            window, heads, windows, own_lse, results, carries, delta, sums
        ),
        lambda window: walk.written(window, results, gradients, writes),
    )
    walk.finish(carries, results, gradients, writes)


def _walk(starts: Any, plan: Any, streams: Sequence[Any]) -> Walk:
    return Walk(pl.program_id(0), pl.program_id(1), streams[0].shape[1], starts, plan)


def _clear(windows: Sequence[Any]) -> None:
    """Fills windows with 0: rows that are never fetched are multiplied by 0, so must not be NaN."""
    for window in windows:
        window[...] = jnp.zeros(window.shape, window.dtype)


def _lse_copy(walk: Walk, window: Window, ends: tuple[Any, Any], sems: Any) -> EachCopy:
    """Returns the copy of a segment's lse to or from HBM; nothing for an empty segment."""

    def at(ref: Any) -> Any:
        return ref.at[walk.row, window.segment] if len(ref.shape) > 3 else ref.at[window.slot]

    copy = pltpu.make_async_copy(at(ends[0]), at(ends[1]), sems.at[window.slot])

    def each(run: Any) -> None:
        pl.when(window.end > window.start)(lambda: run(copy))

    return each


def _both(first: EachCopy, second: EachCopy) -> EachCopy:
    def each(run: Any) -> None:
        first(run)
        second(run)

    return each
