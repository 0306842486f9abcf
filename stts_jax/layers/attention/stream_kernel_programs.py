"""One program of the TPU kernel of streams: a part of a row's stream, segment by segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.layers.attention.stream_kernel_bodies import backward_segment, forward_segment
from stts_jax.layers.attention.stream_windows import EachCopy, Walk, Window


def forward_program(
    starts: Any,
    plan: Any,
    streams: Sequence[Any],
    outs: Sequence[Any],
    log_total: Any,
    scratch: Mapping[str, Any],
    *,
    heads: int,
) -> None:
    """Attention of one part of a row's stream.

    Args:
      starts, plan: see `part_plan`.
      streams: in memory, queries, keys, values and perhaps a bias; see `forward_segment`.
      outs: in memory, the output alone.
      log_total: in memory, (B, T, H, rows), of each segment.
      scratch: `windows` of the streams, `results` and `carries` of the outs, `logs`, and the
        semaphores `fetches`, `writes` and `log_copies`.
      heads: H.
    """
    walk = _walk(starts, plan, streams)
    windows, results, carries = (scratch[name] for name in ("windows", "results", "carries"))
    logs, copies = scratch["logs"], scratch["log_copies"]
    _fill(windows)

    def written(window: Window) -> EachCopy:
        rows = walk.written(window, results, outs, scratch["writes"])
        return _both(rows, _log_copy(walk, window, (logs, log_total), copies))

    walk.run(
        lambda window: walk.fetched(window, streams, windows, scratch["fetches"]),
        lambda window: forward_segment(window, heads, windows, results[0], logs, carries[0]),
        written,
    )
    walk.finish(carries, results, outs, scratch["writes"])


def backward_program(
    starts: Any,
    plan: Any,
    streams: Sequence[Any],
    log_total: Any,
    gradients: Sequence[Any],
    scratch: Mapping[str, Any],
    *,
    heads: int,
) -> None:
    """Gradients of one part of a row's stream.

    Args:
      starts, plan, log_total, heads: as in `forward_program`.
      streams: in memory; see `backward_segment`.
      gradients: in memory, of queries, keys, values and the bias, if any.
      scratch: as there, and `share` and `sums` of `backward_segment`.
    """
    walk = _walk(starts, plan, streams)
    windows, results, carries = (scratch[name] for name in ("windows", "results", "carries"))
    logs, copies, writes = (scratch[name] for name in ("logs", "log_copies", "writes"))
    share, sums = scratch["share"], scratch["sums"]
    _fill(windows)

    def fetched(window: Window) -> EachCopy:
        rows = walk.fetched(window, streams, windows, scratch["fetches"])
        return _both(rows, _log_copy(walk, window, (log_total, logs), copies))

    walk.run(
        fetched,
        lambda window: backward_segment(
            window, heads, windows, logs, results, carries, share, sums
        ),
        lambda window: walk.written(window, results, gradients, writes),
    )
    walk.finish(carries, results, gradients, writes)


def _walk(starts: Any, plan: Any, streams: Sequence[Any]) -> Walk:
    return Walk(pl.program_id(0), pl.program_id(1), streams[0].shape[1], starts, plan)


def _fill(windows: Sequence[Any]) -> None:
    """Rows that are never fetched are multiplied by 0, so they must be numbers."""
    for window in windows:
        window[...] = jnp.zeros(window.shape, window.dtype)


def _log_copy(walk: Walk, window: Window, ends: tuple[Any, Any], sems: Any) -> EachCopy:
    """The copy of a segment's sums, to memory or from there; none of an empty one."""

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
