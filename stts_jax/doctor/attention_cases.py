"""Attention as the 4B asks for it, and what each backend's result is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.attention import dispatch
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.doctor.drawn import drawn_patches, normal, packed_tokens
from stts_jax.doctor.reference import plain_attention
from stts_jax.doctor.sizes import Sizes
from stts_jax.layers.attention_mask import attention_mask
from stts_jax.parallel.platform import row_length
from stts_jax.pruning.stream import stream_size

ROWS = 2
# A tuple of query, key, value and at times a bias of keys.
Arrays = Any


@dataclass(frozen=True)
class AttentionCase:
    """One thing that the model asks of attention.

    Attributes:
      name: of it.
      shape: of query and key, for the report.
      of_stream: whether it is asked of `stream_attention`, else of `attention`.
      arrays: makes what has a gradient: query, key, value, and a bias of keys if there is one.
      ids: makes what has none.
      request: of these two.
      reference: the plain result of these two.
      pairs: of queries and keys that see each other, over all rows.
      backward: whether gradients are compared.
    """

    name: str
    shape: str
    of_stream: bool
    arrays: Callable[[], Arrays]
    ids: Callable[[], Any]
    request: Callable[[Arrays, Any], Any]
    reference: Callable[[Arrays, Any], jax.Array]
    pairs: float
    backward: bool = True

    def backends(self) -> Sequence[dispatch.Backend[Any]]:
        """Returns the backends that could be asked, best first."""
        return dispatch.STREAM_BACKENDS if self.of_stream else dispatch.BACKENDS


def attention_cases(sizes: Sizes, dtype: jnp.dtype) -> list[AttentionCase]:
    """Returns all cases, the most telling first."""
    return [
        _stream(sizes, dtype),
        _packed(sizes, dtype),
        _frames(sizes, dtype, biased=True),
        _frames(sizes, dtype, biased=False),
        _bins(sizes, dtype),
        _causal(sizes, dtype),
        _decode(sizes, dtype),
    ]


def _request(arrays: Arrays, **options: Any) -> AttentionRequest:
    query, key, value, *_ = arrays
    return AttentionRequest(query, key, value, **options)


def _plain(arrays: Arrays, **options: Any) -> jax.Array:
    query, key, value, *_ = arrays
    return plain_attention(query, key, value, **options)


def _frames(sizes: Sizes, dtype: jnp.dtype, *, biased: bool) -> AttentionCase:
    """Whole frames of the ViT, before tokens are dropped."""
    vit, frames = sizes.model.vit, sizes.frames // ROWS
    shape = (ROWS, frames, vit.patches, vit.heads, vit.head_dim)

    def arrays() -> Arrays:
        made = normal(0, shape, shape, shape, dtype=dtype)
        # The log of scores between exp(-2) and 1.
        bias = jax.random.uniform(jax.random.key(9), shape[:3], jnp.float32, -2.0, 0.0)
        return (*made, bias) if biased else made

    def request(arrays: Arrays, _: Any) -> AttentionRequest:
        return _request(arrays, key_bias=arrays[3] if biased else None)

    def reference(arrays: Arrays, _: Any) -> jax.Array:
        return _plain(arrays, key_bias=arrays[3] if biased else None)

    with_bias = "ViT, whole frames with a bias of keys"
    return AttentionCase(
        with_bias if biased else "ViT, whole frames",
        _text(shape),
        False,
        arrays,
        lambda: None,
        request,
        reference,
        ROWS * frames * float(vit.patches) ** 2,
    )


def _stream(sizes: Sizes, dtype: jnp.dtype) -> AttentionCase:
    """The kept patches of frames, in one stream a row."""
    vit, prune, frames = sizes.model.vit, sizes.model.prune, sizes.frames // ROWS
    keep = drawn_patches(ROWS, frames, vit.grid, prune.pooling, prune.topk)
    length = stream_size(int(keep.reshape(ROWS, -1).sum(1).max()))
    shape = (ROWS, length, vit.heads, vit.head_dim)
    counts = keep.sum(-1)

    def ids() -> tuple[jax.Array, ...]:
        return tuple(map(jnp.asarray, _stream_indices(counts, length, vit.patches)))

    def request(arrays: Arrays, ids: Any) -> StreamRequest:
        query, key, value = arrays
        return StreamRequest(query, key, value, ids[0], vit.patches, frames)

    def reference(arrays: Arrays, ids: Any) -> jax.Array:
        return _attention_in_frames(arrays, *ids[1:])

    return AttentionCase(
        f"ViT, a stream with {prune.topk:.0%} dropped",
        _text(shape),
        True,
        partial(normal, 1, shape, shape, shape, dtype=dtype),
        ids,
        request,
        reference,
        float((counts.astype(float) ** 2).sum()),
    )


def _stream_indices(
    counts: np.ndarray, length: int, patches: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns segment ids (B, S), and the indices of tokens to frames (B, T, N) and back (B, S)."""
    rows, frames = counts.shape
    segment_ids = np.full((rows, length), -1, np.int32)
    to_frames = np.full((rows, frames, patches), length, np.int32)
    back = np.full((rows, length), frames * patches, np.int32)
    for row, of_row in enumerate(counts):
        start = 0
        for frame, count in enumerate(of_row):
            own = np.arange(start, start + count)
            segment_ids[row, own] = frame
            to_frames[row, frame, :count] = own
            back[row, own] = frame * patches + np.arange(count)
            start += count
    return segment_ids, to_frames, back


def _attention_in_frames(arrays: Arrays, to_frames: jax.Array, back: jax.Array) -> jax.Array:
    """Returns plain attention of a stream, of which each segment is moved into a frame."""
    rows, frames, patches = to_frames.shape

    def take(x: jax.Array, index: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, i: row.at[i].get(mode="fill", fill_value=0))(x, index)

    length = back.shape[1]
    visible = (to_frames < length)[..., None, :]
    out = _plain(tuple(take(x, to_frames) for x in arrays), mask=visible)
    return take(out.reshape(rows, frames * patches, *out.shape[3:]), back)


def _bins(sizes: Sizes, dtype: jnp.dtype) -> AttentionCase:
    """The bins of the `first_fit` layout: frames that share a bin don't see each other."""
    vit = sizes.model.vit
    bins, patches = max(sizes.frames // 2, 2), vit.patches
    shape = (bins, patches, vit.heads, vit.head_dim)
    first, second = patches // 2, patches - patches // 2 - patches // 16
    ids = np.full((bins, patches), -1, np.int32)
    ids[:, :first] = 2 * np.arange(bins)[:, None]
    ids[:, first : first + second] = 2 * np.arange(bins)[:, None] + 1

    def request(arrays: Arrays, ids: Any) -> AttentionRequest:
        return _request(arrays, segment_ids=ids)

    def reference(arrays: Arrays, ids: Any) -> jax.Array:
        mask = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] >= 0)
        return _plain(arrays, mask=mask)

    return AttentionCase(
        "ViT, bins of first_fit",
        _text(shape),
        False,
        partial(normal, 2, shape, shape, shape, dtype=dtype),
        lambda: jnp.asarray(ids),
        request,
        reference,
        bins * float(first**2 + second**2),
    )


def _llm_shapes(sizes: Sizes, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    llm = sizes.model.llm
    return (ROWS, length, llm.heads, llm.head_dim), (ROWS, length, llm.kv_heads, llm.head_dim)


def _masked_request(arrays: Arrays, mask: Any) -> AttentionRequest:
    return _request(arrays, mask=mask)


def _masked_reference(arrays: Arrays, mask: Any) -> jax.Array:
    return _plain(arrays, mask=mask.holds())


def _packed(sizes: Sizes, dtype: jnp.dtype) -> AttentionCase:
    """The LLM's tokens: causal, visual tokens both ways, examples and answers apart, padding."""
    budget, llm = sizes.budget, sizes.model.llm
    length = row_length(budget.tokens)
    query, key = _llm_shapes(sizes, length)
    table = packed_tokens(length, budget.visual, sizes.frames)
    mask = attention_mask(table, table, llm.bidirectional)

    return AttentionCase(
        "LLM, causal with packing",
        _text(query, key),
        False,
        partial(normal, 3, query, key, key, dtype=dtype),
        lambda: mask,
        _masked_request,
        _masked_reference,
        float(np.asarray(jax.jit(lambda mask: mask.holds().sum(axis=(1, 2)))(mask)).sum()),
    )


def _causal(sizes: Sizes, dtype: jnp.dtype) -> AttentionCase:
    """A causal mask alone: text without packing."""
    length = row_length(sizes.budget.tokens)
    query, key = _llm_shapes(sizes, length)

    def request(arrays: Arrays, _: Any) -> AttentionRequest:
        return _request(arrays, mask_kind="causal")

    def reference(arrays: Arrays, _: Any) -> jax.Array:
        index = jnp.arange(length)
        return _plain(arrays, mask=index[:, None] >= index)

    return AttentionCase(
        "LLM, causal",
        _text(query, key),
        False,
        partial(normal, 4, query, key, key, dtype=dtype),
        lambda: None,
        request,
        reference,
        ROWS * length * (length + 1) / 2,
    )


def _decode(sizes: Sizes, dtype: jnp.dtype) -> AttentionCase:
    """One token of each row against its cache, of which the last part isn't filled yet."""
    budget, llm = sizes.budget, sizes.model.llm
    length = row_length(budget.tokens)
    (rows, _, heads, width), key = _llm_shapes(sizes, length)
    query, filled = (rows, 1, heads, width), length - length // 8
    table = packed_tokens(length, budget.visual, sizes.frames)
    own = jax.tree.map(lambda x: x[:, filled - 1 : filled], table)
    mask = attention_mask(own, table, llm.bidirectional)

    return AttentionCase(
        "LLM, a step of decoding",
        _text(query, key),
        False,
        partial(normal, 5, query, key, key, dtype=dtype),
        lambda: mask,
        _masked_request,
        _masked_reference,
        float(rows * filled),
        backward=False,
    )


def _text(*shapes: tuple[int, ...]) -> str:
    return " x ".join(str(shape) for shape in shapes)
