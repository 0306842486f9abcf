"""Flash attention under an `IndexMask`, for GPUs: Pallas kernels by way of Triton.

No Lq x Lk array exists. `IndexMask` says beforehand which pairs of blocks have no visible scores,
which are never visited, and which have no hidden ones, which need no mask: in a long row these are
most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.attention.gpu import limits
from stts_jax.attention.gpu.kernels import Block, Visited, dkv_block, dq_block, forward_block
from stts_jax.attention.gpu.tiles import SIZE
from stts_jax.attention.masks import (
    FULLY_MASKED,
    MASK_VALUE,
    IndexMask,
    MaskSpec,
    TokenMaskIds,
)
from stts_jax.attention.requests import AttentionRequest
from stts_jax.attention.softmax import attention_vjp, softmax_delta

# Fewer tokens are left to XLA.
SHORTEST = 128


def unsupported(request: AttentionRequest) -> str | None:
    """Returns why the kernels cannot compute a request on any GPU, or None."""
    return (
        request.flash_unsupported(SHORTEST)
        or limits.unsupported_rows(request.query.shape[0])
        or limits.unsupported_heads(request.query)
        or limits.unsupported_types(request.query, request.key, request.value)
    )


def flash_attention(request: AttentionRequest, *, interpret: bool = False) -> jax.Array:
    """Computes `attention`.

    Args:
      request: for which `unsupported` is None.
      interpret: run the kernels' Python on any device, slowly.
    """
    request = request.with_one_mask()
    assert isinstance(request.mask, IndexMask)
    mask = request.mask.padded(request.query.shape[0], *request.lengths, SIZE)
    return _attend(request.query, request.key, request.value, mask, interpret)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockLists:
    """For each block, those of the other side: first those without hidden scores, then the rest.

    Attributes:
      order: (B, blocks, blocks of the other side) int32.
      unmasked: (B, blocks) int32, how many at the front need no mask.
      needed: (B, blocks) int32, how many at the front are visited at all.
    """

    order: jax.Array
    unmasked: jax.Array
    needed: jax.Array


def block_lists(mask: IndexMask, size: int, *, of_keys: bool = False) -> BlockLists:
    """Returns the lists of queries' blocks, or of keys' blocks.

    Args:
      mask: from `IndexMask.padded`.
      size: tokens of a block.
      of_keys: whether the blocks are of keys and the other side of queries.
    """
    needed = mask.may_hold(size)
    unmasked = mask.always_holds(size) & needed
    if of_keys:
        needed, unmasked = (jnp.swapaxes(x, 1, 2) for x in (needed, unmasked))
    rank = jnp.where(unmasked, 0, jnp.where(needed, 1, 2)).astype(jnp.int32)
    order = jnp.argsort(rank, axis=2, stable=True).astype(jnp.int32)
    return BlockLists(order, unmasked.sum(-1, dtype=jnp.int32), needed.sum(-1, dtype=jnp.int32))


@dataclass(frozen=True)
class _Sizes:
    """Sizes and the like that are known when a kernel is compiled.

    Attributes:
      queries, keys: Lq and Lk.
      groups: heads of queries for each of keys.
      spec: of the mask.
      scale: of the scores.
    """

    queries: int
    keys: int
    groups: int
    spec: MaskSpec
    scale: float


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: IndexMask, interpret: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Computes attention of (B, Lq, H, d) and (B, Lk, K, d), with ids (B, L) of whole blocks."""
    rows, length, heads, width = q.shape
    o_like = jax.ShapeDtypeStruct((rows * length, heads, width), v.dtype)
    lse_like = jax.ShapeDtypeStruct((heads, rows * length), jnp.float32)
    o, lse = _call(
        partial(forward_kernel, sizes=_sizes(q, k, mask)),
        (pl.cdiv(length, SIZE), heads, rows),
        [o_like, lse_like],
        interpret,
    )(*_tables(mask), *map(_flat, (q, k, v)))
    o = o.reshape(q.shape)
    return o, (q, k, v, mask, o, lse)


def _backward(interpret: bool, residuals: tuple[Any, ...], do: jax.Array) -> tuple[Any, ...]:
    q, k, v, mask, o, lse = residuals
    rows, length, heads, _ = q.shape
    sees = (lse > FULLY_MASKED).T.reshape(*q.shape[:3], 1)
    do = jnp.where(sees, do, 0).astype(v.dtype)
    delta = softmax_delta(o, do).reshape(-1, heads).T
    inputs = (*map(_flat, (q, k, v, do)), lse, delta)
    sizes = _sizes(q, k, mask)
    (dq,) = _call(
        partial(dq_kernel, sizes=sizes),
        (pl.cdiv(length, SIZE), heads, rows),
        [_flat(q)],
        interpret,
    )(*_tables(mask), *inputs)
    dk, dv = _call(
        partial(dkv_kernel, sizes=sizes),
        (pl.cdiv(k.shape[1], SIZE), k.shape[2], rows),
        [_flat(k), _flat(v)],
        interpret,
        warps=8,  # with four, each has more sums than registers
    )(*_tables(mask, of_keys=True), *inputs)
    return dq.reshape(q.shape), *(x.reshape(k.shape) for x in (dk, dv)), None


_attend = attention_vjp(_forward, _backward, (4,))


def _sizes(q: jax.Array, k: jax.Array, mask: IndexMask) -> _Sizes:
    _, queries, heads, width = q.shape
    return _Sizes(queries, k.shape[1], heads // k.shape[2], mask.spec, width**-0.5)


def _flat(x: jax.Array) -> jax.Array:
    """Returns the rows one after the other: (B, L, heads, d) -> (B * L, heads, d)."""
    return x.reshape(-1, *x.shape[2:])


def _tables(mask: IndexMask, *, of_keys: bool = False) -> tuple[jax.Array, ...]:
    """Returns the kernels' first five arguments."""
    lists = block_lists(mask, SIZE, of_keys=of_keys)
    ids = (mask.spec.stack(side, axis=1) for side in (mask.queries, mask.keys))
    return lists.order, lists.unmasked, lists.needed, *ids


def _call(
    kernel: partial[None],
    grid: tuple[int, ...],
    outputs: list[Any],
    interpret: bool,
    warps: int = 4,
) -> Callable[..., Any]:
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name=f"flash_{kernel.func.__name__}",
    )


# The first five arguments of each kernel are those of a `BlockLists`, and the ids of queries and of
# keys that the mask compares, (B, ids, L) int32; the others are as in `kernels.py`.


def forward_kernel(
    order: Any, unmasked: Any, needed: Any, q_ids: Any, k_ids: Any, *refs: Any, sizes: _Sizes
) -> None:
    """Computes o and lse of a block of queries: q, k, v -> o, lse.

    Grid: (blocks of queries, heads, B).
    """
    forward_block(refs, *_of_queries(order, unmasked, needed, q_ids, k_ids, sizes), sizes.scale)


def dq_kernel(
    order: Any, unmasked: Any, needed: Any, q_ids: Any, k_ids: Any, *refs: Any, sizes: _Sizes
) -> None:
    """Computes dq of a block of queries: q, k, v, do, lse, delta -> dq.

    Grid: (blocks of queries, heads, B).
    """
    dq_block(refs, *_of_queries(order, unmasked, needed, q_ids, k_ids, sizes), sizes.scale)


def dkv_kernel(
    order: Any, unmasked: Any, needed: Any, q_ids: Any, k_ids: Any, *refs: Any, sizes: _Sizes
) -> None:
    """Computes dk and dv of a block of keys: q, k, v, do, lse, delta -> dk, dv.

    Grid: (blocks of keys, heads of keys, B).
    """
    queries, keys = _sides(q_ids, k_ids, sizes)
    mask = _mask(keys, queries, sizes.spec, own_is_keys=True)
    visited = _visited(order, unmasked, needed, mask, queries)
    dkv_block(refs, keys.own_block(), visited, pl.program_id(1), sizes.groups, sizes.scale)


class _Side:
    """The queries or the keys of this program's row of the batch.

    Attributes:
      end: the row of the flat arrays behind the last.
    """

    def __init__(self, length: int, ids: Any, spec: MaskSpec) -> None:
        self._batch_row = pl.program_id(2)
        self._start = self._batch_row * length
        self.end = self._start + length
        self._ids, self._spec = ids, spec

    def first(self, block: Any) -> Any:
        """Returns the first row of a block."""
        return self._start + block * SIZE

    def own_block(self) -> Block:
        """Returns this program's block, if the side is its own."""
        return Block(self.first(pl.program_id(0)), self.end)

    def ids(self, block: Any, axis: int) -> TokenMaskIds:
        """Returns the ids of a block with one more axis."""
        tokens = pl.ds(block * SIZE, SIZE)
        return self._spec.ids(
            jnp.expand_dims(self._ids[self._batch_row, n, tokens], axis)
            for n in range(self._ids.shape[1])
        )


def _sides(q_ids: Any, k_ids: Any, sizes: _Sizes) -> tuple[_Side, _Side]:
    queries = _Side(sizes.queries, q_ids, sizes.spec)
    return queries, _Side(sizes.keys, k_ids, sizes.spec)


def _of_queries(
    order: Any, unmasked: Any, needed: Any, q_ids: Any, k_ids: Any, sizes: _Sizes
) -> tuple[Block, Visited, Any, Any]:
    """Returns this program's block of queries, the keys it visits, and both heads."""
    queries, keys = _sides(q_ids, k_ids, sizes)
    visited = _visited(order, unmasked, needed, _mask(queries, keys, sizes.spec), keys)
    head = pl.program_id(1)
    return queries.own_block(), visited, head, jax.lax.div(head, sizes.groups)


def _mask(
    own: _Side, other: _Side, spec: MaskSpec, *, own_is_keys: bool = False
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns a function that masks the scores (own tokens, other tokens) of a visited block."""
    own_ids = own.ids(pl.program_id(0), axis=1)

    def mask(block: Any, s: jax.Array) -> jax.Array:
        other_ids = other.ids(block, axis=0)
        queries, keys = (other_ids, own_ids) if own_is_keys else (own_ids, other_ids)
        return jnp.where(spec.holds(queries, keys), s, MASK_VALUE)

    return mask


def _visited(order: Any, unmasked: Any, needed: Any, mask: Any, other: _Side) -> Visited:
    """Returns the blocks that this program visits, those without a mask first."""
    program = pl.program_id(2), pl.program_id(0)
    masked_from, end = unmasked[program], needed[program]

    def block(number: Any) -> Any:
        return order[(*program, number)]

    return Visited(
        lambda number: other.first(block(number)),
        other.end,
        (
            ((0, masked_from), None),
            ((masked_from, end), lambda number, s: mask(block(number), s)),
        ),
    )
