"""Attention as the 4B asks for it: what `python -m stts_jax.fit.kernels` compiles for each chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention import IndexMask, MaskSpec, attention, stream_attention

TPUS = ("v5e:2x2", "v5p:1x1x1", "v6e:2x2")
GPUS = ("h100:1",)
# Of 384 frames at 50 %.
TOKENS, HEADS, KEY_HEADS, WIDTH = 21_403, 32, 8, 128
FRAMES, PATCHES, VIT_HEADS, VIT_WIDTH = 384, 729, 16, 72
INNER = VIT_HEADS * VIT_WIDTH
# Where projections are around attention: of so many frames, at 50 % so many tokens each.
FEWER_FRAMES, FRAME_TOKENS = 128, 365
# Bins of `first_fit`.
BINS = 48
Attend = Callable[..., jax.Array]


@dataclass(frozen=True)
class Case:
    """One backend of attention, at one size.

    Attributes:
      name: of a line in the tables.
      topologies: that it is compiled for.
      attend: of arrays.
      shapes: of these; the first are in bfloat16 or `dtype`, with a gradient each.
      others: shapes of what comes behind them and has none, in int32.
      bias: shape of a float32 bias behind all these, which has one too.
      dtype: of the first.
      between: whether projections are around it; then its cycles are of interest.
    """

    name: str
    topologies: tuple[str, ...]
    attend: Attend
    shapes: tuple[tuple[int, ...], ...]
    others: tuple[tuple[int, ...], ...] = ()
    bias: tuple[int, ...] | None = None
    dtype: str = "bfloat16"
    between: bool = False

    @property
    def arrays(self) -> list[jax.ShapeDtypeStruct]:
        """What `attend` takes."""
        arrays = [jax.ShapeDtypeStruct(shape, self.dtype) for shape in self.shapes]
        arrays += [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in self.others]
        if self.bias is not None:
            arrays.append(jax.ShapeDtypeStruct(self.bias, jnp.float32))
        return arrays

    @property
    def differentiated(self) -> tuple[int, ...]:
        """Numbers of the arrays that have a gradient."""
        first = tuple(range(len(self.shapes)))
        return first if self.bias is None else (*first, len(self.arrays) - 1)


def _between(attend: Attend, tokens: int) -> dict[str, Any]:
    """Returns a case of a row of so many tokens, with the projections before and behind."""

    def run(x: jax.Array, kernels: jax.Array, out: jax.Array, *rest: jax.Array) -> jax.Array:
        query, key, value = (
            (x @ kernel).reshape(1, tokens, VIT_HEADS, VIT_WIDTH) for kernel in kernels
        )
        return attend(query, key, value, *rest).reshape(x.shape) @ out

    shapes = ((1, tokens, INNER), (3, INNER, INNER), (INNER, INNER))
    return {"attend": run, "shapes": shapes, "between": True}


def _frames(backend: str) -> Attend:
    """Returns attention of whole frames of one row, with a bias of each key or none."""

    def run(*arrays: jax.Array) -> jax.Array:
        query, key, value = (x.reshape(1, -1, PATCHES, *x.shape[2:]) for x in arrays[:3])
        bias = arrays[3] if len(arrays) > 3 else None
        out = attention(query, key, value, key_bias=bias, backend=backend)
        return out.reshape(arrays[0].shape)

    return run


def _stream(backend: str, frames: int) -> Attend:
    return partial(stream_attention, longest_segment=PATCHES, segments=frames, backend=backend)


def _masked(backend: str) -> Attend:
    """Returns attention under a causal mask with mutually visible visual tokens."""
    spec = MaskSpec(causal=True, mutual=True, segments="from")

    def run(query: jax.Array, key: jax.Array, value: jax.Array, ids: jax.Array) -> jax.Array:
        token_ids = spec.ids(ids)
        mask = IndexMask(token_ids, token_ids, spec)
        return attention(query, key, value, mask=mask, backend=backend)

    return run


def _bins(backend: str) -> Attend:
    """Returns attention in bins of which each frame sees only itself."""

    def run(query: jax.Array, key: jax.Array, value: jax.Array, ids: jax.Array) -> jax.Array:
        return attention(query, key, value, segment_ids=ids, backend=backend)

    return run


def _of_stream(backend: str, topologies: tuple[str, ...], heads: int, frames: int) -> Case:
    length = frames * PATCHES // 2
    size = "1 head" if heads == 1 else f"{heads} heads"
    return Case(
        f"`{backend}`, a stream of {length:,} tokens of {frames} frames, {size} of {VIT_WIDTH}",
        topologies,
        _stream(backend, frames),
        ((1, length, heads, VIT_WIDTH),) * 3,
        ((1, length),),
    )


def _of_mask(backend: str, topologies: tuple[str, ...]) -> Case:
    keys = (1, TOKENS, KEY_HEADS, WIDTH)
    return Case(
        f"`{backend}`, the LLM's mask over {TOKENS:,} tokens",
        topologies,
        _masked(backend),
        ((1, TOKENS, HEADS, WIDTH), keys, keys),
        ((3, 1, TOKENS),),
    )


def _of_bins(backend: str, topologies: tuple[str, ...]) -> Case:
    return Case(
        f"`{backend}`, {BINS} bins of `first_fit`, 16 heads of {VIT_WIDTH}",
        topologies,
        _bins(backend),
        ((BINS, PATCHES, VIT_HEADS, VIT_WIDTH),) * 3,
        ((BINS, PATCHES),),
    )


def _of_frames(
    backend: str, topologies: tuple[str, ...], frames: int, *, biased: bool, dtype: str = "bfloat16"
) -> Case:
    text = f"`{backend}`, {frames} whole frames, 16 heads of {VIT_WIDTH}"
    text += ", a bias of each key" if biased else ""
    return Case(
        text if dtype == "bfloat16" else f"{text}, in {dtype}",
        topologies,
        _frames(backend),
        ((1, frames * PATCHES, VIT_HEADS, VIT_WIDTH),) * 3,
        bias=(1, frames, PATCHES) if biased else None,
        dtype=dtype,
    )


def _frames_between(backend: str, *, biased: bool) -> Case:
    text = f"`{backend}` between projections, {FEWER_FRAMES} whole frames"
    return Case(
        text + (" with a bias of each key" if biased else ""),
        TPUS,
        **_between(_frames(backend), FEWER_FRAMES * PATCHES),
        bias=(1, FEWER_FRAMES, PATCHES) if biased else None,
    )


STREAM_BETWEEN = Case(
    f"`stream_tpu` between projections, a stream of {FEWER_FRAMES * FRAME_TOKENS:,} tokens of "
    f"{FEWER_FRAMES} frames",
    TPUS,
    **_between(_stream("stream_tpu", FEWER_FRAMES), FEWER_FRAMES * FRAME_TOKENS),
    others=((1, FEWER_FRAMES * FRAME_TOKENS),),
)
CASES = (
    STREAM_BETWEEN,
    _frames_between("stream_tpu", biased=False),
    _frames_between("stream_tpu", biased=True),
    _frames_between("splash", biased=True),
    _of_stream("stream_tpu", TPUS, VIT_HEADS, FRAMES),
    _of_stream("stream_tpu", TPUS, 2, FRAMES),
    _of_stream("stream_tpu", TPUS, 1, FRAMES),
    _of_mask("flash_tpu", TPUS),
    _of_bins("splash", TPUS),
    _of_frames("splash", TPUS, 16, biased=True, dtype="float32"),
    _of_stream("stream_gpu", GPUS, VIT_HEADS, FRAMES),
    _of_stream("cudnn", GPUS, VIT_HEADS, 64),
    _of_frames("cudnn", GPUS, 64, biased=False),
    _of_frames("cudnn", GPUS, 64, biased=True),
    _of_mask("flash_gpu", GPUS),
    _of_bins("flash_gpu", GPUS),
    _of_mask("xla", (*TPUS[:1], *GPUS)),
)
